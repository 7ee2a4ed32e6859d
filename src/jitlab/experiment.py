"""A question at a scale: every arm and seed as one run, skipped where complete, resumed where not, then reported."""

import fcntl
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from jitlab import build
from jitlab.build_measure import DataModule, check_measure
from jitlab.callbacks.mlflow_run import FOLDER_TAG, MlflowRun, Tracking, chart_link
from jitlab.callbacks.run_log import METRICS_FILE, RunFolder
from jitlab.callbacks.stop import StoppedError, StopRequest
from jitlab.checkpoint_files import Checkpoint, open_checkpoint
from jitlab.checkpoint_start import check_start, start_of, write_start
from jitlab.config import axes, load, schema
from jitlab.config.load import Question
from jitlab.config.schema import Config
from jitlab.datasets import spiral
from jitlab.errors import UserError, nearest
from jitlab.files import write_json, write_text
from jitlab.metrics.features import metric_name
from jitlab.report.folders import EXPERIMENT_FILE, RUNS_FOLDER, experiment_name
from jitlab.report.render import write_report
from jitlab.report.terminal import closing_table
from jitlab.run import CHECKPOINT_FILE, CONFIG_FILE, Mirror, RunKey, execute_run
from jitlab.run_record import COMPLETE, FAILED, KILLED, RunRecord, read_record

LOCAL_SERVER = "http://127.0.0.1:5000"
POINT_METRICS = ("eval/spiral_distance", "eval/off_plane", "val/v_mse")
# Distinct for the colour-blind too (Okabe and Ito); an arm keeps its colour in every run, chart and report.
COLORS = (
    *("#0072b2", "#e69f00", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#8c6d31", "#555555"),
    *("#332288", "#aa4499", "#999933", "#44aa99"),  # for questions of more arms
)
START_TAG = "jitlab.start"
EXIT_COMPLETE, EXIT_FAILED, EXIT_KILLED = 0, 1, 130


@dataclass(frozen=True)
class Plan:
    """All runs of an experiment, resolved and checked before any of them starts."""

    root: Path
    question: Question
    scale: str
    name: str
    seeds: int
    configs: dict[RunKey, Config]
    differing: list[str]
    places: dict[str, dict[str, Any]]
    overrides: list[str]
    label: str | None
    start: Path | None
    allow_batch_change: bool
    command: str

    @property
    def ui_command(self) -> str:
        """Return the command that opens these runs in MLflow."""
        return _make("ui", self.question, self.scale, [f"--name {self.label}"] if self.label else [])

    @property
    def folder(self) -> Path:
        """Return the folder of the experiment."""
        return self.root / RUNS_FOLDER / self.name

    def run_folder(self, key: RunKey) -> Path:
        """Return the folder of a run."""
        return self.folder / key.name


def plan(
    root: Path,
    question_name: str,
    scale: str | None,
    arms: list[str] | None,
    seeds: int,
    overrides: list[str],
    label: str | None,
    start: Path | None = None,
    allow_batch_change: bool = False,
) -> Plan:
    """Resolve a question at a scale into runs.

    Args:
        root: the repository.
        question_name: a file in `experiments/`, without its ending.
        scale: a file in `experiments/scales/`; None for the question's own.
        arms: the arms to run; None for all.
        seeds: repetitions of every arm, seeds 0 to seeds - 1.
        overrides: `key=value` words.
        label: goes to the experiment's name, so that variants lie beside each other.
        start: the checkpoint that runs without one of their own start from.
        allow_batch_change: whether runs may go on with another train.batch_size than they had.

    Raises:
        UserError: for anything that is unknown, mistyped, out of range or does not fit.
    """
    question = load.load_question(root, question_name)
    scale = scale or question.scale
    chosen = list(question.arms) if arms is None else arms
    for arm in chosen:
        if arm not in question.arms:
            raise UserError(f"{question.file}: arms.{arm}: no such arm; {nearest(arm, list(question.arms))}")
    configs = {
        RunKey(arm, seed): load.resolve(root, question, scale, arm, overrides, seed)
        for seed in range(seeds)
        for arm in chosen
    }
    name = experiment_name(question, scale, label)
    every_arm = {arm: load.resolve(root, question, scale, arm, overrides) for arm in question.arms}
    words = [f"--name {label}"] if label else []
    words += [f"--arms {','.join(arms)}"] if arms else []
    words += [f"--seeds {seeds}"] if seeds > 1 else []
    words += [f"--from {shlex.quote(str(start))}"] if start else []
    return Plan(
        root,
        question,
        scale,
        name,
        seeds,
        configs,
        differing=load.differing(every_arm),
        places=axes.places(question.axes, {arm: load.flat(config) for arm, config in every_arm.items()}),
        overrides=overrides,
        label=label,
        start=start,
        allow_batch_change=allow_batch_change,
        command=_make("experiment", question, scale, [*words, *map(shlex.quote, overrides)]),
    )


def _make(target: str, question: Question, scale: str, words: list[str]) -> str:
    # What a reader of the report can type in a clone, where nothing but make is on the path.
    at_scale = [] if scale == question.scale else [f"SCALE={scale}"]
    arguments = [f'ARGS="{" ".join(words)}"'] if words else []
    return " ".join(["make", target, f"EXP={question.name}", *at_scale, *arguments])


def execute(plan: Plan, fresh: bool, console: Console) -> int:
    """Run what is not complete, write the report and print the closing table; return the exit code.

    Raises:
        UserError: where a configuration changed under a run, data or tracking are not usable, or another process
            is at this experiment.
    """
    start = open_checkpoint(plan.start) if plan.start else None
    with _locked(plan.folder):
        _refuse_changes(plan, fresh)
        _check_machine(plan, fresh)
        if start:
            _check_start(plan, start, fresh)
        tracking = Tracking(plan.root)
        experiment_id = tracking.experiment(plan.name, f"{plan.question.question} ({plan.question.source})")
        _start_over(plan, tracking, fresh)
        _prepare_data(plan, console)
        for run_id, folder in tracking.left_running(experiment_id, plan.folder):
            _settle(tracking, run_id, folder, console)
        link = chart_link(tracking.uri if tracking.uri.startswith("http") else LOCAL_SERVER, experiment_id)
        _write_facts(plan, link)
        if start:
            _start_from(plan, start, console)
        try:
            code = _run_all(plan, tracking, experiment_id, console)
        finally:
            # Written even when an arm failed or the user stopped it; then it says so.
            report = write_report(plan.folder)
        _close(plan, report, link, console)
        return code


def _run_all(plan: Plan, tracking: Tracking, experiment_id: str, console: Console) -> int:
    stop = StopRequest()
    with stop.listening():
        try:
            return max(
                (_run_one(plan, key, tracking, experiment_id, console, stop) for key in plan.configs),
                default=EXIT_COMPLETE,
            )
        except StoppedError:
            return EXIT_KILLED


def _run_one(
    plan: Plan, key: RunKey, tracking: Tracking, experiment_id: str, console: Console, stop: StopRequest
) -> int:
    stop.raise_if_requested()
    config, folder = plan.configs[key], plan.run_folder(key)
    record = read_record(folder)
    if record and record.status == COMPLETE:
        console.print(f"{key.name}: complete, {record.steps} steps")
        return EXIT_COMPLETE
    mirror = _mirror(plan, key, config, tracking, experiment_id)
    record = execute_run(key, config, plan.root, folder, mirror, console, stop, plan.allow_batch_change)
    if record.status == KILLED:
        console.print(f"{key.name}: stopped at step {record.step}; the same command goes on from there")
        raise StoppedError
    if record.status == FAILED:
        message = f"[red]failed[/red] {key.name}: {escape(str(record.reason))}"
        console.print(message, highlight=False, soft_wrap=True)
        return EXIT_FAILED
    return EXIT_COMPLETE


def _settle(tracking: Tracking, run_id: str, folder: Path, console: Console) -> None:
    """Give a run that MLflow takes for running the state that its folder has."""
    record = read_record(folder)
    if record is None or record.mlflow_run_id != run_id:
        # Cut off before the folder knew of it: the run will get another.
        tracking.delete(run_id)
    elif record.status == COMPLETE:
        log = RunFolder(folder)
        mlflow = MlflowRun(tracking, "", folder.name, run_id, {}, {})
        mlflow.catch_up(log.rows(), log.pictures())
        mlflow.end("FINISHED", {"jitlab.status": COMPLETE})
    else:
        tracking.mark_killed(run_id)
        console.print(f"{folder.name} was killed the last time; it goes on from its last checkpoint")


def _mirror(plan: Plan, key: RunKey, config: Config, tracking: Tracking, experiment_id: str) -> Mirror:
    values = load.flat(config)
    params = {name: value for name, value in values.items() if name in plan.differing}
    tags = {name: value for name, value in values.items() if name not in plan.differing}
    tags |= {
        "mlflow.runColor": _colors(plan.question)[key.arm],
        "mlflow.source.name": plan.command,
        "arm": key.arm,
        FOLDER_TAG: plan.run_folder(key),
    }
    start = start_of(plan.run_folder(key))
    tags |= {START_TAG: start} if start else {}
    return Mirror(tracking, experiment_id, params, tags)


def _refuse_changes(plan: Plan, fresh: bool) -> None:
    """Refuse settings other than those of the runs that stay: one table must not mix configurations."""
    for path in sorted(plan.folder.glob(f"*/{CONFIG_FILE}")):
        arm, _, number = path.parent.name.rpartition("-s")
        key = RunKey(arm, int(number)) if arm and number.isdigit() else RunKey(path.parent.name, 0)
        starts_over = key in plan.configs and (fresh or not _has_trained(path.parent))
        if key.arm not in plan.question.arms or starts_over:
            continue
        asked = load.resolve(plan.root, plan.question, plan.scale, key.arm, plan.overrides, key.seed)
        before, now = load.flat(load.from_yaml(path)), load.flat(asked)
        for name, field in schema.settings().items():
            allowed = field.metadata["neutral"] or (
                plan.allow_batch_change and name == "train.batch_size" and key in plan.configs
            )
            if before[name] != now[name] and not allowed:
                fix = "--fresh with all of its arms and seeds starts over" if fresh else "--fresh starts over"
                if name == "train.batch_size" and key in plan.configs:
                    fix = f"--allow-batch-change goes on with it, {fix}"
                raise UserError(
                    f"{path.relative_to(plan.root)}: {name} = {before[name]}: the run has this value, and {now[name]} "
                    f"was asked for; {fix}, --name NAME keeps both"
                )


def _check_machine(plan: Plan, fresh: bool) -> None:
    # What is complete may be looked at anywhere.
    for key, config in plan.configs.items():
        if fresh or not _is_complete(plan, key):
            build.check_machine(config)


def _check_start(plan: Plan, start: Checkpoint, fresh: bool) -> None:
    for key, config in plan.configs.items():
        folder = plan.run_folder(key)
        if (folder / CHECKPOINT_FILE).exists() and not fresh:
            continue
        check_start(start, key.name, config)
        if _has_trained(folder) and not fresh:
            raise UserError(
                f"--from {start.path}: run {key.name} has trained from nothing and not come to a checkpoint yet; "
                "--fresh starts it over, or leave --from out"
            )


def _start_from(plan: Plan, start: Checkpoint, console: Console) -> None:
    """Give the runs that have no checkpoint the one to start from; say what becomes of the others."""
    for key, config in plan.configs.items():
        folder = plan.run_folder(key)
        if not (folder / CHECKPOINT_FILE).exists():
            # First the settings, which a run with a checkpoint is held to.
            write_text(folder / CONFIG_FILE, load.to_yaml(config))
            write_start(start, config, folder / CHECKPOINT_FILE)
            said = f"{key.name}: starts from {start.path} at step {start.content['global_step']}"
        else:
            said = f"{key.name}: has a checkpoint of its own, and goes on from that"
        console.print(said, highlight=False, soft_wrap=True)


def _is_complete(plan: Plan, key: RunKey) -> bool:
    record = read_record(plan.run_folder(key))
    return record is not None and record.status == COMPLETE


def _has_trained(folder: Path) -> bool:
    return (folder / CHECKPOINT_FILE).exists() or (folder / METRICS_FILE).exists()


def _start_over(plan: Plan, tracking: Tracking, fresh: bool) -> None:
    folders = [folder for folder in map(plan.run_folder, plan.configs) if folder.exists()]
    # A run that ended before its first step has nothing to keep, not even its settings.
    for folder in folders if fresh else [folder for folder in folders if not _has_trained(folder)]:
        # A damaged record is no reason to keep it.
        with suppress(UserError):
            record = read_record(folder)
            if record and record.mlflow_run_id:
                tracking.delete(record.mlflow_run_id)
        shutil.rmtree(folder)


def _prepare_data(plan: Plan, console: Console) -> None:
    for config in {c.data: c for c in plan.configs.values()}.values():
        index = build.build_data(config, plan.root)
        if index:
            images = len(index.rows)
            console.print(f"built {images} images of {config.data.source} in {config.data.path}")
    opened: dict[Any, DataModule] = {}
    checked: set[Any] = set()
    for key, config in plan.configs.items():
        # Opened once for arms that ask the same of it: the index of a million images takes seconds to read.
        asked = config.data, config.train.batch_size, config.evaluation.reference_images
        if asked not in opened:
            opened[asked] = build.build_datamodule(config, plan.root, plan.run_folder(key))
        fingerprint = opened[asked].fingerprint
        for name, record in _records(plan).items():
            if record.arm == key.arm and record.data_fingerprint not in (None, fingerprint):
                raise UserError(
                    f"{build.data_place(config, plan.root)}: the data are not those of run {name}; "
                    "restore them, or --fresh starts over, or --name NAME keeps both"
                )
        measured = config.data, config.evaluation
        if measured not in checked and not _is_complete(plan, key):
            check_measure(config, plan.root, opened[asked])
            checked.add(measured)


def _write_facts(plan: Plan, link: str) -> None:
    published = {scale: figures.__dict__ for scale, figures in plan.question.published.items()}
    # What was overridden makes other runs of it than those that the figures of the scale are of.
    overridden = any(not schema.settings()[key].metadata["neutral"] for key in load.from_words(plan.overrides))
    write_json(
        plan.folder / EXPERIMENT_FILE,
        {
            "experiment": plan.question.name,
            "scale": plan.scale,
            "name": plan.name,
            "question": plan.question.question,
            "source": plan.question.source,
            "arms": list(plan.question.arms),
            "differs": plan.question.arms_at(plan.scale),
            "colors": _colors(plan.question),
            # Seeds that an earlier call ran stay in the report.
            "seeds": max([plan.seeds, *(record.seed + 1 for record in _records(plan).values())]),
            "axes": plan.question.axes,
            "places": plan.places,
            "published": None if overridden else published.pop(plan.scale, None),
            "published_elsewhere": published,
            "summary_metrics": _summary_metrics(plan),
            "link": link,
            "command": plan.command,
            "ui_command": plan.ui_command,
        },
    )


def _summary_metrics(plan: Plan) -> list[str]:
    return list(dict.fromkeys(metric for config in plan.configs.values() for metric in summary_metrics(config)))


def summary_metrics(config: Config) -> tuple[str, ...]:
    """Return the metrics of a run that the closing table shows."""
    if config.data.source == spiral.NAME:
        return POINT_METRICS
    return f"eval/{metric_name(config.evaluation.features)}", "eval/off_manifold", "val/v_mse"


def _records(plan: Plan) -> dict[str, RunRecord]:
    folders = [folder for folder in sorted(plan.folder.iterdir()) if folder.is_dir()]
    return {folder.name: record for folder in folders if (record := read_record(folder))}


def _close(plan: Plan, report: Path, link: str, console: Console) -> None:
    console.print(closing_table(plan.folder))
    console.print(f"report    {report.relative_to(plan.root)}", highlight=False, soft_wrap=True)
    console.print(f"MLflow    {plan.ui_command}, then {link}", highlight=False, soft_wrap=True)


def _colors(question: Question) -> dict[str, str]:
    return {arm: COLORS[place % len(COLORS)] for place, arm in enumerate(question.arms)}


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            # A POSIX lock: loader workers, which outlive a killed parent for seconds, do not inherit it.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(
                f"{folder}: another process is running this experiment; wait for it, or give this one a --name"
            ) from error
        yield
