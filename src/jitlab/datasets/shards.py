"""WebDataset shards with an index: written once, checked before use, read by byte offset.

A folder holds tar files (`key.png`, `key.cls`, `key.json` for each sample) and `index.json`, which knows every
image's place in them, so that any sample can be read without reading those before it.
"""

import hashlib
import io
import json
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from jitlab.errors import UserError
from jitlab.files import write_bytes, write_json

INDEX_FILE = "index.json"
FORMAT = "jitlab-shards/1"


@dataclass(frozen=True)
class Sample:
    """One labelled image; `image` is an encoded PNG, `facts` go to `key.json`."""

    key: str
    image: bytes
    label: int
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Shard:
    """A tar file and, for each of its samples, key, label and the image's byte range and CRC-32."""

    file: str
    bytes: int
    sha256: str
    keys: list[str]
    labels: list[int]
    offsets: list[int]
    sizes: list[int]
    checksums: list[int]


@dataclass(frozen=True)
class Index:
    """What a folder of shards holds; `fingerprint` changes with any byte of a shard and with any place or label."""

    source: str
    image_size: int
    num_classes: int
    build_command: str
    splits: dict[str, list[Shard]]

    @property
    def fingerprint(self) -> str:
        """Return a hash of everything that the index says of the shards."""
        splits = {split: [asdict(shard) for shard in shards] for split, shards in self.splits.items()}
        return hashlib.sha256(json.dumps(splits, sort_keys=True).encode()).hexdigest()


def build(
    folder: Path,
    splits: Mapping[str, Iterable[Sample]],
    samples_per_shard: int,
    *,
    source: str,
    image_size: int,
    num_classes: int,
    build_command: str,
) -> Index:
    """Write each split's samples as shards, in the order given, then the index.

    The same samples give the same bytes. The index is written last, so a folder with an index is complete.
    """
    (folder / INDEX_FILE).unlink(missing_ok=True)
    shards = {
        split: [
            _write_shard(folder / f"{split}-{number:05d}.tar", group)
            for number, group in enumerate(_groups(samples, samples_per_shard))
        ]
        for split, samples in splits.items()
    }
    index = Index(source, image_size, num_classes, build_command, shards)
    write_json(folder / INDEX_FILE, {"format": FORMAT, "fingerprint": index.fingerprint, **asdict(index)})
    return index


def open_index(folder: Path, remedy: str) -> Index:
    """Read a folder's index and check that every shard is there in its full size.

    Args:
        folder: where the shards are.
        remedy: what to do where there is no usable index, for error messages.

    Raises:
        UserError: naming the file that is missing or damaged and what to do about it.
    """
    path = folder / INDEX_FILE
    if not path.is_file():
        raise UserError(f"{path}: there is no such index of shards; {remedy}")
    try:
        content = json.loads(path.read_text())
        if content.pop("format") != FORMAT:
            raise ValueError(f"expected format {FORMAT}")
        fingerprint = content.pop("fingerprint")
        content["splits"] = {split: [Shard(**shard) for shard in shards] for split, shards in content["splits"].items()}
        index = Index(**content)
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise UserError(f"{path}: is damaged ({error}); {remedy}") from error
    if index.fingerprint != fingerprint:
        raise UserError(f"{path}: does not match its own fingerprint; {remedy}")
    for split in index.splits.values():
        for shard in split:
            _check_size(folder / shard.file, shard.bytes, index.build_command)
    return index


def verify(folder: Path, index: Index) -> Iterator[str]:
    """Read every shard whole and yield one line for each whose contents are not what the index says."""
    for shards in index.splits.values():
        for shard in shards:
            digest = hashlib.sha256((folder / shard.file).read_bytes()).hexdigest()
            if digest != shard.sha256:
                yield f"{folder / shard.file}: contents differ from the index; build it again: {index.build_command}"


def _groups(samples: Iterable[Sample], size: int) -> Iterator[list[Sample]]:
    iterator = iter(samples)
    while group := list(islice(iterator, size)):
        yield group


def _check_size(path: Path, expected: int, build_command: str) -> None:
    if not path.is_file():
        raise UserError(f"{path}: shard is missing; build it again: {build_command}")
    if (size := path.stat().st_size) != expected:
        raise UserError(f"{path}: shard has {size} bytes, its index says {expected}; build it again: {build_command}")


def _write_shard(path: Path, samples: list[Sample]) -> Shard:
    # Imported here: nothing that only reads shards needs webdataset.
    import webdataset

    tar = io.BytesIO()
    with webdataset.TarWriter(tar, encoder=False, mtime=0, user="jitlab", group="jitlab") as writer:
        for sample in samples:
            writer.write(
                {
                    "__key__": sample.key,
                    "png": sample.image,
                    "cls": str(sample.label).encode(),
                    "json": json.dumps(dict(sample.facts), sort_keys=True).encode(),
                }
            )
    content = tar.getvalue()
    write_bytes(path, content)
    images = _image_ranges(content)
    return Shard(
        file=path.name,
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        keys=[sample.key for sample in samples],
        labels=[sample.label for sample in samples],
        offsets=[images[sample.key][0] for sample in samples],
        sizes=[images[sample.key][1] for sample in samples],
        checksums=[zlib.crc32(sample.image) for sample in samples],
    )


def _image_ranges(tar: bytes) -> dict[str, tuple[int, int]]:
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        return {
            member.name.removesuffix(".png"): (member.offset_data, member.size)
            for member in archive
            if member.name.endswith(".png")
        }
