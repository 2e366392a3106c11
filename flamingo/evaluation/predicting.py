"""Makes the predictions of settings, which all processes share, with a progress bar."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

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
from flamingo.utils.sharing import shared_each

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
    numbers = {setting: len(own_jobs) for setting, own_jobs in jobs.items()}
    is_main_process = processes().is_main_process
    with _progress(sum(numbers.values()), on_progress, visible=is_main_process) as (bar, advance):
        clock = ControlClock(numbers, partial(_announce, bar) if is_main_process else None)
        for setting, own_jobs in jobs.items():
            bar.set_description(f"{title}: {setting}")
            clock.begin(setting)
            rows = _predict(engine, task, setting, own_jobs, config, template, advance)
            clock.end(setting)
            yield setting, rows


@contextmanager
def _progress(
    total: int, on_progress: Callable[[int, int], object] | None, visible: bool
) -> Iterator[tuple[tqdm, Callable[[int], None]]]:
    """Yields a progress bar, and the function that advances it by a number of predictions."""
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
    """Returns the predictions of a setting, in the order of its jobs. All processes share the work.

    The engine decides which process runs which prompts, so that batches do not depend on the number of processes.
    """
    template = setting.caption_template(template)
    outputs: list[Output] = []
    if setting.change.answer is None:
        assert engine is not None
        prompts = []
        for order, query in jobs:
            orders = ensembled_orders(task, query, setting, order)
            prompts.append(_prompts(task, query, setting, orders, template))
        queries = [query for _, query in jobs]
        outputs = make_outputs(engine, task, setting, queries, prompts, config, template, on_progress)
    own_task = with_support(task, setting.support)

    def row(number: int) -> Row:
        order, query = jobs[number]
        examples = prompt_examples(task, query, setting, ensembled_orders(task, query, setting, order)[0])
        if setting.change.answer is None:
            output = outputs[number]
        else:
            output = Output(setting.change.answer(own_task, query, examples))
        prompt = build_prompt(query, examples, setting.with_images, template)
        return prediction_row(task, setting, order, query, examples, prompt, output)

    rows = shared_each(row, range(len(jobs)))
    if setting.change.answer is not None:
        on_progress(len(jobs))
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
