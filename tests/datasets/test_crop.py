import numpy as np
import pytest
from PIL import Image

from jitlab.datasets.crop import center_crop
from tests.golden import vectors

GOLDEN = dict(np.load(vectors.FOLDER / "adm_crop.npz"))


@pytest.mark.parametrize("name", [name for name in GOLDEN if name.startswith("out/")])
def test_crop_is_adms_to_the_bit(name):
    _, photo, size = name.split("/")
    ours = np.asarray(center_crop(Image.fromarray(GOLDEN[f"in/{photo}"]), int(size)))
    assert np.array_equal(ours, GOLDEN[name])
