"""Every figure of two folders of images against torch-fidelity's, end to end."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch_fidelity import calculate_metrics
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.metric_kid import kid_features_to_metric

from jitlab.metrics.feature_table import FeatureTable
from jitlab.metrics.frechet import RunningMoments, frechet_distance
from jitlab.metrics.inception import Inception
from jitlab.metrics.inception_score import InceptionScore
from jitlab.metrics.kernel import kernel_distance
from jitlab.metrics.neighbours import neighbours

CPU = torch.device("cpu")
IMAGES = 400
SIZE = 32


def pictures(seed: int, contrast: float) -> np.ndarray:
    """Return smooth random images (n, H, W, 3) uint8 of a contrast."""
    draw = np.random.default_rng(seed)
    coarse = torch.from_numpy(draw.normal(size=(IMAGES, 3, 5, 5)))
    smooth = torch.nn.functional.interpolate(coarse, (SIZE, SIZE), mode="bicubic", align_corners=False)
    return (128 + contrast * smooth).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore")
def test_all_figures_of_two_folders_are_torch_fidelitys(inception_weights, tmp_path, monkeypatch):
    # The least size that Inception takes, in place of 299: 16 times as quick, and nothing else differs.
    monkeypatch.setattr(FeatureExtractorInceptionV3, "INPUT_IMAGE_SIZE", 75)
    extractor = Inception(CPU, inception_weights)
    moments, tables = [], []
    score = InceptionScore(IMAGES, extractor.classes)
    for name, (seed, contrast) in {"generated": (0, 40), "real": (1, 55)}.items():
        folder = tmp_path / name
        folder.mkdir()
        moments.append(RunningMoments(extractor.dimensions))
        tables.append(FeatureTable(tmp_path / f"{name}.features", IMAGES, extractor.dimensions))
        content = pictures(seed, contrast)
        for number, image in enumerate(content):
            Image.fromarray(image).save(folder / f"{number:05}.png")
        for numbers in torch.arange(IMAGES).split(100):
            features = extractor(torch.from_numpy(content[numbers]).permute(0, 3, 1, 2))
            moments[-1].update(features.vectors)
            tables[-1].write(numbers.tolist(), features.vectors)
            if name == "generated":
                assert features.logits is not None
                score.update(features.logits, numbers.tolist())
    expected = calculate_metrics(
        input1=str(tmp_path / "generated"),
        input2=str(tmp_path / "real"),
        **dict.fromkeys(("fid", "kid", "isc", "prc", "save_cpu_ram"), True),
        **dict.fromkeys(("cuda", "cache", "verbose"), False),
        # For precision and recall it would take another network than for the rest.
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(inception_weights),
        batch_size=32,
        kid_subset_size=200,
    )
    generated, real = (table.read() for table in tables)
    kernel = kernel_distance(generated, real)
    among = neighbours(generated, real, CPU)
    assert kernel.subset_size == 200
    distance = frechet_distance(moments[0].compute(), moments[1].compute())
    # Fewer images than dimensions.
    assert distance == pytest.approx(expected["frechet_inception_distance"], rel=1e-4)
    assert score.compute().mean == pytest.approx(expected["inception_score_mean"], rel=1e-6)
    assert score.compute().std == pytest.approx(expected["inception_score_std"], rel=1e-4)
    assert among.precision == pytest.approx(expected["precision"], rel=1e-6)
    assert among.recall == pytest.approx(expected["recall"], rel=1e-6)
    assert kernel.mean == pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-4)
    # Theirs is computed in float32, which its spread shows; of the same features in float64 it is the same.
    assert kernel.std == pytest.approx(expected["kernel_inception_distance_std"], rel=1e-3)
    exact = kid_features_to_metric(generated.double(), real.double(), kid_subset_size=200, verbose=False)
    assert kernel.mean == pytest.approx(exact["kernel_inception_distance_mean"], rel=1e-6)
    assert kernel.std == pytest.approx(exact["kernel_inception_distance_std"], rel=1e-6)
    # Neither the same images nor sets that have nothing in common: otherwise much would agree by itself.
    assert 0.05 < among.precision < 0.99
    assert 0.05 < among.recall < 0.99
