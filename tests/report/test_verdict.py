import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitlab.console import console
from jitlab.report.collect import collect
from jitlab.report.render import write_report
from jitlab.report.terminal import closing_table
from jitlab.report.verdict import (
    CLASSLESS,
    HEALTHY,
    IMAGE_CHECKS,
    NO_VERDICT,
    NOISE,
    SEAMS,
    arm_verdicts,
    verdict,
)
from tests.report.conftest import entry, write_experiment, write_run

DOCUMENT = Path(__file__).parents[2] / "docs" / "verdicts.md"
KEYS = ("off_manifold", "seams", "class_structure")
SHARES = st.floats(0, 100)

# What was measured: docs/verdicts.md tells how, and what a person sees.
CALIBRATED = {
    "x": (0.0032, 2.6969, 0.9099, HEALTHY),
    "x, step 500": (0.0024, 3.2090, 0.8399, HEALTHY),
    "x, step 400": (0.0015, 4.7241, 0.6329, SEAMS),
    "x, step 300": (0.0011, 8.0818, 0.3792, SEAMS),
    "x, step 200": (0.0012, 15.0495, 0.2090, f"{SEAMS}, {CLASSLESS}"),
    "x, step 100": (0.0029, 14.9877, 0.0054, f"{SEAMS}, {CLASSLESS}"),
    "x, 40 steps in all": (0.0149, 1.2614, 0.0000, CLASSLESS),
    "x without labels": (0.0033, 3.8485, 0.0000, CLASSLESS),
    "x_mu_0.0": (0.0046, 3.2574, 0.2709, CLASSLESS),
    "x_mu_minus_1.2": (0.0022, 3.5022, 1.1024, HEALTHY),
    "swiglu_rmsnorm": (0.0024, 7.2092, 0.4748, SEAMS),
    "swiglu_rmsnorm_unsqueezed": (0.0023, 23.4237, 0.0850, f"{SEAMS}, {CLASSLESS}"),
    "v_loss_linear": (0.1920, 0.9191, 0.9576, NOISE),
    "v": (0.6208, 0.6888, 0.8819, NOISE),
    "eps": (0.8517, 0.6022, 0.0000, f"{NOISE}, {CLASSLESS}"),
    "x_loss_eps, 8 px": (0.0434, 1.1129, 1.0712, NOISE),
    "side_4x": (0.0046, 14.1002, 1.0018, SEAMS),
    "x, 3 Euler steps": (0.0037, 1.8135, 1.2909, HEALTHY),
    "x, 1 Euler step": (0.0024, 2.0763, 1.6641, HEALTHY),
    "x, guidance 3": (0.0046, 2.3078, 1.4853, HEALTHY),
}


def faults(*figures: float) -> tuple[str, ...]:
    return verdict({key: (value,) for key, value in zip(KEYS, figures, strict=True)}).faults


def judged(*figures: float) -> str:
    return ", ".join(faults(*figures)) or HEALTHY


@pytest.mark.parametrize("name", CALIBRATED)
def test_the_verdict_is_what_a_person_sees(name):
    *figures, seen = CALIBRATED[name]
    assert judged(*figures) == seen


@pytest.mark.parametrize("name", CALIBRATED)
def test_no_calibrated_verdict_hangs_on_a_few_percent(name):
    *figures, seen = CALIBRATED[name]
    for factor in (0.97, 1.03):
        assert judged(*(figure * factor for figure in figures)) == seen


def test_the_document_has_the_same_figures():
    rows = [[cell.strip(" `*") for cell in line.split("|")[1:-1]] for line in DOCUMENT.read_text().splitlines()]
    told = {row[0]: (*map(float, row[1:4]), row[-1]) for row in rows if row and row[0] in CALIBRATED}
    assert told == CALIBRATED


def test_the_line_holds_the_evidence():
    found = verdict({"off_manifold": (0.62,), "seams": (0.7,), "class_structure": (0.1,), "fid": (3.0,)})
    assert found.faults == (NOISE, CLASSLESS)
    assert found.line == (
        "noise left in the samples: 62% of the patches' energy is off the data's subspace (off_manifold 0.620; healthy "
        "up to 0.02); no class structure: classes explain 10% of what they do in the data (class_structure 0.100; "
        "healthy from 0.33)"
    )
    found = verdict({"off_manifold": (0.003,), "seams": (9.0,), "class_structure": (0.9,)})
    assert found.line.startswith(
        "patch seams: edges at patch borders have 9.0 times the energy of those in data (seams 9"
    )


def test_a_healthy_line_shows_what_was_looked_at_and_what_was_not():
    found = verdict({"off_manifold": (0.003,), "class_structure": (math.nan,)})
    assert found.name == HEALTHY
    assert found.line == (
        "healthy: off_manifold 0.0030 (up to 0.02); not looked for: patch seams (seams was not measured), no class "
        "structure (class_structure was not measured)"
    )


def test_images_of_a_class_that_are_too_alike_are_told_of():
    line = verdict({"off_manifold": (0.003,), "class_structure": (math.nan, 1.66)}).line
    assert line.startswith("healthy: ")
    assert "more alike than in data (class_structure above 1.4)" in line
    assert "alike" not in verdict({"class_structure": (1.3, math.nan)}).line


def test_without_figures_there_is_no_verdict():
    for values in ({}, {"fid": (3.0,)}, {"off_manifold": (math.nan,)}, {"seams": ()}):
        found = verdict(values)
        assert (found.name, found.judged, found.faults) == (NO_VERDICT, False, ())
        assert found.line.startswith("no verdict: none of off_manifold, seams, class_structure was measured")


def test_of_several_seeds_the_worst_decides():
    assert verdict({"off_manifold": (0.001, 0.5, math.nan), "seams": (1.0, 1.0)}).faults == (NOISE,)
    assert verdict({"class_structure": (0.9, 0.1)}).faults == (CLASSLESS,)


# Of docs/results.md: what is off the spiral's plane, and the verdict.
@pytest.mark.parametrize(
    ("off_plane", "name"),
    [(0.0, NO_VERDICT), (0.008, NO_VERDICT), (0.048, NOISE), (0.24, NOISE), (0.996, NOISE), (math.nan, NO_VERDICT)],
)
def test_of_points_only_noise_off_their_plane_can_be_told(off_plane, name):
    found = verdict({"off_plane": (off_plane,), "spiral_distance": (0.08,)})
    assert found.name == name
    assert found.line.startswith(name)
    assert "off_plane" in found.line


@given(figures=st.tuples(SHARES, SHARES, SHARES), place=st.integers(0, 2), more=SHARES)
def test_a_fault_that_gets_worse_stays_and_makes_no_other(figures, place, more):
    fault, rising = IMAGE_CHECKS[place].fault, IMAGE_CHECKS[place].rising
    worse = list(figures)
    worse[place] = figures[place] - more if rising else figures[place] + more
    before, after = faults(*figures), faults(*worse)
    assert set(after) - {fault} == set(before) - {fault}
    assert fault in after or fault not in before


def test_faults_are_told_in_the_order_of_their_importance():
    assert judged(0.5, 20.0, 0.0) == f"{NOISE}, {SEAMS}, {CLASSLESS}"


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    folder = write_experiment(tmp_path / "question-digits")
    figures = {"x": (0.003, 2.0, 0.9), "v": (0.6, 0.7, 0.9)}
    for name, values in figures.items():
        line = entry(600, **{f"eval/{key}": value for key, value in zip(KEYS, values, strict=True)})
        write_run(folder, name, [line], grid=False)
    write_run(folder, "eps", [entry(600, **{"train/loss": 1.0})], grid=False)
    return folder


def test_arms_with_figures_have_a_verdict(experiment):
    found = arm_verdicts(collect(experiment))
    assert {arm: verdict.name for arm, verdict in found.items()} == {"x": HEALTHY, "v": NOISE}


def test_report_and_closing_table_show_the_verdicts(experiment, capsys):
    page = write_report(experiment).read_text()
    assert "<b>v</b>: noise left in the samples: 60% of the patches&#x27; energy" in page
    assert "<b>x</b>: healthy" in page
    assert "no verdict" not in page
    console().print(closing_table(experiment))
    told = capsys.readouterr().out
    assert "\nx  " in told
    assert "healthy: off_manifold 0.0030" in told
    assert "noise left in the samples: 60%" in told
