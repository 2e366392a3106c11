"""Rows of in_context.json."""

from flamingo.measure_rows import Measure
from flamingo.results import SettingOfTask


def measure(task="t", shots=4, control=None, demonstrations="random", **changes):
    setting = SettingOfTask(task, shots, demonstrations if shots else None, None, control, None, "greedy")
    fields = {
        "setting": setting, "seed": 0, "name": "copy_rate", "distance": 1, "layer": None, "part": "exact",
        "value": 0.25, "ci95": (0.1, 0.4), "n": 50,
    }  # fmt: skip
    return Measure(**fields | changes)
