"""A ranking task's outputs are the best candidates, and the rows of predictions keep the rankings."""

import pytest

from flamingo.data.caption_template import CaptionTemplate
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


def test_candidates_follow_the_prompt_as_in_a_demonstration():
    request = Rank(("red", "dark red"))
    asked = Example("q", example("query", 0).image, ("red",), "Question: which? Answer:")
    assert continuations(asked, request, TEMPLATE) == [" red", " dark red"]
    captioned = example("query", 0)
    assert continuations(captioned, request, TEMPLATE) == [" red", " dark red"]
    assert continuations(captioned, request, CaptionTemplate("Caption:{caption}")) == ["red", "dark red"]
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
