"""A run folder as the experiment runner writes it, small and made up."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

ARMS = {"x": 0.06, "v": 1.3, "eps": 8.4}
LINK = "http://127.0.0.1:5000/#/experiments/1?workflowType=machine_learning&compareRunsMode=CHART"


def write_experiment(folder: Path, **changes: Any) -> Path:
    facts = {
        "experiment": "noise_vs_x",
        "scale": "digits",
        "name": "noise_vs_x-digits",
        "question": "Which of x, v and eps should the network predict?",
        "source": "arXiv:2511.13720, Table 2 (a), v-loss row",
        "arms": list(ARMS),
        "differs": {arm: {"objective.prediction": arm} for arm in ARMS},
        "colors": {"x": "#2a6fdb", "v": "#e08a1e", "eps": "#b3364a"},
        "seeds": 1,
        "published": None,
        "summary_metrics": ["eval/fd_pixels", "train/v_mse"],
        "link": LINK,
        "command": "jitlab run noise_vs_x --scale digits",
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "experiment.json").write_text(json.dumps(facts | changes))
    return folder


def entry(step: int, **metrics: float) -> str:
    return json.dumps({"step": step, "time": 1.76e9 + step, "metrics": metrics})


def lines_of(final: float, last: int = 600) -> list[str]:
    lines = []
    for step in range(100, last + 1, 100):
        metrics = {
            "train/loss": final,
            "train/v_mse": final + 100 / step,
            "eval/fd_pixels": final * 600 / step,
        }
        metrics |= {f"val/x_mse_t{t}": final * (1 - t) for t in (0.1, 0.5, 0.9)}
        lines.append(entry(step, **metrics))
    return lines


def write_run(folder: Path, name: str, lines: Sequence[str], grid: bool = True, **changes: Any) -> Path:
    run = folder / name
    run.mkdir(parents=True, exist_ok=True)
    arm, _, seed = name.partition("-s")
    status = {
        "arm": arm,
        "seed": int(seed or 0),
        "status": "complete",
        "reason": None,
        "seconds": 36.0,
        "step": 600,
        "steps": 600,
        "parameters": 1234567,
        "hardware": "CPU, 2 threads",
    }
    (run / "status.json").write_text(json.dumps(status | changes))
    (run / "config.yaml").write_text(f"objective:\n  prediction: {arm}\n")
    (run / "metrics.jsonl").write_text("".join(line + "\n" for line in lines))
    if grid:
        (run / "samples").mkdir(exist_ok=True)
        noise = np.random.default_rng(0).integers(0, 256, (320, 256, 3), dtype=np.uint8)
        for weights in ("raw", "ema0.995"):
            Image.fromarray(noise).save(run / "samples" / f"step000600-{weights}.png")
    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three arms, one seed each, all complete."""
    root = write_experiment(tmp_path / "noise_vs_x-digits")
    for arm, final in ARMS.items():
        write_run(root, arm, lines_of(final))
    return root


@pytest.fixture
def three_seeds(tmp_path: Path) -> Callable[[str, Sequence[float]], Path]:
    """Build a folder in which one arm ends at the given distances, one a seed."""

    def build(arm: str, finals: Sequence[float]) -> Path:
        root = write_experiment(tmp_path / "seeds", arms=[arm], seeds=len(finals))
        for seed, final in enumerate(finals):
            write_run(root, arm if seed == 0 else f"{arm}-s{seed}", lines_of(final), grid=False)
        return root

    return build
