"""A question at a scale: every arm and seed as one run, skipped where complete, resumed where not, then reported."""

import fcntl
import shutil
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from jitlab import build
from jitlab.callbacks.mlflow_run import FOLDER_TAG, MlflowRun, Tracking, chart_link
from jitlab.callbacks.run_log import RunFolder
from jitlab.callbacks.stop import StoppedError, StopRequest
from jitlab.config import load, schema
from jitlab.config.load import Question
from jitlab.config.schema import Config
from jitlab.errors import RunError, UserError, nearest
from jitlab.files import write_json, write_text
from jitlab.report.render import write_report
from jitlab.run_record import COMPLETE, FAILED, KILLED, RUNNING, RunRecord, read_record

RUNS_FOLDER = "runs"
CONFIG_FILE = "config.yaml"
CHECKPOINT_FILE = "last.ckpt"
LOCAL_SERVER = "http://127.0.0.1:5000"
SUMMARY_METRICS = ("eval/fd_pixels", "eval/off_manifold", "val/v_mse")
# Distinct for the colour-blind too (Okabe and Ito); an arm keeps its colour in every run, chart and report.
COLORS = ("#0072b2", "#e69f00", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#8c6d31", "#555555")
EXIT_COMPLETE, EXIT_FAILED, EXIT_KILLED = 0, 1, 130


class RunKey(NamedTuple):
    """An arm and a seed."""

    arm: str
    seed: int

    @property
    def name(self) -> str:
        """Return the name of the run, its folder and its MLflow run; the first seed goes unmentioned."""
        return self.arm if self.seed == 0 else f"{self.arm}-s{self.seed}"


@dataclass(frozen=True)
class Plan:
    """All runs of an experiment, resolved and checked before any of them starts."""

    root: Path
    question: Question
    scale: str
    name: str
    seeds: int
    configs: dict[RunKey, Config]

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
    name = "-".join([question.name, scale, *([label] if label else [])])
    return Plan(root, question, scale, name, seeds, configs)


def execute(plan: Plan, fresh: bool, console: Console) -> int:
    """Run what is not complete, write the report and print the closing table; return the exit code.

    Raises:
        UserError: where a configuration changed under a run, data or tracking are not usable, or another process
            is at this experiment.
    """
    with _locked(plan.folder):
        if not fresh:
            _refuse_changes(plan)
        tracking = Tracking(plan.root)
        experiment_id = tracking.experiment(plan.name, f"{plan.question.question} ({plan.question.source})")
        for name in tracking.mark_killed(experiment_id, plan.folder):
            console.print(f"{name} was killed the last time; it goes on from its last checkpoint")
        if fresh:
            _start_over(plan, tracking)
        _prepare_data(plan, console)
        link = chart_link(tracking.uri if tracking.uri.startswith("http") else LOCAL_SERVER, experiment_id)
        _write_facts(plan, link)
        try:
            code = _run_all(plan, tracking, experiment_id, console)
        finally:
            # Written even when an arm failed or the user stopped it; then it says so.
            report = write_report(plan.folder)
        _close(plan, report, link, console)
        return code


def _run_all(plan: Plan, tracking: Tracking, experiment_id: str, console: Console) -> int:
    code = EXIT_COMPLETE
    stop = StopRequest()
    with stop.listening():
        for key, config in plan.configs.items():
            record = read_record(plan.run_folder(key))
            if record and record.status == COMPLETE:
                console.print(f"{key.name}: complete, {record.steps} steps")
                continue
            record = _run_one(plan, key, config, tracking, experiment_id, console, stop)
            if record.status == KILLED:
                console.print(f"{key.name}: stopped at step {record.step}; the same command goes on from there")
                return EXIT_KILLED
            if record.status == FAILED:
                console.print(f"[red]failed[/red] {key.name}: {record.reason}", highlight=False)
                code = EXIT_FAILED
    return code


def _run_one(
    plan: Plan,
    key: RunKey,
    config: Config,
    tracking: Tracking,
    experiment_id: str,
    console: Console,
    stop: StopRequest,
) -> RunRecord:
    folder = plan.run_folder(key)
    datamodule = build.build_datamodule(config, plan.root)
    module = build.build_module(config)
    write_text(folder / CONFIG_FILE, load.to_yaml(config))
    record = read_record(folder) or RunRecord(key.arm, key.seed, config.train.steps)
    log = RunFolder(folder)
    mirror = _mirror(plan, key, config, tracking, experiment_id, record.mlflow_run_id)
    parameters = sum(p.numel() for p in module.network.parameters())
    record = record.written(
        folder,
        status=RUNNING,
        reason=None,
        parameters=parameters,
        hardware=build.hardware(),
        mlflow_run_id=mirror.id,
    )
    mirror.catch_up(log.rows())
    mirror.log_text(load.to_yaml(config), CONFIG_FILE)
    earlier, started = record.seconds, time.monotonic()

    def saved(step: int) -> None:
        nonlocal record
        record = record.written(folder, step=step, seconds=earlier + time.monotonic() - started)

    checkpoint = folder / CHECKPOINT_FILE
    context = build.RunContext(key.name, checkpoint, [mirror, log], console, stop, saved)
    status, reason = RUNNING, None
    try:
        trainer = build.build_trainer(config, module, datamodule, context)
        resumed = str(checkpoint) if checkpoint.exists() else None
        trainer.fit(module, datamodule=datamodule, ckpt_path=resumed, weights_only=True)
        status = COMPLETE
    except StoppedError:
        status, reason = KILLED, "stopped by the user"
    except RunError as error:
        status, reason = FAILED, str(error)
    except UserError as error:
        status, reason = FAILED, str(error)
        raise
    except Exception as error:
        # A fault of jitlab or of the machine: kept in full beside the run, told on one line, the other arms go on.
        write_text(folder / "traceback.txt", traceback.format_exc())
        summary = (str(error).splitlines() or [""])[0]
        status, reason = FAILED, f"{type(error).__name__}: {summary} (see {folder / 'traceback.txt'})"
    finally:
        if status == RUNNING:
            status, reason = KILLED, "interrupted"
        seconds = earlier + time.monotonic() - started
        record = record.written(folder, status=status, reason=reason, seconds=seconds)
        mirror.end({COMPLETE: "FINISHED"}.get(status, status.upper()), {"jitlab.status": reason or status})
    return record


def _mirror(
    plan: Plan, key: RunKey, config: Config, tracking: Tracking, experiment_id: str, run_id: str | None
) -> MlflowRun:
    values = load.flat(config)
    differing = load.differing({k.arm: c for k, c in plan.configs.items()})
    tags = {name: value for name, value in values.items() if name not in differing}
    tags |= {
        "mlflow.runColor": _colors(plan.question)[key.arm],
        "mlflow.source.name": f"jitlab run {plan.question.name} --scale {plan.scale}",
        "arm": key.arm,
        FOLDER_TAG: plan.run_folder(key),
    }
    params = {name: values[name] for name in differing}
    return MlflowRun(tracking, experiment_id, key.name, run_id, params, tags)


def _refuse_changes(plan: Plan) -> None:
    for key, config in plan.configs.items():
        path = plan.run_folder(key) / CONFIG_FILE
        if not path.exists():
            continue
        before, now = load.flat(load.from_yaml(path)), load.flat(config)
        for name, field in schema.settings().items():
            if before[name] != now[name] and not field.metadata["neutral"]:
                raise UserError(
                    f"{path.relative_to(plan.root)}: {name} = {before[name]}: the run has this value, and {now[name]} "
                    "was asked for; --fresh starts over, --name NAME keeps both"
                )


def _start_over(plan: Plan, tracking: Tracking) -> None:
    for key in plan.configs:
        folder = plan.run_folder(key)
        record = read_record(folder) if folder.exists() else None
        if record and record.mlflow_run_id:
            tracking.delete(record.mlflow_run_id)
        shutil.rmtree(folder, ignore_errors=True)


def _prepare_data(plan: Plan, console: Console) -> None:
    for config in {c.data: c for c in plan.configs.values()}.values():
        index = build.build_data(config, plan.root)
        if index:
            images = sum(len(shard.keys) for shards in index.splits.values() for shard in shards)
            console.print(f"built {images} images of {config.data.source} in {config.data.path}")
        build.build_datamodule(config, plan.root)


def _write_facts(plan: Plan, link: str) -> None:
    published = plan.question.published.get(plan.scale)
    write_json(
        plan.folder / "experiment.json",
        {
            "experiment": plan.question.name,
            "scale": plan.scale,
            "name": plan.name,
            "question": plan.question.question,
            "source": plan.question.source,
            "arms": list(plan.question.arms),
            "differs": plan.question.arms,
            "colors": _colors(plan.question),
            "seeds": _seeds(plan),
            "published": published and published.__dict__,
            "summary_metrics": SUMMARY_METRICS,
            "link": link,
            "command": f"jitlab run {plan.question.name} --scale {plan.scale}",
        },
    )


def _seeds(plan: Plan) -> int:
    # Seeds that an earlier call ran stay in the report.
    records = [read_record(folder) for folder in plan.folder.iterdir() if folder.is_dir()]
    return max([plan.seeds, *(record.seed + 1 for record in records if record)])


def _close(plan: Plan, report: Path, link: str, console: Console) -> None:
    from jitlab.report.terminal import closing_table

    console.print(closing_table(plan.folder))
    console.print(f"report    {report.relative_to(plan.root)}", highlight=False, soft_wrap=True)
    console.print(f"MLflow    make ui EXP={plan.question.name}, then {link}", highlight=False, soft_wrap=True)


def _colors(question: Question) -> dict[str, str]:
    return {arm: COLORS[place % len(COLORS)] for place, arm in enumerate(question.arms)}


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(
                f"{folder}: another process is running this experiment; wait for it, or give this one a --name"
            ) from error
        yield
