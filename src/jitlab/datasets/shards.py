"""One shard: a plain WebDataset tar file, and the table that says where in it every image is.

A sample is `key.EXTENSION` (the encoded image), `key.cls` (its label) and `key.json` (what else is known of it).
"""

import hashlib
import json
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from jitlab.files import replacing

# What an image may be stored as; other members of a tar belong to a sample but are not its image.
IMAGE_EXTENSIONS = (
    *("jpg", "jpeg", "png", "webp", "ppm", "pgm", "qoi", "bmp", "gif", "tif", "tiff"),
    *("jpe", "jfif", "avif"),
)
# A name in a tar file has room for 100 bytes, extension and number included.
LONGEST_KEY = 80
Rows = np.ndarray[Any, np.dtype[np.void]]
"""A table of samples: key, label, offset and size of the image in its tar file, and the image's CRC-32."""


@dataclass(frozen=True)
class Sample:
    """One labelled image as it is stored; `facts` go to `key.json`."""

    key: str
    image: bytes
    extension: str
    label: int
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Shard:
    """A tar file: its name, its size in bytes, its SHA-256 and the number of its samples."""

    file: str
    bytes: int
    sha256: str
    samples: int


def row_type(key_bytes: int) -> np.dtype[np.void]:
    """Return the type of a row of a table whose keys have at most so many bytes."""
    fields = [("key", f"S{key_bytes}"), ("label", "<i4"), ("offset", "<i8"), ("size", "<i4"), ("crc32", "<u4")]
    return np.dtype(fields)


def key_of(row: np.void) -> str:
    """Return a row's key."""
    return bytes(row["key"]).decode()


def table(rows: Iterable[tuple[str, int, int, int, int]]) -> Rows:
    """Return a table of rows (key, label, offset, size, crc32)."""
    encoded = [(row[0].encode(), *row[1:]) for row in rows]
    return np.array(encoded, row_type(max((len(row[0]) for row in encoded), default=1)))


def join(tables: Iterable[Rows]) -> Rows:
    """Return the rows of several tables as one table."""
    parts = list(tables)
    whole = np.empty(sum(map(len, parts)), row_type(max((part.dtype["key"].itemsize for part in parts), default=1)))
    start = 0
    for part in parts:
        whole[start : start + len(part)] = part
        start += len(part)
    return whole


def write_shard(path: Path, samples: Iterable[Sample]) -> tuple[Shard, Rows]:
    """Write samples as they come, one in memory at a time, and replace `path` by them once all are on the disk.

    The same samples give the same bytes. Raises OSError where they cannot be written.
    """
    # Imported here: nothing that only reads shards needs webdataset.
    import webdataset

    labels: dict[str, tuple[int, int]] = {}
    with replacing(path) as file:
        hashed = _Hashed(file)
        with webdataset.TarWriter(hashed, encoder=False, mtime=0, user="jitlab", group="jitlab") as writer:
            for sample in samples:
                labels[sample.key] = sample.label, zlib.crc32(sample.image)
                facts = json.dumps(dict(sample.facts), sort_keys=True).encode()
                label = str(sample.label).encode()
                writer.write({"__key__": sample.key, sample.extension: sample.image, "cls": label, "json": facts})
        file.flush()
        with Path(file.name).open("rb") as written:
            places = {key: (offset, size) for key, _, offset, size in image_places(written)}
    rows = table((key, label, *places[key], crc) for key, (label, crc) in labels.items())
    return Shard(path.name, hashed.bytes, hashed.sha256.hexdigest(), len(rows)), rows


def image_places(tar: BinaryIO) -> Iterator[tuple[str, str, int, int]]:
    """Yield key, extension, byte offset and size of every image of a tar file, in their order.

    Raises tarfile.TarError where it is no tar file or is cut off within a header.
    """
    with tarfile.open(fileobj=tar, mode="r:") as archive:
        for member in archive:
            key, extension = split_name(member.name)
            if member.isfile() and extension in IMAGE_EXTENSIONS:
                yield key, extension, member.offset_data, member.size
            # Or the archive would keep a million members.
            archive.members = []  # type: ignore[attr-defined]


def split_name(name: str) -> tuple[str, str]:
    """Return a member's key and its extension in small letters, as WebDataset parts them: at the first dot."""
    folder, slash, file = name.rpartition("/")
    stem, _, extension = file.partition(".")
    return f"{folder}{slash}{stem}", extension.lower()


class _Hashed:
    """A file to write to that knows the size and the hash of what was written."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.sha256 = hashlib.sha256()
        self.bytes = 0

    def write(self, content: bytes) -> int:
        self.sha256.update(content)
        self.bytes += len(content)
        return self.file.write(content)
