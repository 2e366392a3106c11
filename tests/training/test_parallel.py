"""Several processes have the gradients, the norm and the steps of one process that gets all of their batches."""

from collections import Counter
from functools import partial

import pytest
import torch
from torch import distributed
from torch.optim.optimizer import register_optimizer_step_post_hook

from flamingo.model.adapter_config import AdapterConfig
from flamingo.model.adapters import add_adapter
from flamingo.training import ParallelConfig, TrainingConfig
from flamingo.training.activations import recompute_activations
from flamingo.training.callbacks import Callbacks, fusion_measures
from flamingo.training.loop import train
from flamingo.training.losses.next_token import next_token
from flamingo.training.monitoring import Monitoring
from flamingo.training.optim import AdamWConfig, MuonConfig
from flamingo.training.parallel import distribute
from flamingo.training.speed import Speed
from flamingo.training.step import DataSet, accumulate_gradients, next_update
from flamingo.training.validation import HeldOut
from flamingo.utils.devices import processes
from flamingo.utils.errors import UserError
from flamingo.utils.shards import whole
from tests import tiny
from tests.helpers.forked import values_of_processes
from tests.training.runs import Listed, batch, history, trained

FSDP2 = ParallelConfig("fsdp2")
ENGINES = {
    "ddp": ParallelConfig("ddp"),
    "fsdp2": FSDP2,
    "two copies": ParallelConfig("hsdp", shard_size=1),
    "one copy": ParallelConfig("hsdp", shard_size=2),
    "kept gathered": ParallelConfig("fsdp2", reshard_after_forward=False),
    "scattered": ParallelConfig("fsdp2", scatter_every_batch=True),
    "encoder": ParallelConfig("fsdp2", shard_vision_model=True),
}
MARKERS = tiny.TOKENS_PER_IMAGE


def make_model(backbones, text="gpt2", **parts):
    torch.manual_seed(0)
    return tiny.flamingo(backbones, text, **parts, gates=None if parts else 0.3).double().train()


def with_adapter(backbones):
    model = make_model(backbones, "llama")
    settings = {"r": 2, "target_modules": "all-linear", "init_lora_weights": False}
    add_adapter(model, AdapterConfig("lora", "language_model", settings))
    return model.double()


def with_trained_encoder(backbones):
    model = make_model(backbones)
    model.train_parts(["vision_model", "connector", "fusion", "new_tokens"])
    return model


def with_trained_language_model(backbones):
    model = make_model(backbones, "qwen2")
    model.train_parts(["language_model", "connector", "fusion", "new_tokens"])
    return model


def with_adapter_of_quantised(backbones):
    """The weights of the language model count as quantised, so that each process has them as a whole."""
    model = with_adapter(backbones)
    model.language_model.hf_quantizer = object()
    return model


def recomputing(backbones):
    model = make_model(backbones)
    recompute_activations(model)
    return model


MODELS = {
    "tied": make_model,
    "untied": partial(make_model, text="llama"),
    "prefix": partial(make_model, **tiny.PREFIX),
    "adapter": with_adapter,
    "quantised": with_adapter_of_quantised,
    "trained encoder": with_trained_encoder,
    "trained language model": with_trained_language_model,
    "recomputing": recomputing,
}


def shares(model):
    """Batches for each of two processes. Those of process 1 have no image; those of the second data set have none."""
    markers = model.fusion.tokens_per_image(MARKERS)
    pairs = [batch([3, 7, 11], images=1, markers=markers), batch([4], images=0)]
    more = [batch([8], images=1, markers=markers), batch([15, 16], images=1, markers=markers)]
    texts = [batch([1, 2], images=0), batch([5], images=0)]
    return [("pairs", pairs, 0.5), ("more", more, 1.0), ("texts", texts, 0.2)]


def gradients_of(model, config, max_grad_norm=1e9):
    """The clipped gradients of one step, their norm before, and the losses of all processes."""
    parallel = distribute(model, config)
    state = processes()
    sets = []
    for name, batches, weight in shares(model):
        own = batches if state.num_processes == 1 else [batches[state.process_index]]
        sets.append(DataSet(name, Listed(*own), weight))
    iterators = {data_set.name: iter(data_set.batches) for data_set in sets}
    update = next_update(sets, iterators, 1, 2 // state.num_processes, "accumulated")
    losses = accumulate_gradients(parallel, update, "fp32", Speed(torch.device("cpu")))
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    norm = parallel.clip(parameters, max_grad_norm)
    found = {name: whole(p.grad) for name, p in model.named_parameters() if p.requires_grad}
    return found, norm, parallel.summed(torch.stack(losses).sum())


def assert_equal_steps(actual, expected):
    gradients, norm, loss = actual
    expected_gradients, expected_norm, expected_loss = expected
    assert gradients.keys() == expected_gradients.keys()
    torch.testing.assert_close(norm, expected_norm, rtol=1e-6, atol=0)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-6, atol=0)
    for name, gradient in gradients.items():
        error = (gradient - expected_gradients[name]).norm()
        assert error <= 1e-6 * expected_gradients[name].norm().clamp(min=1e-6 * expected_norm), name


def test_two_sharded_processes_have_the_gradients_of_one(backbones):
    model = make_model(backbones)
    both = values_of_processes(2, gradients_of, model, FSDP2, 0.01)
    expected = gradients_of(model, FSDP2, 0.01)
    assert expected[1] > 0.1
    for one in both:
        assert_equal_steps(one, expected)


@pytest.mark.full
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", MODELS)
def test_each_engine_has_the_gradients_of_one_process(backbones, engine, kind):
    model = MODELS[kind](backbones)
    both = values_of_processes(2, gradients_of, model, ENGINES[engine], 0.01)
    for one in both:
        assert_equal_steps(one, gradients_of(MODELS[kind](backbones), FSDP2, 0.01))


def with_three_batches(model, config):
    """The gradients of an update of three batches, and the numbers of collectives in its backward passes."""
    parallel = distribute(model, config)
    first = processes().process_index
    numbers = range(first, 6, processes().num_processes)
    data_set = DataSet("pairs", Listed(*(batch([number], images=number % 2) for number in numbers)))
    update = next_update([data_set], {"pairs": iter(data_set.batches)}, 1, len(numbers), "accumulated")
    counts = Counter()
    for name in ("reduce_scatter_single", "all_reduce"):
        setattr(distributed, name, counted(counts, name, getattr(distributed, name)))
    accumulate_gradients(parallel, update, "fp32", Speed(torch.device("cpu")))
    return {name: whole(p.grad) for name, p in model.named_parameters() if p.requires_grad}, counts


def counted(counts, name, function):
    def counting(*args, **kwargs):
        counts[name] += 1
        return function(*args, **kwargs)

    return counting


#: Reduce-scatters and all-reduces of three batches, in units of those of a model: one for each group.
@pytest.mark.full
@pytest.mark.parametrize(
    ("config", "scatters", "reductions"),
    [
        (ParallelConfig("fsdp2"), 1, 0),
        (ParallelConfig("fsdp2", scatter_every_batch=True), 3, 0),
        (ParallelConfig("hsdp", shard_size=2), 1, 1),
        (ParallelConfig("hsdp", shard_size=2, scatter_every_batch=True), 3, 1),
    ],
)
def test_batches_of_an_update_exchange_what_they_must(backbones, config, scatters, reductions):
    model = make_model(backbones)
    expected, _ = with_three_batches(make_model(backbones), config)
    # The connector, the rows of new tokens, and the keys, the values and the rest of each gated block.
    groups = 2 + 3 * len(model.fusion.blocks)
    for gradients, counts in values_of_processes(2, with_three_batches, model, config):
        assert counts["reduce_scatter_single"] == scatters * groups
        assert counts["all_reduce"] == reductions * groups
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, expected[name], rtol=1e-6, atol=1e-9)


def spoiled_in_one_process(model, optimizer, output):
    """Eight steps. The loss of process 1 is infinite at step 3; the gradients are finite everywhere."""
    steps = []

    def spoiled(model, batch, count):
        steps.append(len(steps) + 1)
        loss = next_token(model, batch, count)
        return loss + float("inf") if processes().process_index == 1 and steps[-1] == 3 else loss

    documents = Listed(*(batch([10 * processes().process_index + number]) for number in range(1, 6)))
    config = TrainingConfig(steps=8, log_every=5, save_every=8)
    before = []
    data_set = DataSet("pairs", documents, loss=spoiled)
    hook = register_optimizer_step_post_hook(lambda *_: before.append(whole_weights(model)))
    with pytest.raises(UserError, match="step 3") as error:
        train(model, [data_set], optimizer, config, output, parallel=FSDP2)
    hook.remove()
    return str(error.value), before


def whole_weights(model):
    return {name: whole(weight) for name, weight in trained(model).items()}


@pytest.mark.full
@pytest.mark.parametrize("optimizer", [AdamWConfig(lr=1e-3), MuonConfig(lr=1e-3)], ids=lambda config: config.kind)
def test_an_infinite_loss_of_one_process_stops_all_shards(backbones, tmp_path, optimizer):
    ended = values_of_processes(2, spoiled_in_one_process, make_model(backbones), optimizer, tmp_path)
    for message, weights in ended:
        assert "document 13" in message
        # The hook runs once for each optimizer that Muon consists of.
        per_step = len(weights) // 5
        second, third, last = (weights[per_step * step - 1] for step in (2, 3, 5))
        assert any(not torch.equal(weight, weights[0][name]) for name, weight in second.items())
        assert all(torch.equal(weight, second[name]) for name, weight in third.items())
        assert all(torch.equal(weight, second[name]) for name, weight in last.items())


def sampled_run(model, optimizer, output):
    """Five steps with samples in the main process, and losses of three held-out batches."""

    def sample(step):
        model.generate(torch.tensor([[5, 6]]), max_new_tokens=step, do_sample=True, eos_token_id=None, pad_token_id=0)

    state = processes()
    sets = []
    for name, batches, weight in shares(model):
        own = batches if state.num_processes == 1 else [batches[state.process_index]]
        sets.append(DataSet(name, Listed(*own), weight))
    config = TrainingConfig(
        steps=5, accumulate=2 // state.num_processes, log_every=1, sample_every=2, validate_every=2, save_every=5
    )
    held_out = HeldOut("pairs", [batch([100, 101]), batch([102], images=0), batch([103])])
    callbacks = Callbacks([fusion_measures], on_sample=sample)
    train(model, sets, optimizer, config, output, callbacks, FSDP2, Monitoring([held_out]))
    return whole_weights(model)


@pytest.mark.full
def test_a_sharded_run_with_samples_and_validation_equals_one(backbones, tmp_path):
    """The main process alone generates, and one process has a held-out batch more than the other."""
    optimizer = AdamWConfig(lr=1e-3)
    both = values_of_processes(2, sampled_run, make_model(backbones), optimizer, tmp_path / "two")
    expected = sampled_run(make_model(backbones), optimizer, tmp_path / "one")
    for weights in both:
        for name, weight in weights.items():
            torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-6)
    records = history(tmp_path / "two")
    for record, other in zip(records, history(tmp_path / "one"), strict=True):
        assert record.keys() == other.keys()
        assert record["gates"] == pytest.approx(other["gates"], rel=1e-6)
        for key in ("loss", "gradient_norm", "held_out_loss/pairs", "blind_held_out_loss/pairs"):
            assert record.get(key, 0.0) == pytest.approx(other.get(key, 0.0), rel=1e-5), key
    assert "held_out_loss/pairs" in records[-1]


def one_step(backbones, precision):
    """The gradients of one step, and the dtypes of the weights that a gated block computes with, and keeps."""
    torch.manual_seed(0)
    model = tiny.flamingo(backbones, "llama", gates=0.3).train()
    model.language_model.to(torch.bfloat16)
    dtypes = []
    if precision == "fp32":
        model.double()
    parallel = distribute(model, FSDP2, precision)
    block = model.fusion.blocks["1"]
    block.attention.to_q.register_forward_hook(lambda module, *_: dtypes.append(module.weight.dtype))
    data_set = DataSet("pairs", Listed(batch([processes().process_index]), batch([1])))
    accumulate = 2 // processes().num_processes
    update = next_update([data_set], {"pairs": iter(data_set.batches)}, 1, accumulate, "accumulated")
    accumulate_gradients(parallel, update, precision, Speed(torch.device("cpu")))
    gradients = {name: whole(p.grad) for name, p in model.named_parameters() if p.requires_grad}
    return gradients, set(dtypes), {weight.dtype for weight in trained(model).values()}


@pytest.mark.full
def test_sharded_weights_compute_in_bf16_and_stay_fp32(backbones):
    """The gradients are as far from exact ones as those of one process in bf16: 1 to 5%, a gate 18%."""
    exact, *_ = one_step(backbones, "fp32")
    largest = max(gradient.norm() for gradient in exact.values())
    for gradients, dtypes, kept in values_of_processes(2, one_step, backbones, "bf16"):
        assert dtypes == {torch.bfloat16}
        assert kept == {torch.float32}
        for name, gradient in gradients.items():
            assert gradient.dtype == torch.float32
            error = (gradient - exact[name]).norm()
            assert error <= 0.2 * exact[name].norm().clamp(min=1e-2 * largest), name


@pytest.mark.full
def test_engines_that_do_not_fit_the_processes_are_refused(backbones):
    def refused(config):
        with pytest.raises(UserError, match=r"parallel\.(kind|shard_size)"):
            distribute(make_model(backbones), config)
        with pytest.raises(UserError, match=r"parallel\.kind"):
            distribute(torch.nn.Linear(2, 2), FSDP2)

    values_of_processes(2, refused, ParallelConfig("single"))
    values_of_processes(2, refused, ParallelConfig("hsdp", shard_size=3))


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("kind", {"kind": "fsdp"}),
        ("shard_size", {"kind": "hsdp", "shard_size": 0}),
        ("shard_size", {"kind": "fsdp2", "shard_size": 2}),
        ("reshard_after_forward", {"reshard_after_forward": "no"}),
        ("shard_vision_model", {"shard_vision_model": 1}),
        ("scatter_every_batch", {"scatter_every_batch": 1}),
    ],
)
def test_values_out_of_range_are_refused_by_their_key(key, values):
    with pytest.raises(UserError, match=f"^{key} "):
        ParallelConfig(**values)


def test_the_log_says_that_one_process_shares_nothing(caplog):
    model = torch.nn.Linear(2, 2)
    with caplog.at_level("INFO", logger="flamingo"):
        assert distribute(model, ParallelConfig(kind="fsdp2")).model is model
        distribute(model, ParallelConfig(kind="single"))
    assert [record.args for record in caplog.records] == [("fsdp2",)]
