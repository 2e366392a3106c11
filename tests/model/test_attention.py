import pytest
import torch
from torch import nn
from torch.nn import functional as F

from flamingo.model.attention import FeedForward
from tests.helpers import devices


@pytest.mark.parametrize("glu", [False, True])
def test_a_feedforward_recomputes_its_activation_exactly(glu):
    torch.manual_seed(0)
    feedforward = FeedForward(nn.LayerNorm(6), 6, 50, "gelu", glu).to(devices.DEVICE)
    x = torch.randn(3, 6, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        out = feedforward(x)
    inner = {tensor.data_ptr() for tensor in kept if tensor.shape == (3, 50)}
    assert len(inner) == 1 + glu  # what goes into the activation, and what it multiplies
    gradients = torch.autograd.grad(out.square().sum(), [x, *feedforward.parameters()])
    y = feedforward.norm(x)
    acted = F.gelu(feedforward.gate(y)) * feedforward.up(y) if glu else F.gelu(feedforward.up(y))
    expected = torch.autograd.grad(feedforward.down(acted).square().sum(), [x, *feedforward.parameters()])
    torch.testing.assert_close(gradients, expected)
