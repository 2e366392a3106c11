"""Adapters of peft: trained parameters, saving and loading, merging, beams and packed documents."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model

from flamingo import FlamingoForConditionalGeneration
from flamingo.data.collate import collate
from flamingo.data.packing import pack
from flamingo.model.adapter_config import AdapterConfig
from flamingo.model.adapters import add_adapter, is_of_adapter, merge_adapter
from flamingo.utils.errors import UserError
from tests import tiny
from tests.helpers import devices
from tests.helpers.model_calls import loss_and_gradients
from tests.model.test_packing import examples

OPTIONS = Path(__file__).parents[2] / "conf" / "model" / "adapter"
#: The methods of the options.
METHODS = {path.stem: yaml.safe_load(path.read_text()) for path in sorted(OPTIONS.glob("*.yaml"))}
#: One method in every `make test`, all in `make test-all`.
CASES = [pytest.param(name, marks=() if name == "lora" else pytest.mark.full) for name in METHODS]
#: Other methods of peft: those that work, and those that are refused by the kind.
OTHERS = {
    "boft": {"boft_block_size": 4},
    "delora": {"r": 2},
    "fourierft": {"n_frequency": 10},
    "hira": {"r": 2},
    "hra": {"r": 2},
    "ln_tuning": {"target_modules": ["input_layernorm"]},
    "miss": {"r": 2},
    "randlora": {"r": 2},
    "road": {},
    "vblora": {"r": 2, "num_vectors": 8, "vector_length": 16},
    "waveft": {"n_frequency": 10},
}
PROMPT_LEARNING = ("prompt_tuning", "p_tuning", "prefix_tuning", "multitask_prompt_tuning", "cpt", "adaption_prompt")


def config_of(method):
    return AdapterConfig(**METHODS[method])


def spread(model):
    """Gives the adapter weights as after a training, so that it makes a difference."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if is_of_adapter(name):
            noise = torch.randn(parameter.shape, generator=generator).to(parameter)
            parameter.data += 0.2 * noise
    return model


def adapted(backbones, config, **settings):
    torch.manual_seed(0)
    return spread(tiny.flamingo(backbones, "llama", adapter=config, check=True, **settings))


@pytest.fixture(params=CASES)
def method(request):
    return request.param


@pytest.fixture
def model(backbones, method):
    return adapted(backbones, config_of(method))


def logits(model):
    with torch.no_grad():
        return model.eval()(**tiny.inputs()).logits


def loaded(folder, **settings):
    return FlamingoForConditionalGeneration.from_pretrained(folder, **settings).to(devices.DEVICE)


def test_each_method_of_the_docs_has_an_option():
    """All tests with the fixture ``method`` run with each of them."""
    assert sorted(METHODS) == ["dora", "ia3", "loha", "lokr", "lora", "oft", "vera"]


def test_an_adapter_adds_its_weights_to_those_that_train(backbones, model):
    before = set(tiny.flamingo(backbones, "llama").trainable_parameter_names())
    trained = set(model.trainable_parameter_names())
    assert {name for name in trained if not is_of_adapter(name)} == before
    assert {name.split(".")[0] for name in trained - before} == {"language_model"}
    model.train_parts(["fusion"])
    assert {name for name in model.trainable_parameter_names() if is_of_adapter(name)} == trained - before
    model.train_parts(["connector", "fusion", "new_tokens"])
    inputs = tiny.inputs()
    model.train()(**inputs, labels=inputs["input_ids"]).loss.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == (name in trained), name
        if is_of_adapter(name):
            assert parameter.dtype == torch.float32
            assert not parameter.requires_grad or parameter.grad.abs().max() > 0, name


def test_a_new_adapter_changes_no_logit_and_a_trained_one_does(backbones, model, method):
    torch.manual_seed(0)
    bare = logits(tiny.flamingo(backbones, "llama"))
    torch.manual_seed(0)
    new = logits(tiny.flamingo(backbones, "llama", adapter=config_of(method)))
    torch.testing.assert_close(new, bare)
    assert (logits(model) - bare).abs().max() > 1e-2


@pytest.mark.parametrize("include_backbones", [True, False])
def test_what_is_saved_loads_with_the_same_logits(model, tmp_path, include_backbones):
    expected = logits(model)
    model.save_pretrained(tmp_path, include_backbones=include_backbones)
    other = loaded(tmp_path)
    assert torch.equal(logits(other), expected)
    assert other.config.adapter == model.config.adapter
    assert set(other.trainable_parameter_names()) == set(model.trainable_parameter_names())
    assert json.loads((tmp_path / "config.json").read_text())["adapter"]["part"] == "language_model"
    other.save_pretrained(tmp_path / "again", include_backbones=include_backbones)
    for name in ("model.safetensors", "adapter.safetensors"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_merged_the_backbone_is_a_plain_one_with_the_same_logits(backbones, model, tmp_path):
    expected = logits(model)
    merge_adapter(model)
    torch.testing.assert_close(logits(model), expected, atol=1e-4, rtol=1e-3)
    plain = tiny.flamingo(backbones, "llama")
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert model.trainable_parameter_names() == plain.trainable_parameter_names()
    with pytest.raises(UserError, match="language_model"):
        model.save_pretrained(tmp_path, include_backbones=False)
    model.save_pretrained(tmp_path)
    assert not (tmp_path / "adapter.safetensors").exists()
    torch.testing.assert_close(logits(loaded(tmp_path)), logits(model), atol=0, rtol=0)


def test_images_are_seen_and_cached_beams_equal_uncached_ones(model):
    inputs = tiny.inputs()
    other = model(**{**inputs, "pixel_values": inputs["pixel_values"].flip(1)}).logits
    assert (logits(model) - other).abs().max() > 1e-2
    cached = model.generate(**inputs, max_new_tokens=6, num_beams=2)
    assert torch.equal(cached, model.generate(**inputs, max_new_tokens=6, num_beams=2, use_cache=False))


def test_packed_documents_have_the_gradients_of_separate_rows(model):
    apart, expected = loss_and_gradients(model, collate(examples(), 0, "right"))
    together, gradients = loss_and_gradients(model, pack([[example] for example in examples()], 16, 0))
    torch.testing.assert_close(together, apart)
    assert any(is_of_adapter(name) for name in gradients)
    for name in expected:
        torch.testing.assert_close(gradients[name], expected[name], rtol=1e-3, atol=1e-5, msg=name)


def test_the_adapter_of_a_backbone_in_16_bits_stays_in_float32(backbones, method, tmp_path):
    model = adapted(backbones, config_of(method), dtype=torch.bfloat16)
    inputs = tiny.inputs()
    model.train()(**inputs, labels=inputs["input_ids"]).loss.backward()
    assert {p.dtype for name, p in model.named_parameters() if is_of_adapter(name)} == {torch.float32}
    expected = logits(model)
    model.save_pretrained(tmp_path)
    other = loaded(tmp_path)
    assert other.language_model.dtype == torch.bfloat16
    torch.testing.assert_close(logits(other), expected, atol=0, rtol=0)


def test_an_adapter_of_the_vision_encoder_trains_and_is_saved(backbones, tmp_path):
    settings = {"r": 2, "target_modules": ["q_proj", "v_proj"]}
    model = adapted(backbones, AdapterConfig("lora", "vision_model", settings))
    inputs = tiny.inputs()
    model.train()(**inputs, labels=inputs["input_ids"]).loss.backward()
    own = {name: p for name, p in model.named_parameters() if is_of_adapter(name)}
    assert own and all(name.startswith("vision_model.") and p.grad.abs().max() > 0 for name, p in own.items())
    model.save_pretrained(tmp_path, include_backbones=False)
    assert torch.equal(logits(loaded(tmp_path)), logits(model))


@pytest.mark.parametrize("kind", PROMPT_LEARNING)
def test_prompt_learning_is_refused_in_one_sentence(backbones, kind):
    with pytest.raises(UserError, match=rf"^adapter\.kind={kind} learns tokens of the prompt, .* such as lora$"):
        tiny.flamingo(backbones, "llama", adapter=AdapterConfig(kind))


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("loraa", {}, r"^adapter\.kind must be one of .*lora.*'loraa'"),
        ("lora", {"rank": 3}, r"^adapter\.settings\.rank"),
        ("lora", {"modules_to_save": ["lm_head"]}, r"^adapter\.settings\.modules_to_save"),
        ("lora", {"target_modules": ["nowhere"]}, r"^adapter\.kind=lora .*nowhere"),
        ("lora", {"target_modules": ["c_attn"], "bias": "all"}, r"only wrap layers: it trains .*bias"),
        ("loha", {"target_modules": ["c_attn"]}, r"^adapter\.kind=loha .*Conv1D"),
    ],
)
def test_what_does_not_only_wrap_layers_is_refused_by_its_key(backbones, kind, settings, message):
    with pytest.raises(UserError, match=message):
        tiny.flamingo(backbones, "gpt2", adapter=AdapterConfig(kind, settings=settings))


def test_a_wrapped_output_head_is_refused(backbones):
    with pytest.raises(UserError, match="output head"):
        tiny.flamingo(
            backbones, "llama", adapter=AdapterConfig("lora", settings={"target_modules": ["lm_head"]}), check=True
        )


@pytest.mark.full
@pytest.mark.parametrize("kind", OTHERS)
def test_other_methods_pass_and_load_again_or_are_refused(backbones, kind, tmp_path):
    settings = {"target_modules": ["q_proj", "v_proj"]} | OTHERS[kind]
    try:
        model = adapted(backbones, AdapterConfig(kind, settings=settings))
    except UserError as error:
        assert str(error).startswith("adapter.")
        return
    model.save_pretrained(tmp_path, include_backbones=False)
    assert torch.equal(logits(loaded(tmp_path)), logits(model))


def test_weights_of_an_adapter_that_do_not_fit_are_named(backbones, tmp_path):
    model = adapted(backbones, config_of("lora"))
    model.save_pretrained(tmp_path, include_backbones=False)
    saved = json.loads((tmp_path / "config.json").read_text())
    for key, value in (("r", 3), ("target_modules", ["q_proj"])):
        changed = json.loads(json.dumps(saved))
        changed["adapter"]["settings"][key] = value
        (tmp_path / "config.json").write_text(json.dumps(changed))
        with pytest.raises(UserError, match=r"adapter\.safetensors"):
            loaded(tmp_path)


def test_a_model_has_one_adapter(backbones):
    with pytest.raises(AssertionError):
        add_adapter(adapted(backbones, config_of("lora")), config_of("lora"))


def test_an_adapter_wrapped_by_peft_trains_and_merges(backbones, tmp_path):
    """In one line of Python, without a config."""
    model = tiny.flamingo(backbones, "llama")
    model.language_model = get_peft_model(model.language_model, LoraConfig(target_modules=["q_proj", "v_proj"]))
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.2)
    expected = logits(model)
    assert (expected - logits(tiny.flamingo(backbones, "llama"))).abs().max() > 1e-2
    with pytest.raises(UserError, match="language_model"):
        model.save_pretrained(tmp_path, include_backbones=False)
    model.language_model = model.language_model.merge_and_unload()
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(logits(loaded(tmp_path)), expected, atol=1e-4, rtol=1e-4)
