"""Copy rates equal hand-computed ones, and an evaluation writes them for all settings of a task."""

from dataclasses import replace

import pytest

from flamingo.data.document import Text
from flamingo.evaluation import EvaluationConfig
from flamingo.evaluation.copying import copy_rates, save_copy_rates
from flamingo.evaluation.harness import evaluate
from flamingo.evaluation.metrics.resampling import bootstrap, mean
from flamingo.evaluation.settings import Setting
from flamingo.measure_rows import read_measures
from flamingo.utils.errors import UserError
from tests.evaluation.fake import FakeTask, TextEngine
from tests.helpers.result_rows import row


def prediction(query, output, answers, references=("r",), **changes):
    """A prediction of a query of :class:`FakeTask`; the answers are in the order of the prompt."""
    own = {"task": FakeTask.name, "references": list(references), "demonstration_answers": list(answers)}
    ids = [f"support/{number}" for number in range(len(answers))]
    return row(f"query/{query}", len(answers), output=output) | own | {"demonstration_ids": ids} | changes


def rates(rows, task=None):
    """{(name, distance, part): (value, n)} of rows of one setting."""
    measures = copy_rates(task or FakeTask(), rows)
    assert len({(measure.setting, measure.seed) for measure in measures}) <= 1
    assert all(measure.layer is None for measure in measures)
    return {(m.name, m.distance, m.part): (m.value, m.n) for m in measures}


def test_exact_copies_have_the_tokens_of_a_demonstration():
    found = rates([
        prediction(0, "A dog, runs.", ["a dog runs", "the cat", "a Dog runs!"], ["the cat?", "a horse"]),
        prediction(1, "the cat", ["a dog", "The cats", "the cat"], ["The cats", "the cat"]),
        prediction(2, "", ["the cat", "a dog runs", "..."]),
        prediction(3, "dog a", ["a dog", "two", "a dog runs"], ["two"]),
    ])  # fmt: skip
    assert found == {
        ("copy_rate", 1, "exact"): (2 / 3, 3),  # "..." has no tokens
        ("reference_rate", 1, "exact"): (1 / 3, 3),
        ("copy_rate", 2, "exact"): (0.0, 4),
        ("reference_rate", 2, "exact"): (3 / 4, 4),
        ("copy_rate", 3, "exact"): (1 / 4, 4),
        ("reference_rate", 3, "exact"): (0.0, 4),
    }


EIGHT = "a brown dog runs on the green grass"


@pytest.mark.parametrize(
    ("output", "answer", "is_copy"),
    [
        (EIGHT, EIGHT, 1),
        # Two words more: precision 0.8, F 0.907. Two words less than ten: recall 0.8, F 0.871.
        (f"{EIGHT} of home", EIGHT, 1),
        (EIGHT, f"{EIGHT} of home", 0),
        ("a brown dog runs on the grass", EIGHT, 1),  # recall 7/8: F 0.922
        ("a brown dog runs on the green lawn", EIGHT, 0),  # both 7/8
        ("a brown dog runs on the grass green", EIGHT, 0),  # the common words are all, their order is not
        ("a dog runs on grass", "A dog runs, on grass.", 1),
        ("a dog runs on", "a dog runs on", None),
        ("a cat", EIGHT, 0),
        ("", EIGHT, 0),
    ],
)
def test_near_copies_have_a_rouge_l_of_at_least_090(output, answer, is_copy):
    rows = [prediction(0, output, [answer], ["x", output]), prediction(1, "other", ["four words are few"])]
    found = rates(rows)
    for name in ("copy_rate", "reference_rate"):
        assert found.get((name, 1, "ROUGE-L")) == (None if is_copy is None else (is_copy, 1))


def test_only_captions_have_near_copies():
    task = FakeTask()
    task._queries = [replace(query, prompt="What? Answer:") for query in task._queries[:1]] + task._queries[1:]
    found = rates([prediction(0, EIGHT, [EIGHT]), prediction(1, "x", [EIGHT])], task)
    assert found["copy_rate", 1, "exact"] == (1 / 2, 2) and found["copy_rate", 1, "ROUGE-L"] == (0.0, 1)


def test_a_query_with_fewer_demonstrations_has_no_value():
    rows = [prediction(0, "a dog", ["a dog", "a cat"], shots=2), prediction(1, "a cat", ["a cat"], shots=2)]
    found = rates(rows)
    assert found["copy_rate", 1, "exact"] == (1 / 2, 2) and found["copy_rate", 2, "exact"] == (1.0, 1)


def test_queries_without_references_have_no_reference_rate():
    without = prediction(0, EIGHT, [EIGHT], references=[])
    assert rates([without]) == {("copy_rate", 1, part): (1.0, 1) for part in ("exact", "ROUGE-L")}
    found = rates([without, prediction(1, "x", [EIGHT], references=[EIGHT])])
    assert found["reference_rate", 1, "exact"] == found["reference_rate", 1, "ROUGE-L"] == (1.0, 1)


def test_each_setting_and_seed_has_its_own_rates():
    rows = [
        prediction(0, "a dog", ["a cat", "a dog"]),
        prediction(0, "a cat", ["a cat", "a dog"], order=1),  # ignored
        prediction(0, "a horse", ["a cat", "a dog"], control="blind"),
        prediction(0, "a cat", ["a cat", "a dog"], seed=1),
        prediction(0, "a dog", ["a cat", "a dog"], shots=0, demonstrations="text_only"),
        prediction(0, "a dog", [], shots=0, demonstrations=None),
    ]
    copied = {}
    for measure in copy_rates(FakeTask(), rows):
        if measure.name == "copy_rate":
            setting = (measure.setting.demonstrations, measure.setting.control, measure.seed)
            copied.setdefault(setting, []).append((measure.distance, measure.value))
    assert copied == {
        ("random", None, 0): [(1, 1.0), (2, 0.0)],
        ("random", "blind", 0): [(1, 0.0), (2, 0.0)],
        ("random", None, 1): [(1, 0.0), (2, 1.0)],
        ("text_only", None, 0): [(1, 1.0), (2, 0.0)],
    }


def test_names_and_single_words_have_no_rates(tmp_path):
    words = [prediction(query, "dog.", ["cat", "Dog!", ""]) for query in range(3)]
    assert copy_rates(FakeTask(), words) == []
    binding = FakeTask()
    binding.measures_copying = False
    texts = [prediction(0, "a dog", ["a dog", "a cat"])]
    assert copy_rates(binding, texts) == [] and copy_rates(FakeTask(), texts) != []
    save_copy_rates(tmp_path / "in_context.json", binding, texts)
    assert not list(tmp_path.iterdir())


def test_tokens_are_those_of_the_language():
    task = FakeTask()
    task.language = "zh"
    assert rates([prediction(0, "一只狗在跑。", ["一只狗在跑"])], task)["copy_rate", 1, "ROUGE-L"] == (1.0, 1)


def test_intervals_are_those_of_scores():
    answers = [["a dog", "a cat" if query % 3 else "a dog"] for query in range(20)]
    rows = [prediction(query, "a dog", own) for query, own in enumerate(answers)]
    found = {(m.distance, m.name): m.ci95 for m in copy_rates(FakeTask(queries=20), rows)}
    assert found[1, "copy_rate"] == bootstrap(mean([float(query % 3 == 0) for query in range(20)]))
    assert found[2, "copy_rate"] == (1.0, 1.0) and found[2, "reference_rate"] == (0.0, 0.0)


class CopyingEngine(TextEngine):
    """Repeats the last demonstration; without images it says something else."""

    def generate(self, prompts, max_new_tokens, num_beams, blind=False, **kwargs):
        outputs = []
        for prompt in prompts:
            texts = [part.text for part in prompt.parts if isinstance(part, Text)]
            outputs.append("nothing" if blind or len(texts) == 1 else texts[-2].removeprefix("Output: ").upper())
        return outputs


TASK = FakeTask(corpus_metrics=())
SETTINGS = [Setting(0, None), Setting(3, "random"), Setting(3, "random", control="blind"), Setting(0, "text_only")]


def test_an_evaluation_saves_the_rates_of_all_settings(tmp_path):
    file = tmp_path / "one" / "in_context.json"
    config = EvaluationConfig(num_orders=2, pictures=0)
    evaluate(CopyingEngine(), TASK, SETTINGS, file.parent, config)
    rows = {}
    for measure in read_measures(file):
        setting = (measure.setting.shots, measure.setting.control, measure.name, measure.distance, measure.part)
        rows[setting] = (measure.value, measure.n)
    assert rows[3, None, "copy_rate", 1, "exact"] == (1.0, 6) and rows[3, None, "copy_rate", 1, "ROUGE-L"][0] == 1.0
    assert rows[3, None, "copy_rate", 2, "exact"] == (0.0, 6) and rows[3, "blind", "copy_rate", 1, "exact"] == (0.0, 6)
    assert rows[0, None, "copy_rate", 1, "exact"] == (1.0, 6) and rows[3, None, "reference_rate", 1, "exact"][1] == 6
    assert {key[3] for key in rows if key[0] == 0} == {1, 2} and {key[3] for key in rows if key[0]} == {1, 2, 3}

    again = tmp_path / "several" / "in_context.json"
    for settings in (SETTINGS[1:2], SETTINGS[2:], SETTINGS):
        evaluate(CopyingEngine(), TASK, settings, again.parent, config)
    assert set(read_measures(again)) == set(read_measures(file))
    assert len(read_measures(again)) == len(read_measures(file))
    again.write_text(again.read_text().replace('"n": 6', '"n": null', 1))
    with pytest.raises(UserError, match=r"in_context\.json, row 0.*'n'"):
        evaluate(None, TASK, SETTINGS, again.parent, config)


def test_earlier_settings_without_rates_get_theirs(tmp_path):
    file = tmp_path / "in_context.json"
    evaluate(CopyingEngine(), TASK, SETTINGS[1:3], tmp_path, EvaluationConfig(pictures=0))
    before = read_measures(file)
    file.unlink()
    evaluate(CopyingEngine(), TASK, SETTINGS[:1], tmp_path, EvaluationConfig(pictures=0))
    assert read_measures(file) == before
