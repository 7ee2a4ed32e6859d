"""The Inception network of published FIDs: torch-fidelity's port of TensorFlow's weights, and where these come from."""

import hashlib
import os
import warnings
from pathlib import Path

import torch
from torch import Tensor
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3

from jitlab.errors import UserError
from jitlab.metrics.features import INCEPTION, Features, full_batches, plain_float32

WEIGHTS_VARIABLE = "JITLAB_INCEPTION_WEIGHTS"
FILE_NAME = str(URL_INCEPTION_V3).rpartition("/")[2]
# The name of the file ends in the first digits of its SHA-256, as torch.hub has it.
PUBLISHED_SHA256 = FILE_NAME.removesuffix(".pth").rpartition("-")[2]
LAYERS = ["2048", "logits_unbiased"]
CLASSES = 1008


class Inception:
    """torch-fidelity's `inception-v3-compat` with its TF1-compatible resize: 2048 features and logits in one forward.

    `published` says whether the weights are the published ones: with others the distance is no FID to compare.
    """

    name = INCEPTION
    dimensions = 2048
    classes = CLASSES

    def __init__(self, device: torch.device, weights: Path | None = None) -> None:
        """Load weights, by default from where `find_weights` finds them; raises UserError for any that do not fit."""
        path = find_weights(weights)
        with path.open("rb") as file:
            self.weights_sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        self.published = self.weights_sha256.startswith(PUBLISHED_SHA256)
        if path == _download_path() and not self.published:
            raise UserError(
                f"{path}: SHA-256 {self.weights_sha256[:8]}..., expected {PUBLISHED_SHA256}...: a damaged download; "
                "delete it, and it is downloaded again"
            )
        self._network = _load(path).to(device)

    def __call__(self, images: Tensor) -> Features:
        """Return features and logits (without bias, as for the Inception Score) of images (B, 3, H, W) uint8."""
        if len(images) == 0:
            return Features(*(torch.empty(0, size, device=images.device) for size in (self.dimensions, self.classes)))
        with plain_float32():
            parts = [self._network(batch) for batch in full_batches(images)]
        vectors, logits = (torch.cat(layer)[: len(images)] for layer in zip(*parts, strict=True))
        return Features(vectors, logits)


def find_weights(explicit: Path | None = None) -> Path:
    """Return the file of weights: `explicit`, else the environment's, else torch-fidelity's download.

    Downloads it where torch-fidelity would, if it is not there yet. Raises UserError for a file that does not exist
    and where nothing can be downloaded.
    """
    named = os.environ.get(WEIGHTS_VARIABLE)
    path = explicit or (Path(named) if named else None)
    if path is not None:
        if not path.is_file():
            source = "--weights" if explicit else WEIGHTS_VARIABLE
            raise UserError(f"{path}: no such file, but {source} says that Inception's weights are there; {_remedy()}")
        return path
    path = _download_path()
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(URL_INCEPTION_V3, str(path), PUBLISHED_SHA256, progress=False)
        # An OSError without a connection, a RuntimeError where the hash is another.
        except (OSError, RuntimeError) as error:
            raise UserError(f"features inception: the weights cannot be downloaded ({error}); {_remedy()}") from error
    return path


def _download_path() -> Path:
    return Path(str(torch.hub.get_dir())) / "checkpoints" / FILE_NAME


def _remedy() -> str:
    named = f"by {WEIGHTS_VARIABLE}=FILE, or to jitlab evaluate by --weights FILE"
    return f"fetch {URL_INCEPTION_V3} and name the file {named}"


def _load(path: Path) -> FeatureExtractorInceptionV3:
    try:
        # torch-fidelity unpickles whatever is in the file: only what holds nothing but tensors may get there.
        with warnings.catch_warnings(action="ignore"):
            torch.load(path, map_location="cpu", weights_only=True)
    # What torch, pickle and safetensors raise for damaged files is of all kinds.
    except Exception as error:
        raise UserError(f"{path}: truncated, or no file of PyTorch weights; {_remedy()}") from error
    try:
        return FeatureExtractorInceptionV3(INCEPTION, LAYERS, feature_extractor_weights_path=str(path))
    except (RuntimeError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: weights of another network than Inception; {_remedy()}") from error
