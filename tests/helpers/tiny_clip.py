"""A tiny CLIP with random weights, saved like a real one."""

from pathlib import Path

import torch
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, CLIPConfig, CLIPModel, PreTrainedModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from tests import tiny

_TOWER = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}


def save(folder: Path, tower: PreTrainedModel | None = None) -> CLIPModel:
    """Saves the model, its tokenizer and its image processor, and returns the model.

    Args:
        folder: The folder.
        tower: The vision tower, whose weights are copied; None: a random one.
    """
    text = {
        **_TOWER,
        "vocab_size": tiny.VOCABULARY,
        "max_position_embeddings": 64,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    vision = {**_TOWER, "image_size": tiny.IMAGE_SIZE, "patch_size": 8}
    if tower is not None:
        vision = tower.config.to_dict()
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(std=0.3)
    if tower is not None:
        weights = {key.removeprefix("vision_model."): tensor for key, tensor in tower.state_dict().items()}
        model.vision_model.load_state_dict(weights)
    model.save_pretrained(folder)
    tokenizer = tiny.tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    tokenizer.pad_token = "</s>"
    tokenizer.save_pretrained(folder)
    CLIPImageProcessorPil(
        size={"shortest_edge": tiny.IMAGE_SIZE}, crop_size={"height": tiny.IMAGE_SIZE, "width": tiny.IMAGE_SIZE}
    ).save_pretrained(folder)
    return model


@torch.no_grad()
def cosines(model: CLIPModel, folder: Path, pictures: list, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the cosine of each picture with each text, and of each text with each text, by CLIP's forward pass.

    Texts run one at a time, without padding.
    """
    pixels = CLIPImageProcessorPil.from_pretrained(folder)(images=pictures, return_tensors="pt")["pixel_values"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    vectors = []
    for text in texts:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        out = model(input_ids=ids, pixel_values=pixels)
        vectors.append(out.text_embeds[0])
    text_vectors = torch.stack(vectors)
    return out.image_embeds @ text_vectors.T, text_vectors @ text_vectors.T
