"""Attention is measured once in each plain setting, on the first queries, and saved as means with intervals."""

import pytest

from flamingo.data.caption_template import CaptionTemplate
from flamingo.evaluation import EvaluationConfig
from flamingo.evaluation.attention_measures import save_attention_measures
from flamingo.evaluation.settings import Setting
from flamingo.inference.engine import AttentionKey
from flamingo.measure_rows import DEMONSTRATION_TEXT, GATED_NORM, SELF_ATTENTION, Measure, read_measures
from flamingo.results import setting_of
from tests.evaluation.fake import SETTINGS, FakeTask, TextEngine

TEXT = AttentionKey(SELF_ATTENTION, 3, DEMONSTRATION_TEXT, 2)


class InvertingEngine(TextEngine):
    """Measures 1 / 2, 1 / 3, ... for the prompts of a call; the first one has no self-attention."""

    def __init__(self):
        self.asked = []

    def attention(self, prompts):
        self.asked.append([prompt.id for prompt in prompts])
        measures = [{AttentionKey(GATED_NORM, 1): 1 / (number + 2)} for number in range(len(prompts))]
        for number, measured in enumerate(measures[1:]):
            measured[TEXT] = float(number)
        return measures


def run(engine, settings, folder, **config):
    task = FakeTask()
    template = CaptionTemplate()
    file = folder / "in_context.json"
    save_attention_measures(file, engine, task, settings, task.queries(), EvaluationConfig(**config), template)
    return read_measures(file) if file.exists() else []


def test_rows_are_means_over_queries_with_a_value(tmp_path):
    setting = Setting(3, "random", seed=4)
    gated, text = run(InvertingEngine(), [setting], tmp_path, attention_queries=4)
    of_task = setting_of(setting.row(FakeTask()))
    value = (1 / 2 + 1 / 3 + 1 / 4 + 1 / 5) / 4
    assert gated == Measure(of_task, 4, GATED_NORM, None, 1, None, pytest.approx(value), gated.ci95, 4)
    assert text == Measure(of_task, 4, SELF_ATTENTION, 2, 3, DEMONSTRATION_TEXT, 1.0, text.ci95, 3)
    for measure, (low, high) in ((gated, (1 / 5, 1 / 2)), (text, (0.0, 2.0))):
        assert low <= measure.ci95[0] < measure.value < measure.ci95[1] <= high


def test_plain_settings_are_measured_once_and_not_again(tmp_path):
    engine = InvertingEngine()
    measures = run(engine, SETTINGS, tmp_path, attention_queries=2)
    first_two = ["query/0", "query/1"]
    assert engine.asked == [first_two] * 3  # beams have the prompts of greedy decoding
    plain = [setting for setting in SETTINGS if setting.control is None]
    expected = [setting_of(setting.row(FakeTask())) for setting in plain]
    assert [measure.setting for measure in measures if measure.name == GATED_NORM] == expected
    assert run(engine, SETTINGS[:4], tmp_path, attention_queries=2) == measures and len(engine.asked) == 3
    more = run(engine, SETTINGS[:1], tmp_path, attention_queries=3)
    assert engine.asked[3:] == [["query/0", "query/1", "query/2"]]
    assert [measure.n for measure in more if measure.setting == expected[0]] == [3, 2]
    assert [measure for measure in more if measure.setting != expected[0]] == measures[2:]


def test_no_attention_is_measured_where_none_is_wanted(tmp_path, caplog):
    caplog.set_level("INFO")
    assert run(InvertingEngine(), SETTINGS[:1], tmp_path, attention_queries=0) == []
    assert run(TextEngine(), SETTINGS[:1], tmp_path) == [] and caplog.messages == []
    [measure, _] = run(InvertingEngine(), SETTINGS[:2], tmp_path, attention_queries=1)
    assert measure.ci95 is None
    [message] = [message for message in caplog.messages if "self-attention" in message]
    assert "fake/captions" in message
