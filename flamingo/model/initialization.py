"""How the parts that are trained begin; transformers initialises the frozen ones."""

import torch
from torch import nn
from transformers import initialization as init

from flamingo.model.connectors.perceiver import PerceiverResampler
from flamingo.model.fusion.cross_attention import GatedCrossAttentionBlock
from flamingo.model.tokens import NewTokenEmbeddings


@torch.no_grad()
def initialize(module: nn.Module) -> None:
    """Linear maps keep the variance of their input, latents are standard normal, gates are closed.

    What a checkpoint has filled already, transformers' ``init`` functions leave alone.
    """
    match module:
        case nn.Linear():
            init.normal_(module.weight, std=module.in_features**-0.5)
        case nn.LayerNorm():
            init.ones_(module.weight)
            init.zeros_(module.bias)
        case nn.RMSNorm():
            init.ones_(module.weight)
        case PerceiverResampler():
            init.normal_(module.latents, std=1.0)
            if module.frame_embeddings is not None:
                init.normal_(module.frame_embeddings, std=0.02)
        case NewTokenEmbeddings():
            for rows in module.parameters(recurse=False):
                init.normal_(rows, std=0.02)
        case GatedCrossAttentionBlock():
            for gate in module.parameters(recurse=False):
                init.zeros_(gate)
