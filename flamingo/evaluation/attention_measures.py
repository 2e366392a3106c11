"""Attention at the last token of prompts -> rows of ``in_context.json``: means over queries, with intervals."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from accelerate.utils import broadcast_object_list
from jaxtyping import Float

from flamingo.data.caption_template import CaptionTemplate
from flamingo.data.document import Document
from flamingo.evaluation import EvaluationConfig
from flamingo.evaluation.demonstrations import prompt_examples
from flamingo.evaluation.metrics.resampling import Statistic, mean
from flamingo.evaluation.prompts import build_prompt
from flamingo.evaluation.protocol import Example, Task
from flamingo.evaluation.settings import Setting
from flamingo.evaluation.statistics import percentile_interval, resample
from flamingo.inference.engine import AttentionKey, AttentionMeasures, Engine, InspectingEngine
from flamingo.measure_rows import GATED_NORM, SELF_ATTENTION, Measure, read_measures, save_measures
from flamingo.results import SettingOfTask, setting_of
from flamingo.row_fields import Interval
from flamingo.utils.devices import processes

log = logging.getLogger(__name__)

#: The number of resamples of an interval, as of a score's.
_NUM_RESAMPLES = 1000


def save_attention_measures(
    file: Path,
    engine: Engine | None,
    task: Task,
    settings: Sequence[Setting],
    queries: Sequence[Example],
    config: EvaluationConfig,
    template: CaptionTemplate,
) -> None:
    """Measures attention in the settings without a control, and saves the rows after each setting.

    A setting whose rows have the same number of queries is not measured again. Settings that differ in decoding alone
    have the same prompts, which run once. All processes call this function, and the main process writes the file.

    Args:
        file: ``in_context.json``.
        engine: The model. Without attention, or None, nothing is measured.
        task: The task.
        settings: All settings of the evaluation.
        queries: The queries of the evaluation, of which the first ``config.attention_queries`` are measured.
        config: ``attention_queries`` is used here.
        template: The template of captions of settings without one.
    """
    queries = queries[: config.attention_queries]
    if not queries or not isinstance(engine, InspectingEngine):
        return
    [finished] = broadcast_object_list([_finished(file, len(queries))])
    missing = []
    for setting in settings:
        if setting.control is None and (setting_of(setting.row(task)), setting.seed) not in finished:
            missing.append(setting)
    if missing:
        log.info("%s: attention at the prompts of %d queries in %d settings", task.name, len(queries), len(missing))
    measures_of: dict[Setting, list[AttentionMeasures]] = {}
    for setting in missing:
        greedy = replace(setting, num_beams=1, temperature=None, top_p=1.0)
        if greedy not in measures_of:
            measures_of[greedy] = engine.attention(_prompts(task, setting, queries, template))
        rows = _rows(setting_of(setting.row(task)), setting.seed, measures_of[greedy])
        if rows and processes().is_main_process:
            save_measures(file, rows)
    if any(not _has_self_attention(measures) for measures in measures_of.values()):
        log.info("%s: the language model gives no self-attention weights, which are left out", task.name)


def _finished(file: Path, num_queries: int) -> set[tuple[SettingOfTask, int]]:
    """Returns the settings and seeds whose attention is measured on so many queries."""
    if not file.exists():
        return set()
    finished = set()
    for measure in read_measures(file):
        if measure.name in (GATED_NORM, SELF_ATTENTION) and measure.n == num_queries:
            finished.add((measure.setting, measure.seed))
    return finished


def _prompts(task: Task, setting: Setting, queries: Sequence[Example], template: CaptionTemplate) -> list[Document]:
    template = setting.caption_template(template)
    prompts = []
    for query in queries:
        examples = prompt_examples(task, query, setting)
        prompts.append(build_prompt(query, examples, setting.with_images, template))
    return prompts


def _has_self_attention(measures: Sequence[AttentionMeasures]) -> bool:
    return any(key.name == SELF_ATTENTION for key in measures[0])


def _rows(setting: SettingOfTask, seed: int, measures: Sequence[AttentionMeasures]) -> list[Measure]:
    """Returns a row for each measure: its mean over the prompts that have a value, and its interval."""
    keys: dict[AttentionKey, None] = {}
    for of_prompt in measures:
        keys |= dict.fromkeys(of_prompt)
    if not keys:
        return []
    statistics = [mean([of_prompt.get(key) for of_prompt in measures]) for key in keys]
    resampled = resample(statistics, _NUM_RESAMPLES).resampled
    rows = []
    for key, statistic, values in zip(keys, statistics, resampled.T, strict=True):
        row = Measure(
            setting=setting,
            seed=seed,
            name=key.name,
            distance=key.distance,
            layer=key.layer,
            part=key.part,
            value=statistic.value,
            ci95=_interval(statistic, values),
            n=statistic.n,
        )
        rows.append(row)
    return rows


def _interval(statistic: Statistic, resampled: Float[np.ndarray, " resamples"]) -> Interval:
    """Returns the percentile interval over queries; None for a single query."""
    if statistic.n < 2:
        return None
    return percentile_interval(resampled[np.isfinite(resampled)])
