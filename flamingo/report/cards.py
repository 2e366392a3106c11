"""Predictions and saved pictures -> what the page shows of single queries."""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from flamingo.report.averages import in_order, main_decoding
from flamingo.results import Prediction, SettingOfTask
from flamingo.utils.errors import UserError
from flamingo.utils.names import picture_path


@dataclass(frozen=True)
class Answer:
    """One output; ``right`` is None where the task has no exact match."""

    setting: str
    output: str
    right: bool | None


@dataclass(frozen=True)
class Card:
    """A query with its demonstrations (picture or None, and the text of the prompt) in order.

    Pictures are data URIs.
    """

    task: str
    query: str
    picture: str
    prompt: str
    references: tuple[str, ...]
    demonstrations: tuple[tuple[str | None, str], ...]
    answers: tuple[Answer, ...]
    controls: tuple[Answer, ...]


def cards(predictions: Iterable[Prediction], pictures: Path, limit: int = 12) -> list[Card]:
    """Up to ``limit`` queries whose picture was kept, spread evenly over the tasks.

    Each shows its smallest seed and one decoding, the demonstrations of the largest number of
    shots, and of each control the run with the most shots.
    """
    queries: dict[str, dict[str, list[Prediction]]] = {}
    for prediction in predictions:
        if picture_path(pictures, prediction.setting.task, prediction.query).is_file():
            queries.setdefault(prediction.setting.task, {}).setdefault(prediction.query, []).append(prediction)
    quotas = [limit // len(queries) + (i < limit % len(queries)) for i in range(len(queries))]
    return [
        _card(found, pictures)
        for task, quota in zip(queries.values(), quotas, strict=True)
        for found in list(task.values())[:quota]
    ]


def _card(predictions: Sequence[Prediction], pictures: Path) -> Card:
    decoding = main_decoding(p.setting.decoding for p in predictions)
    seed = min(p.seed for p in predictions if p.setting.decoding == decoding)
    shown = in_order(p for p in predictions if p.setting.decoding == decoding and p.seed == seed)
    plain = [p for p in shown if p.setting.control is None]
    # The largest number of shots of a control comes last and stays.
    controls = {p.setting.series: p for p in shown if p.setting.control is not None}
    any_of_them = shown[0]
    with_pictures = [p for p in plain if p.setting.shots and p.demonstration_ids]
    fullest = max(with_pictures, key=lambda p: (p.setting.shots, p.setting.series == ""), default=None)
    return Card(
        task=any_of_them.setting.task,
        query=any_of_them.query,
        picture=_data_uri(picture_path(pictures, any_of_them.setting.task, any_of_them.query)),
        prompt=(fullest or any_of_them).prompt.split("<image>")[-1].strip(),
        references=any_of_them.references,
        demonstrations=_demonstrations(fullest, pictures) if fullest else (),
        answers=tuple(_answer(p) for p in sorted(plain, key=lambda p: (p.setting.shots, p.setting.series))),
        controls=tuple(_answer(p) for p in controls.values()),
    )


def _demonstrations(prediction: Prediction, pictures: Path) -> tuple[tuple[str | None, str], ...]:
    """The prompt is ``... <image>text<|endofchunk|> ... <image>text``, the last image being the query."""
    texts = [text.replace("<|endofchunk|>", "").strip() for text in prediction.prompt.split("<image>")[1:-1]]
    if len(texts) != len(prediction.demonstration_ids):
        raise UserError(
            f"the prompt of query {prediction.query!r} ({prediction.setting}) has {len(texts)} images before the "
            f"query's, but there are {len(prediction.demonstration_ids)} demonstration_ids"
        )
    task = prediction.setting.task
    paths = [picture_path(pictures, task, image_id) for image_id in prediction.demonstration_ids]
    return tuple((_data_uri(p) if p.is_file() else None, text) for p, text in zip(paths, texts, strict=True))


def _answer(prediction: Prediction) -> Answer:
    match = prediction.scores.get("exact_match")
    return Answer(setting_name(prediction.setting), prediction.output, None if match is None else match == 1)


def setting_name(setting: SettingOfTask) -> str:
    shots = f"{setting.shots} shot{'' if setting.shots == 1 else 's'}"
    return f"{shots}, {setting.series}" if setting.series else shots


def _data_uri(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
