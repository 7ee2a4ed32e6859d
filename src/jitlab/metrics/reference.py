"""Reference statistics: mean and covariance of the features of real images, in a file that says what they are of."""

import zipfile
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
N, FEATURES, CLASS_SHARE = "n", "sample_features", "class_share"


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
    """Statistics of real images; those of other codebases are unverified, and hold moments alone.

    Args:
        moments: of all features.
        provenance: what they are of.
        features: (N, D) float32 of some of the images, which samples can be compared with one by one.
        class_share: how much of the features is the images' class, as `ClassStructure` gives it.
    """

    moments: Moments
    provenance: Provenance | None = None
    features: Tensor | None = None
    class_share: float | None = None


def write_reference(path: Path, reference: Reference) -> None:
    """Replace `path` by an .npz with `mu` and `sigma`, which other codebases read, and beside them all else."""
    moments, provenance = reference.moments, reference.provenance
    content: dict[str, Any] = {
        "mu": moments.mean.cpu().numpy(),
        "sigma": moments.covariance.cpu().numpy(),
        N: np.int64(moments.n or 0),
    }
    if reference.features is not None:
        content[FEATURES] = reference.features.cpu().numpy()
    if reference.class_share is not None:
        content[CLASS_SHARE] = np.float64(reference.class_share)
    with replacing(path) as file:
        np.savez(file, **content, **(asdict(provenance) if provenance else {}))


def read_reference(path: Path, dimensions: int) -> Reference:
    """Read statistics of features of so many dimensions, of this or another codebase (ADM's, JiT's: `mu`, `sigma`).

    Raises UserError for a file that is missing, damaged, of other features, or that holds no covariance.
    """
    try:
        with path.open("rb") as file, np.load(file) as archive:
            # Named ones only: ADM's hold their images beside them.
            known = ("mu", "sigma", N, FEATURES, CLASS_SHARE, *Provenance.__dataclass_fields__)
            names = [name for name in known if name in archive]
            found = {name: archive[name] for name in names}
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; jitlab evaluate reference writes one") from error
    # An array of an archive's own member, not an archive, has no `__exit__`.
    except (OSError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: damaged, or no .npz of reference statistics") from error
    missing = [name for name in ("mu", "sigma") if name not in found]
    if missing:
        raise UserError(f"{path}: no {' and '.join(missing)}; expected an .npz of reference statistics")
    n = int(found[N]) or None if N in found else None
    mean, covariance = _checked(path, found["mu"], found["sigma"], dimensions)
    moments = Moments(n, torch.from_numpy(mean), torch.from_numpy(covariance))
    share = float(found[CLASS_SHARE]) if CLASS_SHARE in found else None
    return Reference(moments, _provenance(path, found), _features(path, found, dimensions), share)


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


def _features(path: Path, found: dict[str, NDArray[np.generic]], dimensions: int) -> Tensor | None:
    if FEATURES not in found:
        return None
    features = found[FEATURES]
    if features.ndim != 2 or features.shape[1] != dimensions or features.dtype != np.float32:
        raise UserError(
            f"{path}: features {features.shape} {features.dtype}, expected (N, {dimensions}) float32: write it again "
            "with jitlab evaluate reference"
        )
    if not np.isfinite(features).all():
        raise UserError(f"{path}: features hold NaN or infinity; compute the statistics again")
    return torch.from_numpy(features)


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
