"""Precision, recall, density and coverage: whether samples lie among data, and data among samples, by neighbours."""

from typing import NamedTuple

import torch
from torch import Tensor

PRECISION_NEIGHBOURS = 3
DENSITY_NEIGHBOURS = 5
CHUNK = 2048


class Neighbours(NamedTuple):
    """How generated and real vectors lie among one another; density may exceed 1, the others are in [0, 1]."""

    precision: float
    recall: float
    density: float
    coverage: float


def neighbours(generated: Tensor, real: Tensor, device: torch.device, chunk: int = CHUNK) -> Neighbours:
    """Compare features (N, D) of generated and (M, D) of real images in one pass over their distances.

    Around every vector is a ball to its k-th nearest neighbour in its own set. Precision is the share of generated
    vectors in a ball of a real one, recall the reverse (arXiv:1904.06991, k = 3, a ball holds its border, as in
    torch-fidelity). Density is the mean number of real balls about a generated vector over k, coverage the share of
    real balls that hold a generated vector (arXiv:2002.09797, k = 5, a ball is open, as in its authors' code).

    Distances are float64, `chunk` x `chunk` of them at a time, computed on `device`: the features may lie in a
    mapped file. Raises ValueError for too few vectors to have so many neighbours.
    """
    ours = _radii(generated, device, chunk)[0]
    theirs, open_theirs = _radii(real, device, chunk)
    precise = torch.zeros(len(generated), dtype=torch.bool, device=device)
    recalled = torch.zeros(len(real), dtype=torch.bool, device=device)
    covered = torch.zeros_like(recalled)
    balls = 0
    for rows in _slices(len(generated), chunk):
        vectors = generated[rows].to(device, torch.float64)
        for columns in _slices(len(real), chunk):
            distances = torch.cdist(vectors, real[columns].to(device, torch.float64))
            precise[rows] |= (distances <= theirs[columns]).any(1)
            recalled[columns] |= (distances <= ours[rows, None]).any(0)
            inside = distances < open_theirs[columns]
            covered[columns] |= inside.any(0)
            balls += int(inside.sum())
    return Neighbours(
        precision=float(precise.double().mean()),
        recall=float(recalled.double().mean()),
        density=balls / (DENSITY_NEIGHBOURS * len(generated)),
        coverage=float(covered.double().mean()),
    )


def _radii(features: Tensor, device: torch.device, chunk: int) -> tuple[Tensor, Tensor]:
    """Return the distances (N,) of every vector to its neighbours that precision and that density ask for."""
    # Among its nearest a vector finds itself.
    count = max(PRECISION_NEIGHBOURS, DENSITY_NEIGHBOURS) + 1
    if len(features) < count:
        raise ValueError(f"{count - 1} neighbours need {count} vectors or more, got {len(features)}")
    nearest = torch.empty(len(features), count, dtype=torch.float64, device=device)
    for rows in _slices(len(features), chunk):
        vectors = features[rows].to(device, torch.float64)
        best = torch.empty(len(vectors), 0, dtype=torch.float64, device=device)
        for columns in _slices(len(features), chunk):
            distances = torch.cdist(vectors, features[columns].to(device, torch.float64))
            found = torch.cat([best, distances], 1)
            best = found.topk(min(count, found.shape[1]), largest=False).values
        nearest[rows] = best
    return nearest[:, PRECISION_NEIGHBOURS], nearest[:, DENSITY_NEIGHBOURS]


def _slices(n: int, chunk: int) -> list[slice]:
    return [slice(first, min(first + chunk, n)) for first in range(0, n, chunk)]
