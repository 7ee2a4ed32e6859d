"""The closing table as the terminal shows it: the report's own rows."""

from pathlib import Path

from rich.table import Table

from jitlab.report.closing import closing_rows
from jitlab.report.collect import collect


def closing_table(folder: Path) -> Table:
    """Return the table of an experiment's folder, one row an arm."""
    experiment = collect(folder)
    rows = closing_rows(experiment)
    table = Table(title=experiment.name, title_justify="left", title_style="bold")
    table.add_column("arm", style="bold")
    table.add_column("seeds", justify="right")
    for key in experiment.summary_metrics:
        table.add_column(key, justify="right")
    if experiment.published:
        table.add_column(f"{experiment.published.metric} in {experiment.published.table}", justify="right")
    table.add_column("minutes", justify="right")
    table.add_column("status")
    for row in rows:
        metrics = [row.metrics[key] for key in experiment.summary_metrics]
        published = [row.published] if experiment.published else []
        table.add_row(row.arm, row.seeds, *metrics, *published, row.minutes, row.status)
    return table
