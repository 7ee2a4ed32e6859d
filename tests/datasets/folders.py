from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from jitlab.datasets.datamodule import ShardDataModule
from jitlab.datasets.digits import remedy
from jitlab.errors import UserError

SIZE = 16


@contextmanager
def one_line_error(*expected: object) -> Iterator[None]:
    with pytest.raises(UserError) as caught:
        yield
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    for part in expected:
        assert str(part) in message


def datamodule(folder: Path, **changes: Any) -> ShardDataModule:
    settings: dict[str, Any] = {
        "remedy": remedy(folder, SIZE),
        "image_size": SIZE,
        "num_classes": 10,
        "batch_size": 100,
        "seed": 0,
        "flip": False,
        "workers": 0,
    }
    return ShardDataModule(folder=folder, **{**settings, **changes})
