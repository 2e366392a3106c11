"""Rows of differences.json."""

from flamingo.difference_rows import Difference
from flamingo.results import SettingOfTask


def setting(task="t", shots=4, control=None):
    return SettingOfTask(task, shots, "random" if shots else None, None, control, None, "greedy")


def difference(task="t", **changes):
    fields = {
        "kind": "zero_shot", "setting": setting(task), "subtracted": setting(task, 0), "variant": None,
        "baseline": None, "shots": (4, 0), "metric": "CIDEr", "value": 0.1, "percentile": (0.01, 0.2),
        "bca": (0.02, 0.21), "over_seeds": None, "degrees_of_freedom": None, "p": 0.01, "adjusted_p": 0.02,
        "mark": "real", "margin": 0.01, "level": "queries alone", "seeds": (0, 1), "n": 50,
    }  # fmt: skip
    return Difference(**fields | changes)
