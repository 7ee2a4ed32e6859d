"""A run folder read into records: the only place that opens its files."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jitlab.errors import UserError
from jitlab.report.certificate import CERTIFICATE_FILE, EVALUATION_FOLDER, Certificate, read_certificate
from jitlab.report.closing import ClosingRow, closing_rows
from jitlab.report.folders import EXPERIMENT_FILE
from jitlab.report.records import Curve, Experiment, Grid, Published, Run

__all__ = ["ClosingRow", "closing_rows", "collect", "read_curves", "read_run"]

FALLBACK_COLORS = ("#2a6fdb", "#e08a1e", "#b3364a", "#2f8f5b", "#7a4fb5", "#6b7280")
_PICTURE_NAME = re.compile(r"step(\d+)-(.+)\.png")
_STATUS_KINDS: dict[str, Any] = {
    "arm": str,
    "seed": int,
    "status": str,
    "step": int | None,
    "seconds": int | float | None,
}
_STRIP = "strip"
_HEX_COLOR = re.compile(r"#(?:[0-9a-fA-F]{3}|[0-9a-fA-F]{6})")


def collect(folder: Path) -> Experiment:
    """Read a run folder, whatever state its runs are in.

    Raises UserError where there is no experiment.json or a file is damaged.
    """
    path = folder / EXPERIMENT_FILE
    if not path.is_file():
        raise UserError(f"{path}: not found; `jitlab run EXPERIMENT` makes such a folder")
    facts = _read_object(path, required=("experiment", "scale", "name", "question", "arms"))
    started = {status.parent.name: read_run(status.parent) for status in sorted(folder.glob("*/status.json"))}
    runs = list(started.values())
    for arm in facts["arms"]:
        names = [arm] + [f"{arm}-s{seed}" for seed in range(1, int(facts.get("seeds") or 1))]
        runs += [_missing_run(name, arm, seed) for seed, name in enumerate(names) if name not in started]
    arms = tuple(dict.fromkeys([*facts["arms"], *(run.arm for run in runs)]))
    return Experiment(
        folder=folder,
        experiment=facts["experiment"],
        scale=facts["scale"],
        name=facts["name"],
        question=facts["question"],
        source=facts.get("source") or "",
        arms=arms,
        differs=facts.get("differs") or {},
        colors=_colors(arms, facts.get("colors") or {}),
        axes=facts.get("axes") or {},
        places=facts.get("places") or {},
        published=_published(facts.get("published")),
        published_elsewhere=_published_elsewhere(facts.get("published_elsewhere") or {}),
        summary_metrics=_summary_metrics(facts.get("summary_metrics"), runs),
        link=facts.get("link"),
        command=facts.get("command"),
        ui_command=facts.get("ui_command"),
        runs=tuple(sorted(runs, key=lambda run: (arms.index(run.arm), run.seed, run.name))),
    )


def read_run(folder: Path) -> Run:
    """Read one run that has at least started. Raises UserError where a file is damaged."""
    facts = _read_object(folder / "status.json", required=("arm", "seed", "status"))
    for key, kind in _STATUS_KINDS.items():
        if not isinstance(facts.get(key), kind):
            raise UserError(
                f"{folder / 'status.json'}: damaged: {key} = {facts[key]!r}; delete it and run the experiment again"
            )
    curves, times = read_curves(folder / "metrics.jsonl")
    certificate, problem = _certificate(folder / EVALUATION_FOLDER / CERTIFICATE_FILE)
    config = folder / "config.yaml"
    pictures = _pictures(folder / "samples")
    strips = [picture.path for picture in pictures if picture.weights == _STRIP]
    return Run(
        name=folder.name,
        arm=facts["arm"],
        seed=facts["seed"],
        status=facts["status"],
        reason=facts.get("reason"),
        seconds=float(facts.get("seconds") or 0.0),
        step=int(facts.get("step") or 0),
        steps=facts.get("steps"),
        parameters=facts.get("parameters"),
        hardware=facts.get("hardware"),
        config=config.read_text(encoding="utf-8") if config.is_file() else None,
        curves=curves,
        grids=tuple(picture for picture in pictures if picture.weights != _STRIP),
        strip=strips[-1] if strips else None,
        times=times,
        certificate=certificate,
        certificate_problem=problem,
    )


def read_curves(path: Path) -> tuple[dict[str, Curve], tuple[float, ...]]:
    """Return the curves in metrics.jsonl by key, and its first and last time (none where it is empty).

    A step that a resumed run logged again counts once, with its later values. A kill may tear the last line,
    which is then left out. Raises UserError, naming the line, where any other cannot be read.
    """
    points: dict[str, dict[int, float]] = {}
    times: list[float] = []
    lines = path.read_bytes().splitlines() if path.is_file() else []
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            step, time, metrics = int(entry["step"]), float(entry["time"]), entry["metrics"].items()
            values = {key: float("nan") if value is None else float(value) for key, value in metrics}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if number == len(lines):
                break
            raise UserError(
                f"{path}, line {number}: not an entry with step, time and metrics;"
                " delete that line, or start the run over with --fresh"
            ) from error
        times.append(time)
        for key, value in values.items():
            points.setdefault(key, {})[step] = value
    curves = {key: Curve(*zip(*sorted(of_key.items()), strict=True)) for key, of_key in points.items()}
    return curves, (min(times), max(times)) if times else ()


def _certificate(path: Path) -> tuple[Certificate | None, str | None]:
    """Return a certificate, or what is wrong with it: the run itself is whole without one."""
    if not path.exists():
        return None, None
    try:
        return read_certificate(path), None
    except (UserError, OSError) as error:
        return None, str(error)


def _pictures(folder: Path) -> tuple[Grid, ...]:
    matches = ((path, _PICTURE_NAME.fullmatch(path.name)) for path in sorted(folder.glob("*.png")))
    return tuple(Grid(int(match[1]), match[2], path) for path, match in matches if match)


def _read_object(path: Path, required: tuple[str, ...]) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: damaged ({error}); delete it and run the experiment again") from error
    absent = [key for key in required if not isinstance(content, dict) or key not in content]
    if absent:
        raise UserError(f"{path}: key '{absent[0]}' is absent; delete the file and run the experiment again")
    return dict(content)


def _published(facts: Mapping[str, Any] | None) -> Published | None:
    return Published(facts["metric"], facts["table"], facts["values"]) if facts else None


def _published_elsewhere(facts: Mapping[str, Mapping[str, Any]]) -> dict[str, Published]:
    return {scale: figures for scale, content in facts.items() if (figures := _published(content))}


def _missing_run(name: str, arm: str, seed: int) -> Run:
    return Run(name, arm, seed, "missing", None, 0.0, 0, None, None, None, None, {}, (), None, ())


def _colors(arms: tuple[str, ...], chosen: Mapping[str, str]) -> dict[str, str]:
    fallback = {arm: FALLBACK_COLORS[place % len(FALLBACK_COLORS)] for place, arm in enumerate(arms)}
    valid = {arm: color for arm, color in chosen.items() if _HEX_COLOR.fullmatch(str(color))}
    return {arm: valid.get(arm, fallback[arm]) for arm in arms}


def _summary_metrics(chosen: list[str] | None, runs: list[Run]) -> tuple[str, ...]:
    logged = sorted({key for run in runs for key in run.curves if key.startswith("eval/")})
    return tuple(chosen or logged)
