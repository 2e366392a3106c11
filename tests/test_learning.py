"""The whole pipeline from images to captions learns: outputs depend on the images."""

import pytest
import torch
from PIL import Image as PILImage
from transformers import get_cosine_schedule_with_warmup

from flamingo import Document, FlamingoProcessor, Image, Text
from flamingo.model import TRAINED_PARTS
from tests import tiny

CAPTIONS = {"red": "a red ball", "green": "a dog runs", "blue": "two dogs"}


@pytest.mark.parametrize(
    ("parts", "trainable"),
    [
        ({"fusion": {"every": 1, "offset": 0}}, TRAINED_PARTS),
        # A frozen language model with random weights says nothing sensible, whatever stands in its input.
        (tiny.PREFIX, (*TRAINED_PARTS, "language_model")),
    ],
    ids=["cross_attention", "prefix"],
)
def test_training_learns_to_name_three_images_from_pixels(backbones, parts, trainable):
    processor = FlamingoProcessor.from_vision_text_pretrained(backbones / "clip_vision_model", backbones / "gpt2")
    model = tiny.flamingo(backbones, gates=0.0, **parts)
    model.train_parts(trainable)
    processor.tokens_per_image = model.tokens_per_image(tiny.IMAGE_SIZE, tiny.IMAGE_SIZE)
    pictures = {colour: Image(PILImage.new("RGB", (20, 20), colour)) for colour in CAPTIONS}
    batch = processor.batch(
        [Document([pictures[colour], Text(f"Output: {caption}")]) for colour, caption in CAPTIONS.items()]
    )
    gates = [p for name, p in model.named_parameters() if name.endswith("_gate")]
    others = [p for name, p in model.named_parameters() if p.requires_grad and not name.endswith("_gate")]
    optimizer = torch.optim.AdamW([{"params": others, "lr": 3e-3}, {"params": gates, "lr": 3e-2}])
    schedule = get_cosine_schedule_with_warmup(optimizer, num_warmup_steps=20, num_training_steps=150)
    model.train()
    for _ in range(150):
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(gates + others, 1.0)
        optimizer.step()
        schedule.step()
    model.eval()
    prompts = [Document([pictures[colour], Text("Output:")]) for colour in CAPTIONS]
    prompt = processor.batch(prompts, prompt=True)
    out = model.generate(**prompt, num_beams=3, max_new_tokens=12, eos_token_id=processor.end_of_chunk_token_id)
    said = processor.batch_decode(out[:, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
    assert [text.strip() for text in said] == list(CAPTIONS.values())
