"""Published figures: one data file, to which questions refer by a dotted path."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jitlab.errors import UserError, nearest

FILE = "experiments/published/figures.yaml"
_TABLE_KEYS = {"table", "metric", "values"}


@dataclass(frozen=True)
class Published:
    """Figures that a paper reports for the arms of a question at one scale."""

    metric: str
    table: str
    values: dict[str, float]


def select(file: str, key: str, path: Any, tables: Mapping[str, Any], arms: list[str]) -> Published:
    """Return the figures at a dotted path such as `prediction_x_loss.imagenet256_jit_b16.v_loss`.

    `file` and `key` say where the path was written. Raises UserError where there is no such table, a figure has
    no arm, or is not a finite number.
    """
    if not isinstance(path, str):
        raise UserError(f"{file}: {key} = {path!r}: expected the path of a table in {FILE}, such as noise_level.x")
    found: Any = tables
    head: Mapping[str, Any] | None = None
    left = path
    while left or (head is None and isinstance(found, dict) and set(found) == _TABLE_KEYS):
        if head is None and isinstance(found, dict) and set(found) == _TABLE_KEYS:
            head, found = found, found["values"]
            continue
        step = _step(found, left)
        if step is None:
            names = [str(name) for name in found] if isinstance(found, dict) else []
            fix = nearest(left, names) if names else "refer to the table or a row of it"
            raise UserError(f"{file}: {key} = {path!r}: no such table in {FILE} ('{left}'); {fix}")
        found, left = found[step], left[len(step) + 1 :]
    if head is None or not isinstance(found, dict):
        names = [str(name) for name in found] if isinstance(found, dict) else []
        raise UserError(
            f"{file}: {key} = {path!r}: expected a table with the keys table, metric and values in {FILE}, "
            f"or a row of one; found {', '.join(names) or repr(found)}"
        )
    values = dict(_flat(found))
    for arm, value in values.items():
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise UserError(f"{FILE}: {path}: {arm} = {value!r}: expected a finite number; mend the file")
        if arm not in arms:
            raise UserError(f"{file}: {key} = {path!r}: no arm '{arm}', which has a figure; {nearest(arm, arms)}")
    return Published(str(head["metric"]), str(head["table"]), values)


def _step(found: Any, left: str) -> str | None:
    # A name may hold a dot (mu_0.0), so the longest that fits is meant.
    names = [name for name in found if isinstance(name, str)] if isinstance(found, dict) else []
    fits = [name for name in names if left == name or left.startswith(f"{name}.")]
    return max(fits, key=len, default=None)


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in content.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}_")
        else:
            yield f"{prefix}{name}", value
