import pytest

from jitlab.datasets.digits import build_command, build_digits
from tests.datasets.folders import SIZE


@pytest.fixture(scope="session")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    return folder, build_digits(folder, SIZE)


@pytest.fixture(scope="session")
def folder(shards):
    return shards[0]


@pytest.fixture(scope="session")
def index(shards):
    return shards[1]


@pytest.fixture(scope="session")
def command(folder) -> str:
    return build_command(str(folder), SIZE)


@pytest.fixture
def copied(folder, tmp_path):
    target = tmp_path / "shards"
    target.mkdir()
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target
