"""The Inception Score (arXiv:1606.03498): how sure a classifier is of each image, and how unlike they are together."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from jitlab.metrics.accumulation import Accumulation

SPLITS = 10
# torch-fidelity's: the same images fall into the same parts, and have the same score.
SEED = 2020


class Score(NamedTuple):
    """Mean and standard deviation of the score over equal parts of the images."""

    mean: float
    std: float


class InceptionScore(Accumulation):
    """Accumulates exp E[KL(p(y|x) || p(y))] per part; which part an image falls into is a function of its number.

    So nothing is kept of an image, and any split over batches, processes and restarts gives the same score.
    """

    n: Tensor
    probability: Tensor
    negative_entropy: Tensor

    def __init__(self, images: int, classes: int, splits: int = SPLITS) -> None:
        """Prepare for so many images; raises ValueError for fewer images than parts."""
        super().__init__()
        if images < splits:
            raise ValueError(f"an Inception Score in {splits} parts needs as many images or more, got {images}")
        self.set_dtype(torch.float64)
        self.add_state("n", torch.zeros(splits, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("probability", torch.zeros(splits, classes, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("negative_entropy", torch.zeros(splits, dtype=torch.float64), dist_reduce_fx="sum")
        self._ends = [(part + 1) * images // splits for part in range(splits)]
        self._part = torch.empty(images, dtype=torch.long)
        places = torch.from_numpy(np.random.RandomState(SEED).permutation(images))
        self._part[places] = torch.bucketize(torch.arange(images), torch.tensor(self._ends), right=True)

    def update(self, logits: Tensor, numbers: Sequence[int]) -> None:
        """Add logits (B, classes) of images of these numbers, each in [0, images)."""
        part = self._part[torch.tensor(numbers, dtype=torch.long)].to(logits.device)
        log_probability = logits.double().log_softmax(1)
        probability = log_probability.exp()
        self.n.index_add_(0, part, torch.ones_like(part, dtype=torch.float64))
        self.probability.index_add_(0, part, probability)
        self.negative_entropy.index_add_(0, part, (probability * log_probability).sum(1))

    def compute(self) -> Score:
        """Return the score; raises ValueError where images are missing, or came twice."""
        expected = np.diff([0, *self._ends])
        if self.n.tolist() != expected.tolist():
            raise ValueError(f"an Inception Score of {expected.sum()} images was given {int(self.n.sum())}")
        mean = self.probability / self.n[:, None]
        scores = (self.negative_entropy / self.n - torch.special.xlogy(mean, mean).sum(1)).exp()
        return Score(float(scores.mean()), float(scores.std(correction=0)))
