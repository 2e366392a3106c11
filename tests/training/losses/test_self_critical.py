"""Training by reward: the right captions are sampled, and the gradient is that of the expected reward."""

import pytest
import torch
from PIL import Image as PILImage
from transformers import GenerationConfig

from flamingo import Document, Image, Text
from flamingo.data.encode import EncodedGroup, make_batch
from flamingo.training import TrainingConfig
from flamingo.training.loop import train
from flamingo.training.losses import SelfCriticalConfig
from flamingo.training.losses.self_critical import SelfCritical
from flamingo.training.optim import AdamWConfig
from flamingo.training.parallel import Parallel
from flamingo.training.speed import Speed
from flamingo.training.step import DataSet, accumulate_gradients, next_update
from flamingo.utils.errors import UserError
from tests.evaluation.fake import model_and_processor
from tests.helpers.devices import moved
from tests.tiny import NEW_TOKEN_IDS, POISONED, PREFIX
from tests.training.runs import Listed

SAID = {
    "red": ("a dog runs", "two dogs on the grass"),
    "green": ("a cat sits on a mat", "a ball"),
    "blue": ("red", "the ball is red"),
}
#: The last image of each document, and those before it: prompts of different lengths.
SHOWN = [["red"], ["blue", "green"], ["red", "green", "blue"]]
CAPTIONS, NEW = 3, 6


@pytest.fixture
def parts(backbones):
    return model_and_processor(backbones)


@pytest.fixture(params=[{}, PREFIX], ids=["cross_attention", "prefix"])
def each_fusion(backbones, request):
    return model_and_processor(backbones, **request.param)


def document(colours, version):
    parts = []
    for colour in colours:
        parts += [Image(PILImage.new("RGB", (16, 16), colour)), Text("Output:", train=False)]
        parts.append(Text(f" {SAID[colour][version]}"))
    return Document(parts)


def batch(processor, shown=SHOWN):
    """Two versions of each document, of which the first has the images."""
    groups = []
    for colours in shown:
        versions = [processor.encode(document(colours, version)) for version in (0, 1)]
        groups.append(EncodedGroup(versions, ", ".join(colours)))
    return make_batch(groups, processor.tokenizer.pad_token_id)


def length(outputs, references):
    """A reward that any two captions differ in, and that depends on their references."""
    return [len(output) + 0.1 * sum(map(len, own)) for output, own in zip(outputs, references, strict=True)]


def loss_of(parts, reward=length, shown=SHOWN, count=None):
    model, processor = parts
    made = batch(processor, shown).to(model.device)
    objective = SelfCritical(SelfCriticalConfig(num_captions=CAPTIONS, max_new_tokens=NEW), processor, lambda _: reward)
    return objective(model, made, count or made.label_tokens)


def found_alone(parts, colours):
    """Token ids of the captions that beam search finds for one prompt, with their ends where they have one."""
    model, processor = parts
    whole = document(colours, 0)
    prompt = moved(processor.batch([Document(whole.parts[:-1])], prompt=True))
    end = processor.end_of_chunk_token_id
    ids = model.generate(
        **prompt,
        num_beams=CAPTIONS,
        num_return_sequences=CAPTIONS,
        length_penalty=0.0,
        max_new_tokens=NEW,
        eos_token_id=end,
        pad_token_id=processor.tokenizer.pad_token_id,
    )
    rows = ids[:, prompt["input_ids"].shape[1] :].tolist()
    return prompt, [row[: row.index(end) + 1] if end in row else row for row in rows]


def text(processor, ids):
    return processor.tokenizer.decode(ids, skip_special_tokens=True).lstrip()


def test_each_prompt_has_all_captions_of_its_image_as_references(each_fusion):
    parts = each_fusion
    asked = []

    def reward(outputs, references):
        asked.extend(zip(outputs, references, strict=True))
        return length(outputs, references)

    loss_of(parts, reward)
    expected = []
    for colours in SHOWN:
        _, rows = found_alone(parts, colours)
        expected += [(text(parts[1], row), list(SAID[colours[-1]])) for row in rows]
    assert asked == expected
    assert len({output for output, _ in asked}) > 5


@pytest.mark.parametrize("shipped", POISONED, ids=lambda shipped: next(iter(shipped)))
def test_captions_ignore_the_checkpoints_generation_config(parts, shipped):
    captions = []

    def reward(outputs, references):
        captions.append(list(outputs))
        return length(outputs, references)

    config = GenerationConfig(**shipped)
    for generation_config in (GenerationConfig(), config):
        parts[0].generation_config = generation_config
        loss_of(parts, reward)
    assert captions[0] == captions[1] and len(captions[0]) == len(SHOWN) * CAPTIONS
    assert parts[0].generation_config is config


def test_the_gradient_is_that_of_reward_minus_the_others_mean(each_fusion):
    parts = each_fusion
    model, processor = parts
    model.train_parts(["connector", "fusion", "new_tokens"])
    made = batch(processor)
    count = made.label_tokens + 5  # of other batches of the same update
    objective = value = 0.0
    for number, colours in enumerate(SHOWN):
        prompt, rows = found_alone(parts, colours)
        rewards = length([text(processor, row) for row in rows], [SAID[colours[-1]]] * CAPTIONS)
        weight = (made.tensors["labels"][2 * number : 2 * number + 2, 1:] != -100).sum() / count
        value = value - weight * sum(rewards) / CAPTIONS
        for row, own in zip(rows, rewards, strict=True):
            ids = torch.cat([prompt["input_ids"][0], torch.tensor(row)])[None]
            index = torch.cat([prompt["image_index"][0], prompt["image_index"][0, -1].expand(len(row))])[None]
            logits = model(ids, image_index=index, pixel_values=prompt["pixel_values"]).logits[0]
            said = logits.log_softmax(-1)[-len(row) - 1 : -1].gather(1, torch.tensor(row)[:, None]).sum()
            advantage = own - (sum(rewards) - own) / (CAPTIONS - 1)
            objective = objective - weight * advantage * said / CAPTIONS
    objective.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}
    model.zero_grad()
    loss = loss_of(parts, count=count)
    loss.backward()
    assert loss.item() == pytest.approx(value.item(), rel=1e-5)
    assert max(gradient.abs().max() for name, gradient in expected.items() if "connector" in name) > 1e-4
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-3, atol=1e-5, msg=name)


def test_a_caption_with_an_image_marker_is_text(backbones):
    """Its log-likelihood is that of the marker's own embedding, not of a visual token."""
    parts = model_and_processor(backbones, **PREFIX)

    def prefer_marker(head, args, logits):
        logits[..., NEW_TOKEN_IDS[1]] += 100
        return logits

    parts[0].get_output_embeddings().register_forward_hook(prefer_marker)
    loss_of(parts).backward()
    assert all(p.grad.isfinite().all() for p in parts[0].parameters() if p.grad is not None)


def test_equal_rewards_teach_nothing(parts):
    parts[0].train_parts(["fusion"])
    loss_of(parts, lambda outputs, references: [2.5] * len(outputs)).backward()
    assert all(not p.grad.any() for p in parts[0].parameters() if p.requires_grad)


def test_training_raises_the_reward_and_leaves_the_mode(parts):
    """Of captions that have the letter e more often."""
    model, processor = parts
    model.train_parts(["connector", "fusion", "new_tokens"])

    def reward(outputs, references):
        return [float(output.count("e")) for output in outputs]

    objective = SelfCritical(SelfCriticalConfig(max_new_tokens=NEW), processor, lambda _: reward)
    data = DataSet("pairs", Listed(batch(processor, [["red"], ["blue"]])), loss=objective)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    model.train()
    for step in range(1, 31):
        update = next_update([data], {"pairs": iter(data.batches)}, step, 1, "accumulated")
        [loss] = accumulate_gradients(Parallel(model), update, "fp32", Speed(torch.device("cpu")))
        losses.append(loss.item())
        optimizer.step()
        optimizer.zero_grad()
    assert model.training and not model.vision_model.training
    assert losses[-1] < losses[0] - 0.5


def test_a_reward_that_is_not_finite_ends_the_run_unchanged(parts, tmp_path):
    """Of step 2, found after step 4; captions are generated in all four."""
    model, processor = parts
    model.train_parts(["fusion"])
    rewarded, weights = [], []

    def reward(outputs, references):
        weights.append([p.detach().clone() for p in model.parameters() if p.requires_grad])
        rewarded.append(outputs)
        return [float("nan")] * len(outputs) if len(rewarded) == 2 else length(outputs, references)

    objective = SelfCritical(SelfCriticalConfig(num_captions=CAPTIONS, max_new_tokens=NEW), processor, lambda _: reward)
    data = DataSet("pairs", Listed(batch(processor, [["red"], ["blue"]])), loss=objective)
    with pytest.raises(UserError, match=r"the loss of step 2 is not finite.*pairs: red, blue"):
        train(model, [data], AdamWConfig(lr=1e-2), TrainingConfig(steps=4), tmp_path)
    assert len(rewarded) == 4
    before, *after = weights[1:]
    assert any(not torch.equal(a, b) for a, b in zip(weights[0], before, strict=True))
    after.append([p for p in model.parameters() if p.requires_grad])
    for later in after:
        assert all(torch.equal(a, b) for a, b in zip(before, later, strict=True))


def test_a_document_whose_last_text_is_not_learnt_is_refused(parts):
    model, processor = parts
    unlearnt = document(["red"], 0).parts[:-1]
    groups = [EncodedGroup([processor.encode(Document(unlearnt))] * 2, "red")]
    objective = SelfCritical(SelfCriticalConfig(num_captions=CAPTIONS, max_new_tokens=NEW), processor, lambda _: length)
    with pytest.raises(UserError, match=r"loss\.kind=self_critical"):
        objective(model, make_batch(groups, processor.tokenizer.pad_token_id), 1)


def test_one_caption_has_no_others():
    with pytest.raises(UserError, match=r"num_captions.*2.*1"):
        SelfCriticalConfig(num_captions=1)
