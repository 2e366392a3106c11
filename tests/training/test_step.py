"""Every label token of a data set has the same weight in any division into batches."""

from dataclasses import replace

import pytest
import torch
from jaxtyping import TypeCheckError

from flamingo.data.collate import count_label_tokens
from flamingo.training.parallel import Parallel
from flamingo.training.speed import Speed
from flamingo.training.step import DataSet, accumulate_gradients, next_update
from flamingo.utils.errors import UserError
from tests.helpers.devices import moved
from tests.training.runs import Listed, batch, make_model


def update_of(data_sets, accumulate, mixing="accumulated", step=1):
    iterators = {data_set.name: iter(data_set.batches) for data_set in data_sets}
    return next_update(data_sets, iterators, step, accumulate, mixing)


def gradients(backbones, data_sets, accumulate):
    """Losses, and the gradient of every parameter that trains."""
    model = make_model(backbones)
    update = update_of(data_sets, accumulate)
    losses = dict.fromkeys(update.tokens, 0.0)
    for (data_set, _), loss in zip(
        update.batches, accumulate_gradients(Parallel(model), update, "fp32", Speed(torch.device("cpu")))
    ):
        losses[data_set.name] += loss.item()
    return losses, {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


def test_unequal_batches_have_the_gradient_of_one_large_batch(backbones):
    """Three documents and one; a mean of the means would weigh the last one three times as much."""
    divided = [DataSet("pairs", Listed(batch([3, 7, 11]), batch([4])))]
    whole = [DataSet("pairs", Listed(batch([3, 7, 11, 4])))]
    losses, actual = gradients(backbones, divided, accumulate=2)
    expected_losses, expected = gradients(backbones, whole, accumulate=1)
    assert losses == pytest.approx(expected_losses)
    for name in expected:
        torch.testing.assert_close(actual[name], expected[name], rtol=1e-4, atol=1e-6)
    _, first = gradients(backbones, [DataSet("pairs", Listed(batch([3, 7, 11])))], accumulate=1)
    _, last = gradients(backbones, [DataSet("pairs", Listed(batch([4])))], accumulate=1)
    name = "fusion.blocks.1.feedforward.up.weight"
    assert not torch.allclose((first[name] + last[name]) / 2, expected[name], rtol=1e-2)


def test_data_sets_add_up_by_weight_with_their_own_means(backbones):
    pairs, texts = Listed(batch([3, 7, 11])), Listed(batch([1], images=0))
    model = make_model(backbones)
    objective = (
        0.5 * model(**moved(batch([3, 7, 11]).tensors)).loss + 0.2 * model(**moved(batch([1], images=0).tensors)).loss
    )
    objective.backward()
    losses, actual = gradients(backbones, [DataSet("pairs", pairs, 0.5), DataSet("texts", texts, 0.2)], accumulate=1)
    assert 0.5 * losses["pairs"] + 0.2 * losses["texts"] == pytest.approx(objective.item())
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(actual[name], parameter.grad, rtol=1e-4, atol=1e-6)


def test_unused_parameters_have_zero_gradients_and_frozen_none(backbones):
    model = make_model(backbones)
    update = update_of([DataSet("texts", Listed(batch([1], images=0)))], accumulate=1)
    accumulate_gradients(Parallel(model), update, "fp32", Speed(torch.device("cpu")))
    assert not model.connector.latents.grad.any()
    assert model.fusion.blocks["1"].feedforward_gate.grad.any()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == set(
        model.trainable_parameter_names()
    )


def test_data_sets_take_turns():
    sets = [DataSet(name, Listed(batch([i]), batch([10 + i]))) for i, name in enumerate("abc")]
    turns = [update_of(sets, 2, "round_robin", step).ids() for step in (1, 2, 3, 4)]
    assert turns == [[f"{name}: document {i}", f"{name}: document {10 + i}"] for i, name in enumerate("abc")] + [
        ["a: document 0", "a: document 10"]
    ]


def test_tokens_are_those_that_are_predicted():
    labels = torch.tensor([[5, 6, -100, 7], [-100, -100, 8, -100]])
    assert count_label_tokens(labels) == 3


def untrained(number):
    made = batch([number])
    made.tensors["labels"][:, 1:] = -100  # only a first token, which nothing predicts
    return replace(made, label_tokens=count_label_tokens(made.tensors["labels"]))


def test_a_data_set_without_a_token_to_train_on_is_named():
    sets = [DataSet("pairs", Listed(batch([1]))), DataSet("empty", Listed(untrained(4), untrained(5)))]
    with pytest.raises(UserError, match=r"step 1.*document.*4.*document.*5"):
        update_of(sets, accumulate=2)
    # One of two batches may be without.
    assert update_of([DataSet("a", Listed(untrained(4), batch([4])))], accumulate=2).tokens == {"a": 4 + 5 - 4 - 2}


def test_a_data_set_that_ends_is_named():
    loader = Listed(batch([1]))
    sets = [DataSet("short", loader)]
    with pytest.raises(ValueError, match="step 7"):
        next_update(sets, {"short": iter([batch([1])])}, 7, 2, "accumulated")


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_weights_that_make_no_sense_are_refused(weight):
    with pytest.raises(UserError, match=r"data set a.*weight"):
        DataSet("a", Listed(), weight)


def test_batches_without_a_position_are_refused():
    with pytest.raises((ValueError, TypeCheckError), match=r"position|Batches"):  # the checks of tests come first
        DataSet("a", [batch([1])])
