from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from jitlab.datasets.datamodule import Reading, ShardDataModule
from jitlab.datasets.digits import remedy
from jitlab.datasets.images import ShardImages
from jitlab.datasets.index import Index, open_index
from jitlab.datasets.store import LocalStore, local_store
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


def reading(**changes: Any) -> Reading:
    settings: dict[str, Any] = {
        "image_size": SIZE,
        "num_classes": 10,
        "decoder": "exact",
        "flip": False,
        "seed": 0,
        "window": 4,
        "partitions": 1,
    }
    return Reading(**{**settings, **changes})


def local(folder: Path, index: Index) -> LocalStore:
    return local_store(folder, index)


def datamodule(folder: Path, batch_size: int = 100, workers: int = 0, **changes: Any) -> ShardDataModule:
    own = {name: changes.pop(name) for name in ("reference_count", "allow_batch_change", "damage") if name in changes}
    index = open_index(folder, remedy(str(folder), SIZE))
    return ShardDataModule(str(folder), index, local(folder, index), reading(**changes), batch_size, workers, **own)


def images_of(folder: Path, index: Index, split: str = "train", seed: int = 0, flip: bool = False) -> ShardImages:
    return ShardImages(index, local(folder, index), split, SIZE, "exact", seed, flip)
