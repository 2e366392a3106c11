"""VisDial, NLVR2 and Winoground in their layouts, from the files to the scores."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.setup.build import build_task
from flamingo.data.document import Text
from flamingo.evaluation.harness import evaluate
from flamingo.evaluation.settings import make_settings
from flamingo.inference.candidate_scores import CandidateScores
from flamingo.results import read_prediction_rows
from flamingo.utils.errors import UserError
from tests.data.readers.benchmark_files import ANSWERS, nlvr2_layout, visdial_layout, winoground_layout
from tests.data.shelf import write
from tests.evaluation.fake import TextEngine
from tests.helpers import tiny_clip
from tests.helpers.configs import composed

ROOT = Path(__file__).parent.parent.parent


class Values(TextEngine):
    """Scores candidates by a function of the prompt's id, of its last text and of the candidate."""

    def __init__(self, values):
        self.values = values

    def score(self, prompts, candidates, *args, **kwargs):
        scores = []
        for prompt, texts in zip(prompts, candidates, strict=True):
            last = [part.text for part in prompt.parts if isinstance(part, Text)][-1]
            sums, priors = zip(*(self.values(prompt.id, last, text.strip()) for text in texts), strict=True)
            scores.append(CandidateScores(tuple(texts), (1,) * len(texts), sums, priors))
        return scores


def run(output, values, task, *overrides):
    config = composed("evaluate", f"task={task}", "pictures=0", "text_only=false", "controls=[]", *overrides)
    built = build_task(config.task, open_images=True)
    evaluate(Values(values), built, make_settings(config, built), output, config)
    scores = {}
    for row in json.loads((output / "scores.json").read_text()):
        scores[row["shots"], row["metric"]] = row["value"]
    return scores, read_prediction_rows(output / "predictions.jsonl")


def sources(query, support=None):
    return f"task.query={query}", f"task.support={support or query}"


def in_order(id, prompt, candidate):
    """The candidates in the order of the data."""
    return -float(ANSWERS.index(candidate)), 0.0


def test_dialogues_are_ranked_from_files_to_scores(tmp_path):
    query, support = visdial_layout(tmp_path, "val", 3), visdial_layout(tmp_path, "train", 6)
    scores, rows = run(tmp_path / "out", in_order, "visdial", *sources(query, support), "demonstrations=[random]")
    best = 1 + 0.5 / math.log2(3)
    expected = {"ndcg": (1 / math.log2(3)) / best, "mrr": 0.5, "mean_rank": 2, "recall@1": 0, "recall@5": 1}
    expected["recall@10"] = 1
    assert scores == {(shots, name): pytest.approx(value) for shots in (0, 4) for name, value in expected.items()}
    asked = "Caption: picture 0 Question: is it old? Answer: no Question: is it new? Answer:"
    assert rows[0]["prompt"] == f"<image>{asked}" and rows[0]["query"] == "100/2"
    whole = "Question: is it old? Answer: no Question: is it new? Answer: yes Question: what is it? Answer: a dog"
    few_shot = rows[3]["prompt"].split("<|endofchunk|>")
    assert len(few_shot) == 5 and few_shot[4] == f"<image>{asked}"
    assert all(chunk.endswith(whole) and chunk.startswith("<image>Caption: picture ") for chunk in few_shot[:4])
    assert [one["text"] for one in rows[0]["ranking"]["candidates"]] == list(ANSWERS)


@pytest.mark.full
def test_all_rounds_are_asked_without_their_own_dialogue(tmp_path):
    file = visdial_layout(tmp_path, "val", 5)
    _, rows = run(
        *(tmp_path / "out", in_order, "visdial"), *sources(file), "task.rounds=all", "demonstrations=[random]"
    )
    assert len(rows) == 2 * 15
    for row in rows[15:]:
        others = {f"{number}/3" for number in range(100, 105)} - {row["query"].split("/")[0] + "/3"}
        assert set(row["demonstration_ids"]) == others


@pytest.mark.full
def test_a_round_without_a_relevant_candidate_has_no_ndcg(tmp_path):
    file = visdial_layout(tmp_path, "val", 2, relevance=(0.0,) * 6)
    scores, _ = run(tmp_path / "out", in_order, "visdial", *sources(file), "shots=[0]")
    assert (0, "ndcg") not in scores and scores[0, "mrr"] == 0.5


@pytest.mark.full
def test_dialogues_without_annotations_need_all_rounds(tmp_path):
    file = visdial_layout(tmp_path, "train", 2)
    with pytest.raises(UserError, match=r"task\.rounds=all"):
        run(tmp_path / "out", in_order, "visdial", *sources(file), "shots=[0]")
    scores, rows = run(tmp_path / "all", in_order, "visdial", *sources(file), "shots=[0]", "task.rounds=all")
    assert len(rows) == 6 and scores[0, "mrr"] == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)


def test_statements_are_ranked_from_files_to_scores(tmp_path):
    query, support = nlvr2_layout(tmp_path, "dev", 4), nlvr2_layout(tmp_path, "train", 6)

    def values(id, prompt, candidate):
        # Right for the first sentence, always true for the second.
        right = "true" if "There are 1" in prompt or id == "dev-0-0-0" else "false"
        return float(candidate == right), 0.0

    scores, rows = run(tmp_path / "out", values, "nlvr2", *sources(query, support), "shots=[0,4]")
    expected = {"accuracy": 0.75, "consistency": 0.5}
    assert scores == {(shots, name): value for shots in (0, 4) for name, value in expected.items()}
    assert rows[0]["prompt"] == "<image><image>Statement: There are 0. True or false? Answer:"
    few_shot = rows[4]["prompt"].split("<|endofchunk|>")
    assert len(few_shot) == 5 and few_shot[4] == rows[0]["prompt"]
    for chunk in few_shot[:4]:
        assert chunk.startswith("<image><image>Statement: There are ") and chunk.endswith((": true", ": false"))


@pytest.mark.full
def test_a_dual_encoder_has_the_same_scores_in_all_settings(tmp_path):
    file = winoground_layout(tmp_path, 5)
    tiny_clip.save(tmp_path / "clip")
    encoder = f"task.dual_encoder={tmp_path / 'clip'}"
    scores, _ = run(tmp_path / "out", lambda *texts: (0.0, 0.0), "winoground", *sources(file), encoder, "shots=[0,4]")
    for name in ("text", "image", "group"):
        assert scores[0, f"encoder_{name}_score"] == scores[4, f"encoder_{name}_score"]
        assert scores[0, f"{name}_score"] == 0  # equal values are not right


@pytest.mark.full
def test_other_data_and_retrieval_are_refused(tmp_path):
    dialogues, statements = visdial_layout(tmp_path, "val", 5), nlvr2_layout(tmp_path, "dev", 5)
    pairs = winoground_layout(tmp_path, 5)
    for task, query in (("nlvr2", statements), ("winoground", pairs)):
        with pytest.raises(UserError, match=r"demonstrations=\[random\]"):
            run(tmp_path / task, in_order, task, *sources(query), "shots=[4]", "demonstrations=[rices]")
    wrong = {"nlvr2": (dialogues, "visdial"), "visdial": (statements, "nlvr2"), "winoground": (None, "jsonl")}
    captions = write(tmp_path / "captions.jsonl", [{"image": "images/ex_0_img_0.png", "caption": "a dog"}])
    for task, (query, format) in wrong.items():
        with pytest.raises(UserError, match=rf"task\.format={task}"):
            run(tmp_path / task, in_order, task, *sources(query or captions), f"task.format={format}")


def test_pairs_are_scored_from_files_to_scores(tmp_path):
    file = winoground_layout(tmp_path, 4)

    def values(id, prompt, candidate):
        """Right for pair 0; for pair 1 the prior decides; for pair 2 the first image has larger values."""
        pair, side = map(int, id.split("/"))
        own = candidate.startswith("a mat") == (side == 1)
        prior = 5.0 * candidate.startswith("a mat")
        if pair == 2:
            return prior + own + 3 * (side == 0), prior
        return prior + (own if pair < 2 else -own), prior

    overrides = (*sources(file), "shots=[0,4]")
    scores, rows = run(tmp_path / "out", values, "winoground", *overrides)
    expected = {"text_score": 0.75, "image_score": 0.5, "group_score": 0.5}
    assert scores == {(shots, name): value for shots in (0, 4) for name, value in expected.items()}
    assert rows[0]["prompt"] == "<image>Output:" and rows[0]["references"] == ["0 dogs on a mat"]
    for first, second in zip(rows[8::2], rows[9::2], strict=True):
        assert first["demonstration_ids"] == second["demonstration_ids"]
        assert first["demonstration_answers"] == second["demonstration_answers"]
        assert not {first["query"], second["query"]} & set(first["demonstration_ids"])
    assert len({tuple(row["demonstration_ids"]) for row in rows[8:]}) == 4
    assert [row["n"] for row in json.loads((tmp_path / "out" / "scores.json").read_text())] == [4] * 6


@pytest.mark.full
def test_the_commands_evaluate_each_task(tmp_path):
    def command(name, *arguments):
        line = [sys.executable, "-m", f"experiments.{name}", *arguments]
        result = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr[-4000:]

    statements = nlvr2_layout(tmp_path, "train", 20)
    tasks = {
        "visdial": (visdial_layout(tmp_path, "val", 4), visdial_layout(tmp_path, "train", 8), {"ndcg", "mrr"}),
        "nlvr2": (nlvr2_layout(tmp_path, "dev", 4), statements, {"accuracy", "consistency"}),
        "winoground": (*[winoground_layout(tmp_path, 4)] * 2, {"text_score", "image_score", "group_score"}),
    }
    common = ("experiment=demo", "debug=quick", "tracker=none", "evaluate=[]", "data.split=train")
    steps = ("data.splits.make=true", "training.steps=3", "optimizer.warmup_steps=1")
    several = ("data.documents.several.max_images=2", "data.documents.several.min_images=2", "data=questions")
    output = tmp_path / "run"
    of_data = (f"data.root={statements}", "data.format=nlvr2", f"output={output}")
    command("train", *common, *steps, *several, *of_data)
    for task, (query, support, metrics) in tasks.items():
        shots = ("shots=[0,4]", "control_shots=[4]")
        command("evaluate", f"run={output}", f"task={task}", *sources(query, support), *shots)
        rows = [row for row in json.loads((output / "scores.json").read_text()) if row["task"] == task]
        assert metrics <= {row["metric"] for row in rows}
        assert {row["shots"] for row in rows if row["control"] is None} == {0, 4}
        blind = [row["value"] for row in rows if row["control"] == "blind" and row["metric"] == "image_score"]
        assert blind == [0] * len(blind)
    command("report", f"run={output}")
    assert "group score" in (output / "report.html").read_text()
