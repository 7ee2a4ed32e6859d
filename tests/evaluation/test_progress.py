import io
import time

from rich.console import Console

from jitlab.evaluation.progress import ImageProgress


def test_the_last_share_of_a_process_that_found_more_than_half_is_told_with_its_speed(monkeypatch):
    # Three batches of 16 for each of two cells, of which this process has two each, so that it counts 64 of 48.
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    said = io.StringIO()
    with ImageProgress(Console(file=said, width=200), "final", 96, processes=2) as shown:
        for _ in range(3):
            shown.found(16)
        now[0] = 64.0
        shown.made(16)
    assert said.getvalue().splitlines() == [
        "final: 96 of 96 images, 0.5/s, 0 min left",
        "final: 96 images, 0.5 images/s",
    ]
