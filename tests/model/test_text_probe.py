"""Each property that the probe checks, broken in a language model by hand, and families that break one."""

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from flamingo import FlamingoForConditionalGeneration
from flamingo.model.composition import check_composition
from flamingo.utils.errors import UserError
from tests import tiny

_SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4}


def composed(backbones, folder, family, settings):
    """A Flamingo on a language model of another family, whose weights are random and large."""
    config = AutoConfig.for_model(family, vocab_size=tiny.VOCABULARY, **settings)
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(std=0.2)
    model.save_pretrained(folder)
    return FlamingoForConditionalGeneration.from_vision_text_pretrained(
        backbones / "clip_vision_model", folder, new_token_ids=tiny.NEW_TOKEN_IDS, **tiny.PARTS
    )


def test_every_family_passes(backbones, family):
    check_composition(tiny.flamingo(backbones, language=family))


@pytest.mark.parametrize("gate", ["scalar", "vector", "none"])
def test_every_kind_of_gate_passes(backbones, gate):
    check_composition(tiny.flamingo(backbones, gated={"gate": gate}))


@pytest.mark.parametrize("family", ["bert", "roberta", "electra"])
def test_an_encoder_is_refused(backbones, tmp_path, family):
    with pytest.raises(UserError, match=r"later tokens change the logits of earlier ones"):
        composed(backbones, tmp_path, family, {**_SMALL, "embedding_size": 32})
