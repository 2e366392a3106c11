"""The visual prefix against transformers' LLaVA: masks, positions and errors."""

import pytest
import torch
from transformers import AutoConfig, CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration

from flamingo import FlamingoConfig, FlamingoForConditionalGeneration
from tests import tiny
from tests.helpers.devices import DEVICE

MARKER = tiny.NEW_TOKEN_IDS[1]


# ------------------------------------------------------------------------------------ LLaVA


def llava():
    """A tiny LLaVA with random weights, whose vocabulary has the image token and another new one as its last rows."""
    text = AutoConfig.for_model("llama", vocab_size=tiny.VOCABULARY + 2, **tiny._LLAMA)
    vision = CLIPVisionConfig(**tiny._VIT)
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=MARKER,
        projector_hidden_act="gelu",
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
    )
    model = LlavaForConditionalGeneration(config).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(std=0.2)
    return model


def ours_of(original):
    """Our model with the weights of a LLaVA."""
    text_config = original.config.text_config
    config = FlamingoConfig(
        vision_config=original.config.vision_config,
        text_config=text_config,
        new_token_ids=tiny.NEW_TOKEN_IDS,
        image_token_id=MARKER,
        connector={"kind": "mlp_projector"},
        fusion={"kind": "prefix"},
    )
    model = FlamingoForConditionalGeneration(config).eval()
    model.vision_model.load_state_dict(original.model.vision_tower.state_dict())
    projector = original.model.multi_modal_projector
    model.connector.load_state_dict(projector.state_dict())
    model.language_model.model.load_state_dict(original.model.language_model.state_dict())
    model.language_model.lm_head.load_state_dict(original.lm_head.state_dict())
    model.new_tokens.input_rows.data.copy_(original.get_input_embeddings().weight[tiny.NEW_TOKEN_IDS])
    model.new_tokens.output_rows.data.copy_(original.lm_head.weight[tiny.NEW_TOKEN_IDS])
    return model


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_logits_are_llavas(side):
    """Three images in each document, one of which is shorter."""
    original = llava()
    model = ours_of(original)
    original.to(DEVICE)
    model.place(DEVICE)
    batch = tiny.prefix_inputs(documents=2, tokens_per_image=16)
    lost = slice(-3, None)
    for key, fill in (("input_ids", 5), ("attention_mask", 0), ("image_index", -1)):
        batch[key][1, lost] = fill
        if side == "left":
            batch[key][1] = batch[key][1].roll(3)
    pixels = batch["pixel_values"]
    expected = original(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        position_ids=(batch["attention_mask"].cumsum(-1) - 1).clamp(min=0),
        pixel_values=pixels.flatten(0, 1),
    ).logits
    logits = model(**batch).logits
    real = batch["attention_mask"].bool()
    assert expected[real].std() > 0.3
    torch.testing.assert_close(logits[real], expected[real], atol=1e-4, rtol=1e-4)
    changed = model(**batch | {"pixel_values": pixels.flip(1)}).logits
    assert (changed - logits)[real].abs().max() > 0.1
