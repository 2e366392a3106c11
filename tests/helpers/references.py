"""The formulas of the papers, computed step by step, as references for connectors and fusions."""

import torch
from torch import nn

from tests.helpers import devices


def layer_norm(x, norm):
    deviation = torch.sqrt(x.var(-1, keepdim=True, unbiased=False) + 1e-5)
    return (x - x.mean(-1, keepdim=True)) / deviation * norm.weight + norm.bias


def rms_norm(x, norm):
    eps = torch.finfo(x.dtype).eps if norm.eps is None else norm.eps
    return x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + eps) * norm.weight


def normed(x, norm):
    return rms_norm(x, norm) if isinstance(norm, nn.RMSNorm) else layer_norm(x, norm)


def squared_relu(x):
    return x.clamp(min=0) ** 2


def attention(queries, context, layer, qk_norm=False):
    """Returns softmax(q k^T / sqrt(e)) v of two heads of width 4, head by head."""
    outputs = []
    for head in range(2):
        rows = slice(4 * head, 4 * head + 4)
        q = queries @ layer.to_q.weight[rows].T
        k = context @ layer.to_k.weight[rows].T
        v = context @ layer.to_v.weight[rows].T
        if qk_norm:
            q, k = normed(q, layer.q_norm), normed(k, layer.k_norm)
        outputs.append((q @ k.T / 4**0.5).softmax(-1) @ v)
    return torch.cat(outputs, -1) @ layer.to_out.weight.T


def feedforward(x, layer, activation=squared_relu):
    return activation(layer_norm(x, layer.norm) @ layer.up.weight.T) @ layer.down.weight.T


def randomize(module, std=0.5):
    """Draws all parameters; weights of norms around 1."""
    for name, parameter in module.named_parameters():
        is_norm_weight = "norm" in name and name.endswith("weight")
        parameter.data.normal_(mean=1.0 if is_norm_weight else 0.0, std=std)
    return module.to(devices.DEVICE)
