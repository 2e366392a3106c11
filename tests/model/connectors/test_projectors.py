"""Projections of patches to the width of the language model, against transformers' LLaVA and means of slices."""

import pytest
import torch
from transformers import LlavaConfig
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from flamingo.model.connectors import LinearConfig, MLPProjectorConfig
from flamingo.model.connectors.linear import LinearConnector
from flamingo.model.connectors.mlp_projector import MLPProjector
from flamingo.utils.errors import UserError
from tests.helpers import devices
from tests.helpers.references import randomize


def projector(pool=1):
    return randomize(MLPProjector(MLPProjectorConfig(pool=pool), vision_width=12, text_width=8))


def test_the_linear_connector_maps_each_patch():
    connector = randomize(LinearConnector(LinearConfig(), vision_width=12, text_width=8))
    features = torch.randn(2, 3, 1, 5, 12)
    tokens = connector(features)
    assert tokens.shape == (2, 3, 5, 8) and connector.width == 8 and connector.num_tokens(5, 1) == 5
    expected = connector.projection.weight @ features[1, 2, 0, 4] + connector.projection.bias
    torch.testing.assert_close(tokens[1, 2, 4], expected)


def test_the_mlp_projector_equals_that_of_transformers_llava():
    connector = projector()
    config = LlavaConfig()
    config.vision_config.hidden_size, config.text_config.hidden_size = 12, 8
    theirs = LlavaMultiModalProjector(config).to(devices.DEVICE)
    theirs.load_state_dict(connector.state_dict())
    features = torch.randn(2, 3, 1, 5, 12)
    torch.testing.assert_close(connector(features), theirs(features[:, :, 0]))


def test_pooling_averages_squares_of_patches():
    connector = projector(pool=2)
    features = torch.randn(2, 3, 1, 16, 12)
    tokens = connector(features)
    assert connector.num_tokens(16, 1) == 4
    assert tokens.shape == (2, 3, 4, 8)
    # Rows of four patches: the last square holds patches 10, 11, 14 and 15.
    square = features[:, :, :, [10, 11, 14, 15]].mean(dim=3, keepdim=True)
    torch.testing.assert_close(tokens[:, :, 3:], projector_of_same_weights(connector)(square))


def projector_of_same_weights(connector):
    same = projector()
    same.load_state_dict(connector.state_dict())
    return same


@pytest.mark.parametrize(("pool", "patches"), [(2, 9), (3, 16), (2, 12)])
def test_patches_that_do_not_divide_into_squares_are_refused(pool, patches):
    connector = projector(pool)
    with pytest.raises(UserError, match=r"connector\.pool"):
        connector.num_tokens(patches, 1)
    with pytest.raises(UserError, match=r"connector\.pool"):
        connector(torch.randn(1, 1, 1, patches, 12))


@pytest.mark.parametrize("kind", [LinearConfig, MLPProjectorConfig])
def test_several_frames_are_refused(kind):
    classes = {LinearConfig: LinearConnector, MLPProjectorConfig: MLPProjector}
    connector = classes[kind](kind(), vision_width=12, text_width=8)
    with pytest.raises(UserError, match="2 frames"):
        connector(torch.randn(1, 1, 2, 4, 12))
