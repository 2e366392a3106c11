"""GATED XATTN-DENSE against a reference computed here from the paper's formulas, token by token."""

import pytest
import torch
from einops import repeat
from torch.nn import functional as F

from flamingo.model.fusion import CrossAttentionConfig, gated_block, grouped
from flamingo.model.fusion.gated_block import GatedCrossAttentionBlock, visible_images
from flamingo.model.fusion.grouped import group_tokens, grouped_attention, token_groups
from tests.helpers.references import normed, randomize, rms_norm

IMAGE_INDEX = torch.tensor([[-1, 0, 0, 2, 2], [1, 1, -1, 0, 2]])


def make(**config):
    return randomize(GatedCrossAttentionBlock(10, 12, CrossAttentionConfig(num_heads=2, head_dim=4, **config)))


def reference(block, x, visual_tokens, index, config):
    """One token x [d] with the visual tokens [m r v] of its document."""
    first = max(index, 0) if config.get("attend") != "previous" else 0
    seen = visual_tokens[first : index + 1].reshape(-1, 12)
    attended = torch.zeros_like(x)
    if index >= 0:
        heads = []
        for head in range(2):
            rows = slice(4 * head, 4 * head + 4)
            q = normed(x, block.norm) @ block.attention.to_q.weight[rows].T
            k = seen @ block.attention.to_k.weight[rows].T
            if config.get("qk_norm"):
                q, k = rms_norm(q, block.attention.q_norm), rms_norm(k, block.attention.k_norm)
            heads.append((q @ k.T / 2).softmax(-1) @ (seen @ block.attention.to_v.weight[rows].T))
        attended = torch.cat(heads) @ block.attention.to_out.weight.T
    x = x + (attended if block.attention_gate is None else block.attention_gate.tanh() * attended)
    if config.get("mlp_ratio") == 0:
        assert not any("feedforward" in name for name, _ in block.named_parameters())
        return x
    x_normed = normed(x, block.feedforward.norm)
    up = x_normed @ block.feedforward.up.weight.T
    activation = {"gelu": F.gelu, "silu": lambda x: x * x.sigmoid()}.get(
        config.get("activation"), lambda x: x.clamp(min=0) ** 2
    )
    hidden = activation(x_normed @ block.feedforward.gate.weight.T) * up if config.get("glu") else activation(up)
    dense = hidden @ block.feedforward.down.weight.T
    return x + (dense if block.feedforward_gate is None else block.feedforward_gate.tanh() * dense)


@pytest.mark.parametrize(
    "config",
    [
        *({}, {"gate": "vector"}, {"gate": "none"}, {"activation": "gelu"}, {"qk_norm": True}, {"attend": "previous"}),
        *({"mlp_width": 7}, {"activation": "silu", "glu": True}),
        {"norm": "rms", "rms_norm_eps": 0.1, "qk_norm": True},
        {"mlp_ratio": 0},
    ],
    ids=str,
)
def test_it_equals_the_papers_formulas(config):
    block = make(**config)
    x, visual_tokens = torch.randn(2, 5, 10), torch.randn(2, 3, 4, 12)
    out = block(x, *block.keys_values(visual_tokens), IMAGE_INDEX)
    for b in range(2):
        for t in range(5):
            expected = reference(block, x[b, t], visual_tokens[b], int(IMAGE_INDEX[b, t]), config)
            torch.testing.assert_close(out[b, t], expected, atol=1e-5, rtol=1e-4)


def test_grouped_keys_are_recomputed_with_exact_gradients():
    block = make(qk_norm=True)
    x = torch.randn(2, 5, 10, requires_grad=True)
    visual_tokens = torch.randn(2, 3, 4, 12, requires_grad=True)
    keys, values = block.keys_values(visual_tokens)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        out = block(x, keys, values, IMAGE_INDEX)
    _, image_of_group = token_groups(torch.zeros(10, dtype=torch.int64), images=6, size=10)
    assert len(image_of_group) not in {len(tensor) for tensor in kept if tensor.ndim == 4}
    wanted = [x, visual_tokens, *block.parameters()]
    gradients = torch.autograd.grad(out.square().sum(), wanted)
    expected = torch.stack(
        [
            reference(block, x[b, t], visual_tokens[b], int(IMAGE_INDEX[b, t]), {"qk_norm": True})
            for b in range(2)
            for t in range(5)
        ]
    )
    torch.testing.assert_close(gradients, torch.autograd.grad(expected.square().sum(), wanted), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("attend", ["last", "previous"])
def test_rows_that_share_images_get_what_copies_would_get(attend):
    block = make(attend=attend)
    visual_tokens, x = torch.randn(2, 3, 4, 12), torch.randn(6, 5, 10)
    index = torch.randint(-1, 3, (6, 5))
    copies = visual_tokens.repeat_interleave(3, dim=0)
    shared = block(x, *block.keys_values(visual_tokens), index)
    torch.testing.assert_close(shared, block(x, *block.keys_values(copies), index))
    for t in range(5):  # one token at a time, as in decoding
        step = block(x[:, t : t + 1], *block.keys_values(visual_tokens), index[:, t : t + 1])
        torch.testing.assert_close(step[:, 0], shared[:, t])


def masked_down(queries, keys, values, index):
    """Scores over all images, of which a mask leaves one: what the block does in less work."""
    visible = visible_images(index, keys.shape[1], "last")
    scores = torch.einsum("bntke,bmkre->bnktmr", queries, keys) / queries.shape[-1] ** 0.5
    scores = scores.masked_fill(~repeat(visible, "b n t m -> b n 1 t m 1"), -1e9)
    weights = scores.flatten(-2).softmax(-1).unflatten(-1, scores.shape[-2:])
    return torch.einsum("bnktmr,bmkre->bntke", weights, values)


def in_groups(queries, keys, values, index):
    return grouped_attention(queries, keys, values, *group_tokens(index, keys.shape[1]))


@pytest.mark.parametrize("rows", [1, 3])
def test_grouped_attention_equals_masked_attention(rows):
    """Runs longer and shorter than a group, in any order, and an image that no token sees."""
    index = torch.tensor([2] * 70 + [0] * 3 + [-1] * 40 + [4] * 32 + [2] * 5 + [0] * 33).repeat(2, rows, 1)
    index[1] = torch.randint(-1, 4, index[1].shape)
    shapes = (2, rows, index.shape[2], 2, 4), (2, 5, 2, 3, 4), (2, 5, 2, 3, 4)
    inputs = [torch.randn(shape, requires_grad=True) for shape in shapes]
    seen = (index >= 0)[..., None, None]
    outputs, gradients = [], []
    for attend in (in_groups, masked_down):
        out = attend(*inputs, index) * seen
        outputs.append(out)
        gradients.append(torch.autograd.grad((out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum(), inputs))
    torch.testing.assert_close(outputs[0], outputs[1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-5, rtol=1e-4)


def test_the_number_of_scores_hardly_grows_with_the_images(monkeypatch):
    block, scores, tokens = make(), {}, 320
    attend = grouped.attend

    def counted(queries, keys, *rest):
        scores[images] = scores.get(images, 0) + queries[..., 0].numel() * keys.shape[-2]
        return attend(queries, keys, *rest)

    for module in (grouped, gated_block):
        monkeypatch.setattr(module, "attend", counted)
    for images in (1, 2, 8):
        index = torch.arange(tokens).unsqueeze(0) * images // tokens
        block(torch.randn(1, tokens, 10), *block.keys_values(torch.randn(1, images, 4, 12)), index)
    assert scores[1] == tokens * 2 * 4  # heads and visual tokens
    assert scores[8] < 2 * scores[1]


def test_groups_hold_the_tokens_of_one_image():
    image = torch.tensor([1, 1, 1, 3, 0, 1, 3, 1, 0])  # 3: none of the three
    slot, image_of_group = token_groups(image, images=3, size=2)
    assert slot.tolist() == [2, 3, 4, 8, 0, 5, 9, 6, 1]
    assert image_of_group.tolist()[:4] == [0, 1, 1, 1]
    assert len(image_of_group) == 9 // 2 + 4


def test_the_example_of_the_docstring():
    slot, image_of_group = token_groups(torch.tensor([1, 0, 1, 1, 2]), images=2, size=2)
    assert slot.tolist() == [2, 0, 3, 4, 6]
    assert image_of_group.tolist() == [0, 1, 1, 1, 1]


def test_the_masked_path_gives_what_the_grouped_one_gives():
    block, x, visual_tokens = make(), torch.randn(2, 5, 10), torch.randn(2, 3, 4, 12)
    by_group = block(x, *block.keys_values(visual_tokens), IMAGE_INDEX)
    block.grouped = False
    torch.testing.assert_close(block(x, *block.keys_values(visual_tokens), IMAGE_INDEX), by_group)


def test_reset_parameters_closes_the_gates_and_nothing_else():
    block = make()
    before = {name: parameter.clone() for name, parameter in block.named_parameters()}
    block.reset_parameters()
    changed = {name for name, parameter in block.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed == {"attention_gate", "feedforward_gate"}
    assert not block.attention_gate.any() and not block.feedforward_gate.any()


def test_a_token_without_an_image_gets_nothing_and_no_gradient():
    block = make()
    visual_tokens = torch.randn(1, 2, 4, 12, requires_grad=True)
    x = torch.randn(1, 3, 10)
    index = torch.tensor([[-1, 1, -1]])
    out = block(x, *block.keys_values(visual_tokens), index)
    out[:, [0, 2]].sum().backward(retain_graph=True)
    assert torch.equal(visual_tokens.grad, torch.zeros_like(visual_tokens))
    out.sum().backward()
    assert torch.equal(visual_tokens.grad[:, 0], torch.zeros(1, 4, 12))
    assert visual_tokens.grad[:, 1].abs().sum() > 0


def test_gates_start_closed_and_their_gradient_is_not():
    block = GatedCrossAttentionBlock(10, 12, CrossAttentionConfig(num_heads=2, head_dim=4)).to(IMAGE_INDEX.device)
    x, visual_tokens = torch.randn(1, 5, 10), torch.randn(1, 3, 4, 12)
    out = block(x, *block.keys_values(visual_tokens), IMAGE_INDEX[:1])
    assert torch.equal(out, x)
    out.square().sum().backward()
    assert block.attention_gate.grad.abs() > 0
    assert block.feedforward_gate.grad.abs() > 0


def test_the_mask_as_a_table():
    index = torch.tensor([[-1, 0, 2]])
    assert visible_images(index, 3, "last").int().tolist() == [[[0, 0, 0], [1, 0, 0], [0, 0, 1]]]
    assert visible_images(index, 3, "previous").int().tolist() == [[[0, 0, 0], [1, 0, 0], [1, 1, 1]]]


@pytest.mark.parametrize("part", ["attention_gate", "feedforward_gate"])
def test_dropout_drops_a_part_of_the_sum_and_scales_the_rest(part):
    block = make(dropout=0.4)
    getattr(block, part).data.zero_()  # the other one is looked at
    x, visual_tokens = torch.randn(2, 5, 10), torch.randn(2, 3, 4, 12)
    arguments = (x, *block.keys_values(visual_tokens), IMAGE_INDEX.clamp(min=0))
    whole = block.eval()(*arguments) - x
    block.train()
    draws = torch.stack([block(*arguments) - x for _ in range(50)])
    kept = draws.abs() > 1e-6
    torch.testing.assert_close(draws, kept * whole / 0.6, atol=1e-4, rtol=1e-4)
    assert 0.55 < kept.float().mean() < 0.65
