"""The decoders that are hardest to compose. ``python -m tests.compatibility decoders`` tries all decoders."""

import pytest

from tests.compatibility.decoders import trial

#: Linear attention, Mamba layers, several kinds of cache, routers, and text models of multimodal ones.
HARDEST = (
    *("bamba", "falcon_h1", "gemma4", "jamba", "kimi_linear", "lfm2"),
    *("llama4", "nemotron_h", "phimoe", "qwen3_5", "qwen3_next", "zamba2"),
)
CHEAP = ("granitemoe", "qwen3_5_text")


@pytest.mark.parametrize(
    "model_type", [*CHEAP, *(pytest.param(model_type, marks=pytest.mark.full) for model_type in HARDEST)]
)
def test_it_is_composed_trained_decoded_and_saved(model_type):
    outcome = trial(model_type)
    assert (outcome.outcome, outcome.sentence) == ("works", "")
