"""OpenFlamingo's own model on our tiny backbones, and inputs for both."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from transformers import AutoConfig, CLIPVisionModel

from tests import tiny
from tests.helpers import mpt_with_norms


class PatchTokens(torch.nn.Module):
    """What OpenFlamingo was trained with: CLIP's patch tokens before the final norm, without the class token."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.clip = CLIPVisionModel.from_pretrained(folder)

    def forward(self, pixel_values):
        states = self.clip(pixel_values, output_hidden_states=True).hidden_states[-1]
        return None, states[:, 1:]


def open_flamingo(vision: Path, language: Path, every: int, monkeypatch: pytest.MonkeyPatch) -> torch.nn.Module:
    """The original with random weights that all matter: its gates, too, are away from zero."""
    clip = ModuleType("open_clip")
    clip.create_model_and_transforms = lambda path, pretrained: (SimpleNamespace(visual=PatchTokens(path)), None, None)
    clip.get_model_config = lambda path: {
        "vision_cfg": {"width": tiny.VISION_MODELS["clip_vision_model"]["hidden_size"]}
    }
    monkeypatch.setitem(sys.modules, "open_clip", clip)
    factory = pytest.importorskip("open_flamingo.src.factory")
    if AutoConfig.from_pretrained(language).model_type == "mosaic_gpt":
        # OpenFlamingo runs the code of MosaicML's checkpoint here.
        loader = SimpleNamespace(from_pretrained=lambda path, **kwargs: mpt_with_norms.load(path))
        monkeypatch.setattr(factory, "AutoModelForCausalLM", loader)
    model, _, tokenizer = factory.create_model_and_transforms(
        str(vision), "", str(language), str(language), cross_attn_every_n_layers=every, use_local_files=True
    )
    torch.manual_seed(1)
    layers = model.lang_encoder.gated_cross_attn_layers
    for name, parameter in [*model.perceiver.named_parameters(), *layers.named_parameters()]:
        spread(name, parameter)
    with torch.no_grad():
        for embeddings in (model.lang_encoder.get_input_embeddings(), model.lang_encoder.get_output_embeddings()):
            embeddings.weight[model.eoc_token_id :].normal_(std=0.2)
    model.tokenizer = tokenizer
    return model.eval()


@torch.no_grad()
def spread(name: str, parameter: torch.nn.Parameter) -> None:
    """Random values for a parameter, such that each makes a difference."""
    if parameter.ndim > 1:
        parameter.normal_(std=parameter.shape[-1] ** -0.5)
    else:
        parameter.copy_(torch.randn_like(parameter) * 0.2 + (0.0 if name.endswith("bias") else 0.8))


def state_dict(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """What OpenFlamingo's training saves of it: what is trained, and all that has "embed" in its name."""
    repeated = ("old_decoder_blocks", "lang_encoder.gated_cross_attn_layers", "vision_encoder")
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad or "embed" in name}
    return {
        key: tensor.clone()
        for key, tensor in model.state_dict().items()
        if key in trained and not any(part in key for part in repeated)
    }


def document(ids: list[int], padding: str) -> dict[str, torch.Tensor]:
    """Two documents of three and two images, each with text before the first; the shorter one is padded.

    ``ids`` are those of the end of chunk and of the image marker.
    """
    end, image = ids
    rows = [
        [5, 6, image, 7, 8, 9, end, image, 10, 11, end, image, 12, 13],
        [14, image, 15, 16, end, image, 17, 18, 19],
    ]
    length = len(rows[0])
    masks = [[1] * len(row) for row in rows]
    fill = [[0] * (length - len(row)) for row in rows]
    left = padding == "left"
    input_ids, attention_mask = (
        torch.tensor([pad + row if left else row + pad for row, pad in zip(part, fill)]) for part in (rows, masks)
    )
    return {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "image_index": (input_ids == image).cumsum(-1) - 1,
        "pixel_values": torch.randn(2, 3, 3, tiny.IMAGE_SIZE, tiny.IMAGE_SIZE),
    }
