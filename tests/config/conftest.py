import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from jitlab.config import load
from jitlab.config.schema import Config
from jitlab.errors import UserError

ROOT = Path(__file__).parents[2]
QUESTION = """\
question: q
source: s
scale: digits
arms:
  x: {objective: {prediction: x}}
  v: {objective: {prediction: v}}
"""
DIGITS = (ROOT / "experiments/scales/digits.yaml").read_text()


FIGURES = """\
t:
  a: {table: Table 1, metric: m, values: {x: 1, v: 2.5}}
  rows: {table: Table 2, metric: m, values: {r: {x: 3, v: 4}, s: {x: 5, v: .nan}}}
"""


class Repository:
    """A repository of its own, whose question `q` and scale `digits` a test may spoil."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "experiments" / "scales").mkdir(parents=True)
        (root / "experiments" / "published").mkdir()
        self.write(QUESTION)
        self.write(FIGURES, "experiments/published/figures.yaml")
        shutil.copy(ROOT / "experiments/scales/digits.yaml", root / "experiments/scales")

    def write(self, content, file="experiments/q.yaml") -> None:
        (self.root / file).write_bytes(content if isinstance(content, bytes) else content.encode())

    def question(self, name="q") -> load.Question:
        return load.load_question(self.root, name)

    def resolve(self, *overrides, arm="x", scale=None, seed=0) -> Config:
        question = self.question()
        return load.resolve(self.root, question, scale or question.scale, arm, list(overrides), seed)


@pytest.fixture
def repo(tmp_path):
    return Repository(tmp_path / "repo")


class refused:  # noqa: N801
    """Expect a UserError of one line that starts with `where` and holds every word of `says`."""

    def __init__(self, where: str, *says: str) -> None:
        self.expected = pytest.raises(UserError, match=f"^{re.escape(where)}")
        self.says = says

    def __enter__(self) -> Any:
        self.info = self.expected.__enter__()
        return self.info

    def __exit__(self, *error) -> Any:
        caught = self.expected.__exit__(*error)
        message = str(self.info.value)
        assert "\n" not in message
        for words in self.says:
            assert words in message
        return caught
