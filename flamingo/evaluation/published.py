"""Published figures of checkpoints, from published.yaml, and their table beside scores of ours."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from flamingo.evaluation.selection import RANDOM, TEXT_ONLY
from flamingo.results import Score
from flamingo.utils.errors import UserError
from flamingo.utils.reading import read_config

#: The file of the figures.
FILE = Path(__file__).parent / "published.yaml"
#: The name of retrieval by images in :data:`flamingo.evaluation.selection.SELECTIONS`.
RICES = "rices"


@dataclass(frozen=True)
class Figure:
    """A published score, times 100."""

    task: str
    metric: str
    shots: int
    value: float
    #: The largest difference that is no sign of an error.
    tolerance: float
    #: The address of its source, with a commit or a table.
    source: str
    #: How demonstrations were selected: random or rices.
    demonstrations: str = RANDOM


def protocol_of(model: str) -> str:
    """Returns the name of the protocol that a model's figures were made with.

    Raises:
        UserError: For a model without figures.
    """
    return _model(read_config(FILE), model)["protocol"]


def published_figures(model: str, task: str) -> list[Figure]:
    """Returns the figures of a model on a task: by random demonstrations, then by retrieved ones.

    Args:
        model: The name of the checkpoint on the hub.
        task: The name of the task in result files.

    Raises:
        UserError: For a model or a task without figures.
    """
    content = read_config(FILE)
    figures = []
    tasks: set[str] = set()
    for source, of_source in _model(content, model)["figures"].items():
        tasks |= of_source.keys()
        demonstrations = RICES if source in content["rices"] else RANDOM
        address = content["sources"][source]
        for shots, value in of_source.get(task, {}).items():
            metric = content["metrics"][task]
            tolerance = content["tolerances"][metric]
            figures.append(Figure(task, metric, shots, value, tolerance, address, demonstrations))
    if not figures:
        raise UserError(f"task.name={task}: {model} has published figures of {', '.join(sorted(tasks))}")
    return sorted(figures, key=lambda figure: (figure.demonstrations == RICES, figure.shots))


def _model(content: dict[str, Any], model: str) -> dict[str, Any]:
    models = content["models"]
    if model not in models:
        raise UserError(f"published={model} has no published figures: choose one of {', '.join(models)}")
    return models[model]


def own_value(figure: Figure, scores: Sequence[Score]) -> float | None:
    """Returns our score for a figure, times 100, as the mean over seeds; None if it was not evaluated.

    Scores at 0 shots are those with text-only demonstrations, if there are any.
    """
    fitting = []
    for score in scores:
        setting = score.setting
        selections = (RICES,) if figure.demonstrations == RICES else (None, RANDOM, TEXT_ONLY)
        is_plain = setting.control is None and setting.support is None and setting.demonstrations in selections
        if (setting.task, setting.shots, score.metric) == (figure.task, figure.shots, figure.metric) and is_plain:
            fitting.append(score)
    text_only = [score for score in fitting if score.setting.demonstrations == TEXT_ONLY]
    values = [score.value for score in text_only or fitting if len(score.seeds) == 1]
    return 100 * mean(values) if values else None


def figures_table(figures: Sequence[Figure], scores: Sequence[Score]) -> str:
    """Returns a table of published figures, our scores, their differences and the tolerances."""
    header = ["shots", "selection", "metric", "published", "ours", "difference", "tolerance", ""]
    lines = [" ".join(f"{cell:>12}" for cell in header)]
    for figure in figures:
        value = own_value(figure, scores)
        cells = [str(figure.shots), figure.demonstrations, figure.metric, f"{figure.value:.1f}"]
        if value is None:
            cells += ["-", "-", f"{figure.tolerance:.1f}", ""]
        else:
            difference = value - figure.value
            verdict = "reproduced" if abs(difference) <= figure.tolerance else "differs"
            cells += [f"{value:.1f}", f"{difference:+.1f}", f"{figure.tolerance:.1f}", verdict]
        lines.append(" ".join(f"{cell:>12}" for cell in cells))
    sources = dict.fromkeys(figure.source for figure in figures)
    return "\n".join([*lines, *(f"published: {source}" for source in sources)])
