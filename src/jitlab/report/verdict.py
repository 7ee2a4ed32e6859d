"""The verdict on generated samples in one line, drawn from what every evaluation measures, with its evidence."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jitlab.report.closing import figure_text
from jitlab.report.records import Experiment, Run

NOISE, SEAMS, CLASSLESS = "noise left in the samples", "patch seams", "no class structure"
HEALTHY, NO_VERDICT = "healthy", "no verdict"

# Calibrated on digits, and on photographs with faults put in, as docs/verdicts.md tells.
# Of real patches at most 0.01 is off their subspace; white noise is seen from about 0.03.
MOST_OFF_MANIFOLD = 0.02
# Real images against others of their kind: 0.93 to 1.04. Strokes of digits that do not meet are seen from about 4.7; in
# photographs, a step of 8 grey levels from patch to patch is seen already, at 1.5.
MOST_SEAMS = 4.0
# Real images have 0.36 where 36 % of them are under a wrong label.
LEAST_CLASS_STRUCTURE = 0.33
# Above it, images of a class are more alike than in data, as of too few steps or much guidance: told, but no fault.
MOST_ALIKE = 1.4
# Of the spiral: true points have nothing off their plane.
MOST_OFF_PLANE = 0.02


@dataclass(frozen=True)
class Check:
    """A fault, and the figure that shows it: healthy up to a limit, or from it on where `rising`."""

    fault: str
    metric: str
    limit: float
    rising: bool
    told: str

    def fails(self, value: float) -> bool:
        """Say whether a figure shows the fault."""
        return value < self.limit if self.rising else value > self.limit

    def worst(self, values: Sequence[float]) -> float:
        """Return the figure that is nearest to the fault; NaN where none is finite."""
        finite = [value for value in values if math.isfinite(value)]
        return (min if self.rising else max)(finite, default=math.nan)

    @property
    def healthy(self) -> str:
        """Return which figures are healthy, in words."""
        return f"{'from' if self.rising else 'up to'} {self.limit:g}"


ALIKE = "class_structure"
# The most important fault first: under noise there is little to be seen of seams, and patches of different images that
# were put together are of no class.
IMAGE_CHECKS = (
    Check(NOISE, "off_manifold", MOST_OFF_MANIFOLD, False, "{:.0%} of the patches' energy is off the data's subspace"),
    Check(SEAMS, "seams", MOST_SEAMS, False, "edges at patch borders have {:.1f} times the energy of those in data"),
    Check(CLASSLESS, ALIKE, LEAST_CLASS_STRUCTURE, True, "classes explain {:.0%} of what they do in the data"),
)
POINT_CHECK = Check(NOISE, "off_plane", MOST_OFF_PLANE, False, "{:.0%} of the energy is off the spiral's plane")


@dataclass(frozen=True)
class Verdict:
    """What was found: `faults`, the most important first, and the evidence in words."""

    faults: tuple[str, ...]
    evidence: str
    judged: bool = True

    @property
    def name(self) -> str:
        """Return the verdict alone."""
        if not self.judged:
            return NO_VERDICT
        return ", ".join(self.faults) or HEALTHY

    @property
    def line(self) -> str:
        """Return the verdict with its evidence."""
        return self.evidence if self.faults else f"{self.name}: {self.evidence}"


def verdict(values: Mapping[str, Sequence[float]]) -> Verdict:
    """Return the verdict on samples.

    Args:
        values: of metrics by their names without `eval/`, one for each seed; the worst seed decides. Names that are not
            looked at do no harm; what is missing or not finite is said not to have been looked at.
    """
    if "off_plane" in values:
        return _of_points(POINT_CHECK.worst(values["off_plane"]))
    worst = {check: check.worst(values.get(check.metric, ())) for check in IMAGE_CHECKS}
    found = {check: value for check, value in worst.items() if math.isfinite(value)}
    if not found:
        return Verdict((), f"none of {', '.join(check.metric for check in IMAGE_CHECKS)} was measured", judged=False)
    faults = [check for check, value in found.items() if check.fails(value)]
    if faults:
        evidence = "; ".join(_fault_text(check, found[check]) for check in faults)
    else:
        evidence = ", ".join(_healthy_text(check, value) for check, value in found.items())
    if any(value > MOST_ALIKE for value in values.get(ALIKE, ())):
        evidence += f"; images of a class are more alike than in data ({ALIKE} above {MOST_ALIKE:g})"
    unseen = [f"{check.fault} ({check.metric} was not measured)" for check in IMAGE_CHECKS if check not in found]
    evidence += f"; not looked for: {', '.join(unseen)}" if unseen else ""
    return Verdict(tuple(check.fault for check in faults), evidence)


def evaluated(runs: Sequence[Run]) -> dict[str, tuple[float, ...]]:
    """Return the last figures of an arm's runs by names without `eval/`, those that all of them have.

    They are of the complete seeds, as in the closing table; without one, of those that came furthest.
    """
    measured = [run for run in runs if run.evaluated()]
    furthest = max((run.evaluated_at for run in measured), default=0)
    of_one_step = [run for run in measured if run.complete] or [run for run in measured if run.evaluated_at == furthest]
    figures = [run.evaluated() for run in of_one_step]
    common = set.intersection(*map(set, figures)) if figures else set()
    return {key: tuple(found[key] for found in figures) for key in sorted(common)}


def arm_verdicts(experiment: Experiment) -> dict[str, Verdict]:
    """Return the verdict on every arm that has one."""
    found = {arm: verdict(evaluated(experiment.of_arm(arm))) for arm in experiment.arms}
    return {arm: judged for arm, judged in found.items() if judged.judged}


def _of_points(off_plane: float) -> Verdict:
    if not math.isfinite(off_plane):
        return Verdict((), "off_plane was not measured", judged=False)
    if POINT_CHECK.fails(off_plane):
        return Verdict((POINT_CHECK.fault,), _fault_text(POINT_CHECK, off_plane))
    # Points that are blurred within the plane have nothing off it.
    clear = f"{_healthy_text(POINT_CHECK, off_plane)}; blur within the spiral's plane shows in spiral_distance alone"
    return Verdict((), clear, judged=False)


def _fault_text(check: Check, value: float) -> str:
    figure = f"({check.metric} {figure_text(value)}; healthy {check.healthy})"
    return f"{check.fault}: {check.told.format(value)} {figure}"


def _healthy_text(check: Check, value: float) -> str:
    return f"{check.metric} {figure_text(value)} ({check.healthy})"
