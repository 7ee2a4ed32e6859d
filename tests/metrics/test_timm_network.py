import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from jitlab.errors import UserError
from jitlab.metrics.features import build_extractor

CPU = torch.device("cpu")
NAME = "timm:tiny.a1"
CONFIG = {"input_size": (3, 4, 4), "interpolation": "bicubic", "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}


class Timm:
    """What of timm's interface is used, around a network that passes its input on."""

    def __init__(self, **config):
        self.asked = {}
        self.data = SimpleNamespace(resolve_model_data_config=lambda model: {**CONFIG, **config})

    def create_model(self, name, pretrained, pretrained_cfg_overlay, num_classes):
        if name != "tiny.a1":
            raise RuntimeError(f"Unknown model ({name})")
        self.asked = {"pretrained": pretrained, "overlay": pretrained_cfg_overlay, "num_classes": num_classes}
        network = torch.nn.Flatten()
        scale = float(Path(pretrained_cfg_overlay["file"]).read_text()) if pretrained_cfg_overlay else 1.0
        network.register_buffer("scale", torch.tensor(scale))
        return network


@pytest.fixture
def timm(monkeypatch):
    module = Timm()
    monkeypatch.setitem(sys.modules, "timm", module)
    return module


def images(n, size=4):
    return torch.randint(256, (n, 3, size, size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_images_are_normalised_as_the_networks_own_data(timm):
    extractor = build_extractor(NAME, CPU)
    assert (extractor.name, extractor.dimensions, extractor.classes) == (NAME, 48, 0)
    features = extractor(images(5))
    mean, std = (torch.tensor(CONFIG[key]).view(3, 1, 1) for key in ("mean", "std"))
    expected = ((images(5) / 255 - mean) / std).flatten(1)
    torch.testing.assert_close(features.vectors, expected)
    assert features.logits is None
    assert timm.asked == {"pretrained": True, "overlay": None, "num_classes": 0}


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [3, 16])
def test_the_whole_image_is_resized_to_the_networks_size(monkeypatch, interpolation, size):
    monkeypatch.setitem(
        sys.modules, "timm", Timm(interpolation=interpolation, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    )
    vectors = build_extractor(NAME, CPU)(images(40, size)).vectors
    expected = torch.nn.functional.interpolate(images(40, size).float(), (4, 4), mode=interpolation, antialias=True)
    torch.testing.assert_close(vectors, expected.clamp(0, 255).flatten(1) / 255)


def test_weights_come_from_a_file_and_are_told_apart(timm, tmp_path):
    hashes = set()
    for scale in ("1.0", "2.0"):
        path = tmp_path / scale
        path.write_text(scale)
        hashes.add(build_extractor(NAME, CPU, path).weights_sha256)
        assert timm.asked["overlay"] == {"file": str(path)}
    assert len(hashes) == 2
    # Whatever file they come from.
    assert build_extractor(NAME, CPU).weights_sha256 in hashes


def test_no_images_have_no_features(timm):
    assert build_extractor(NAME, CPU)(images(0)).vectors.shape == (0, 48)


def test_without_timm_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"timm is not installed; pip install 'jitlab\[timm\]'"):
        build_extractor(NAME, CPU)


def test_what_timm_does_not_know_or_cannot_load_is_told(timm, tmp_path):
    with pytest.raises(UserError, match="timm:huge: timm cannot load it with the weights of timm's download"):
        build_extractor("timm:huge", CPU)
    with pytest.raises(UserError, match="no such file"):
        build_extractor(NAME, CPU, tmp_path / "none")
    (tmp_path / "weights").write_text("no number")
    with pytest.raises(UserError, match=r"cannot load it with the weights of .*weights \(could not convert"):
        build_extractor(NAME, CPU, tmp_path / "weights")
