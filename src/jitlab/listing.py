"""Lists: the questions with what they cost, the paper's sizes of the network, the settings."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from jitlab import budget, build, speed
from jitlab.config import load, schema
from jitlab.config.load import Question
from jitlab.config.schema import Config
from jitlab.console import console
from jitlab.errors import UserError
from jitlab.models.cost import cost
from jitlab.models.jit import IMAGE_CHANNELS, published, published_names, published_side

MEASUREMENT_SECONDS = 10.0
MINUTE, HOUR, DAY, YEAR = 60, 3600, 86_400, 365 * 86_400


@dataclass(frozen=True)
class Measured:
    """The run that a scale's speed was measured on, the speed of a device, and how many there are to share the work."""

    config: Config
    speed: speed.Speed
    devices: int

    @property
    def flops_per_second(self) -> float:
        """Return the operations per second of all devices."""
        return self.speed.flops_per_second * self.devices


@dataclass(frozen=True)
class Entry:
    """A question at a scale: the first seed of every arm, or why they cannot be run there."""

    question: Question
    scale: str
    configs: Sequence[Config]
    fault: str


def experiments(scale: str | None, measured: bool) -> None:
    """Print every question with its arms, images, operations and, from a measurement of ten seconds, its time.

    Args:
        scale: of all questions; None for each one's own.
        measured: whether to measure; without, there are no times.

    Raises:
        UserError: where there is no such scale, or a question's file is malformed.
    """
    root, terminal = load.repository(), console()
    if scale is not None:
        load.check_scale(root, scale)
    with _status(terminal) as tell:
        entries = [_entry(root, name, scale) for name in load.question_names(root)]
        tell("counting")
        budgets = [sum(map(budget.run_budget, entry.configs), budget.Budget(0, 0, 0)) for entry in entries]
        speeds = _speeds(entries, tell) if measured else {}
    terminal.print(_cost_table(entries, budgets, speeds))
    terminal.print()
    for line in _notes(root, speeds):
        terminal.print(line, highlight=False)


def models() -> None:
    """Print the paper's sizes with their cost, and what the paper says of them."""
    source, paper = load.published_costs(load.repository())
    table = Table(
        "model",
        "image",
        "parameters",
        "GFLOPs forward",
        "paper: million",
        "paper: Gflops",
        box=None,
        header_style="bold",
    )
    for name in published_names():
        side = published_side(name)
        found = cost(partial(published, name), (IMAGE_CHANNELS, side, side))
        told = (f"{figure:g}" for figure in paper.get(name, ()))
        table.add_row(name, f"{side} px", f"{found.parameters:,}", f"{found.forward_flops / 1e9:.1f}", *told)
    terminal = console()
    terminal.print(table)
    terminal.print(f"GFLOPs count a multiply-add as two, the paper's Gflops as one ({source}).")


def settings() -> None:
    """Print every setting with its default, range and meaning."""
    table = Table("setting", "default", "values", "meaning", box=None, header_style="bold")
    for name, field in schema.settings().items():
        default = "from the scale" if field.default == "???" else str(field.default)
        values = ", ".join(field.metadata["choices"]) or field.metadata["within"] or "text"
        table.add_row(name, default, "true, false" if field.type is bool else values, field.metadata["doc"])
    console().print(table)


def _entry(root: Path, name: str, scale: str | None) -> Entry:
    question = load.load_question(root, name)
    scale = scale or question.scale
    try:
        configs = [load.resolve(root, question, scale, arm, []) for arm in question.arms]
    except UserError as error:
        return Entry(question, scale, [], str(error))
    return Entry(question, scale, configs, "")


def _speeds(entries: Sequence[Entry], tell: Callable[[str], None]) -> dict[str, Measured]:
    """Measure every scale on the network that most of its operations go through, for an equal share of the time."""
    configs: dict[str, list[Config]] = {}
    for entry in entries:
        if entry.configs:
            configs.setdefault(entry.scale, []).extend(entry.configs)
    measured = {}
    for scale, those in configs.items():
        tell(f"measuring {scale} on {build.hardware()}")
        config = budget.heaviest(those)
        found = speed.measure(config, MEASUREMENT_SECONDS / len(configs))
        measured[scale] = Measured(config, found, build.devices_at_hand(config))
    return measured


def _cost_table(entries: Sequence[Entry], budgets: Sequence[budget.Budget], speeds: Mapping[str, Measured]) -> Table:
    table = Table(box=None, header_style="bold", padding=(0, 2, 1, 0), pad_edge=False)
    table.add_column("question", overflow="fold")
    for name in ("images", "FLOPs\ntraining", "FLOPs\nevaluation", *(["time"] if speeds else [])):
        table.add_column(name, justify="right", overflow="fold")
    for entry, total in zip(entries, budgets, strict=True):
        if entry.fault:
            table.add_row(_description(entry))
            continue
        cells = [f"{total.images:,}", _scaled(total.training_flops), _scaled(total.evaluation_flops)]
        if speeds:
            cells.append(_duration(total.flops / speeds[entry.scale].flops_per_second))
        table.add_row(_description(entry), *cells)
    return table


def _description(entry: Entry) -> Text:
    question = entry.question
    text = Text.assemble((question.name, "bold"), f"  {question.question}\n{question.source}\n")
    text.append(f"{len(question.arms)} arms at {entry.scale}: {', '.join(question.arms)}")
    if entry.fault:
        text.append(f"\ndoes not fit this scale: {entry.fault}", "yellow")
    return text


def _notes(root: Path, speeds: Mapping[str, Measured]) -> Iterator[str]:
    yield f"scales: {', '.join(load.scale_names(root))}"
    yield (
        "All arms, one seed. FLOPs count a multiply-add as two, and a backward pass as two forward passes; evaluation "
        "is the network's part in generated images, sample grids and the held-out batch."
    )
    if speeds:
        found = ", ".join(_found(scale, measured) for scale, measured in speeds.items())
        yield (
            f"The time is an estimate, from {MEASUREMENT_SECONDS:g} s of training on noise in place of data: "
            f"{build.hardware()}: {found}. A scale is measured on its most used network; narrower ones run slower."
        )


def _found(scale: str, measured: Measured) -> str:
    config, found = measured.config, measured.speed
    reduced = [f"batches of {found.images}"] if found.images < config.train.batch_size else []
    reduced += [f"{found.blocks} of {config.model.depth} blocks"] if found.blocks < config.model.depth else []
    how = f" (with {' and '.join(reduced)})" if reduced else ""
    times = f" on each of {measured.devices}" if measured.devices > 1 else ""
    return f"{_scaled(found.flops_per_second)}FLOP/s{times} at {scale}{how}"


def _scaled(value: float) -> str:
    """Write a number with three digits and the prefix of its power of 1000."""
    for prefix in ("", "k", "M", "G", "T", "P", "E", "Z"):
        if value < 999.5:
            return f"{value:#.3g}".rstrip(".") + f" {prefix}"
        value /= 1000
    return f"{value:,.0f} Y"


def _duration(seconds: float) -> str:
    """Write a time in the unit that people would use for it."""
    for limit, unit, name in ((2 * HOUR, MINUTE, "min"), (3 * DAY, HOUR, "h"), (2 * YEAR, DAY, "days")):
        if seconds < limit:
            return f"{seconds / unit:,.{1 if seconds < 10 * unit else 0}f} {name}"
    return f"{seconds / YEAR:,.0f} years"


@contextmanager
def _status(terminal: Console) -> Iterator[Callable[[str], None]]:
    """Yield what tells a person at a terminal what is going on; a file gets nothing."""
    if not terminal.is_terminal:
        yield lambda _: None
        return
    with terminal.status("") as status:
        yield status.update
