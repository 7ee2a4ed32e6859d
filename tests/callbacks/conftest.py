from collections.abc import Iterator

import pytest
import torch

from jitlab.datasets.digits import build_digits


@pytest.fixture(scope="session")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    build_digits(folder, 16)
    return folder


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    # Networks this small are slower on two threads.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
