"""An index of WebDataset shards that somebody else made, in one pass over them."""

import fnmatch
import hashlib
import io
import json
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any, BinaryIO

from PIL import Image

from jitlab.datasets import remote
from jitlab.datasets.index import HELD_OUT, INDEX_FILE, TRAIN, Facts, Index, open_index, write_index
from jitlab.datasets.parallel import in_processes
from jitlab.datasets.shards import IMAGE_EXTENSIONS, Rows, Shard, split_name, table
from jitlab.datasets.workspace import FOLDER as WORKSPACE
from jitlab.datasets.workspace import RECIPE_FILE
from jitlab.errors import UserError

HELD_OUT_NAMES = ("*val*", "*test*", "*held_out*")
END_OF_TAR = bytes(2 * 512)
READ_BYTES = 2**20
FAULTS_TOLD = 3


@dataclass
class _Found:
    """What is known of a sample so far."""

    extension: str = ""
    place: tuple[int, int, int] | None = None  # offset, size, CRC-32
    size: tuple[int, int] | None = None  # width, height
    label: int | None = None
    label_of_json: int | None = None
    class_name: str | None = None


@dataclass(frozen=True)
class Scanned:
    """A shard as one pass found it.

    Args:
        shard: what it is.
        rows: of its samples.
        sizes: widths and heights of its images.
        names: labels with the class names that samples of them have.
        faults: what is wrong with it.
    """

    shard: Shard
    rows: Rows
    sizes: set[tuple[int, int]]
    names: set[tuple[int, str]]
    faults: list[str] = field(default_factory=list)


def index_shards(
    source: str,
    folder: Path,
    held_out: Sequence[str],
    num_classes: int | None,
    workers: int,
    command: str,
    progress: Callable[[int, int], None],
) -> Index:
    """Read shards once and write their index.

    Args:
        source: folder or URL of the shards, or webdataset's notation for their URLs.
        folder: of the index; that of the shards, or another one where they are on a server.
        held_out: patterns of the names of shards that are not trained on; empty for the usual names.
        num_classes: None for one more than the highest label.
        workers: processes, each of which reads a shard at a time.
        command: that makes this index.
        progress: told how many of how many shards were read.

    Raises:
        UserError: for shards that are damaged, without labels or with the same key twice, where none is held out, and
            for a folder that has the index of its build, or is being built.
        RunError: where a server stays away or silent.
    """
    _refuse_built(folder)
    places = _places(source)
    splits = _splits(places, held_out)
    scanned: dict[str, Scanned] = {}
    for place, found in zip(places, in_processes(scan, places, workers), strict=True):
        scanned[place] = found
        progress(len(scanned), len(places))
    _refuse_faults(scanned)
    for split in splits.values():
        _refuse_doubles([scanned[place] for place in split])
    labels = 1 + max(int(found.rows["label"].max()) for found in scanned.values())
    if num_classes is not None and num_classes < labels:
        raise UserError(f"--num-classes {num_classes}: {source} has labels up to {labels - 1}; use {labels} or more")
    facts = Facts(
        source="imagenet",
        image_size=_common_size(scanned.values()),
        num_classes=num_classes or labels,
        classes=_class_names(scanned.values(), num_classes or labels),
        command=command,
        location=_location(places) if remote.is_remote(source) else None,
    )
    parts = {name: [(scanned[p].shard, scanned[p].rows) for p in split] for name, split in splits.items()}
    return write_index(folder, facts, parts)


def scan(place: str) -> Scanned:
    """Read a local or remote shard once from its beginning to its end.

    What is wrong with it is found, not raised; raises RunError where a server stays away or silent.
    """
    name = place.rpartition("/")[2]
    with _opened(place) as stream:
        read = _Hashed(stream)
        found: dict[str, _Found] = {}
        faults: list[str] = []
        try:
            with tarfile.open(fileobj=read, mode="r|") as archive:  # type: ignore[call-overload]
                for member in archive:
                    if member.isfile():
                        faults += _take(archive, member, found)
                    archive.members = []
        except (tarfile.TarError, EOFError) as error:
            faults.append(f"is damaged or cut off ({error})")
        read.drain()
    if not faults and not read.ends_with(END_OF_TAR):
        faults.append("lacks the end mark of a tar file: it is cut off")
    samples = {key: sample for key, sample in found.items() if sample.place}
    labels = {key: sample.label_of_json if sample.label is None else sample.label for key, sample in samples.items()}
    faults += [f"sample {key}: has no label in .cls or .json" for key, label in labels.items() if label is None]
    if not samples and not faults:
        faults.append(f"has no images ({', '.join(IMAGE_EXTENSIONS[:5])}, ...)")
    rows = table((key, labels[key] or 0, *sample.place) for key, sample in samples.items() if sample.place)
    shard = Shard(name, read.bytes, read.sha256.hexdigest(), len(rows))
    sizes = {sample.size for sample in samples.values() if sample.size}
    names = {(labels[key] or 0, sample.class_name) for key, sample in samples.items() if sample.class_name}
    return Scanned(shard, rows, sizes, names, [f"{place}: {fault}" for fault in faults])


def _take(archive: tarfile.TarFile, member: tarfile.TarInfo, found: dict[str, _Found]) -> Iterator[str]:
    """Keep what a member says of its sample; yield what is wrong with it."""
    key, extension = split_name(member.name)
    if extension not in (*IMAGE_EXTENSIONS, "cls", "json"):
        return
    file = archive.extractfile(member)
    assert file is not None
    content = file.read()
    sample = found.setdefault(key, _Found())
    if extension in IMAGE_EXTENSIONS:
        if sample.place:
            yield f"sample {key}: has two images, .{sample.extension} and .{extension}"
            return
        sample.extension = extension
        sample.place = member.offset_data, member.size, zlib.crc32(content)
        try:
            with Image.open(io.BytesIO(content)) as image:
                sample.size = image.size
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            yield f"sample {key}: no image can be read from .{extension} ({error})"
    elif extension == "cls":
        sample.label = _label(content)
    else:
        sample.label_of_json, sample.class_name = _facts_of_json(content)


def _label(content: bytes) -> int | None:
    text = content.decode(errors="replace").strip()
    return int(text) if text.isdecimal() else None


def _facts_of_json(content: bytes) -> tuple[int | None, str | None]:
    """Return label and class name, None for what is not there."""
    try:
        facts: Any = json.loads(content)
        label, name = facts.get("label"), facts.get("synset")
    except (ValueError, AttributeError):
        return None, None
    return label if type(label) is int and label >= 0 else None, name if isinstance(name, str) else None


def _class_names(scanned: Iterable[Scanned], count: int) -> list[str]:
    """Return the name of each class in the order of labels, where every one has a single name."""
    found = {pair for each in scanned for pair in each.names}
    names = dict(sorted(found))
    return list(names.values()) if len(found) == len(names) == count else []


def _refuse_built(folder: Path) -> None:
    """Keep class names and recipe, which a new index would not have, and half a build from passing for a whole."""
    if (folder / WORKSPACE / RECIPE_FILE).exists():
        raise UserError(f"{folder}: holds an unfinished build; type its command again: it writes the index at its end")
    try:
        index = open_index(folder, "")
    except UserError:
        return
    if index.facts.recipe:
        raise UserError(
            f"{folder}: has the index of its build ({index.facts.command}), which knows more than a new one would; use "
            f"it, or delete {folder / INDEX_FILE} first"
        )


def _places(source: str) -> list[str]:
    if remote.is_remote(source):
        return remote.list_shards(source)
    if not Path(source).is_dir():
        raise UserError(f"{source}: there is no such folder; name a folder or a URL of WebDataset shards")
    found = sorted(str(path) for path in Path(source).glob("*.tar"))
    if not found:
        raise UserError(f"{source}: has no .tar files; name a folder or a URL of WebDataset shards")
    return found


def _splits(places: Sequence[str], held_out: Sequence[str]) -> dict[str, list[str]]:
    patterns = held_out or HELD_OUT_NAMES
    names = {place: place.rpartition("/")[2] for place in places}
    chosen = [place for place in places if any(fnmatch.fnmatch(names[place], pattern) for pattern in patterns)]
    rest = [place for place in places if place not in set(chosen)]
    if chosen and rest:
        return {TRAIN: rest, HELD_OUT: chosen}
    told = f"{'all' if chosen else 'none'} of {names[places[0]]} to {names[places[-1]]} match {' '.join(patterns)}"
    raise UserError(
        f"--held-out: {told}; some shards must be held out and some trained on: name those that are held out, such as "
        f"--held-out '{names[places[-1]]}'"
    )


def _location(places: Sequence[str]) -> str:
    folders = {place.rpartition("/")[0] for place in places}
    if len(folders) > 1:
        raise UserError(f"{', '.join(sorted(folders))}: shards of one index must lie in one folder")
    return folders.pop()


def _refuse_faults(scanned: dict[str, Scanned]) -> None:
    faults = [fault for found in scanned.values() for fault in found.faults]
    if faults:
        more = f" (and {len(faults) - FAULTS_TOLD} more)" if len(faults) > FAULTS_TOLD else ""
        raise UserError(f"{'; '.join(faults[:FAULTS_TOLD])}{more}; mend or remove these shards, and index the others")


def _refuse_doubles(split: Sequence[Scanned]) -> None:
    first: dict[bytes, str] = {}
    for found in split:
        for key in found.rows["key"]:
            if key in first:
                raise UserError(
                    f"{found.shard.file}: sample {key.decode()} is also in {first[key]}; every key must be there once, "
                    "as flips and the ledger go by it"
                )
            first[bytes(key)] = found.shard.file


def _common_size(scanned: Iterable[Scanned]) -> int | None:
    """Return the side of the images where all are squares of the same size."""
    sizes = {size for found in scanned for size in found.sizes}
    width, height = next(iter(sizes))
    return width if len(sizes) == 1 and width == height else None


def _opened(place: str) -> IO[bytes]:
    return remote.open_stream(place) if remote.is_remote(place) else Path(place).open("rb")


class _Hashed:
    """A stream that knows the size, the hash and the end of what was read of it."""

    def __init__(self, stream: IO[bytes] | BinaryIO) -> None:
        self.stream = stream
        self.sha256 = hashlib.sha256()
        self.bytes = 0
        self._end = b""

    def read(self, size: int) -> bytes:
        content = self.stream.read(size)
        self.sha256.update(content)
        self.bytes += len(content)
        self._end = (self._end + content[-len(END_OF_TAR) :])[-len(END_OF_TAR) :]
        return content

    def drain(self) -> None:
        for _ in iter(partial(self.read, READ_BYTES), b""):
            pass

    def ends_with(self, mark: bytes) -> bool:
        return self._end == mark
