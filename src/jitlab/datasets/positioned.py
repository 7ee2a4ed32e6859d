"""A data module whose state is a position, from which the samples that follow are known."""

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from jitlab.datasets.order import Order, Position, PositionSampler, Reference
from jitlab.errors import UserError


class Segment(NamedTuple):
    """From which step and position on batches were of which size."""

    step: int
    epoch: int
    taken: int
    batch_size: int


class PositionedDataModule(LightningDataModule):
    """Serves a data set of samples, labels and keys in the order that belongs to a seed."""

    def __init__(
        self, what: str, order: Order, fingerprint: str, workers: int, allow_batch_change: bool = False
    ) -> None:
        """Prepare to serve an order.

        Args:
            what: the data in words, or where it is, for error messages.
            order: of the training samples.
            fingerprint: tells these data from others.
            workers: loader processes.
            allow_batch_change: whether to go on from a state with another batch size.

        Raises:
            UserError: for a batch of more samples than there are, or one that partitions cannot share.
        """
        super().__init__()
        self.what = what
        self.order = order
        self.fingerprint = fingerprint
        self.workers = workers
        self.allow_batch_change = allow_batch_change
        self._check_order()
        self._segments = [Segment(0, 0, 0, order.batch_size)]

    @property
    def batches_per_epoch(self) -> int:
        """Return the whole batches of an epoch."""
        return self.order.batches_per_epoch

    def train_set(self) -> Dataset[Any]:
        """Return the training samples: (sample, label, key) of a `Reference`."""
        raise NotImplementedError

    def held_out(self, count: int) -> tuple[Tensor, Tensor]:
        """Return the first `count` held-out samples (count, ...) as stored, and their labels (count,)."""
        raise NotImplementedError

    def announce(self, position: Position) -> None:
        """Be told where the batch begins that is handed out next; data that come from far prepare for it."""

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the loader of this process's part of every batch, from the restored position on."""
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        if self.order.batch_size % world_size:
            raise UserError(
                f"train.batch_size = {self.order.batch_size}: cannot be shared by {world_size} processes; use a "
                "multiple"
            )
        sampler = PositionSampler(self.order, rank, world_size, self.position, self.announce)
        return DataLoader(
            self.train_set(),
            batch_sampler=sampler,
            num_workers=self.workers,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.workers > 0,
        )

    def position(self) -> Position:
        """Return what was trained on."""
        # One batch a step: the loader may have read ahead, the optimizer has not.
        return self.position_at(self.trainer.global_step if self.trainer else 0)

    def position_at(self, step: int) -> Position:
        """Return what was trained on in the first `step` steps, whatever batches they took."""
        segment = next((s for s in reversed(self._segments) if s.step <= step), self._segments[0])
        order = replace(self.order, batch_size=segment.batch_size)
        return order.after(Position(segment.epoch, segment.taken), max(step - segment.step, 0))

    def samples_at(self, step: int) -> int:
        """Return how many samples the first `step` steps took."""
        ends = [*(segment.step for segment in self._segments[1:]), step]
        return sum(
            max(min(end, step) - segment.step, 0) * segment.batch_size
            for segment, end in zip(self._segments, ends, strict=True)
        )

    def batch_at(self, step: int) -> list[Reference]:
        """Return the samples of the global batch of a step, counted from 1."""
        segment = next(s for s in reversed(self._segments) if s.step < step)
        start = self.position_at(step - 1)
        batch = next(replace(self.order, batch_size=segment.batch_size).batches(start))
        return [Reference(start.epoch, int(index)) for index in batch]

    def state_dict(self) -> dict[str, Any]:
        """Return which data were trained on in which batches; with the step that says what follows."""
        step = self.trainer.global_step if self.trainer else 0
        return {
            "step": step,
            "epoch": self.position_at(step).epoch,
            "segments": list(map(list, self._segments)),
            "fingerprint": self.fingerprint,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a position; Lightning does so before it asks for the loader.

        Raises UserError where the data are not those of the checkpoint, or its batches were of another size.
        """
        if state_dict["fingerprint"] != self.fingerprint:
            raise UserError(
                f"{self.what}: these are not the data that the checkpoint was trained on (fingerprint "
                f"{self.fingerprint[:12]}, expected {state_dict['fingerprint'][:12]}); restore them, or --fresh"
            )
        if "segments" not in state_dict:
            raise UserError(f"{self.what}: the checkpoint is of an earlier version of jitlab; --fresh starts over")
        self._segments = [Segment(*numbers) for numbers in state_dict["segments"]]
        before, now = self._segments[-1].batch_size, self.order.batch_size
        if before == now:
            return
        if not self.allow_batch_change:
            raise UserError(
                f"train.batch_size = {now}: the checkpoint was trained with batches of {before}; use that, or "
                "--allow-batch-change to go on with the samples that are left of the epoch in other batches"
            )
        step = state_dict["step"]
        position = self.position_at(step)
        self._segments.append(Segment(step, position.epoch, position.taken, now))

    def _check_order(self) -> None:
        order, samples = self.order, sum(self.order.shard_sizes)
        if order.batch_size > samples:
            raise UserError(
                f"train.batch_size = {order.batch_size}: is more than the {samples} training images of {self.what}; "
                f"use at most {samples}"
            )
        if order.partitions > len(order.shard_sizes):
            raise UserError(
                f"data.partitions = {order.partitions}: {self.what} has {len(order.shard_sizes)} training shards; use "
                "at most that"
            )
        if not order.batches_per_epoch:
            raise UserError(
                f"train.batch_size = {order.batch_size}: is more than the shards of a partition hold for its share of "
                f"it; use a smaller batch, or data.partitions=1"
            )
