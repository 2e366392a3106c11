"""A whole evaluation: its files, and what a second call repeats."""

import json
from dataclasses import astuple, replace

import pytest
from PIL import Image as PILImage

from flamingo.data.caption_template import CaptionTemplate
from flamingo.difference_rows import read_differences
from flamingo.evaluation import EvaluationConfig
from flamingo.evaluation.harness import evaluate, score_predictions
from flamingo.evaluation.scores import scores
from flamingo.evaluation.settings import Setting
from flamingo.inference.flamingo_engine import FlamingoEngine
from flamingo.measure_rows import GATED_NORM, read_measures
from flamingo.results import read_prediction_rows, setting_key, setting_of
from flamingo.utils.errors import UserError
from flamingo.utils.names import picture_path
from tests.evaluation.fake import SETTINGS, FakeTask, TextEngine, example, model_and_processor


@pytest.fixture(scope="module")
def parts(backbones):
    return model_and_processor(backbones)


@pytest.fixture(scope="module")
def run(parts, tmp_path_factory):
    """(folder, rows of scores): all kinds of settings, two orders."""
    folder = tmp_path_factory.mktemp("run") / "out"
    return folder, evaluate(
        FlamingoEngine(*parts, batch_size=4), FakeTask(), SETTINGS, folder, EvaluationConfig(num_orders=2, pictures=2)
    )


def test_rows_of_predictions_hold_all_that_a_report_needs(run):
    rows = read_prediction_rows(run[0] / "predictions.jsonl")
    assert len(rows) == 6 * (1 + 2 + 2 + 2 + 4 * 1)  # two orders of text_only, random, and random with beams
    task = FakeTask()
    for row in rows:
        assert list(row) == [
            "task", "shots", "demonstrations", "support", "control", "template", "decoding", "seed", "order", "query",
            "demonstration_ids", "demonstration_answers", "prompt", "output", "references", "scores",
        ]  # fmt: skip
        assert row["references"] == list(task.queries()[int(row["query"][-1])].references)
        assert row["scores"]["shown"] == len(row["demonstration_ids"])
        shown = [part.partition("Output: ")[2] for part in row["prompt"].split("<|endofchunk|>") if "Output: " in part]
        assert row["demonstration_answers"] == shown
        assert row["scores"]["length"] == len(row["output"])
    of = {(row["demonstrations"], row["control"], row["decoding"], row["order"], row["query"]): row for row in rows}
    assert of[None, None, "greedy", 0, "query/0"]["prompt"] == "<image>Output:"
    assert of["text_only", None, "greedy", 0, "query/0"]["prompt"].count("<image>") == 1
    assert len(of["text_only", None, "greedy", 0, "query/0"]["demonstration_ids"]) == 2
    plain = of["random", None, "greedy", 0, "query/0"]
    for control in ("blind", "shuffled_images", "shuffled_captions", "copied_caption"):
        assert of["random", control, "greedy", 0, "query/0"]["demonstration_ids"] == plain["demonstration_ids"]
    assert of["random", "blind", "greedy", 0, "query/0"]["prompt"] == plain["prompt"]
    assert of["random", "shuffled_images", "greedy", 0, "query/0"]["prompt"] == plain["prompt"]
    assert of["random", "shuffled_captions", "greedy", 0, "query/0"]["prompt"] != plain["prompt"]
    copied = of["random", "copied_caption", "greedy", 0, "query/0"]
    assert copied["prompt"].endswith(f"Output: {copied['output']}<|endofchunk|><image>Output:")
    second = of["random", None, "greedy", 1, "query/0"]
    assert sorted(second["demonstration_ids"]) == sorted(plain["demonstration_ids"])
    assert any(
        of["random", None, "greedy", 0, f"query/{i}"]["prompt"]
        != of["random", None, "greedy", 1, f"query/{i}"]["prompt"]
        for i in range(6)
    )
    outputs = [[row["output"] for row in rows if row["control"] == c and row["shots"] == 3] for c in (None, "blind")]
    assert outputs[0][:6] != outputs[1][:6]


def test_scores_are_those_of_the_predictions_without_duplicates(run):
    folder, returned = run
    rows = json.loads((folder / "scores.json").read_text())
    assert rows == returned
    names = [
        "task",
        "shots",
        "demonstrations",
        "support",
        "control",
        "template",
        "decoding",
        "seed",
        "metric",
        "value",
        "ci95",
        "n",
    ]
    assert all(list(row)[: len(names)] == names for row in rows)
    more = {row["metric"]: set(row) - set(names) for row in rows}
    assert more["CIDEr"] == {"references", "language", "document_frequency"} and more["length"] == set()
    assert len({tuple(row[name] for name in names[:9]) for row in rows}) == len(rows)
    predictions = read_prediction_rows(folder / "predictions.jsonl")
    greedy = [p for p in predictions if setting_key(p) == ("fake/captions", 3, "random", None, None, None, "greedy", 0)]
    found = {row["metric"]: row for row in rows if setting_key(row) == setting_key(greedy[0])}
    assert {"length", "CIDEr", "BLEU-1", "length_order_std", "CIDEr_order_std"} <= found.keys()
    lengths = [[len(p["output"]) for p in greedy if p["order"] == order] for order in (0, 1)]
    first, second = (sum(own) / 6 for own in lengths)
    assert found["length"]["value"] == pytest.approx(first) and found["length"]["n"] == 6
    assert found["length"]["ci95"][0] <= first <= found["length"]["ci95"][1]
    assert found["length_order_std"]["value"] == pytest.approx(abs(first - second) / 2**0.5)
    assert found["length_order_std"]["n"] == 2
    several = {row["demonstrations"] for row in rows if row["metric"].endswith("_order_std") and not row["control"]}
    assert several == {"random", "text_only"}
    assert not any(row["metric"].endswith("_order_std") for row in rows if row["control"])


def test_differences_are_of_scores_by_the_headline_metric(run):
    folder, returned = run
    scored = {setting_key(row)[1:7]: row["value"] for row in returned if row["metric"] == "CIDEr"}
    rows = read_differences(folder / "differences.json")
    compared = {(row.kind, row.setting.demonstrations, row.subtracted and row.subtracted.control) for row in rows}
    controls = {("control", "random", setting.control) for setting in SETTINGS if setting.control is not None}
    of_curves = {("icl_efficiency", "random", None)}
    assert compared == {("zero_shot", "text_only", None), ("zero_shot", "random", None)} | controls | of_curves
    for row in rows:
        assert (row.metric, row.n, row.interval, row.p) == ("CIDEr", 6, None, None)
        if row.subtracted is not None:
            sides = [scored[astuple(setting)[1:]] for setting in (row.setting, row.subtracted)]
            assert row.value == pytest.approx(sides[0] - sides[1]) and row.mark == "undecided"


def test_a_setting_with_other_queries_is_in_no_difference(parts, tmp_path, caplog):
    engine = FlamingoEngine(*parts, batch_size=6)
    evaluate(engine, FakeTask(), SETTINGS[2:3], tmp_path, EvaluationConfig(limit=5))
    evaluate(engine, FakeTask(), SETTINGS[:2], tmp_path, EvaluationConfig())
    assert [row.setting.demonstrations for row in read_differences(tmp_path / "differences.json")] == ["text_only"]
    [message] = [message for message in caplog.messages if "differences" in message]
    assert "'random'" in message and "other queries" in message


def test_scoring_again_needs_no_model_and_sees_a_changed_task(run):
    folder, returned = run
    predictions = read_prediction_rows(folder / "predictions.jsonl")
    assert scores(score_predictions(FakeTask(), predictions), FakeTask().corpus_metrics) == returned
    with pytest.raises(UserError, match=r"fake/captions.*'query/5'"):
        score_predictions(FakeTask(queries=5), predictions)
    other = FakeTask()
    other._support = [other._support[0][:11]]
    with pytest.raises(UserError, match=r"fake/captions.*demonstration_ids.*'query/.'"):
        score_predictions(other, predictions)
    answers = [["another answer", *row["demonstration_answers"][1:]] for row in predictions[-6:]]
    changed = [row | {"demonstration_answers": own} for row, own in zip(predictions[-6:], answers)]
    with pytest.raises(UserError, match=r"fake/captions.*demonstration_answers.*'query/0'.*another answer"):
        score_predictions(FakeTask(), changed)


def test_attention_is_measured_in_the_settings_without_control(run):
    measures = read_measures(run[0] / "in_context.json")
    norms = [measure for measure in measures if measure.name == GATED_NORM and measure.layer == 3]
    plain = [setting_of(setting.row(FakeTask())) for setting in SETTINGS[:4]]
    assert [measure.setting for measure in norms] == plain and {measure.n for measure in norms} == {6}


def test_images_of_queries_and_demonstrations_are_saved_as_given(run):
    folder, _ = run
    shown = {"query/0", "query/1"}
    for row in read_prediction_rows(folder / "predictions.jsonl"):
        if row["query"] in shown and row["demonstrations"] == "random":
            shown = shown | set(row["demonstration_ids"])
    paths = {picture_path(folder / "pictures", "fake/captions", id) for id in shown}
    assert set((folder / "pictures").rglob("*.png")) == paths
    for name in shown:
        original = example(*name.split("/")[:1], int(name.split("/")[1])).image.frames[0]
        with PILImage.open(picture_path(folder / "pictures", "fake/captions", name)) as saved:
            assert saved.size == original.size and saved.getpixel((5, 5)) == original.getpixel((5, 5))


def test_a_killed_run_goes_on_where_it_was(parts, run, tmp_path, asked):
    whole = (run[0] / "predictions.jsonl").read_text(encoding="utf-8")
    lines = whole.splitlines(keepends=True)
    file = tmp_path / "predictions.jsonl"
    # Killed while the third setting (its rows begin at 18) was written, amid its last line.
    file.write_text("".join(lines[:20]) + lines[20][:37], encoding="utf-8")
    returned = evaluate(
        FlamingoEngine(*parts, batch_size=4), FakeTask(), SETTINGS, tmp_path, EvaluationConfig(num_orders=2, pictures=0)
    )
    assert asked == [12, 12, 6, 6, 6]  # neither the first two settings, nor the copied captions
    assert file.read_text(encoding="utf-8") == whole
    assert returned == run[1]
    asked.clear()
    assert evaluate(None, FakeTask(), SETTINGS, tmp_path, EvaluationConfig(num_orders=2, pictures=0)) == returned
    assert asked == [] and file.read_text(encoding="utf-8") == whole


def test_further_settings_and_tasks_join_those_that_are_there(parts, tmp_path, asked):
    class Other(FakeTask):
        name = "fake/other"

    for task, settings in ((FakeTask(), SETTINGS[:1]), (FakeTask(), SETTINGS[1:2]), (Other(), SETTINGS[:2])):
        evaluate(FlamingoEngine(*parts, batch_size=6), task, settings, tmp_path, EvaluationConfig())
    assert asked == [6, 6, 6, 6]
    rows = json.loads((tmp_path / "scores.json").read_text())
    assert len({(row["task"], row["demonstrations"]) for row in rows}) == 4
    assert len({(*setting_key(row), row["metric"]) for row in rows}) == len(rows)
    differences = read_differences(tmp_path / "differences.json")
    # Each evaluation of the first task had one setting.
    assert [(row.setting.task, row.kind) for row in differences] == [
        ("fake/captions", "zero_shot"),
        ("fake/other", "zero_shot"),
    ]
    assert differences[0].setting == replace(differences[1].setting, task="fake/captions")


def test_foreign_predictions_are_neither_used_nor_removed(parts, tmp_path):
    evaluate(FlamingoEngine(*parts, batch_size=6), FakeTask(), SETTINGS[2:3], tmp_path, EvaluationConfig(limit=4))
    before = (tmp_path / "predictions.jsonl").read_bytes()
    with pytest.raises(UserError, match=r"predictions\.jsonl"):
        evaluate(FlamingoEngine(*parts, batch_size=6), FakeTask(), SETTINGS[2:3], tmp_path, EvaluationConfig(limit=3))
    other = FakeTask()
    other._support = [other._support[0][:11]]
    with pytest.raises(UserError, match=r"fake/captions.*demonstration_ids.*'query/"):
        evaluate(FlamingoEngine(*parts, batch_size=6), other, SETTINGS[2:3], tmp_path, EvaluationConfig(limit=4))
    assert (tmp_path / "predictions.jsonl").read_bytes() == before
    rows = evaluate(
        FlamingoEngine(*parts, batch_size=6), FakeTask(), SETTINGS[2:3], tmp_path, EvaluationConfig()
    )  # more than before
    assert {row["n"] for row in rows if row["metric"] == "length"} == {6}


def test_batches_and_subsets_make_no_difference(parts, run, tmp_path):
    evaluate(FlamingoEngine(*parts, batch_size=1), FakeTask(), SETTINGS[2:4], tmp_path, EvaluationConfig(limit=3))
    few = read_prediction_rows(tmp_path / "predictions.jsonl")
    all_ = read_prediction_rows(run[0] / "predictions.jsonl")
    assert len(few) == 6 and all(row in all_ for row in few)


def test_copied_captions_need_no_model(tmp_path):
    calls = []
    control = Setting(4, "random", control="copied_caption")
    rows = evaluate(
        None, FakeTask(), [control], tmp_path, EvaluationConfig(), on_progress=lambda *done: calls.append(done)
    )
    assert calls == [(6, 6)]
    assert {row["metric"] for row in rows} == {"CIDEr", "BLEU-1", "length", "shown", "vowels"}
    with pytest.raises(ValueError, match="copied_caption"):
        evaluate(None, FakeTask(), [Setting(4, "random")], tmp_path, EvaluationConfig())


def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path):
    def ask(task, settings, **kwargs):
        evaluate(None, task, settings, tmp_path / "out", EvaluationConfig())

    copied = Setting(2, "random", control="copied_caption")
    with pytest.raises(UserError, match=r"2 shots, random, copied_caption.*2 times"):
        ask(FakeTask(), [copied, Setting(0, None), copied])
    with pytest.raises(UserError, match="setting"):
        ask(FakeTask(), [])
    twice = FakeTask()
    twice._queries = twice._queries * 2
    with pytest.raises(UserError, match=r"query/0.*2 times"):
        ask(twice, [copied])
    for name in ("limit", "num_orders", "batch_size"):
        with pytest.raises(UserError, match=f"^{name} .*0"):
            EvaluationConfig(**{name: 0})
    assert not (tmp_path / "out").exists()


#: Sampled, with and without demonstrations, in a template of their own.
SAMPLED = [
    Setting(0, None, seed=1, temperature=1.5, top_p=0.95),
    Setting(3, "random", seed=1, template="A photo of {caption}", temperature=1.5, top_p=0.95),
]


@pytest.fixture(scope="module")
def sampled(parts, tmp_path_factory):
    """(folder, predictions): sampled outputs, one prompt at a time."""
    folder = tmp_path_factory.mktemp("sampled")
    evaluate(FlamingoEngine(*parts, batch_size=1), FakeTask(), SAMPLED, folder, EvaluationConfig(num_orders=2))
    return folder, read_prediction_rows(folder / "predictions.jsonl")


def test_a_setting_has_a_template_of_its_own_and_sampled_outputs(sampled):
    _, rows = sampled
    assert {row["prompt"] for row in rows[:6]} == {"<image>Output:"}
    assert all(row["prompt"].count("<image>A photo of ") == 3 for row in rows[6:])
    assert all(row["prompt"].endswith("<image>A photo of") for row in rows[6:])
    assert {row["decoding"] for row in rows} == {"temperature1.5,top_p0.95"}
    assert len({row["output"] for row in rows[:6]}) > 3


def test_sampled_outputs_do_not_depend_on_batch_or_order(parts, sampled, tmp_path):
    class Reversed(FakeTask):
        def queries(self):
            return self._queries[::-1]

    for task, folder in ((FakeTask(), tmp_path / "four"), (Reversed(), tmp_path / "reversed")):
        evaluate(FlamingoEngine(*parts, batch_size=4), task, SAMPLED, folder, EvaluationConfig(num_orders=2))
        rows = read_prediction_rows(folder / "predictions.jsonl")
        outputs = {(row["shots"], row["order"], row["query"]): row["output"] for row in rows}
        assert outputs == {(row["shots"], row["order"], row["query"]): row["output"] for row in sampled[1]}


def test_sampled_outputs_survive_a_kill_unchanged(parts, sampled, tmp_path):
    whole = (sampled[0] / "predictions.jsonl").read_text()
    lines = whole.splitlines(keepends=True)
    (tmp_path / "predictions.jsonl").write_text("".join(lines[:9]) + lines[9][:20])
    evaluate(FlamingoEngine(*parts, batch_size=4), FakeTask(), SAMPLED, tmp_path, EvaluationConfig(num_orders=2))
    assert (tmp_path / "predictions.jsonl").read_text() == whole


def test_token_limits_and_the_saved_template_reach_the_engine(parts, tmp_path):
    config = EvaluationConfig(max_new_tokens=9, min_new_tokens=2)
    asked = []

    class Recording(TextEngine):
        def generate(self, prompts, max_new_tokens, *args, min_new_tokens, **kwargs):
            asked.append((max_new_tokens, min_new_tokens))
            return ["x"] * len(prompts)

    template = CaptionTemplate("Caption: {caption}")
    evaluate(Recording(), FakeTask(), SETTINGS[2:3], tmp_path, config, template=template)
    assert asked == [(9, 2)]
    rows = read_prediction_rows(tmp_path / "predictions.jsonl")
    assert rows[0]["prompt"].count("<image>Caption: ") == 3 and rows[0]["template"] is None
    assert score_predictions(FakeTask(), rows, template) == rows
    with pytest.raises(UserError, match="prompt"):
        score_predictions(FakeTask(), rows)
