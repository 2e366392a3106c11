"""A query with its output -> a row of predictions.jsonl; a row of an earlier evaluation -> the row with new scores."""

from collections.abc import Sequence

from flamingo.data.caption_template import CaptionTemplate
from flamingo.data.document import Document
from flamingo.evaluation.demonstrations import ensembled_orders, prompt_examples
from flamingo.evaluation.outputs import Output
from flamingo.evaluation.prompts import build_prompt, render_prompt
from flamingo.evaluation.protocol import Example, ScoredRankingTask, Task
from flamingo.evaluation.settings import Setting
from flamingo.results import Row
from flamingo.utils.errors import UserError


def prediction_row(
    task: Task,
    setting: Setting,
    order: int,
    query: Example,
    examples: Sequence[Example],
    prompt: Document,
    output: Output,
) -> Row:
    """Returns one row of ``predictions.jsonl``."""
    scores_by_metric = task.score(query, examples, output.text)
    if output.ranking is not None and isinstance(task, ScoredRankingTask):
        scores_by_metric |= task.score_ranking(query, [one["text"] for one in output.ranking["candidates"]])
    row = setting.row(task)
    row["order"] = order
    row["query"] = query.id
    if query.group is not None:
        row["group"] = query.group
    row["demonstration_ids"] = [example.id for example in examples]
    row["demonstration_answers"] = [example.references[0] for example in examples]
    row["prompt"] = render_prompt(prompt)
    row["output"] = output.text
    if output.ranking is not None:
        row["ranking"] = output.ranking
    row["references"] = list(query.references)
    row["scores"] = {metric: float(value) for metric, value in scores_by_metric.items()}
    return row


def rescored_row(task: Task, setting: Setting, query: Example, row: Row, template: CaptionTemplate) -> Row:
    """Returns the row with the current scores.

    Raises:
        UserError: If the task has changed since the prediction.
    """
    shown_first = ensembled_orders(task, query, setting, row["order"])[0]
    examples = prompt_examples(task, query, setting, shown_first)
    prompt = build_prompt(query, examples, setting.with_images, setting.caption_template(template))
    output = Output(row["output"], row.get("ranking"))
    new = prediction_row(task, setting, row["order"], query, examples, prompt, output)
    for field in ("demonstration_ids", "demonstration_answers", "prompt", "references"):
        if row[field] != new[field]:
            raise UserError(
                f"{task.name} has changed: the {field} of {row['query']!r} were {row[field]!r} when it was predicted, "
                f"and now are {new[field]!r}; evaluate into another folder"
            )
    return new
