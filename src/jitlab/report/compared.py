"""What `jitlab compare` is given: experiments, runs and certificates, read into figures to lay side by side."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from jitlab.config import schema
from jitlab.config.load import plain
from jitlab.errors import UserError
from jitlab.report.certificate import CERTIFICATE_FILE, EVALUATION_FOLDER, Certificate, read_certificate
from jitlab.report.closing import problem
from jitlab.report.collect import read_run
from jitlab.report.folders import EXPERIMENT_FILE
from jitlab.report.records import Run
from jitlab.report.verdict import evaluated

STATUS_FILE, CONFIG_FILE = "status.json", "config.yaml"
EXPECTED = f"expected an experiment's folder, a run's, or {CERTIFICATE_FILE}"
# The one that decides, where training logged several.
DECIDING = ("fid", "fd_", "spiral_distance")
# What figures that training logged must have in common: the settings that a certificate has in its protocol.
SETTINGS = (
    ("data", ("source", "image_size", "num_classes")),
    ("sampler", ("solver", "steps", "shift", "times", "churn", "guidance_interval", "clip_one_minus_t", "clip_t")),
    ("evaluation", ("images", "features", "reference", "reference_images")),
)


@dataclass(frozen=True)
class Place:
    """A run's folder, or where a certificate is of no run that lies here, its file; and the certificate, if any."""

    path: Path
    certificate: Path | None


@dataclass(frozen=True)
class Compared:
    """One line of a comparison: a certificate, or an arm with what training logged of its seeds.

    Args:
        name: unlike that of the others.
        path: of the run, of the arm's first run, or of the certificate.
        metric: by which it is ranked; empty where nothing was measured.
        values: of every metric, without `eval/`, one for each seed that is complete, where any is.
        protocol: all that figures must have in common to be ranked.
        certificate: None where training logged the figures.
        notes: what a reader of the figures must know.
    """

    name: str
    path: Path
    metric: str
    values: Mapping[str, tuple[float, ...]]
    protocol: Mapping[str, Any]
    certificate: Certificate | None = None
    notes: tuple[str, ...] = ()


def read_compared(paths: Sequence[Path]) -> tuple[Compared, ...]:
    """Read what `paths` name, each once: certificates where all have one, else what training logged.

    Raises:
        UserError: for a path that is nothing of the kind, for a damaged file, and for a certificate of no run here
            beside a run without one.
    """
    found = {place.path.resolve(): place for path in paths for place in _places(path)}
    places = list(found.values())
    certified = [place for place in places if place.certificate]
    bare = [place.path for place in places if not place.certificate]
    if certified and not bare:
        return _named([_certified(place.path, place.certificate) for place in places if place.certificate])
    alone = next((place.path for place in certified if place.path == place.certificate), None)
    if alone:
        raise UserError(
            f"{', '.join(map(str, bare))}: no certificate, as {alone} is, of which nothing else is known: jitlab "
            f"evaluate {bare[0]} writes one"
        )
    arms = _arms([place.path for place in places])
    if certified:
        left_out = f"its certificate is left out: {bare[0]} has none; jitlab evaluate writes one"
        with_one = {place.path for place in certified}
        arms = [replace(arm, notes=(*arm.notes, left_out)) if arm.path in with_one else arm for arm in arms]
    return _named(arms)


def _places(path: Path) -> Iterator[Place]:
    if path.is_file():
        if path.suffix != ".json":
            raise UserError(f"{path}: is no certificate; {EXPECTED}")
        yield _of_certificate(path)
    elif (path / STATUS_FILE).is_file():
        yield _of_run(path)
    elif (path / EXPERIMENT_FILE).is_file():
        runs = sorted(status.parent for status in path.glob(f"*/{STATUS_FILE}"))
        if not runs:
            raise UserError(f"{path}: none of its runs has started; jitlab run starts them")
        yield from map(_of_run, runs)
    elif (path / CERTIFICATE_FILE).is_file():
        yield _of_certificate(path / CERTIFICATE_FILE)
    elif path.is_dir():
        inside = sorted(file.parent for file in path.glob(f"*/{EXPERIMENT_FILE}"))
        raise UserError(f"{path}: {f'name one of its folders, such as {inside[0]}' if inside else EXPECTED}")
    else:
        raise UserError(f"{path}: no such file or folder; {EXPECTED}")


def _of_run(folder: Path) -> Place:
    certificate = folder / EVALUATION_FOLDER / CERTIFICATE_FILE
    return Place(folder, certificate if certificate.is_file() else None)


def _of_certificate(path: Path) -> Place:
    # The evaluation that lies in a run's folder is the run, however it is named.
    run = path.resolve().parent.parent
    of_run = path.resolve() == run / EVALUATION_FOLDER / CERTIFICATE_FILE and (run / STATUS_FILE).is_file()
    return Place(run if of_run else path, path)


def _certified(path: Path, file: Path) -> Compared:
    certificate = read_certificate(file)
    if not certificate.values.get(certificate.metric):
        raise UserError(f"{file}: damaged: no figure of its metric {certificate.metric}; evaluate again")
    return Compared(
        name=certificate.name,
        path=path,
        metric=certificate.metric,
        values=certificate.values,
        protocol=certificate.protocol,
        certificate=certificate,
        notes=certificate.warnings,
    )


def _arms(folders: Sequence[Path]) -> list[Compared]:
    """Return one line an arm of an experiment; its seeds are the runs that were named."""
    arms: dict[tuple[Path, str], list[tuple[Path, Run]]] = {}
    for folder in folders:
        run = read_run(folder)
        arms.setdefault((folder.resolve().parent, run.arm), []).append((folder, run))
    return [_arm([folder for folder, _ in runs], [run for _, run in runs]) for runs in arms.values()]


def _arm(paths: Sequence[Path], runs: Sequence[Run]) -> Compared:
    values = evaluated(runs)
    metric = next((key for start in DECIDING for key in values if key.startswith(start)), "")
    return Compared(
        name=runs[0].arm if len(runs) > 1 else runs[0].name,
        path=paths[0],
        metric=metric,
        values=values,
        protocol={"metric": metric, **_settings(paths[0] / CONFIG_FILE, runs[0].config)},
        notes=tuple(_unfinished(run, alone=len(runs) == 1) for run in runs if not run.complete),
    )


def _unfinished(run: Run, alone: bool) -> str:
    return f"{'' if alone else f'seed {run.seed} '}{problem(run)}"


def _settings(path: Path, config: str | None) -> dict[str, Any]:
    if config is None:
        raise UserError(f"{path}: no such file, so nothing tells what the run's figures are of; --fresh starts it over")
    # A run of an older version lacks settings that came later, whose defaults are what it did.
    defaults = {key: field.default for key, field in schema.settings().items()}
    try:
        content = yaml.safe_load(config) or {}
        return {
            f"{part}.{key}": content.get(part, {}).get(key, plain(defaults[f"{part}.{key}"]))
            for part, keys in SETTINGS
            for key in keys
        }
    except (yaml.YAMLError, AttributeError) as error:
        raise UserError(f"{path}: damaged: no settings by their names; --fresh starts the run over") from error


def _named(compared: Sequence[Compared]) -> tuple[Compared, ...]:
    """Give those that share a name longer ones: the folder before it, then the whole path."""
    renamed = [one.name for one in compared]
    longer = [f"{one.path.resolve().parent.name}/{one.name}" for one in compared], [str(one.path) for one in compared]
    for names in longer:
        counts = Counter(renamed)
        renamed = [other if counts[name] > 1 else name for name, other in zip(renamed, names, strict=True)]
    return tuple(replace(one, name=name) for one, name in zip(compared, renamed, strict=True))
