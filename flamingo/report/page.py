"""One self-contained page of HTML about a run."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup
from matplotlib.figure import Figure

from flamingo.difference_rows import read_differences
from flamingo.history import read_history
from flamingo.measure_rows import read_measures
from flamingo.report.attention_measures_plot import attention_measures_figure
from flamingo.report.averages import in_order, main_decoding, mean_over_seeds
from flamingo.report.cards import cards, setting_name
from flamingo.report.copying_plot import copying_figure
from flamingo.report.curves import few_shot_figure, headline_metrics, metric_name
from flamingo.report.difference_table import difference_tables
from flamingo.report.escaping import code, markdown, row
from flamingo.report.page_tables import task_tables
from flamingo.report.score_text import UNITS, interval_text, score_text
from flamingo.report.style import png, svg
from flamingo.report.training_curves import training_figure
from flamingo.results import Score, read_predictions, read_scores
from flamingo.utils.durations import duration_text
from flamingo.utils.io import write_bytes, write_text
from flamingo.utils.reading import read_json

_FOLDER = Path(__file__).parent


def write_report(run: Path, title: str | None = None) -> list[Path]:
    """Writes ``few_shot.png`` and ``report.html`` into the folder of a run, from its result files.

    ``scores.json`` and ``predictions.jsonl`` are required. The page names what it leaves out if ``history.jsonl``,
    ``in_context.json``, ``config.yaml`` or ``pictures/`` are missing.

    Returns:
        The paths of both files.

    Raises:
        UserError: For a missing or malformed file or row; nothing is written then.
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
    differences = None
    differences_file = run / "differences.json"
    if differences_file.is_file():
        differences = read_differences(differences_file)
    measures = []
    measures_file = run / "in_context.json"
    if measures_file.is_file():
        measures = read_measures(measures_file)
    attention = attention_measures_figure(measures)
    few_shot = few_shot_figure(scores, differences or ())
    copying = copying_figure(measures)
    tasks = list(dict.fromkeys(score.setting.task for score in scores))
    page = template("report.html").render(
        title=title or f"Few-shot results of {run.resolve().name}",
        units=UNITS,
        headlines=[_headline(scores, task) for task in tasks],
        few_shot=as_pictures(few_shot),
        tasks={task: task_tables(scores, task) for task in tasks},
        differences=difference_tables(differences) if differences is not None else None,
        copying=as_pictures(copying) if copying else None,
        cards=cards(predictions, run / "pictures"),
        attention=as_pictures(attention) if attention is not None else None,
        training=as_pictures(training_figure(history)) if history else None,
        training_facts=_training_facts(history[-1]) if history else [],
        config=config,
        warnings=_warnings(run),
    )
    plot = run / "few_shot.png"
    report = run / "report.html"
    write_bytes(plot, png(few_shot))
    write_text(report, page)
    return [plot, report]


def _warnings(run: Path) -> list[str]:
    """Returns what evaluations of the run have warned of, as ``images-TASK.json`` has it."""
    warnings: list[str] = []
    for file in sorted(run.glob("images-*.json")):
        warnings += read_json(file).get("warnings", [])
    return warnings


def template(name: str) -> Template:
    """Returns one of our templates. It escapes all values: as HTML, or as Markdown in an ``.md`` file.

    A missing variable is an error.
    """
    escapes: dict[str, Any] = {"autoescape": True}
    if name.endswith(".md"):
        escapes = {"autoescape": False, "finalize": markdown}
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **escapes,
    )
    script = (_FOLDER / "tables.js").read_text(encoding="utf-8")
    digest = hashlib.sha256(script.encode()).digest()
    names = {
        "code": code,
        "row": row,
        "script": Markup(script),
        # Browsers run this script and no other.
        "script_hash": f"sha256-{base64.b64encode(digest).decode()}",
    }
    return environment.get_template(name, globals=names)


def _headline(scores: Sequence[Score], task: str) -> dict[str, Any]:
    """Returns the task's first metric at its largest number of shots, and the scores to compare it with."""
    metric = headline_metrics(scores, task)[0]
    means = []
    for score in mean_over_seeds(scores):
        if score.setting.task == task and score.metric == metric:
            means.append(score)
    decoding = main_decoding(score.setting.decoding for score in means)
    means = in_order(score for score in means if score.setting.decoding == decoding)
    plain = [score for score in means if score.setting.series == ""] or means
    best = plain[-1]
    zero_shot = [score_text(score.value) for score in plain[:-1] if score.setting.shots == 0]
    controls = []
    for score in means:
        setting = score.setting
        if setting.control is not None and setting.shots == best.setting.shots:
            controls.append((score_text(score.value), setting.series))
    return {
        "task": task,
        "metric": metric_name(metric),
        "value": score_text(best.value),
        "interval": interval_text(best.ci95),
        "setting": setting_name(best.setting),
        "zero": zero_shot[0] if zero_shot else None,
        "controls": controls,
    }


def _training_facts(last: Mapping[str, Any]) -> list[str]:
    """Returns the length of the training, by the last record of its history."""
    facts = [f"{last['step']:,} steps"]
    if "tokens" in last:
        facts.append(f"{last['tokens']:,} tokens")
    if "seconds" in last:
        facts.append(duration_text(float(last["seconds"])))
    return facts


def as_pictures(figure: Figure) -> tuple[str, ...]:
    """Returns the figure as data URIs, for a light page and for a dark one."""
    uris = []
    for text in svg(figure):
        content = base64.b64encode(text.encode()).decode()
        uris.append(f"data:image/svg+xml;base64,{content}")
    return tuple(uris)
