"""How the arms of a question are laid out: crossed (rows and columns) or ordered (along x, in lines)."""

from collections.abc import Mapping
from typing import Any

from jitlab.config import schema
from jitlab.errors import UserError, nearest

ARM = "arm"
_SHAPES = ({"rows", "columns"}, {"x", "lines"}, {"x"})


def read_axes(file: str, content: Any) -> dict[str, str]:
    """Return the setting that each axis shows; `arm` is the arm's own name, and no axes are an empty dictionary.

    Raises UserError for other axes than rows and columns, or x and perhaps lines, and for an unknown setting.
    """
    if content is None:
        return {}
    if not isinstance(content, dict) or set(content) not in _SHAPES:
        raise UserError(
            f"{file}: axes = {content!r}: expected {{rows: SETTING, columns: SETTING}}, {{x: SETTING}} or "
            "{x: SETTING, lines: SETTING}"
        )
    known = [*schema.settings(), ARM]
    for axis, field in content.items():
        if field not in known:
            raise UserError(f"{file}: axes.{axis} = {field!r}: no such setting; {nearest(str(field), known)}")
    return dict(content)


def places(axes: Mapping[str, str], settings: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return each arm's value on each axis, read from its resolved settings by dotted name."""
    return {
        arm: {axis: arm if field == ARM else values[field] for axis, field in axes.items()}
        for arm, values in settings.items()
    }
