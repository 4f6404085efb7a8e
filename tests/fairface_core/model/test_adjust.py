"""Depths by the names of parameters, stochastic depth and batch norm's momentum, on the real networks."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.ops import StochasticDepth

from fairface_core.backbones import BACKBONES
from fairface_core.config.recipe import recipe_problems
from fairface_core.config.train_config import TrainConfig
from fairface_core.errors import ConfigError
from fairface_core.model.adjust import adjust, block_of
from fairface_core.model.network import AgeGenderModel


def backbone(name: str) -> nn.Module:
    with torch.device("meta"):
        return AgeGenderModel(name, 32, 0.2).feature_extractor


# The number of blocks above the input: residual blocks, transformer layers, downsampling layers, last convolutions.
NUM_BLOCKS = {
    "resnet50": 16, "convnext_tiny": 22, "efficientnet_v2_s": 41, "vit_b_16": 12, "resnet18": 8, "mobilenet_v3_small": 13,
}  # fmt: skip


@pytest.mark.parametrize("name", BACKBONES)
def test_depths_grow_from_the_input_to_the_output(name: str) -> None:
    network = backbone(name)
    depths = block_of(network)
    assert set(depths) == {parameter for parameter, _ in network.named_parameters()}
    assert list(depths.values()) == sorted(depths.values())
    assert set(depths.values()) == set(range(NUM_BLOCKS[name] + 1))


@pytest.mark.parametrize(
    ("name", "depth"),
    [("conv1.weight", 0), ("layer1.0.downsample.0.weight", 1), ("layer1.1.bn2.bias", 2), ("layer4.2.conv3.weight", 16)],
)
def test_a_residual_block_is_one_depth(name: str, depth: int) -> None:
    assert block_of(backbone("resnet50"))[name] == depth


def test_embeddings_and_tokens_lie_at_the_input_and_a_last_norm_at_the_output() -> None:
    depths = block_of(backbone("vit_b_16"))
    assert {depths[name] for name in ("class_token", "conv_proj.weight", "encoder.pos_embedding")} == {0}
    assert depths["encoder.ln.weight"] == depths["encoder.layers.encoder_layer_11.ln_1.weight"] == 12


def test_a_network_without_blocks_is_refused() -> None:
    with pytest.raises(ConfigError, match="the order of depth of Linear is not known; use layer_decay 1"):
        block_of(nn.Linear(2, 2))


@pytest.mark.parametrize("name", BACKBONES)
def test_what_a_backbone_has_not_is_refused_before_it_is_built_and_when_it_is(name: str) -> None:
    network = backbone(name)
    for field, change in (("drop_path", {"drop_path": 0.3}), ("norm_momentum", {"norm_momentum": 0.2})):
        told = list(recipe_problems(TrainConfig(backbone=name, **change)))
        options = {"drop_path": None, "norm_momentum": None, **change}
        if told:
            assert len(told) == 1 and told[0].startswith(f"{field} = ") and name in told[0]
            with pytest.raises(ConfigError, match=f"{field} = .*this backbone has no .*; leave it out"):
                adjust(network, **options)
        else:
            adjust(network, **options)
    shares = [module.p for module in network.modules() if isinstance(module, StochasticDepth)]
    assert shares == pytest.approx([0.3 * k / (len(shares) - 1) for k in range(len(shares))])
    assert {module.momentum for module in network.modules() if isinstance(module, nn.BatchNorm2d)} <= {0.2}
