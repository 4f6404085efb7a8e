"""What a recipe changes in a built backbone, and how deep in it each parameter lies. Evaluation needs none of it."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.ops import StochasticDepth

from fairface_core.errors import ConfigError
from fairface_core.timm_models import droppable

# The fewest blocks of which one can be said to lie deeper than another.
_FEWEST_BLOCKS = 3


def adjust(network: nn.Module, *, drop_path: float | None, norm_momentum: float | None) -> None:
    """Set what a recipe sets of a backbone; None leaves the backbone's own.

    Raises:
        ConfigError: If the backbone has nothing of the kind.
    """
    if drop_path is not None:
        _set_drop_path(network, drop_path)
    if norm_momentum is not None:
        _set_norm_momentum(network, norm_momentum)


def _set_drop_path(network: nn.Module, share: float) -> None:
    """Set the stochastic depth: block l of L is dropped with probability `share * l / (L - 1)`, l = 0..L-1.

    Source: the linear rule of Huang et al., "Deep Networks with Stochastic Depth" (1603.09382), section 3, as torchvision's
    convnext counts it.
    """
    names = droppable(network)
    if not names:
        raise ConfigError(f"drop_path = {share:g}: this backbone has no stochastic depth; leave it out")
    for depth, name in enumerate(names):
        network.set_submodule(name, StochasticDepth(share * depth / max(len(names) - 1, 1), "row"))


def _set_norm_momentum(network: nn.Module, momentum: float) -> None:
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    if not norms:
        raise ConfigError(f"norm_momentum = {momentum:g}: this backbone has no batch norm; leave it out")
    for norm in norms:
        norm.momentum = momentum


def block_of(network: nn.Module) -> Mapping[str, int]:
    """Return for each parameter's name the block that it lies in, counted from the input, which is 0.

    A block is what a number in a name tells from its neighbours: `layer1.0`, `features.1.0`, `blocks.11`,
    `encoder.layers.encoder_layer_3`, `stages.2.blocks.0`; a single layer with a number belongs to what holds it. Blocks
    follow each other as the network names them. What has no number lies with what was named before it: a stem, the
    embeddings and tokens with the input, a last norm with the last block.

    Raises:
        ConfigError: If there are too few blocks to speak of an order.
    """
    order: dict[str, int] = {}
    depths: dict[str, int] = {}
    for name, _ in network.named_parameters():
        block = _block_name(network, name)
        if block:
            order.setdefault(block, len(order) + 1)
            depths[name] = order[block]
        else:
            depths[name] = len(order)
    # A stem that has a number of its own is the input.
    first = min(depths.values())
    if len(order) < _FEWEST_BLOCKS:
        raise ConfigError(
            f"layer_decay: the order of depth of {type(network).__name__} is not known; use layer_decay 1"
        )
    return {name: depth - first for name, depth in depths.items()}


def _block_name(network: nn.Module, name: str) -> str:
    parts = name.split(".")[:-1]
    start = next((i for i, part in enumerate(parts) if re.search(r"\d", part)), None)
    if start is None:
        return ""
    end = start + 1
    while end < len(parts) and re.fullmatch(r"\d+|b\d+|blocks", parts[end]):
        end += 1
    block = network.get_submodule(".".join(parts[:end]))
    if not any(next(child.parameters(), None) is not None for child in block.children()):
        end -= 1
    return ".".join(parts[:end])
