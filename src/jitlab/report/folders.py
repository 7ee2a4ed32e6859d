"""Where the runs of an experiment lie."""

from pathlib import Path

from jitlab.config.load import Question, load_question
from jitlab.errors import UserError

RUNS_FOLDER = "runs"
EXPERIMENT_FILE = "experiment.json"


def experiment_name(question: Question, scale: str | None, label: str | None) -> str:
    """Return the name that an experiment's folder and its MLflow experiment share."""
    return "-".join([question.name, scale or question.scale, *([label] if label else [])])


def experiment_folder(root: Path, question: str, scale: str | None, label: str | None) -> Path:
    """Return the folder of an experiment; raises UserError where it was never run."""
    folder = root / RUNS_FOLDER / experiment_name(load_question(root, question), scale, label)
    if not (folder / EXPERIMENT_FILE).exists():
        raise UserError(f"{folder}: this experiment has not run yet; make experiment EXP={question}")
    return folder
