"""Reading shards whole, and comparing them with their index."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from jitlab.datasets.index import Index


def verify(folder: Path, index: Index) -> Iterator[str]:
    """Read every shard whole and yield one line for each whose contents are not what the index says."""
    for shards in index.splits.values():
        for shard in shards:
            digest = hashlib.sha256((folder / shard.file).read_bytes()).hexdigest()
            if digest != shard.sha256:
                # Building takes a shard of the right size for whole.
                again = f"delete it and build it again: {index.facts.command}"
                yield f"{folder / shard.file}: contents differ from the index; {again}"
