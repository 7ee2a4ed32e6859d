import pytest

from jitlab.datasets.digits import build_digits


@pytest.fixture(scope="session")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    build_digits(folder, 16)
    return folder
