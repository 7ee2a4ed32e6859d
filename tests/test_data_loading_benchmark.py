import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def measured(*arguments: str) -> str:
    command = [sys.executable, "-m", "benchmarks.data_loading", "--batch-size", "4", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def table_rows(output: str, *names: str) -> list[list[str]]:
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in output.splitlines() if "│" in line]
    return [next(row for row in rows if row[0] == name) for name in names]


@pytest.mark.slow
def test_every_contender_is_measured():
    output = measured("--images", "64", "--size", "32", "--repetitions", "1")
    peers = table_rows(output, "ImageFolder, Pillow", "webdataset, Pillow")
    for row in table_rows(output, "jitlab, fast", "jitlab, exact", "decoder alone, fast", "decoder alone, exact"):
        for peer, ratio in zip(peers, row[2:], strict=True):
            assert float(ratio) == pytest.approx(float(row[1]) / float(peer[1]), rel=0.05)


@pytest.mark.slow
def test_memory_is_measured_at_every_tenth_of_an_epoch():
    output = measured("--memory", "--images", "2000")
    rows = table_rows(output, *map(str, range(1, 11)))
    assert all(float(resident) > float(own) > 0 for _, resident, own in rows)
