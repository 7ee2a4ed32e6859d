"""Where the images of a source are: found in one pass, and read in place, whatever they lie in.

A source is the official tar archive of one tar archive for each class, a folder of such archives, a folder of class
folders, or WebDataset shards. The same images give the same table, whichever of these they come from.
"""

import errno
import hashlib
import json
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from jitlab.datasets.keys import key_of_name, told_apart
from jitlab.datasets.shards import IMAGE_EXTENSIONS, split_name
from jitlab.datasets.tars import walk
from jitlab.errors import UserError

Table = np.ndarray[Any, np.dtype[np.void]]
"""Images: file name, key, label, and where each is: archive, byte offset and size."""
NO_ARCHIVE = -1
MISSING = -1
SPLIT_NAMES = {"train", "val", "valid", "validation", "test"}
CHUNK = 16384
KINDS = (
    "expected ILSVRC2012_img_train.tar, a folder of class folders, a folder of one tar for each class, or WebDataset "
    "shards"
)


@dataclass(frozen=True)
class Entry:
    """An image as it is found; `label` is given where the source numbers its classes itself."""

    class_name: str
    name: str
    archive: int
    offset: int
    size: int
    label: int | None = None


@dataclass(frozen=True)
class Source:
    """The images of a source, ordered by label and file name.

    Args:
        path: what the user named.
        archives: the files that images lie in, by the number in the table; without any, images are files of their own.
        classes: names in the order of labels; empty where shards have labels alone.
        num_classes: one more than the highest label.
        table: where every image is.
        passed_over: files beside the images, which have no image's extension, by that extension.
    """

    path: Path
    archives: list[str]
    classes: list[str]
    num_classes: int
    table: Table = field(compare=False, repr=False)
    passed_over: Counter[str] = field(default_factory=Counter, compare=False)

    @cached_property
    def identity(self) -> str:
        """Return a hash of classes, file names, labels and sizes: the same, whatever the images lie in."""
        digest = hashlib.sha256(json.dumps([self.classes, len(self.table)]).encode())
        for column in ("name", "label", "size"):
            values = self.table[column]
            digest.update(str(values.dtype).encode() + np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()


def find_images(path: Path) -> Source:
    """Pass over a source once and return where its images are.

    Raises:
        UserError: where it is missing, empty, cut off, or no source of labelled images, saying what to do.
    """
    if not path.exists() and any(mark in path.name for mark in "*?["):
        return _shards(path, sorted(path.parent.glob(path.name)))
    if path.is_dir():
        return _in_folder(path)
    if not path.exists():
        raise UserError(f"{path}: there is no such file or folder; {KINDS}")
    kind = kind_of_archive(path)
    if kind == "classes":
        passed_over = Counter[str]()
        return _source(path, [str(path)], _archive_of_classes(path, passed_over), passed_over)
    if kind == "shard":
        return _shards(path, [path])
    raise UserError(
        f"{path}: holds images without classes; {KINDS} (ILSVRC2012_img_val.tar has its labels elsewhere: it can be "
        "--held-out, together with --devkit ILSVRC2012_devkit_t12.tar.gz)"
    )


def read_image(archives: list[str], classes: list[str], path: Path, row: np.void) -> bytes:
    """Return the bytes of an image.

    Raises UserError where it is no longer there as it was found, OSError where it cannot be read.
    """
    number, size = int(row["archive"]), int(row["size"])
    if size == MISSING:
        raise FileNotFoundError("is a link that leads nowhere")
    name = os.fsdecode(bytes(row["name"]))
    place = Path(archives[number]) if number != NO_ARCHIVE else path / classes[int(row["label"])] / name
    try:
        with place.open("rb", buffering=0) as file:
            content = os.pread(file.fileno(), size, int(row["offset"]))
            whole = number != NO_ARCHIVE or os.fstat(file.fileno()).st_size == size
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ESTALE):
            raise UserError(f"{place}: is gone since the build began; bring it back and start again") from error
        raise
    if len(content) != size or not whole:
        raise UserError(f"{place}: has changed since the build began; bring it back and type the command again")
    return content


def kind_of_archive(path: Path) -> str:
    """Say what a tar archive holds, by its first members: "classes" (archives), "shard" or "images"."""
    with path.open("rb") as file:
        extensions = {_suffix(member.name) for member in islice(_walk(path, file), 16)}
    if "tar" in extensions:
        return "classes"
    if extensions & {"cls", "json"} and extensions & set(IMAGE_EXTENSIONS):
        return "shard"
    if extensions & set(IMAGE_EXTENSIONS):
        return "images"
    raise UserError(f"{path}: holds no images; {KINDS}")


def flat_archive(path: Path) -> Iterator[Entry]:
    """Yield the images of an archive without classes."""
    with path.open("rb") as file:
        for member in _walk(path, file):
            if _is_image(member.name):
                yield Entry("", Path(member.name).name, 0, member.offset_data, member.size)


def make_table(entries: Iterable[Entry]) -> tuple[Table, list[str], int]:
    """Return the table of images, the names of the classes and their number; labels are places in the sorted names."""
    numbers: dict[str, int] = {}
    parts = list(_parts(entries, numbers))
    table = _joined(parts)
    named = [name for name in numbers if name]
    if not named:
        return _in_order(table), [], int(table["label"].max()) + 1 if len(table) else 0
    classes = sorted(named)
    rank = {name: label for label, name in enumerate(classes)}
    table["label"] = np.array([rank.get(name, -1) for name in numbers], np.int32)[table["label"]]
    return _in_order(table), classes, len(classes)


def _in_folder(path: Path) -> Source:
    archives = _visible(path, "*.tar")
    folders = [folder for folder in _visible(path, "*") if folder.is_dir()]
    if archives and folders:
        raise UserError(f"{path}: holds tar archives and folders; name one: {archives[0]} or {folders[0]}")
    if folders:
        return _class_folders(path, folders)
    if not archives:
        flat = any(_is_image(file.name) for file in path.iterdir())
        what = "holds images without class folders" if flat else "is empty of images"
        raise UserError(f"{path}: {what}; {KINDS}")
    kind = kind_of_archive(archives[0])
    if kind == "classes":
        raise UserError(f"{path}: holds archives of archives; name one of them, such as {archives[0]}")
    if kind == "shard":
        return _shards(path, archives)
    passed_over = Counter[str]()
    return _source(path, [str(archive) for archive in archives], _archives_by_class(archives, passed_over), passed_over)


def _source(path: Path, archives: list[str], entries: Iterable[Entry], passed_over: Counter[str]) -> Source:
    table, classes, num_classes = make_table(entries)
    if not len(table):
        raise UserError(f"{path}: holds no images; {KINDS}")
    return Source(path, archives, classes, num_classes, table, passed_over)


def _archive_of_classes(path: Path, passed_over: Counter[str]) -> Iterator[Entry]:
    with path.open("rb") as file:
        for outer in _walk(path, file):
            name = Path(outer.name)
            if name.suffix != ".tar" or name.name.startswith("."):
                continue
            file.seek(outer.offset_data)
            yield from _class_members(path, file, name.stem, 0, outer.offset_data + outer.size, passed_over, outer.name)


def _archives_by_class(archives: list[Path], passed_over: Counter[str]) -> Iterator[Entry]:
    for number, path in enumerate(archives):
        with path.open("rb") as file:
            yield from _class_members(path, file, path.stem, number, path.stat().st_size, passed_over)


def _class_members(
    path: Path,
    file: BinaryIO,
    class_name: str,
    archive: int,
    end: int,
    passed_over: Counter[str],
    within: str = "",
) -> Iterator[Entry]:
    count = 0
    for member in walk(path, file, end, within):
        if _is_image(member.name):
            yield Entry(class_name, Path(member.name).name, archive, member.offset_data, member.size)
            count += 1
        elif member.isfile() and not Path(member.name).name.startswith("."):
            passed_over[_shown_suffix(member.name)] += 1
    if not count:
        raise UserError(f"{path}: class {class_name} has no images; fetch it again, or leave that class out")


def _class_folders(path: Path, folders: list[Path]) -> Source:
    if splits := [folder for folder in folders if folder.name.lower() in SPLIT_NAMES]:
        raise UserError(f"{path}: holds {', '.join(f.name for f in splits)}, which are no classes; name {splits[0]}")

    passed_over = Counter[str]()

    def entries() -> Iterator[Entry]:
        for folder in folders:
            count = 0
            for name, size in _files(folder, passed_over):
                yield Entry(folder.name, name, NO_ARCHIVE, 0, size)
                count += 1
            if not count:
                raise UserError(f"{folder}: this class has no images; fill or remove the folder")

    return _source(path, [], entries(), passed_over)


def _files(folder: Path, passed_over: Counter[str]) -> Iterator[tuple[str, int]]:
    for parent, inner, names in os.walk(folder, followlinks=True):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        visible = [name for name in names if not name.startswith(".")]
        passed_over.update(_shown_suffix(name) for name in visible if not _is_image(name))
        for name in sorted(filter(_is_image, visible)):
            file = Path(parent, name)
            yield file.relative_to(folder).as_posix(), _size(file)


def _size(file: Path) -> int:
    # A link that leads nowhere is an image that cannot be read, as others are.
    return file.stat().st_size if file.exists() else MISSING


def _shards(path: Path, shards: list[Path]) -> Source:
    if not shards:
        raise UserError(f"{path}: no file has such a name; {KINDS}")
    names = [re.sub(r"\d+", "*", shard.name) for shard in shards]
    sets = sorted(set(names))
    if len(sets) > 1:
        raise UserError(
            f"{path}: holds several sets of shards ({', '.join(sets)}); name one, in quotes: "
            f"'{shards[0].parent / max(sets, key=names.count)}'"
        )
    return _checked_labels(path, shards)


def _checked_labels(path: Path, shards: list[Path]) -> Source:
    """Return shards as a source; where samples name their classes, labels must be places in the sorted names."""
    found: dict[str, int] = {}

    def entries() -> Iterator[Entry]:
        for entry in _samples(shards):
            label = entry.label if entry.label is not None else -1
            if found.setdefault(entry.class_name, label) != label and entry.class_name:
                both = f"{found[entry.class_name]} and {label}"
                raise UserError(f"{shards[entry.archive]}: class {entry.class_name} has labels {both}; mend the shards")
            yield entry

    source = _source(path, [str(shard) for shard in shards], entries(), Counter())
    if source.classes and "" in found:
        raise UserError(f"{path}: some samples name their synset in .json and some do not; mend the shards")
    for label, name in enumerate(source.classes):
        if found[name] not in (label, -1):
            raise UserError(
                f"{path}: label {found[name]} is {name}, which is class {label} of the sorted names; the shards lack "
                "classes or number them otherwise: name all shards of the set"
            )
    return source


def _samples(shards: list[Path]) -> Iterator[Entry]:
    for number, path in enumerate(shards):
        sample: dict[str, Any] = {}
        with path.open("rb") as file:
            for member in _walk(path, file):
                key, extension = split_name(member.name)
                if key != sample.get("key"):
                    yield from _entry(path, number, sample)
                    sample = {"key": key}
                if extension in IMAGE_EXTENSIONS:
                    sample["image"] = extension, member.offset_data, member.size
                elif extension in ("cls", "json"):
                    file.seek(member.offset_data)
                    sample[extension] = file.read(member.size)
        yield from _entry(path, number, sample)


def _entry(path: Path, archive: int, sample: dict[str, Any]) -> Iterator[Entry]:
    if "image" not in sample:
        return
    key, (extension, offset, size) = sample["key"], sample["image"]
    try:
        facts = json.loads(sample.get("json", b"{}"))
        facts = facts if isinstance(facts, dict) else {}
        label = int(sample["cls"]) if "cls" in sample else facts.get("label")
    except ValueError as error:
        raise UserError(f"{path}: sample {key}: .cls or .json is damaged ({error}); mend the shard") from error
    class_name = str(facts.get("synset", ""))
    if not class_name and (not isinstance(label, int) or label < 0):
        raise UserError(f"{path}: sample {key}: has no label: expected .cls, or .json with label or synset")
    name = str(facts.get("file", f"{Path(key).name}.{extension}"))
    yield Entry(class_name, name, archive, offset, size, label)


def _parts(entries: Iterable[Entry], numbers: dict[str, int]) -> Iterator[Table]:
    """Yield tables of some thousand images, so that few are ever Python objects; classes are numbered as they come."""
    iterator = iter(entries)
    while chunk := list(islice(iterator, CHUNK)):
        rows = []
        for entry in chunk:
            number = numbers.setdefault(entry.class_name, len(numbers))
            label = number if entry.class_name or entry.label is None else entry.label
            key, name = key_of_name(entry.class_name, entry.name).encode(), os.fsencode(entry.name)
            rows.append((name, key, label, entry.archive, entry.offset, entry.size))
        yield np.array(rows, _row_type(max(len(row[0]) for row in rows), max(len(row[1]) for row in rows)))


def _row_type(name_bytes: int, key_bytes: int) -> np.dtype[np.void]:
    places = [("label", "<i4"), ("archive", "<i4"), ("offset", "<i8"), ("size", "<i8")]
    return np.dtype([("name", f"S{name_bytes}"), ("key", f"S{key_bytes}"), *places])


def _joined(parts: list[Table]) -> Table:
    """Return several tables as one; takes them out of the list, so that two copies of them never coexist."""
    longest = [max((part.dtype[column].itemsize for part in parts), default=1) for column in ("name", "key")]
    whole = np.empty(sum(map(len, parts)), _row_type(*longest))
    end = len(whole)
    while parts:
        part = parts.pop()
        whole[end - len(part) : end] = part
        end -= len(part)
    return whole


def _in_order(table: Table) -> Table:
    """Return the images by label and name, with a key of its own for each."""
    order = np.argsort(table["name"], kind="stable")
    order = order[np.argsort(table["label"][order], kind="stable")]
    table = table[order]
    keys = told_apart(table["key"])
    if keys.dtype.itemsize <= table.dtype["key"].itemsize:
        table["key"] = keys
        return table
    wider = np.empty(len(table), _row_type(table.dtype["name"].itemsize, keys.dtype.itemsize))
    for column in table.dtype.names or ():
        wider[column] = keys if column == "key" else table[column]
    return wider


def _walk(path: Path, file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    return walk(path, file, os.fstat(file.fileno()).st_size)


def _visible(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))


def _is_image(name: str) -> bool:
    return _suffix(name) in IMAGE_EXTENSIONS and not Path(name).name.startswith(".")


def _shown_suffix(name: str) -> str:
    return Path(name).suffix.lower() or "no extension"


def _suffix(name: str) -> str:
    return name.rpartition(".")[2].lower()
