"""The official validation images, whose labels are not with them but in the development kit."""

import io
import tarfile
from pathlib import Path

import numpy as np

from jitlab.datasets.sources import Entry, Source, flat_archive, make_table
from jitlab.errors import UserError

SYNSETS, LABELS = "data/meta.mat", "data/ILSVRC2012_validation_ground_truth.txt"


def flat_validation(path: Path, devkit: Path) -> Source:
    """Return ILSVRC2012_img_val.tar as a source, with the labels that ILSVRC2012_devkit_t12.tar.gz has for it.

    Raises UserError where the kit is none, or has labels for another number of images.
    """
    names = _class_names(devkit)
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; expected ILSVRC2012_img_val.tar, as --devkit is given")
    images = sorted(flat_archive(path), key=lambda entry: entry.name)
    if len(images) != len(names):
        raise UserError(f"{path}: holds {len(images)} images, {devkit} has labels for {len(names)}; fetch both again")
    table, classes, num_classes = make_table(
        Entry(name, image.name, image.archive, image.offset, image.size)
        for name, image in zip(names, images, strict=True)
    )
    return Source(path, [str(path)], classes, num_classes, table)


def _class_names(devkit: Path) -> list[str]:
    """Return the WordNet id of every validation image in the order of their file names."""
    from scipy.io import loadmat

    try:
        with tarfile.open(devkit) as archive:
            found = {name: _content(archive, name) for name in (SYNSETS, LABELS)}
        synsets = np.atleast_1d(loadmat(io.BytesIO(found[SYNSETS]), squeeze_me=True)["synsets"])
        names = {int(synset["ILSVRC2012_ID"]): str(synset["WNID"]) for synset in synsets}
        return [names[int(line)] for line in found[LABELS].split()]
    except FileNotFoundError as error:
        raise UserError(f"{devkit}: there is no such file; expected ILSVRC2012_devkit_t12.tar.gz") from error
    except (tarfile.TarError, EOFError, KeyError, ValueError, TypeError) as error:
        raise UserError(f"{devkit}: is no ILSVRC2012 development kit ({error}); fetch it again") from error


def _content(archive: tarfile.TarFile, name: str) -> bytes:
    for member in archive:
        if member.name.endswith(name) and (file := archive.extractfile(member)):
            return file.read()
    raise KeyError(f"no {name}")
