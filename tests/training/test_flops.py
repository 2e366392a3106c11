from contextlib import nullcontext

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from flamingo.data.batch_sizes import BatchSizes
from flamingo.training import flops
from flamingo.training.flops import TrainingFlops, training_flops
from tests import tiny
from tests.training.runs import batch

PIXELS = torch.zeros(1, 3, tiny.IMAGE_SIZE, tiny.IMAGE_SIZE)


@pytest.fixture
def without_attention(monkeypatch):
    """Leaves attention out of the formula and the counter: on a CPU the counter does not see SDPA."""
    monkeypatch.setattr(flops, "sdpa_kernel", lambda backend: nullcontext())
    monkeypatch.setattr("flamingo.model.fusion.cross_attention.CrossAttentionFusion.attention_flops", lambda *_: 0)
    monkeypatch.setattr(flops, "_attention_width", lambda config: 0)


def counted(model, documents):
    """The operations of the loss and the gradients of documents of 8 tokens with an image each."""
    with FlopCounterMode(display=False) as counter:
        model(**batch([3] * documents).tensors).loss.backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("vision", ["clip_vision_model", "resnet"])
@pytest.mark.parametrize("language", ["gpt2", "llama"])
@pytest.mark.parametrize("trained", [[], ["vision_model"], ["language_model"]])
def test_formula_equals_the_counter_within_one_percent(backbones, without_attention, vision, language, trained):
    model = tiny.flamingo(backbones, language, vision)
    model.train_parts(["connector", "fusion", "new_tokens", *trained])
    sizes = BatchSizes(tokens=24, images=3, encoded_images=3)
    assert training_flops(model, PIXELS).of(sizes) == pytest.approx(counted(model, 3), rel=0.01)


def test_layers_without_a_gradient_have_their_forward_pass_alone(backbones, without_attention):
    model = tiny.flamingo(backbones, "llama")
    model.train_parts(["connector", "fusion"])
    sizes = BatchSizes(tokens=24, images=3, encoded_images=3)
    assert training_flops(model, PIXELS).of(sizes) == pytest.approx(counted(model, 3), rel=0.01)


def test_attention_has_two_products_forward_and_four_backward(backbones):
    measured = training_flops(tiny.flamingo(backbones, "llama"), PIXELS)
    # Logits and weighted sum of 4 heads of width 8, in 4 layers.
    assert measured.per_token_pair == 3 * 4 * 2 * 2 * 32


def test_attention_to_images_grows_with_the_visual_tokens(backbones):
    few = training_flops(tiny.flamingo(backbones, "llama"), PIXELS)
    many = training_flops(tiny.flamingo(backbones, "llama", connector={"num_latents": 7}), PIXELS)
    # 2 blocks with 2 heads of width 16, 2 more latents.
    assert many.per_token - few.per_token == pytest.approx(3 * 2 * 2 * 2 * 32 * 2)


def test_layers_before_the_first_block_have_no_backward_pass(backbones):
    model = tiny.flamingo(backbones, "llama")
    model.train_parts(["connector", "fusion"])
    # The first of 4 layers comes before the first block.
    assert training_flops(model, PIXELS).per_token_pair == (3 * 3 + 1) * 2 * 2 * 32


def test_experts_count_as_far_as_a_token_passes_them(backbones, tmp_path):
    from transformers import AutoConfig, AutoModelForCausalLM

    def per_token(experts):
        settings = {**tiny.LANGUAGE_MODELS["llama"], "num_local_experts": experts, "num_experts_per_tok": 2}
        config = AutoConfig.for_model("mixtral", vocab_size=tiny.VOCABULARY, bos_token_id=0, eos_token_id=1, **settings)
        folder = tmp_path / str(experts) / "mixtral"
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        tiny.tokenizer().save_pretrained(folder)
        (folder.parent / "clip_vision_model").symlink_to(backbones / "clip_vision_model")
        return training_flops(tiny.flamingo(folder.parent, "mixtral"), PIXELS).per_token

    router = 2 * 2 * 32 * 4  # operations of 2 more rows of the router, in 4 layers, forward and backward
    assert per_token(4) - per_token(2) == pytest.approx(2 * router)


def test_stored_features_need_no_encoder():
    measured = TrainingFlops(per_encoded_image=100.0, per_image=10.0, per_token=1.0, per_token_pair=0.5)
    assert measured.of(BatchSizes(tokens=3, token_pairs=6, images=2)) == 2 * 10 + 3 + 3
    assert measured.of(BatchSizes(tokens=3, token_pairs=6, images=2, encoded_images=1)) == 100 + 2 * 10 + 3 + 3
