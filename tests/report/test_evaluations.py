"""Evaluations in an experiment's report: those of one protocol together, and none where there is none."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from jitlab.report.certificate import CERTIFICATE_FILE, EVALUATION_FOLDER, Certificate, write_certificate
from jitlab.report.collect import collect
from jitlab.report.evaluations import evaluations
from jitlab.report.render import write_report
from tests.report.certificates import CERTIFICATE, PROTOCOL, searched, whole_grid
from tests.report.test_render import HOSTILE, HOSTILE_METRIC, Page

SEARCHED = searched(whole_grid(["ema0.9"], [1.0, 2.0, 3.0]))


def certify(folder: Path, run: str, certificate: Certificate) -> None:
    write_certificate(folder / run / EVALUATION_FOLDER / CERTIFICATE_FILE, certificate)


def section(folder: Path) -> Page:
    return Page(evaluations(collect(folder)))


def test_a_report_without_an_evaluation_says_nothing_of_them(folder):
    assert evaluations(collect(folder)) == ""
    assert "Evaluations" not in Page(write_report(folder).read_text(encoding="utf-8")).text


def test_every_run_that_was_evaluated_has_a_row_and_its_search_a_map(folder):
    certify(folder, "x", SEARCHED)
    certify(folder, "eps", replace(CERTIFICATE, warnings=("few images",)))
    text = write_report(folder).read_text(encoding="utf-8")
    assert text.index("<h2>Result</h2>") < text.index("<h2>Evaluations</h2>") < text.index("<h2>Samples</h2>")
    page = section(folder)
    number = CERTIFICATE.protocol_hash[:8]
    assert f"x 0.060 ± 0.010 ema0.9 2 5.000 guided there 4.000 1,000 3 {number}" in page.text
    assert f"eps 0.060 ± 0.010 ema0.99 1.5 – 1,000 3 {number} few images" in page.text
    assert "x: fd_pixels of the search" in page.text
    assert "eps: fd_pixels" not in page.text
    assert "must not be ranked" not in page.text
    assert text.count('<div class="maps search"') == 1


def test_different_protocols_stand_in_tables_of_their_own_that_must_not_be_ranked(folder):
    certify(folder, "x", SEARCHED)
    certify(folder, "v", replace(CERTIFICATE, protocol={**PROTOCOL, "steps": 20}))
    certify(folder, "eps", CERTIFICATE)
    text = evaluations(collect(folder))
    page = Page(text)
    assert "2 protocols: figures of different tables must not be ranked. The protocols differ in steps ." in page.text
    tables = re.findall(r"<h3>Protocol (\w+)</h3>.*?>(steps = \d+)<.*?<tbody>(.*?)</tbody>", text)
    arms = [(number, steps, re.findall(r"</span>(\w+)</td>", body)) for number, steps, body in tables]
    other = replace(CERTIFICATE, protocol={**PROTOCOL, "steps": 20}).protocol_hash[:8]
    assert arms == [
        (CERTIFICATE.protocol_hash[:8], "steps = 50", ["x", "eps"]),
        (other, "steps = 20", ["v"]),
    ]


def test_protocols_that_differ_in_much_are_told_in_short(folder):
    certify(folder, "x", CERTIFICATE)
    certify(folder, "v", replace(CERTIFICATE, protocol={f"key{number}": "long" * 20 for number in range(20)}))
    text = section(folder).text
    assert "and 18 more" in text
    assert "key7 = " + ("long" * 20)[:31] + "…; 12 more" in text


@pytest.mark.parametrize("content", [b"{broken", b"", b"\xff\xfe", b'{"format": 1}', b"[" * 100])
def test_a_damaged_certificate_is_told_in_place_and_the_report_stands(folder, content):
    certify(folder, "v", CERTIFICATE)
    path = folder / "x" / EVALUATION_FOLDER / CERTIFICATE_FILE
    path.parent.mkdir()
    path.write_bytes(content)
    page = Page(write_report(folder).read_text(encoding="utf-8"))
    assert f"Cannot be read. x : {path}: damaged" in page.text
    assert "v 0.060 ± 0.010" in page.text


def test_a_certificate_that_cannot_be_opened_is_told_in_place(folder):
    (folder / "x" / EVALUATION_FOLDER / CERTIFICATE_FILE).mkdir(parents=True)
    assert "Cannot be read. x : " in section(folder).text


def test_hostile_texts_are_only_text(folder):
    figures = {(HOSTILE, 1.0): 1.0, (HOSTILE, 2.0): 0.5}
    certificate = searched(figures, metric=HOSTILE_METRIC, values={HOSTILE_METRIC: (1.0,)}, warnings=(HOSTILE,))
    certify(folder, "x", replace(certificate, protocol={HOSTILE: HOSTILE}))
    certify(folder, "v", CERTIFICATE)
    page = section(folder)
    assert not any(tag == "script" for tag, _ in page.tags)
    assert page.text.count(HOSTILE) > 5


def test_a_certificate_without_the_figure_or_the_keys_has_a_row(folder):
    certify(folder, "x", replace(CERTIFICATE, values={}, protocol={}))
    assert "x – ema0.99 1.5 – – 0" in section(folder).text
