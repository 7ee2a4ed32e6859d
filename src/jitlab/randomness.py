"""Random numbers as a function of position: the same words always give the same numbers, whatever came before."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor


def seed_of(*position: int | str) -> int:
    """Hash a position such as ("noise", seed, step, 17) to a seed of 63 bits."""
    # int() and str(): a numpy integer is the same position as Python's.
    words = tuple(word if isinstance(word, str) else int(word) for word in position)
    digest = hashlib.blake2b(repr(words).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def numpy_generator(*position: int | str) -> np.random.Generator:
    """Return a counter-based numpy generator that belongs to this position alone."""
    return np.random.Generator(np.random.Philox(key=seed_of(*position)))


def torch_generator(device: torch.device, *position: int | str) -> torch.Generator:
    """Return a torch generator on `device` that belongs to this position alone; seeding does not sync."""
    return torch.Generator(device).manual_seed(seed_of(*position))


def image_noise(seed: int, indices: Sequence[int], shape: tuple[int, ...]) -> Tensor:
    """Draw the unit noise from which images `indices` are generated, (len(indices), *shape) float32 on the CPU.

    Image i gets the same noise on every device, in every batch, on any number of processes.
    """
    return _normal([("image", seed, index) for index in indices], shape)


def sde_noise(seed: int, indices: Sequence[int], step: int, shape: tuple[int, ...]) -> Tensor:
    """Draw the unit noise that an SDE adds to images `indices` in a step, as `image_noise` draws what they start from.

    Returns (len(indices), *shape) float32 on the CPU.
    """
    return _normal([("sde", seed, index, step) for index in indices], shape)


def _normal(positions: Sequence[tuple[int | str, ...]], shape: tuple[int, ...]) -> Tensor:
    noise = np.empty((len(positions), *shape), np.float32)
    for row, position in zip(noise, positions, strict=True):
        numpy_generator(*position).standard_normal(dtype=np.float32, out=row)
    return torch.from_numpy(noise)


@contextmanager
def seeded(*position: int | str) -> Iterator[None]:
    """Run a block, such as a network's initialisation, under torch's global CPU generator seeded for this position."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_of(*position))
        yield
