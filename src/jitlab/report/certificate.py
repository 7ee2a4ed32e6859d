"""The certificate of an evaluation: its figures, the protocol that they are of, and the search that led there."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jitlab.errors import UserError
from jitlab.files import write_json

CERTIFICATE_FILE = "evaluation.json"
EVALUATION_FOLDER = "evaluation"
FORMAT = 1
# Of figures: larger ones have no spread in float64, and are of no samples.
_MOST = 1e150
_REMEDY = "delete it and evaluate again"
_KINDS = {
    "name": str,
    "checkpoint": dict,
    "metric": str,
    "weights": str,
    "protocol": dict,
    "warnings": list,
    "versions": dict,
    "hardware": str,
}
_SEARCH_KINDS = {"images": int, "seed": int, "full": bool}
_CELL_KINDS = {"weights": str, "metrics": dict}


@dataclass(frozen=True)
class SearchedCell:
    """What the images of some weights at a guidance scale are worth: metrics by their names."""

    weights: str
    guidance_scale: float
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Searched:
    """The cells that were looked at, with so many images each; `full` where that is the whole grid."""

    images: int
    seed: int
    full: bool
    cells: tuple[SearchedCell, ...]


@dataclass(frozen=True)
class Certificate:
    """An evaluation and all that it rests on. Made again from the same checkpoint it is the same file.

    Args:
        name: of the run or checkpoint.
        checkpoint: its file, `sha256` and `step`.
        metric: the one that the search minimised, `fid` or `fd_<features>`.
        weights: that were evaluated: `raw`, or `ema` and a decay.
        guidance_scale: that was.
        values: of every metric, one for each seed of `protocol`.
        search: None where nothing was searched.
        protocol: all that figures must have in common to be compared.
        warnings: what a reader of the figures must know.
        versions: of the packages.
        hardware: it was computed on.
    """

    name: str
    checkpoint: Mapping[str, Any]
    metric: str
    weights: str
    guidance_scale: float
    values: Mapping[str, tuple[float, ...]]
    search: Searched | None
    protocol: Mapping[str, Any]
    warnings: tuple[str, ...]
    versions: Mapping[str, str]
    hardware: str

    @property
    def protocol_hash(self) -> str:
        """Return what the protocols of certificates that may be compared have in common."""
        return hashlib.sha256(json.dumps(self.protocol, sort_keys=True).encode()).hexdigest()


def write_certificate(path: Path, certificate: Certificate) -> None:
    """Write a certificate as JSON; raises ValueError for figures that are not finite."""
    write_json(path, {"format": FORMAT, "protocol_hash": certificate.protocol_hash} | asdict(certificate))


def read_certificate(path: Path) -> Certificate:
    """Read a certificate; raises UserError where it is missing, damaged or was changed by hand."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found, told = content.pop("format"), content.pop("protocol_hash")
        if found != FORMAT:
            raise UserError(f"{path}: format = {found}: expected {FORMAT}; evaluate again with this version")
        _check_kinds(content, _KINDS)
        if content["search"] is not None:
            cells = tuple(map(_cell, content["search"].pop("cells")))
            content["search"] = Searched(**content["search"], cells=cells)
            _check_kinds(asdict(content["search"]), _SEARCH_KINDS)
        content["guidance_scale"] = _figure("guidance_scale", content["guidance_scale"])
        content["values"] = {name: _figures(name, figures) for name, figures in content["values"].items()}
        certificate = Certificate(**content | {"warnings": tuple(map(str, content["warnings"]))})
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; jitlab evaluate writes one") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        why = f"damaged, or no certificate of an evaluation ({error})"
        raise UserError(f"{path}: {why}; {_REMEDY}") from error
    if certificate.metric != "fid" and not certificate.metric.startswith("fd_"):
        # Others may be better where they are larger.
        raise UserError(f"{path}: metric = {certificate.metric}: expected fid or fd_...; {_REMEDY}")
    if certificate.protocol_hash != told:
        raise UserError(f"{path}: protocol_hash = {told}: the protocol beside it was changed; {_REMEDY}")
    return certificate


def _cell(content: Mapping[str, Any]) -> SearchedCell:
    _check_kinds(content, _CELL_KINDS)
    metrics = {name: _figure(name, figure) for name, figure in content["metrics"].items()}
    scale = _figure("guidance_scale", content["guidance_scale"])
    return SearchedCell(**{**content, "guidance_scale": scale, "metrics": metrics})


def _figures(name: str, content: Any) -> tuple[float, ...]:
    if not isinstance(content, list):
        raise TypeError(f"{name} = {content!r}")
    return tuple(_figure(name, figure) for figure in content)


def _figure(name: str, content: Any) -> float:
    """Return a number that `write_certificate` may have written."""
    if isinstance(content, bool) or not isinstance(content, int | float) or not abs(content) <= _MOST:
        raise ValueError(f"{name} = {content!r}")
    return float(content)


def _check_kinds(content: Mapping[str, Any], kinds: Mapping[str, Any]) -> None:
    for key, kind in kinds.items():
        if not isinstance(content[key], kind):
            raise TypeError(f"{key} = {content[key]!r}")
