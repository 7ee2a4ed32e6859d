"""Small sources of every kind, and the command that builds shards of them."""

import io
import tarfile
from functools import lru_cache
from pathlib import Path
from typing import Any

from jitlab.cli import main
from jitlab.datasets.index import Index, open_index
from tests.photographs import Entry, photographs, write_image_folder, write_official_tar

CLASSES, SIZE = 5, 32


@lru_cache
def entries(count: int = 60) -> list[Entry]:
    """Return small photographs; past 60 the same ones under other names."""
    known = list(photographs(60, seed=0, classes=CLASSES, small=True))
    return [(known[k % 60][0], f"{known[k % 60][0]}_{k}.JPEG", known[k % 60][2]) for k in range(count)]


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def official_tar(path: Path, count: int = 60) -> Path:
    write_official_tar(path, entries(count))
    return path


def image_folder(path: Path, count: int = 60) -> Path:
    write_image_folder(path, entries(count))
    return path


def class_archives(path: Path, count: int = 60) -> Path:
    path.mkdir()
    for name in {name for name, _, _ in entries(count)}:
        write_tar(path / f"{name}.tar", [(file, jpeg) for synset, file, jpeg in entries(count) if synset == name])
    return path


def words(source: object, out: Path | str, **options: Any) -> list[str]:
    given = {"source": source, "out": out, "image_size": SIZE, "held_out": 10, "samples_per_shard": 10, "workers": 1}
    named = {f"--{name.replace('_', '-')}": value for name, value in {**given, **options}.items() if value is not None}
    return ["data", "build", "imagenet", *(str(word) for pair in named.items() for word in pair)]


def build(source: object, out: Path | str, **options: Any) -> Index:
    assert main(words(source, out, **options)) == 0
    return open_index(Path(out), "")


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file but index.json, which names the command."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "index.json"}
