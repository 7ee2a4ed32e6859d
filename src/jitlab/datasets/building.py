"""Making a folder of shards out of samples."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path

from jitlab.datasets.index import INDEX_FILE, Facts, Index, write_index
from jitlab.datasets.shards import Sample, write_shard


def build(folder: Path, splits: Mapping[str, Iterable[Sample]], samples_per_shard: int, facts: Facts) -> Index:
    """Write each split's samples as shards, in the order given, then the index.

    The same samples give the same bytes. The index is written last, so a folder with an index is complete.
    """
    (folder / INDEX_FILE).unlink(missing_ok=True)
    written = {
        split: [
            write_shard(folder / f"{split}-{number:05d}.tar", group)
            for number, group in enumerate(_groups(samples, samples_per_shard))
        ]
        for split, samples in splits.items()
    }
    return write_index(folder, facts, written)


def _groups(samples: Iterable[Sample], size: int) -> Iterator[list[Sample]]:
    iterator = iter(samples)
    while group := list(islice(iterator, size)):
        yield group
