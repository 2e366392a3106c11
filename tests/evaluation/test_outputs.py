"""A ranking task's outputs are the best candidates, and the rows of predictions keep the rankings."""

from dataclasses import replace

import pytest

from flamingo.data.caption_template import CaptionTemplate
from flamingo.data.document import Affixes, Image
from flamingo.evaluation import EvaluationConfig
from flamingo.evaluation.harness import evaluate, score_predictions
from flamingo.evaluation.outputs import continuations, ranking_of
from flamingo.evaluation.protocol import Example, Rank, RankingTask
from flamingo.evaluation.settings import Setting
from flamingo.inference.candidate_scores import CandidateScores
from flamingo.results import read_prediction_rows
from flamingo.utils.errors import UserError
from tests.evaluation.fake import FakeTask, TextEngine, example

SETTINGS = [Setting(3, "random"), Setting(3, "random", control="blind"), Setting(3, "random", control="copied_caption")]
TEMPLATE = CaptionTemplate()


class Classes(FakeTask):
    """Classes with the query's own one last. Queries with odd numbers are scored with the end of the chunk."""

    def rank(self, query):
        return Rank(("a cat", "a dog", query.references[0]), "minus_prior", end=int(query.id[-1]) % 2 == 1)


class LikesTheLast(TextEngine):
    """Finds the last candidate likeliest, and the first one without images."""

    def __init__(self):
        self.asked = []

    def score(self, prompts, candidates, end=False, blind=False, on_progress=None):
        self.asked.append(([prompt.id for prompt in prompts], candidates, end, blind))
        on_progress(len(prompts))
        sums = (-1.0, -2.0, -3.0) if blind else (-3.0, -2.0, -1.0)
        return [CandidateScores(tuple(texts), (1, 2, 4), sums, (-2.0, -2.0, -2.0)) for texts in candidates]


def test_outputs_are_the_best_candidates_and_rows_keep_rankings(tmp_path):
    task, engine, done = Classes(queries=3), LikesTheLast(), []
    assert isinstance(task, RankingTask) and not isinstance(FakeTask(), RankingTask)
    evaluate(engine, task, SETTINGS, tmp_path, EvaluationConfig(pictures=0), lambda *counts: done.append(counts))
    rows = read_prediction_rows(tmp_path / "predictions.jsonl")
    plain = [row for row in rows if row["control"] is None]
    assert [row["output"] for row in plain] == [row["references"][0] for row in plain]
    ranking = plain[1]["ranking"]
    assert [one["text"] for one in ranking["candidates"]] == [plain[1]["references"][0], "a dog", "a cat"]
    assert ranking["candidates"][0] == {"text": plain[1]["references"][0], "sum": -1.0, "mean": -0.25, "minus_prior": 1}
    assert ranking["by"] == "minus_prior" and ranking["entropy"] == pytest.approx(0.8324, abs=1e-4)
    assert ranking["kl"] == pytest.approx(1.0986 - 0.8324, abs=1e-4)  # from equal priors
    assert {row["output"] for row in rows if row["control"] == "blind"} == {"a cat"}
    assert all("ranking" not in row for row in rows if row["control"] == "copied_caption")
    assert [(ids, end, blind) for ids, _, end, blind in engine.asked] == [
        (["query/0", "query/2"], False, False),
        (["query/1"], True, False),
        (["query/0", "query/2"], False, True),
        (["query/1"], True, True),
    ]
    assert done[-1] == (9, 9)
    assert score_predictions(task, rows) == rows
    evaluate(engine, task, SETTINGS, tmp_path, EvaluationConfig(pictures=0))
    assert len(engine.asked) == 4


class Ensemble(Classes):
    """Three candidates over 7 orders at most."""

    def rank(self, query):
        return Rank(("a", "b", "c"), "mean", end=True, ensembled_orders=7)

    def similar(self, query, number):
        return self.support(query)[0][:number]


class ByOrder(TextEngine):
    """The log-likelihood of the first candidate is the number of the demonstration that comes first."""

    def __init__(self):
        self.prompts = []

    def score(self, prompts, candidates, end=False, blind=False, on_progress=None):
        self.prompts += prompts
        assert end
        scores = []
        for prompt, texts in zip(prompts, candidates, strict=True):
            on_progress(1)
            first = -float(numbers(prompt)[0])
            scores.append(CandidateScores(tuple(texts), (2, 2, 2), (first, -20.0, -30.0), (-1.0, -1.0, -1.0)))
        return scores


def numbers(prompt):
    """The numbers of the demonstrations in the order of the prompt, by the widths of their pictures."""
    pictures = [part.frames[0].size[0] for part in prompt.parts[:-2] if isinstance(part, Image)]
    return [(width - 20) // 3 for width in pictures]


@pytest.mark.parametrize("selection", ["random", "rices"])
def test_prompt_ensembling_averages_over_random_orders(selection, tmp_path):
    task, engine, done = Ensemble(queries=3), ByOrder(), []
    settings = [Setting(3, selection), Setting(2, selection)]
    config = EvaluationConfig(pictures=0)
    evaluate(engine, task, settings, tmp_path, config, lambda *counts: done.append(counts))
    assert len(engine.prompts) == 3 * 6 + 3 * 2  # 3! orders, and 2!
    rows = read_prediction_rows(tmp_path / "predictions.jsonl")
    orders = [numbers(prompt) for prompt in engine.prompts[:6]]
    assert len({tuple(order) for order in orders}) > 1 and len({tuple(sorted(order)) for order in orders}) == 1
    sums = {one["text"]: one["sum"] for one in rows[0]["ranking"]["candidates"]}
    assert sums == {"a": pytest.approx(-sum(order[0] for order in orders) / 6), "b": -20, "c": -30}
    shown = [int(id.removeprefix("support/")) for id in rows[0]["demonstration_ids"]]
    assert shown == orders[0]  # rows have the first of the orders
    assert done[-1] == (6, 6) and len(rows) == 6
    assert score_predictions(task, rows) == rows
    evaluate(None, task, settings, tmp_path, config)


def test_candidates_follow_the_prompt_as_in_a_demonstration():
    request = Rank(("red", "dark red"))
    asked = Example("q", example("query", 0).image, ("red",), "Question: which? Answer:")
    assert continuations(asked, request, TEMPLATE) == [" red", " dark red"]
    captioned = example("query", 0)
    assert continuations(captioned, request, TEMPLATE) == [" red", " dark red"]
    assert continuations(captioned, request, CaptionTemplate("Caption:{caption}")) == ["red", "dark red"]
    stops = CaptionTemplate(affixes=Affixes(end_of_chunk="."))
    assert continuations(captioned, request, stops) == [" red", " dark red"]
    assert continuations(captioned, replace(request, end=True), stops) == [" red.", " dark red."]
    for candidate, text in zip(request.candidates, continuations(asked, request, TEMPLATE), strict=True):
        assert asked.question(TEMPLATE) + text == asked.with_caption(candidate).answered(TEMPLATE)


def test_the_order_of_a_ranking_is_that_of_its_value():
    scores = CandidateScores((" a", " b"), (1, 4), (-1.0, -2.0), (-1.0, -5.0))
    for by, best in (("sum", "a"), ("mean", "b"), ("minus_prior", "b")):
        assert ranking_of(Rank(("a", "b"), by), scores)["candidates"][0]["text"] == best


@pytest.mark.parametrize("decoding", [{"num_beams": 3}, {"temperature": 1.0}])
def test_a_ranking_task_refuses_other_decoding(tmp_path, decoding):
    with pytest.raises(UserError, match="num_beams"):
        evaluate(LikesTheLast(), Classes(), [Setting(0, None, **decoding)], tmp_path, EvaluationConfig())
