"""Predictions and saved pictures -> the queries that the page shows."""

import base64
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from flamingo.report.averages import in_order, main_decoding
from flamingo.results import Prediction, SettingOfTask
from flamingo.utils.errors import UserError
from flamingo.utils.names import picture_path

#: The markers of all images of an example.
_MARKERS = re.compile("(?:<image>)+")


@dataclass(frozen=True)
class Answer:
    """One output; ``right`` is None if the task has no exact match."""

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
    """Returns up to ``limit`` queries whose picture was saved, spread evenly over the tasks.

    Each card has the smallest seed and one decoding, the demonstrations of the largest number of shots, and for each
    control the setting with the most shots.
    """
    tasks: dict[str, dict[str, list[Prediction]]] = {}
    for prediction in predictions:
        task = prediction.setting.task
        query = prediction.query
        if picture_path(pictures, task, query).is_file():
            queries = tasks.setdefault(task, {})
            queries.setdefault(query, []).append(prediction)
    all_cards = []
    for number, queries in enumerate(tasks.values()):
        quota = limit // len(tasks)
        if number < limit % len(tasks):
            quota += 1
        for query_predictions in list(queries.values())[:quota]:
            all_cards.append(_card(query_predictions, pictures))
    return all_cards


def _card(predictions: Sequence[Prediction], pictures: Path) -> Card:
    decoding = main_decoding(p.setting.decoding for p in predictions)
    predictions = [p for p in predictions if p.setting.decoding == decoding]
    seed = min(p.seed for p in predictions)
    predictions = in_order(p for p in predictions if p.seed == seed)
    plain = []
    controls = {}
    for p in predictions:
        if p.setting.control is None:
            plain.append(p)
        else:
            # The largest number of shots of a control comes last and stays.
            controls[p.setting.series] = p
    with_demonstrations = [p for p in plain if p.setting.shots and p.demonstration_ids]
    fullest = max(with_demonstrations, key=lambda p: (p.setting.shots, p.setting.series == ""), default=None)
    plain_by_shots = sorted(plain, key=lambda p: (p.setting.shots, p.setting.series))
    first = predictions[0]
    return Card(
        task=first.setting.task,
        query=first.query,
        picture=_data_uri(picture_path(pictures, first.setting.task, first.query)),
        prompt=(fullest or first).prompt.split("<image>")[-1].strip(),
        references=first.references,
        demonstrations=_demonstrations(fullest, pictures) if fullest else (),
        answers=tuple(_answer(p) for p in plain_by_shots),
        controls=tuple(_answer(p) for p in controls.values()),
    )


def _demonstrations(prediction: Prediction, pictures: Path) -> tuple[tuple[str | None, str], ...]:
    """Returns the picture and text of each demonstration of a prompt.

    The prompt is ``... <image>text<|endofchunk|> ... <image>text``. Its last image is the query. The markers of
    images that share a text stand side by side, and these images are saved as one picture.

    Raises:
        UserError: If the prompt and the ids of the demonstrations do not fit together.
    """
    texts = []
    for text in _MARKERS.split(prediction.prompt)[1:-1]:
        texts.append(text.replace("<|endofchunk|>", "").strip())
    ids = prediction.demonstration_ids
    if len(texts) != len(ids):
        raise UserError(
            f"the prompt of query {prediction.query!r} ({prediction.setting}) has {len(texts)} examples with "
            f"images before the query, but there are {len(ids)} demonstration_ids"
        )
    demonstrations = []
    for id, text in zip(ids, texts, strict=True):
        path = picture_path(pictures, prediction.setting.task, id)
        picture = _data_uri(path) if path.is_file() else None
        demonstrations.append((picture, text))
    return tuple(demonstrations)


def _answer(prediction: Prediction) -> Answer:
    match = prediction.scores.get("exact_match")
    right = None if match is None else match == 1
    return Answer(setting_name(prediction.setting), prediction.output, right)


def setting_name(setting: SettingOfTask) -> str:
    """Returns the name of a setting on the page: its shots, and its series if it has one."""
    shots = f"{setting.shots} shot{'' if setting.shots == 1 else 's'}"
    return f"{shots}, {setting.series}" if setting.series else shots


def _data_uri(path: Path) -> str:
    content = base64.b64encode(path.read_bytes()).decode()
    return f"data:image/png;base64,{content}"
