import pytest

from tests.inception import write_inception


@pytest.fixture(scope="session")
def inception_weights(tmp_path_factory):
    return write_inception(tmp_path_factory.mktemp("inception") / "weights.pth")
