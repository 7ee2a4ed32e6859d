"""A question at a scale: every arm and seed as one run, skipped where complete, resumed where not, then reported."""

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from jitlab import build
from jitlab.callbacks.mlflow_run import FOLDER_TAG, Tracking, chart_link
from jitlab.callbacks.stop import StoppedError, StopRequest
from jitlab.config import load, schema
from jitlab.config.load import Question
from jitlab.config.schema import Config
from jitlab.errors import UserError, nearest
from jitlab.files import write_json
from jitlab.report.folders import RUNS_FOLDER, experiment_name
from jitlab.report.render import write_report
from jitlab.report.terminal import closing_table
from jitlab.run import CONFIG_FILE, Mirror, RunKey, execute_run
from jitlab.run_record import COMPLETE, FAILED, KILLED, read_record

LOCAL_SERVER = "http://127.0.0.1:5000"
SUMMARY_METRICS = ("eval/fd_pixels", "eval/off_manifold", "val/v_mse")
# Distinct for the colour-blind too (Okabe and Ito); an arm keeps its colour in every run, chart and report.
COLORS = ("#0072b2", "#e69f00", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#8c6d31", "#555555")
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

    @property
    def command(self) -> str:
        """Return the command that runs the question at this scale."""
        return f"jitlab run {self.question.name} --scale {self.scale}"

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
    name = experiment_name(question, scale, label)
    every_arm = {arm: load.resolve(root, question, scale, arm, overrides) for arm in question.arms}
    return Plan(root, question, scale, name, seeds, configs, load.differing(every_arm))


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
    code, stop = EXIT_COMPLETE, StopRequest()
    with stop.listening():
        for key, config in plan.configs.items():
            folder = plan.run_folder(key)
            record = read_record(folder)
            if record and record.status == COMPLETE:
                console.print(f"{key.name}: complete, {record.steps} steps")
                continue
            mirror = _mirror(plan, key, config, tracking, experiment_id)
            try:
                stop.raise_if_requested()
                record = execute_run(key, config, plan.root, folder, mirror, console, stop)
            except StoppedError:
                return EXIT_KILLED
            if record.status == KILLED:
                console.print(f"{key.name}: stopped at step {record.step}; the same command goes on from there")
                return EXIT_KILLED
            if record.status == FAILED:
                console.print(f"[red]failed[/red] {key.name}: {escape(str(record.reason))}", highlight=False)
                code = EXIT_FAILED
    return code


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
    return Mirror(tracking, experiment_id, params, tags)


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
            "command": plan.command,
        },
    )


def _seeds(plan: Plan) -> int:
    # Seeds that an earlier call ran stay in the report.
    records = [read_record(folder) for folder in plan.folder.iterdir() if folder.is_dir()]
    return max([plan.seeds, *(record.seed + 1 for record in records if record)])


def _close(plan: Plan, report: Path, link: str, console: Console) -> None:
    console.print(closing_table(plan.folder))
    console.print(f"report    {report.relative_to(plan.root)}", highlight=False, soft_wrap=True)
    scale = "" if plan.scale == plan.question.scale else f" SCALE={plan.scale}"
    console.print(f"MLflow    make ui EXP={plan.question.name}{scale}, then {link}", highlight=False, soft_wrap=True)


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
