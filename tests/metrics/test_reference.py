from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jitlab.errors import UserError
from jitlab.metrics.frechet import Moments, frechet_distance
from jitlab.metrics.reference import Provenance, Reference, check_reference, read_reference, write_reference

PROVENANCE = Provenance("inception", "a" * 64, 256, "centre", "b" * 64)


def moments(seed=0, dimensions=4) -> Moments:
    draw = np.random.default_rng(seed)
    return Moments(
        90,
        torch.from_numpy(draw.normal(size=dimensions)),
        torch.from_numpy(np.cov(draw.normal(size=(dimensions, 20)))),
    )


FEATURES = torch.arange(12, dtype=torch.float32).view(3, 4)
REFERENCE = Reference(moments(), PROVENANCE, FEATURES, 0.25)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "reference.npz"


def arrays(dtype=np.float64, **changed):
    own = moments()
    return {"mu": own.mean.numpy().astype(dtype), "sigma": own.covariance.numpy().astype(dtype), **changed}


def test_what_was_written_is_read_to_the_bit(path):
    write_reference(path, REFERENCE)
    found = read_reference(path, 4)
    assert found.provenance == PROVENANCE
    assert found.moments.n == 90
    assert torch.equal(found.moments.mean, moments().mean)
    assert torch.equal(found.moments.covariance, moments().covariance)
    assert found.features is not None
    assert torch.equal(found.features, FEATURES)
    assert found.class_share == 0.25
    check_reference(path, found, PROVENANCE)


def test_files_of_before_have_neither_features_nor_a_class_share(path):
    write_reference(path, replace(REFERENCE, features=None, class_share=None))
    with np.load(path) as archive:
        assert sorted(archive) == sorted(["mu", "sigma", "n", *PROVENANCE.__dataclass_fields__])
    found = read_reference(path, 4)
    assert (found.provenance, found.features, found.class_share) == (PROVENANCE, None, None)


def test_other_codebases_find_their_keys(path):
    write_reference(path, REFERENCE)
    with np.load(path) as archive:
        assert np.array_equal(archive["mu"], moments().mean.numpy())
        assert np.array_equal(archive["sigma"], moments().covariance.numpy())


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_files_of_other_codebases_are_read_as_unverified(path, dtype):
    # ADM's hold images beside them, which must not be read: here, objects that cannot be.
    others: dict[str, Any] = {"arr_0": np.array([object()], dtype=object), "mu_s": np.zeros(3), "vectors": np.zeros(7)}
    np.savez(path, **arrays(dtype), **others)
    found = read_reference(path, 4)
    assert (found.provenance, found.features, found.class_share) == (None, None, None)
    assert found.moments.n is None
    assert found.moments.mean.dtype == found.moments.covariance.dtype == torch.float64
    check_reference(path, found, PROVENANCE)
    assert frechet_distance(found.moments, moments()) == pytest.approx(0, abs=1e-5)


def test_rounding_is_not_taken_for_asymmetry(path):
    covariance = moments().covariance.numpy()
    rounded = np.triu(covariance) + np.tril(covariance, -1) * (1 + 1e-7)
    np.savez(path, **arrays(sigma=rounded))
    found = read_reference(path, 4).moments.covariance
    assert torch.equal(found, found.T)
    np.testing.assert_allclose(found, covariance, rtol=1e-6)


@pytest.mark.parametrize(
    ("field", "other", "words"),
    [
        ("features", "pixels", "features is inception, but the evaluation's is pixels"),
        ("weights_sha256", "c" * 64, "weights_sha256 is aaaaaaaaaaaa..., but the evaluation's is cccccccccccc..."),
        ("weights_sha256", "", "but the evaluation's is none"),
        ("image_size", 512, "image_size is 256, but the evaluation's is 512"),
        ("crop", "resized", "crop is centre, but the evaluation's is resized"),
        ("fingerprint", "d" * 64, "fingerprint is bbbbbbbbbbbb..."),
    ],
)
def test_statistics_of_something_else_are_refused(path, field, other, words):
    write_reference(path, REFERENCE)
    with pytest.raises(UserError) as caught:
        check_reference(path, read_reference(path, 4), replace(PROVENANCE, **{field: other}))
    assert words in str(caught.value)
    assert "jitlab evaluate reference" in str(caught.value)


def ours(**changed):
    return arrays(**asdict(PROVENANCE), **changed)


def with_entry(row, column, value):
    covariance = moments().covariance.numpy().copy()
    covariance[row, column] = value
    return covariance


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"mu": np.zeros(4)}, "no sigma"),
        ({"images": np.zeros(4)}, "no mu and sigma"),
        (arrays(mu=np.zeros(5)), r"mu \(5,\) and sigma \(4, 4\), expected \(4,\)"),
        (arrays(sigma=np.zeros((4, 5))), "statistics of other features"),
        (arrays(mu=np.zeros((1, 4))), "statistics of other features"),
        (arrays(mu=np.zeros(4, dtype=int)), "mu is int64"),
        (arrays(mu=np.full(4, np.nan)), "NaN or infinity"),
        (arrays(sigma=np.full((4, 4), np.inf)), "NaN or infinity"),
        (arrays(sigma=with_entry(0, 1, 7.0)), "not symmetric"),
        (arrays(sigma=with_entry(2, 2, -1.0)), "variance below 0"),
        (arrays(features=np.array("inception")), "says features but not weights_sha256"),
        (ours(vectors=np.zeros((3, 5), np.float32)), r"vectors float32 \(3, 5\), expected float32 \(images, 4\)"),
        (ours(vectors=np.zeros((3, 4))), r"vectors float64 \(3, 4\), expected float32"),
        (ours(vectors=np.zeros(4, np.float32)), r"vectors float32 \(4,\)"),
        (ours(vectors=np.zeros((0, 4), np.float32)), r"vectors float32 \(0, 4\)"),
        (ours(vectors=np.full((3, 4), np.nan, np.float32)), "vectors holds NaN or infinity"),
        (ours(class_share=np.zeros(2)), r"class_share is \[0\. 0\.\], expected a number"),
        (ours(class_share=np.float64("nan")), "class_share is nan, expected a number"),
        (ours(class_share=np.array("much")), "class_share is much, expected a number"),
    ],
)
def test_what_is_no_reference_is_told(path, content, words):
    np.savez(path, **content)
    with pytest.raises(UserError, match=words):
        read_reference(path, 4)


@pytest.mark.parametrize("n", [np.arange(3), np.array("x"), np.nan, -1, 2.5])
def test_a_number_of_images_that_is_none_is_told(path, n):
    np.savez(path, mu=np.zeros(4), sigma=np.eye(4), n=n)
    with pytest.raises(UserError, match="expected a number of images"):
        read_reference(path, 4)


def test_a_missing_file_is_told(path):
    with pytest.raises(UserError, match="no such file; jitlab evaluate reference writes one"):
        read_reference(path, 4)


@pytest.mark.parametrize("kind", ["text", "empty", "truncated", "one array", "pickle", "deflated"])
def test_a_damaged_file_is_told(path, kind):
    if kind == "one array":
        with path.open("wb") as file:
            np.save(file, np.zeros(4))
    elif kind == "pickle":
        np.savez(path, mu=np.array([object()], dtype=object), sigma=np.zeros((4, 4)))
    elif kind == "deflated":
        np.savez_compressed(path, mu=np.arange(4.0), sigma=np.eye(4))
        content = bytearray(path.read_bytes())
        # Behind the header of 30 bytes and the name: a kind of block that deflate does not have.
        content[30 + int.from_bytes(content[26:28], "little") + int.from_bytes(content[28:30], "little")] |= 0b110
        path.write_bytes(content)
    elif kind == "truncated":
        write_reference(path, REFERENCE)
        path.write_bytes(path.read_bytes()[:-200])
    else:
        path.write_bytes(b"statistics" if kind == "text" else b"")
    with pytest.raises(UserError, match=r"damaged, or no \.npz"):
        read_reference(path, 4)
