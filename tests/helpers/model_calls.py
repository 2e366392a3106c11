"""Model calls that the tests of several fusions share: generation settings, one document, gradients."""

import torch

GREEDY = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": 1}
BEAMS = {**GREEDY, "num_beams": 3, "num_return_sequences": 2}
#: Families whose beams share the memory of their prompt, and whose documents can be packed.
FULL_ATTENTION = {"gpt2", "opt", "gpt_neox", "llama", "qwen2", "qwen3", "phi", "mosaic_gpt"}


def alone(batch, row):
    """Returns one document of the batch, without its padding and its empty places."""
    real = batch["attention_mask"][row].bool()
    images = int(batch["image_index"][row].max()) + 1
    single = {key: batch[key][row : row + 1, real] for key in ("input_ids", "attention_mask", "image_index")}
    return single | ({"pixel_values": batch["pixel_values"][row : row + 1, :images]} if images else {})


def noted_images(model, monkeypatch) -> list[int]:
    """Returns a list to which each call of ``encode_images`` adds its number of different images."""
    numbers = []
    encode = model.encode_images

    def noting(pixels):
        numbers.append(len(pixels[0].unique(dim=0)))
        return encode(pixels)

    monkeypatch.setattr(model, "encode_images", noting)
    return numbers


def with_image(inputs, image, value=0.0):
    """Returns the inputs with one image of every document replaced."""
    pixels = inputs["pixel_values"].clone()
    pixels[:, image] = value + torch.randn_like(pixels[:, image])
    return {**inputs, "pixel_values": pixels}


def gradients(model, inputs):
    model.zero_grad()
    model(**inputs, labels=inputs["input_ids"], use_cache=False).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


def loss_and_gradients(model, batch):
    model.zero_grad()
    loss = model(**batch).loss
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
