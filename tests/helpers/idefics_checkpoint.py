"""A tiny IDEFICS of transformers with random weights, and its checkpoint."""

import torch
from transformers import IdeficsConfig, IdeficsForVisionText2Text
from transformers.models.idefics.image_processing_pil_idefics import IdeficsImageProcessorPil

from tests import tiny
from tests.interop.peers import spread

VOCABULARY = 300


def make(norms=True, gate="float", tied=False, **changes):
    torch.manual_seed(2)
    config = IdeficsConfig(
        hidden_size=32,
        intermediate_size=44,
        num_hidden_layers=4,
        num_attention_heads=4,
        cross_layer_interval=2,
        rms_norm_eps=1e-3,  # large enough to matter
        qk_layer_norms=norms,
        alpha_type=gate,
        tie_word_embeddings=tied,
        use_resampler=True,
        vision_config={
            "embed_dim": 24,
            "intermediate_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": tiny.IMAGE_SIZE,
            "patch_size": 4,
        },
        perceiver_config={
            "resampler_depth": 2,
            "resampler_n_latents": 5,
            "resampler_n_heads": 2,
            "resampler_head_dim": 6,
            "qk_layer_norms_perceiver": norms,
        },
        **({"vocab_size": VOCABULARY, "additional_vocab_size": 2} | changes),
    )
    model = IdeficsForVisionText2Text(config)
    for name, parameter in model.named_parameters():
        spread(name, parameter)
    model.model.embed_tokens.weight.data *= 5  # the next token depends on the last one
    return model.eval()


def save(original, folder):
    original.save_pretrained(folder)
    tokenizer = tiny.tokenizer()
    tokenizer.pad_token = "</s>"
    tokenizer.add_tokens(["<fake_token_around_image>", "<image>"], special_tokens=True)
    tokenizer.save_pretrained(folder)
    IdeficsImageProcessorPil(image_size=tiny.IMAGE_SIZE).save_pretrained(folder)
    return folder
