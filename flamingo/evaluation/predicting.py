"""Makes the predictions of settings, which all processes share, with a progress bar."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

from accelerate.utils import gather_object
from tqdm.auto import tqdm

from flamingo.data.caption_template import CaptionTemplate
from flamingo.data.document import Document
from flamingo.evaluation import EvaluationConfig
from flamingo.evaluation.control_clock import ControlClock
from flamingo.evaluation.demonstrations import ensembled_orders, prompt_examples
from flamingo.evaluation.outputs import Output, make_outputs
from flamingo.evaluation.prediction_rows import prediction_row
from flamingo.evaluation.prompts import build_prompt
from flamingo.evaluation.protocol import Example, Task, with_support
from flamingo.evaluation.settings import Setting
from flamingo.inference.engine import Engine
from flamingo.results import Row
from flamingo.utils.devices import processes
from flamingo.utils.progress import progress_bar

log = logging.getLogger(__name__)

Job = tuple[int, Example]
"""The number of the demonstrations' order, and a query."""


def setting_jobs(setting: Setting, queries: Sequence[Example], num_orders: int) -> list[Job]:
    """Returns the jobs of a setting. Controls, single demonstrations and retrieved ones have only one order."""
    has_orders = setting.num_demonstrations > 1 and not setting.is_retrieved
    if setting.control is not None or not has_orders:
        num_orders = 1
    jobs = []
    for order in range(num_orders):
        jobs += [(order, query) for query in queries]
    return jobs


def make_predictions(
    engine: Engine | None,
    task: Task,
    jobs: Mapping[Setting, Sequence[Job]],
    config: EvaluationConfig,
    template: CaptionTemplate,
    title: str,
    on_progress: Callable[[int, int], object] | None,
) -> Iterator[tuple[Setting, list[Row]]]:
    """Yields the predictions of each setting, which all processes share, in the order of its jobs."""
    state = processes()
    shares = {setting: own_jobs[state.process_index :: state.num_processes] for setting, own_jobs in jobs.items()}
    numbers = {setting: len(own_jobs) for setting, own_jobs in jobs.items()}
    with _progress(shares, on_progress, visible=state.is_main_process) as (bar, advance):
        clock = ControlClock(numbers, partial(_announce, bar) if state.is_main_process else None)
        for setting, share in shares.items():
            bar.set_description(f"{title}: {setting}")
            clock.begin(setting)
            share_rows = _predict(engine, task, setting, share, config, template, advance)
            rows = _in_order(gather_object(share_rows), jobs[setting])
            clock.end(setting)
            yield setting, rows


@contextmanager
def _progress(
    shares: Mapping[Setting, Sequence[Job]],
    on_progress: Callable[[int, int], object] | None,
    visible: bool,
) -> Iterator[tuple[tqdm, Callable[[int], None]]]:
    """Yields a progress bar, and the function that advances it by a number of predictions."""
    total = sum(len(share) for share in shares.values())
    with progress_bar(total, "prediction", visible=visible) as bar:
        count = 0

        def advance(number: int) -> None:
            nonlocal count
            count += number
            bar.update(number)
            if on_progress is not None:
                on_progress(count, total)

        yield bar, advance


def _announce(bar: tqdm, text: str) -> None:
    """Logs a line in place of the bar. The next prediction draws the bar below it."""
    bar.clear()
    log.info(text)


def _predict(
    engine: Engine | None,
    task: Task,
    setting: Setting,
    jobs: Sequence[Job],
    config: EvaluationConfig,
    template: CaptionTemplate,
    on_progress: Callable[[int], None],
) -> list[Row]:
    template = setting.caption_template(template)
    queries = [query for _, query in jobs]
    orders = [ensembled_orders(task, query, setting, order) for order, query in jobs]
    demonstrations = []
    for query, own_orders in zip(queries, orders, strict=True):
        demonstrations.append(prompt_examples(task, query, setting, own_orders[0]))
    if setting.change.answer is not None:
        own_task = with_support(task, setting.support)
        outputs = []
        for query, examples in zip(queries, demonstrations, strict=True):
            outputs.append(Output(setting.change.answer(own_task, query, examples)))
        on_progress(len(jobs))
    else:
        assert engine is not None
        prompts = []
        for query, own_orders in zip(queries, orders, strict=True):
            prompts.append(_prompts(task, query, setting, own_orders, template))
        outputs = make_outputs(engine, task, setting, queries, prompts, config, template, on_progress)
    rows = []
    for (order, query), examples, output in zip(jobs, demonstrations, outputs, strict=True):
        prompt = build_prompt(query, examples, setting.with_images, template)
        rows.append(prediction_row(task, setting, order, query, examples, prompt, output))
    return rows


def _prompts(
    task: Task, query: Example, setting: Setting, orders: Sequence[int], template: CaptionTemplate
) -> list[Document]:
    """Returns the prompt of a query with its demonstrations in each order."""
    prompts = []
    for order in orders:
        examples = prompt_examples(task, query, setting, order)
        prompts.append(build_prompt(query, examples, setting.with_images, template))
    return prompts


def _in_order(rows: Sequence[Row], jobs: Sequence[Job]) -> list[Row]:
    """Returns the rows of all processes in the order of the jobs."""
    by_job = {}
    for row in rows:
        by_job[row["order"], row["query"]] = row
    return [by_job[order, query.id] for order, query in jobs]
