import numpy as np
import pytest
import torch
from torch.nn import functional as F

from flamingo.training import TrainingConfig
from flamingo.training.loop import train
from flamingo.training.monitoring import Monitoring
from flamingo.training.optim import AdamWConfig
from flamingo.training.parallel import Parallel
from flamingo.training.step import DataSet
from flamingo.training.validation import HeldOut, blind, held_out_losses
from tests import tiny
from tests.helpers import devices
from tests.training.runs import Listed, batch, history, make_model, mixed_run


def losses(model, *held_out):
    return held_out_losses(Parallel(model), held_out, "fp32")


def offline(model, batches):
    """The mean cross-entropy of all label tokens, each document by itself."""
    total, count = 0.0, 0
    for each in batches:
        for row in range(len(each.ids)):
            tensors = devices.moved({name: tensor[row : row + 1] for name, tensor in each.tensors.items()})
            logits = model(**tensors).logits[0, :-1].float()
            targets = tensors["labels"][0, 1:]
            total += F.cross_entropy(logits, targets, ignore_index=-100, reduction="sum").item()
            count += int((targets != -100).sum())
    return total / count


@pytest.mark.parametrize("fusion", ["cross_attention", "prefix"])
@torch.no_grad()
def test_losses_equal_those_of_an_offline_forward_pass(backbones, fusion):
    model = make_model(backbones, fusion)
    markers = tiny.TOKENS_PER_IMAGE if fusion == "prefix" else 0
    batches = [batch([1, 2, 3], markers=markers), batch([4], markers=markers)]
    values = losses(model, HeldOut("pairs", batches))
    model.eval()
    seeing = offline(model, batches)
    unseen = offline(model, [blind(each) for each in batches])
    assert values["held_out_loss/pairs"] == pytest.approx(seeing, rel=1e-5)
    assert values["blind_held_out_loss/pairs"] == pytest.approx(unseen, rel=1e-5)
    assert values["image_nats/pairs"] == pytest.approx(unseen - seeing, abs=1e-5)
    assert abs(unseen - seeing) > 1e-2


@pytest.mark.parametrize("fusion", ["cross_attention", "prefix"])
@torch.no_grad()
def test_the_blind_batch_equals_images_that_no_token_sees(backbones, fusion):
    model = make_model(backbones, fusion)
    with_image = batch([1, 2], markers=tiny.TOKENS_PER_IMAGE if fusion == "prefix" else 0)
    unseen = dict(with_image.tensors)
    unseen["image_index"] = torch.full_like(unseen["image_index"], -1)
    expected = model(**devices.moved(unseen)).logits
    torch.testing.assert_close(model(**devices.moved(blind(with_image).tensors)).logits, expected)


def test_documents_without_images_are_worth_nothing(backbones):
    assert losses(make_model(backbones), HeldOut("texts", [batch([1, 2], images=0)]))["image_nats/texts"] == 0


def test_dropout_stays_out(backbones):
    model = tiny.flamingo(backbones, fusion={"dropout": 0.5})
    held_out = HeldOut("pairs", [batch([1, 2])])
    model.train()
    first = losses(model, held_out)
    assert model.training
    assert losses(model, held_out) == first


def test_random_states_are_those_of_before(backbones):
    def with_noise(tensors):
        return tensors | {"pixel_values": tensors["pixel_values"] + torch.randn(()) + np.random.rand()}

    model = make_model(backbones)
    before = torch.get_rng_state(), np.random.get_state()[2]
    held_out_losses(Parallel(model), [HeldOut("pairs", [batch([1])], with_noise)], "fp32")
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[2] == before[1]


def test_tensors_are_prepared_as_in_training(backbones):
    def shifted(tensors):
        return tensors | {"pixel_values": tensors["pixel_values"] + 1}

    plain, prepared = batch([1, 2]), batch([1, 2])
    plain.tensors["pixel_values"] += 1
    model = make_model(backbones)
    assert losses(model, HeldOut("a", [prepared], shifted)) == losses(model, HeldOut("a", [plain]))


@pytest.mark.parametrize(
    "config, steps",
    [
        ({"save_every": 2}, [2, 4, 5]),
        ({"save_every": 2, "validate_every": 3}, [3, 5]),
        ({"save_every": 2, "validate_every": 0}, []),
    ],
)
def test_the_loss_is_recorded_at_the_steps_that_are_due(backbones, tmp_path, config, steps):
    model = make_model(backbones)
    held_out = HeldOut("pairs", [batch([9])])
    data = DataSet("pairs", Listed(batch([1])))
    config = TrainingConfig(steps=5, log_every=5, **config)
    train(model, [data], AdamWConfig(lr=1e-3), config, tmp_path, monitoring=Monitoring([held_out]))
    records = history(tmp_path)
    assert [record["step"] for record in records if "held_out_loss/pairs" in record] == steps
    if steps:
        expected = losses(model, held_out)
        assert {name: records[-1][name] for name in expected} == expected


def test_validation_changes_no_weight(backbones, tmp_path):
    plain, validated = make_model(backbones), make_model(backbones)
    config = TrainingConfig(steps=4, log_every=1, save_every=4, validate_every=1)
    optimizer = AdamWConfig(lr=1e-3)
    train(plain, [DataSet("pairs", Listed(batch([1]), batch([2])))], optimizer, config, tmp_path / "plain")
    monitoring = Monitoring([HeldOut("pairs", [batch([9])])])
    data = DataSet("pairs", Listed(batch([1]), batch([2])))
    train(validated, [data], optimizer, config, tmp_path / "validated", monitoring=monitoring)
    for (name, expected), actual in zip(plain.named_parameters(), validated.parameters()):
        assert torch.equal(actual, expected), name


def test_a_run_records_validation_at_every_second_step(backbones, tmp_path):
    mixed_run(backbones, tmp_path)
    with_loss = [record["step"] for record in history(tmp_path) if "held_out_loss/pairs" in record]
    assert with_loss == [2, 4, 6, 8]
