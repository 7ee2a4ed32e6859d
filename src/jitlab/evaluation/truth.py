"""The real images of an evaluation: what its checkpoint was trained on, and the statistics of them."""

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path

import torch
from rich.console import Console

from jitlab import build
from jitlab.config.schema import Config
from jitlab.datasets.datamodule import ShardDataModule
from jitlab.datasets.index import INDEX_FILE
from jitlab.datasets.parallel import cores
from jitlab.datasets.remote import is_remote
from jitlab.errors import UserError
from jitlab.metrics.features import Extractor
from jitlab.metrics.patches import PatchFit, RealPatches
from jitlab.metrics.reference import Provenance, Reference, check_reference, read_reference
from jitlab.reference_statistics import CROP, default_path, training_images, write_reference_of


class RealImages:
    """The training images of a checkpoint where they are at hand, and their reference statistics in any case."""

    def __init__(self, config: Config, root: Path, trained_on: str | None, reference: Path | None) -> None:
        """Open the data.

        Args:
            config: of the checkpoint.
            root: the repository.
            trained_on: the fingerprint that they must have; None where it is not known.
            reference: the statistics that were named; with them, the images may be missing.

        Raises:
            UserError: for data that are missing and needed, damaged, or others than those of the run.
        """
        self.config = config
        self.place = build.data_path(config, root)
        self._reference = reference
        self._data = None if reference and not _is_there(self.place) else _open(config, root)
        if self._data and trained_on not in (None, self._data.fingerprint):
            raise UserError(
                f"{self.place}: the data are not those that the checkpoint was trained on; name their folder or URL "
                "with --data"
            )
        self.fingerprint = self._data.fingerprint if self._data else trained_on

    def reference(self, extractor: Extractor, device: torch.device, console: Console) -> Reference:
        """Return the statistics of the file that was named, else of one beside the shards, made if it is not there.

        Raises UserError where they are of other features, weights, sizes or data.
        """
        beside = default_path(Path(self.place), extractor.name, self.config.data.image_size)
        path = self._reference or beside
        if path == beside and self._data and not path.exists():
            self._write(path, extractor, device, console)
        reference = read_reference(path, extractor.dimensions)
        size, fingerprint = self.config.data.image_size, self.fingerprint
        if fingerprint is None and reference.provenance is not None:
            fingerprint = reference.provenance.fingerprint
        expected = Provenance(extractor.name, extractor.weights_sha256, size, CROP, fingerprint or "")
        check_reference(path, reference, expected)
        return reference

    def patches(self, device: torch.device) -> RealPatches | None:
        """Return the patches of the images that training compared with, on the CPU; None without images."""
        if self._data is None:
            return None
        fit = PatchFit(self.config.model.patch_size, device)
        for images, _ in self._data.reference_images():
            fit.add(images.to(device))
        return fit.compute().to(torch.device("cpu"))

    @property
    def patch_images(self) -> int:
        """Return of how many images the patches are."""
        return self._data.reference_count if self._data else 0

    def _write(self, path: Path, extractor: Extractor, device: torch.device, console: Console) -> None:
        assert self._data is not None
        if is_remote(self.place):
            raise UserError(
                f"{self.place}: is on a server; write its statistics with jitlab evaluate reference --data "
                f"{self.place} --features {extractor.name} --out FILE.npz, and name them by --reference"
            )
        images = training_images(self._data.index, self._data.store, self.config.data.image_size)
        write_reference_of(images, len(images), extractor, device, path, cores(), console)


def reference_id(reference: Reference) -> str:
    """Return what tells reference statistics from others: of verified ones what they are of, else their values."""
    if reference.provenance is not None:
        known = asdict(reference.provenance) | {"n": reference.moments.n}
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
    values = (reference.moments.mean, reference.moments.covariance)
    return hashlib.sha256(b"".join(value.numpy().tobytes() for value in values)).hexdigest()


def at(config: Config, data: str | None) -> Config:
    """Return the configuration with its data in another folder, as typed, or at another URL."""
    if not data:
        return config
    return replace(config, data=replace(config.data, path=data if is_remote(data) else str(Path(data).resolve())))


def _is_there(place: str) -> bool:
    return is_remote(place) or (Path(place) / INDEX_FILE).exists()


def _open(config: Config, root: Path) -> ShardDataModule:
    data = build.build_datamodule(config, root)
    assert isinstance(data, ShardDataModule), "points are refused before"
    return data
