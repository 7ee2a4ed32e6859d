"""Walking tar archives in place: where their members are, and never an end that is none."""

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from jitlab.errors import UserError

BLOCK = 512


def walk(path: Path, file: BinaryIO, end: int, within: str = "") -> Iterator[tarfile.TarInfo]:
    """Yield the files of the archive that begins where `file` stands, in their order.

    Args:
        path: of `file`, for messages.
        file: what the places of the members (`offset_data`) refer to; whoever takes them may move it.
        end: the byte before which the archive must end.
        within: name of the archive where it lies in another one, for messages.

    Raises:
        UserError: naming the file, the archive within and the byte at which it is damaged or cut off.
    """
    name, start = f"{path}: {within}" if within else str(path), file.tell()
    try:
        with tarfile.TarFile(fileobj=file) as archive:
            for member in archive:
                if member.offset_data + member.size > end:
                    raise UserError(f"{name}: is cut off within {member.name}, at byte {end}; fetch it again")
                if member.isfile():
                    yield member
                # Or the archive would keep a million members.
                archive.members = []  # type: ignore[attr-defined]
            stopped = archive.offset
    except (tarfile.TarError, EOFError) as error:
        what = "is no tar archive, or is damaged or cut off"
        raise UserError(f"{name}: {what} after byte {start} ({error}); {_hint(path)}") from error
    # tarfile takes whatever is no header for the end, and so does webdataset; a whole archive ends with zeros.
    file.seek(stopped)
    if file.read(BLOCK) != bytes(BLOCK) or stopped + BLOCK > end:
        raise UserError(f"{name}: is damaged or cut off at byte {stopped}: no end of an archive there; fetch it again")


def _hint(path: Path) -> str:
    unpackers = {".gz": "gunzip", ".tgz": "gunzip", ".zip": "unzip", ".bz2": "bunzip2", ".xz": "unxz"}
    if path.suffix.lower() in unpackers:
        return f"images are read in place, for which it must not be compressed: {unpackers[path.suffix.lower()]} it"
    return "fetch it again"
