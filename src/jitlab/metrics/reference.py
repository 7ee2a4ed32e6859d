"""Reference statistics: what the features of real images are like, in a file that says what they are of."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jitlab.errors import UserError
from jitlab.files import replacing
from jitlab.metrics.frechet import Moments

SYMMETRY = 1e-5
# Of ours beside `mu` and `sigma`; the feature vectors are not called so, for `features` is their name.
VECTORS, CLASS_SHARE = "vectors", "class_share"


@dataclass(frozen=True)
class Provenance:
    """What statistics are of: the features and their network's weights, and the images before them.

    `image_size` is in pixels, `crop` says how images were brought to it, `fingerprint` tells the data from others.
    """

    features: str
    weights_sha256: str
    image_size: int
    crop: str
    fingerprint: str


@dataclass(frozen=True)
class Reference:
    """Statistics of real images.

    Args:
        moments: mean and covariance of their features.
        provenance: what they are of; None, and they are unverified, in files of other codebases.
        features: of some of the images, (n, D) float32 on the CPU; None where the file has none.
        class_share: `ClassStructure` of the images; None where the file has none, or their classes say nothing.
    """

    moments: Moments
    provenance: Provenance | None
    features: Tensor | None
    class_share: float | None


def write_reference(path: Path, reference: Reference) -> None:
    """Replace `path` by an .npz with `mu` and `sigma`, which other codebases read, and beside them all that is ours."""
    moments = reference.moments
    arrays: dict[str, Any] = {
        "mu": moments.mean.cpu().numpy(),
        "sigma": moments.covariance.cpu().numpy(),
        "n": np.int64(moments.n or 0),
    }
    if reference.provenance is not None:
        arrays |= asdict(reference.provenance)
    if reference.features is not None:
        arrays[VECTORS] = reference.features.numpy()
    if reference.class_share is not None:
        arrays[CLASS_SHARE] = np.float64(reference.class_share)
    with replacing(path) as file:
        np.savez(file, **arrays)


def read_reference(path: Path, dimensions: int) -> Reference:
    """Read statistics of features of so many dimensions, of this or another codebase (ADM's, JiT's: `mu`, `sigma`).

    Raises UserError for a file that is missing, damaged, of other features, or that holds no covariance.
    """
    try:
        with path.open("rb") as file, np.load(file) as archive:
            # Named ones only: ADM's hold their images beside them.
            names = ("mu", "sigma", "n", VECTORS, CLASS_SHARE, *Provenance.__dataclass_fields__)
            found = {name: archive[name] for name in names if name in archive}
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; jitlab evaluate reference writes one") from error
    # What NumPy, zipfile and zlib raise for damaged files is of all kinds.
    except Exception as error:
        raise UserError(f"{path}: damaged, or no .npz of reference statistics") from error
    missing = [name for name in ("mu", "sigma") if name not in found]
    if missing:
        raise UserError(f"{path}: no {' and '.join(missing)}; expected an .npz of reference statistics")
    provenance = _provenance(path, found)
    n = _count(path, found["n"]) if "n" in found else None
    mean, covariance = _checked(path, found["mu"], found["sigma"], dimensions)
    moments = Moments(n, torch.from_numpy(mean), torch.from_numpy(covariance))
    if provenance is None:
        # What others call so may be anything.
        return Reference(moments, None, None, None)
    return Reference(moments, provenance, _features(path, found, dimensions), _class_share(path, found))


def check_reference(path: Path, reference: Reference, expected: Provenance) -> None:
    """Raise UserError, naming the field and both values, where statistics are not of what is to be evaluated.

    Unverified ones pass: there is nothing that they could be held to.
    """
    if reference.provenance is None:
        return
    for field, value in asdict(expected).items():
        found = getattr(reference.provenance, field)
        if found != value:
            raise UserError(
                f"{path}: {field} is {_shown(found)}, but the evaluation's is {_shown(value)}; name a reference that "
                "fits, or write one with jitlab evaluate reference"
            )


def _checked(
    path: Path, mean: NDArray[np.generic], covariance: NDArray[np.generic], dimensions: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return both in float64, where they can be what they are said to be."""
    if mean.shape != (dimensions,) or covariance.shape != (dimensions, dimensions):
        raise UserError(
            f"{path}: mu {mean.shape} and sigma {covariance.shape}, expected ({dimensions},) and "
            f"({dimensions}, {dimensions}): statistics of other features"
        )
    if mean.dtype.kind != "f" or covariance.dtype.kind != "f":
        raise UserError(f"{path}: mu is {mean.dtype} and sigma {covariance.dtype}, expected floating point numbers")
    mean64, covariance64 = mean.astype(np.float64), covariance.astype(np.float64)
    if not (np.isfinite(mean64).all() and np.isfinite(covariance64).all()):
        raise UserError(f"{path}: mu or sigma holds NaN or infinity; compute the statistics again")
    # Files in float32, and those that were summed in it, are symmetric but for rounding.
    if np.abs(covariance64 - covariance64.T).max() > SYMMETRY * np.abs(covariance64).max():
        raise UserError(f"{path}: sigma is not symmetric, so it is no covariance; compute the statistics again")
    if covariance64.diagonal().min() < 0:
        raise UserError(f"{path}: sigma has a variance below 0, so it is no covariance; compute the statistics again")
    return mean64, (covariance64 + covariance64.T) / 2


def _count(path: Path, n: NDArray[np.generic]) -> int | None:
    if n.shape or n.dtype.kind not in "iuf" or not float(n) >= 0 or not float(n).is_integer():
        raise UserError(f"{path}: n is {n}, expected a number of images; compute the statistics again")
    return int(n.item()) or None


def _features(path: Path, found: dict[str, NDArray[np.generic]], dimensions: int) -> Tensor | None:
    if VECTORS not in found:
        return None
    vectors = found[VECTORS]
    if vectors.dtype != np.float32 or vectors.ndim != 2 or vectors.shape[1] != dimensions or not len(vectors):
        raise UserError(
            f"{path}: {VECTORS} {vectors.dtype} {vectors.shape}, expected float32 (images, {dimensions}): statistics "
            "of other features"
        )
    if not np.isfinite(vectors).all():
        raise UserError(f"{path}: {VECTORS} holds NaN or infinity; compute the statistics again")
    return torch.from_numpy(vectors)


def _class_share(path: Path, found: dict[str, NDArray[np.generic]]) -> float | None:
    if CLASS_SHARE not in found:
        return None
    share = found[CLASS_SHARE]
    if share.shape or share.dtype.kind != "f" or not np.isfinite(share):
        raise UserError(f"{path}: {CLASS_SHARE} is {share}, expected a number; compute the statistics again")
    return float(share)


def _provenance(path: Path, found: dict[str, NDArray[np.generic]]) -> Provenance | None:
    fields = Provenance.__dataclass_fields__
    given = [name for name in fields if name in found]
    if not given:
        return None
    missing = [name for name in fields if name not in found]
    if missing:
        raise UserError(f"{path}: says {given[0]} but not {missing[0]}; write it again with jitlab evaluate reference")
    values = {name: found[name].item() for name in fields}
    return Provenance(**values)


def _shown(value: str | int) -> str:
    """Return a value as a message shows it: of a hash its beginning."""
    text = str(value)
    return f"{text[:12]}..." if len(text) == 64 else text or "none"
