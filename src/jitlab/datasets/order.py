"""The order in which samples are seen: a function of (seed, epoch), and a position in it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Sampler

from jitlab.randomness import numpy_generator


@dataclass(frozen=True)
class Reference:
    """A sample to read: its place in the split, and the epoch, which decides its flip."""

    epoch: int
    index: int


@dataclass(frozen=True)
class Position:
    """How many samples of an epoch's order were trained on, over all processes."""

    epoch: int
    taken: int


@dataclass(frozen=True)
class Order:
    """All samples of a split in global batches, the same whatever the number of processes and workers.

    Shards are shuffled, then samples within windows of several shards, so that few shards are read at a time. With
    several partitions every one has its own shards and order, and gives the same share of every batch, so that a
    machine that serves one of them reads no other shards.

    Args:
        shard_sizes: samples of each shard.
        batch_size: samples of a global batch; a multiple of `partitions`.
        seed: of the order.
        window: shards whose samples are mixed.
        partitions: groups of shards; shard s belongs to group s modulo `partitions`.
    """

    shard_sizes: Sequence[int]
    batch_size: int
    seed: int
    window: int
    partitions: int = 1

    @property
    def batches_per_epoch(self) -> int:
        """Return the whole batches of an epoch; the rest of the samples sit out, other ones every epoch."""
        return self.batches_left(Position(0, 0))

    def batches(self, start: Position) -> Iterator[np.ndarray]:
        """Yield the samples of each global batch from a position to the end of its epoch, (batch_size,) int64."""
        orders = [self._partition(group, start.epoch) for group in range(self.partitions)]
        share, first = self.batch_size // self.partitions, start.taken // self.partitions
        for batch in range(self.batches_left(start)):
            place = first + batch * share
            yield np.concatenate([order[place : place + share] for order in orders])

    def batches_left(self, start: Position) -> int:
        """Return the whole batches between a position and the end of its epoch."""
        share = self.batch_size // self.partitions
        smallest = min(sum(self.shard_sizes[group :: self.partitions]) for group in range(self.partitions))
        return (smallest - start.taken // self.partitions) // share

    def after(self, start: Position, steps: int) -> Position:
        """Return the position so many steps after another one."""
        left = self.batches_left(start)
        if steps < left:
            return Position(start.epoch, start.taken + steps * self.batch_size)
        epochs, batches = divmod(steps - left, self.batches_per_epoch)
        return Position(start.epoch + 1 + epochs, batches * self.batch_size)

    def shards(self, epoch: int, group: int = 0) -> np.ndarray:
        """Return the shards of a partition in the order in which an epoch comes to them."""
        return self._shuffled(group, self._generator(group, epoch))

    def upcoming(self, start: Position) -> list[int]:
        """Return the shards of the window that a position is in and of the next one, of each partition in turn."""
        found = [
            self._window(group, start.epoch, self._window_number(group, start) + ahead)
            for ahead in range(2)
            for group in range(self.partitions)
        ]
        return [int(shard) for window in found for shard in window]

    def _window_number(self, group: int, start: Position) -> int:
        shards = self.shards(start.epoch, group)
        ends = np.cumsum([self.shard_sizes[shard] for shard in shards])
        passed = int(np.searchsorted(ends, start.taken // self.partitions, side="right"))
        return min(passed, len(shards) - 1) // self.window

    def _window(self, group: int, epoch: int, number: int) -> np.ndarray:
        """Return a window of an epoch, counted on into the next epoch where it has no such window."""
        shards = self.shards(epoch, group)
        windows = -(-len(shards) // self.window)
        if number >= windows:
            return self._window(group, epoch + 1, number - windows)
        return shards[number * self.window :][: self.window]

    def _partition(self, group: int, epoch: int) -> np.ndarray:
        generator = self._generator(group, epoch)
        shuffled = self._shuffled(group, generator)
        starts = np.cumsum([0, *self.shard_sizes])
        return np.concatenate(
            [
                generator.permutation(np.concatenate([np.arange(starts[s], starts[s + 1]) for s in window]))
                for window in (shuffled[at : at + self.window] for at in range(0, len(shuffled), self.window))
            ]
        )

    def _shuffled(self, group: int, generator: np.random.Generator) -> np.ndarray:
        return generator.permutation(np.arange(group, len(self.shard_sizes), self.partitions))

    def _generator(self, group: int, epoch: int) -> np.random.Generator:
        return numpy_generator("order", self.seed, epoch, *([group] if group else []))


class PositionSampler(Sampler[list[Reference]]):
    """Yields this process's part of each global batch, from the present position to the end of its epoch.

    It lives in the main process, so that the order does not depend on the number of loader workers. Whoever
    iterates may stop anywhere, even before the last batch is asked for: the next pass starts where `position`
    says. The length is always that of a whole epoch: a loader without one loses a batch at every resume.
    """

    def __init__(
        self,
        order: Order,
        rank: int,
        world_size: int,
        position: Callable[[], Position],
        announce: Callable[[Position], None] = lambda _: None,
    ) -> None:
        """Prepare to serve process `rank` of `world_size`.

        `position` says what was trained on; `announce` is told where each batch begins before it is handed out.
        """
        self.announce = announce
        self.order = order
        self.rank = rank
        self.world_size = world_size
        self.position = position

    def __len__(self) -> int:
        return self.order.batches_per_epoch

    def __iter__(self) -> Iterator[list[Reference]]:
        start = self.position()
        local = self.order.batch_size // self.world_size
        for number, batch in enumerate(self.order.batches(start)):
            self.announce(Position(start.epoch, start.taken + number * self.order.batch_size))
            yield [Reference(start.epoch, int(index)) for index in batch[self.rank * local :][:local]]
