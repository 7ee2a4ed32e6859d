import hashlib
import io
import zipfile
from urllib.error import URLError

import pytest
import torch
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3

from jitlab.errors import UserError
from jitlab.metrics import inception as subject
from jitlab.metrics.features import build_extractor
from jitlab.metrics.inception import FILE_NAME, WEIGHTS_VARIABLE, Inception, find_weights

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def no_weights_anywhere(tmp_path, monkeypatch):
    monkeypatch.delenv(WEIGHTS_VARIABLE, raising=False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))

    def offline(*_args, **_keywords):
        raise URLError("no connection")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)


@pytest.fixture
def small(monkeypatch):
    """Let the network resize to the least it takes: it is 16 times as quick."""
    monkeypatch.setattr(FeatureExtractorInceptionV3, "INPUT_IMAGE_SIZE", 75)


def images(n, size=32):
    return torch.randint(256, (n, 3, size, size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_it_is_torch_fidelitys_extractor_and_its_features_are_of_use(inception_weights, monkeypatch):
    # The same batch as theirs, so the same bits.
    monkeypatch.setattr("jitlab.metrics.features.FORWARD_BATCH", 2)
    extractor = build_extractor("inception", CPU, inception_weights)
    features = extractor(images(2))
    network = FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(inception_weights)
    )
    vectors, logits = network(images(2))
    assert features.logits is not None
    assert torch.equal(features.vectors, vectors)
    assert torch.equal(features.logits, logits)
    assert features.vectors.shape == (2, extractor.dimensions)
    assert features.logits.shape == (2, extractor.classes)
    assert features.vectors.std(0).mean() > 1e-3


def test_features_do_not_depend_on_the_batch(inception_weights, small):
    extractor = Inception(CPU, inception_weights)
    whole = extractor(images(50))
    for numbers in ([0], [49], [3, 40], list(range(20, 50))):
        part = extractor(images(50)[numbers])
        assert torch.equal(part.vectors, whole.vectors[numbers])
        assert part.logits is not None
        assert whole.logits is not None
        assert torch.equal(part.logits, whole.logits[numbers])
    nothing = extractor(images(0))
    assert nothing.vectors.shape == (0, 2048)


def test_it_knows_its_weights(inception_weights):
    extractor = Inception(CPU, inception_weights)
    assert extractor.weights_sha256 == hashlib.sha256(inception_weights.read_bytes()).hexdigest()
    assert not extractor.published


def test_the_file_is_the_one_named_then_the_environments_then_the_download(inception_weights, tmp_path, monkeypatch):
    cached = tmp_path / "hub" / "checkpoints" / FILE_NAME
    cached.parent.mkdir(parents=True)
    cached.touch()
    assert find_weights() == cached
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(inception_weights))
    assert find_weights() == inception_weights
    assert find_weights(cached) == cached


def test_weights_are_downloaded_where_torch_fidelity_looks_for_them(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *words, **_: asked.append(words))
    path = find_weights()
    assert asked == [(URL_INCEPTION_V3, str(path), "6726825d")]
    assert path == tmp_path / "hub" / "checkpoints" / FILE_NAME


def test_offline_the_url_and_both_ways_to_name_the_file_are_told():
    with pytest.raises(UserError) as caught:
        Inception(CPU)
    for words in (URL_INCEPTION_V3, "--weights FILE", f"{WEIGHTS_VARIABLE}=FILE", "no connection"):
        assert words in str(caught.value)


def test_a_file_that_is_not_there_is_told_with_who_named_it(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no such file, but --weights says"):
        Inception(CPU, tmp_path / "none")
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path / "none"))
    with pytest.raises(UserError, match=f"no such file, but {WEIGHTS_VARIABLE} says"):
        Inception(CPU)


def test_a_damaged_download_is_told(inception_weights, tmp_path):
    cached = tmp_path / "hub" / "checkpoints" / FILE_NAME
    cached.parent.mkdir(parents=True)
    cached.write_bytes(inception_weights.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"expected 6726825d\.\.\.: a damaged download; delete it"):
        Inception(CPU)


class Evil:
    def __reduce__(self):
        return print, ("code of a weights file was run",)


def saved(content) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize("kind", ["empty", "text", "truncated", "code"])
def test_a_damaged_file_is_told_and_nothing_in_it_run(kind, name, inception_weights, tmp_path, capsys):
    path = tmp_path / name
    whole = inception_weights.read_bytes()
    path.write_bytes(
        {"empty": b"", "text": b"weights", "truncated": whole[: len(whole) // 2], "code": saved(Evil())}[kind]
    )
    with pytest.raises(UserError, match="truncated, or no file of PyTorch weights"):
        Inception(CPU, path)
    assert "code" not in capsys.readouterr().out


def test_the_torchscript_file_of_other_codebases_is_told(tmp_path):
    path = tmp_path / "inception-2015-12-05.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {"data.pkl": b"", "constants.pkl": b"", "version": b"3\n"}.items():
            archive.writestr(f"inception/{name}", content)
    with pytest.raises(UserError, match="truncated, or no file of PyTorch weights"):
        Inception(CPU, path)


@pytest.mark.parametrize("content", [{"fc.weight": torch.zeros(3)}, torch.zeros(3), [1]])
def test_weights_of_another_network_are_told(content, tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(saved(content))
    with pytest.raises(UserError, match="weights of another network"):
        Inception(CPU, path)


def test_published_weights_are_known_by_the_name_that_torch_fidelity_gives_them():
    assert subject.PUBLISHED_SHA256 == "6726825d"
