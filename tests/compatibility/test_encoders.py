"""The encoders that are hardest to compose. ``python -m tests.compatibility encoders`` tries all encoders."""

import pytest

from tests.compatibility.encoders import trial

#: Tokens that join late, channels that come last, pictures in one sequence, stages, windows, patches that overlap.
HARDEST = (
    *("dinov3_convnext", "hiera", "levit", "pixtral"),
    *("pvt", "sam2_vision_model", "sam_vision_model", "vitpose_backbone"),
)
CHEAP = ("blip", "yolos")


@pytest.mark.parametrize(
    "model_type", [*CHEAP, *(pytest.param(model_type, marks=pytest.mark.full) for model_type in HARDEST)]
)
def test_it_is_composed_trained_decoded_and_saved(model_type):
    outcome = trial(model_type)
    assert outcome.outcome == "works", outcome.sentence
