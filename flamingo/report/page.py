"""One self-contained page of HTML about a run."""

import base64
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from matplotlib.figure import Figure

from flamingo.report.averages import in_order, main_decoding, mean_over_seeds
from flamingo.report.cards import cards, setting_name
from flamingo.report.curves import few_shot_figure, headline_metrics, metric_name, training_figure
from flamingo.report.escaping import code, markdown, row
from flamingo.report.style import png, svg
from flamingo.results import Score, SettingOfTask, read_history, read_predictions, read_scores
from flamingo.utils.io import write_bytes, write_text


def write_report(run: Path, title: str | None = None) -> list[Path]:
    """Writes ``few_shot.png`` and ``report.html`` into the folder of a run, from its result files; returns both paths.

    ``scores.json`` and ``predictions.jsonl`` are needed. The page says what it leaves out if ``history.jsonl``,
    ``config.yaml`` or ``pictures/`` are missing.

    Raises:
        UserError: For a missing or malformed file or row. Nothing is written then.
    """
    scores = read_scores(run / "scores.json")
    predictions = read_predictions(run / "predictions.jsonl")
    history = []
    history_file = run / "history.jsonl"
    if history_file.is_file():
        history = read_history(history_file)
    config = None
    config_file = run / "config.yaml"
    if config_file.is_file():
        config = config_file.read_text(encoding="utf-8")
    few_shot = few_shot_figure(scores)
    tasks = list(dict.fromkeys(score.setting.task for score in scores))
    page = template("report.html").render(
        title=title or f"Few-shot results of {run.resolve().name}",
        headlines=[_headline(scores, task) for task in tasks],
        few_shot=as_pictures(few_shot),
        tables=[_table(scores, task) for task in tasks],
        cards=cards(predictions, run / "pictures"),
        training=as_pictures(training_figure(history)) if history else None,
        last=history[-1] if history else None,
        config=config,
    )
    plot = run / "few_shot.png"
    report = run / "report.html"
    write_bytes(plot, png(few_shot))
    write_text(report, page)
    return [plot, report]


def template(name: str) -> Template:
    """Returns one of our templates, which escapes all that it is given: as HTML, or in an ``.md`` file as Markdown.

    A variable that is not given is an error.
    """
    escapes: dict[str, Any] = {"autoescape": True}
    if name.endswith(".md"):
        escapes = {"autoescape": False, "finalize": markdown}
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **escapes,
    )
    return environment.get_template(name, globals={"code": code, "row": row})


def _headline(scores: Sequence[Score], task: str) -> dict[str, Any]:
    """The task's first metric at its largest number of shots, and the scores to compare it with."""
    metric = headline_metrics(scores, task)[0]
    means = []
    for score in mean_over_seeds(scores):
        if score.setting.task == task and score.metric == metric:
            means.append(score)
    decoding = main_decoding(score.setting.decoding for score in means)
    means = in_order(score for score in means if score.setting.decoding == decoding)
    plain = [score for score in means if score.setting.series == ""] or means
    best = plain[-1]
    zero_shot = [_number(score.value) for score in plain[:-1] if score.setting.shots == 0]
    controls = []
    for score in means:
        setting = score.setting
        if setting.control is not None and setting.shots == best.setting.shots:
            controls.append((_number(score.value), setting.series))
    return {
        "task": task,
        "metric": metric_name(metric),
        "value": _number(best.value),
        "interval": _interval(best),
        "setting": setting_name(best.setting),
        "zero": zero_shot[0] if zero_shot else None,
        "controls": controls,
    }


def _table(scores: Sequence[Score], task: str) -> dict[str, Any]:
    """A row per setting, a column per metric, the rarer the further right; None where it was not computed."""
    means = [score for score in mean_over_seeds(scores) if score.setting.task == task]
    counts = Counter(score.metric for score in means)
    metrics = [metric for metric, _ in counts.most_common()]
    scores_of: dict[SettingOfTask, dict[str, Score]] = {}
    for score in in_order(means):
        scores_of.setdefault(score.setting, {})[score.metric] = score
    rows = []
    for setting, scores_by_metric in scores_of.items():
        rows.append(_table_row(setting, scores_by_metric, metrics))
    return {
        "task": task,
        "metrics": [metric_name(metric) for metric in metrics],
        "rows": rows,
    }


def _table_row(setting: SettingOfTask, scores: Mapping[str, Score], metrics: Sequence[str]) -> dict[str, Any]:
    cells: list[tuple[str, str | None] | None] = []
    for metric in metrics:
        if metric in scores:
            score = scores[metric]
            cells.append((_number(score.value), _interval(score)))
        else:
            cells.append(None)
    counts = [score.n for score in scores.values() if not score.metric.endswith("_order_std")]
    return {
        "shots": setting.shots,
        "demonstrations": _demonstrations(setting),
        "control": setting.control_name,
        "decoding": setting.decoding,
        "cells": cells,
        "n": _range(counts),
        "seeds": max(len(score.seeds) for score in scores.values()),
    }


def _demonstrations(setting: SettingOfTask) -> str:
    """The demonstrations, and the template if it is not the checkpoint's."""
    name = (setting.demonstrations or "none").replace("_", " ")
    return name if setting.template is None else f"{name}, {setting.template}"


def _number(value: float) -> str:
    """Times 100, as the papers' tables have it."""
    return f"{100 * value:.1f}"


def _range(counts: Iterable[int]) -> str:
    numbers = sorted(set(counts))
    if not numbers:
        return ""
    if len(numbers) == 1:
        return str(numbers[0])
    return f"{numbers[0]} to {numbers[-1]}"


def _interval(score: Score) -> str | None:
    if score.ci95 is None:
        return None
    low, high = score.ci95
    return f"{_number(low)} to {_number(high)}"


def as_pictures(figure: Figure) -> tuple[str, ...]:
    """Returns the figure as data URIs, for a light page and for a dark one."""
    uris = []
    for text in svg(figure):
        content = base64.b64encode(text.encode()).decode()
        uris.append(f"data:image/svg+xml;base64,{content}")
    return tuple(uris)
