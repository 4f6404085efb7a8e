"""timm's classifiers as backbones, and its LAMB: the only file that knows timm.

timm and torch are imported where a name of timm's is first looked at: about 4 s, once a process. What it takes to choose
a network (parameters, multiply-adds, length of the features) is counted on torch's meta device: nothing is allocated and
nothing computed, so that takes half a second whatever the size.
"""

from __future__ import annotations

import fnmatch
import functools
import importlib.util
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from fairface_core.errors import ConfigError, shown

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

PREFIX = "timm/"
INSTALL = 'pip install -e ".[timm]"'
_MISSING = f"the package timm is not installed; run: {INSTALL}"
# An architecture and, after a dot, the name of its pretrained weights. No source such as `hf-hub:` or `local-dir:`.
NAME_PATTERN = r"^timm/[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)?$"
_PROBE_IMAGES = 2  # fewest images of a training pass


@dataclass(frozen=True)
class Entry:
    """What timm's registry says of a name.

    Attributes:
        image_size: Its own square input, pixels.
        mean: Of red, green and blue in 0..1.
        std: The same.
        interpolation: How its authors resized images.
        resizable: Whether another input needs nothing but another input.
        classifiers: Dotted names of the layers that are left out, as its weights name them.
        hub_id: Where its pretrained weights lie on the Hugging Face hub, `OWNER/NAME` or `OWNER/NAME@REVISION`, or None.
        hub_file: Their file name there, or None for timm's usual one.
        url: Where else they lie, or None.
    """

    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str
    resizable: bool
    classifiers: tuple[str, ...]
    hub_id: str | None
    hub_file: str | None
    url: str | None


@dataclass(frozen=True)
class Counts:
    """What one forward pass of a feature extractor takes.

    Attributes:
        feature_dim: Length of its feature vector.
        num_params: Its parameters.
        gmac: Multiply-adds per image, 1e9.
        conv_share: How many of them are in 2-D convolutions, 0..1.
        depthwise_share: How many are in depthwise convolutions, 0..1.
        batch_norm: Whether a module takes the variance of a batch.
        stochastic_depth: Whether there are blocks that it can drop.
    """

    feature_dim: int
    num_params: int
    gmac: float
    conv_share: float
    depthwise_share: float
    batch_norm: bool
    stochastic_depth: bool


@functools.cache
def _timm() -> Any:
    try:
        import timm
    except ImportError:
        raise ConfigError(f"backbone = 'timm/...': {_MISSING}") from None
    return timm


def names(pattern: str) -> list[str]:
    """Return timm's names, without their prefix, that a pattern of `*`, `?` and `[...]` matches, in order.

    Those with the name of their weights (`convnextv2_atto.fcmae_ft_in1k`) are matched by a pattern with a dot only.
    """
    known = _timm().list_pretrained() if "." in pattern else _timm().list_models()
    return [name for name in known if fnmatch.fnmatchcase(name, pattern)]


def near(name: str, most: int = 3) -> list[str]:
    """Return names like a wrong one: of the same beginning, or spelled alike."""
    known = _timm().list_models()
    word = name.partition(".")[0]
    if _timm().is_model(word):
        return [f"{word}.{tag}" for tag in _tags(word)][:most] or [word]
    begin = [one for one in known if one.startswith(word)] if len(word) > 2 else []
    return list(dict.fromkeys([*get_close_matches(word, known, n=most), *begin]))[:most]


def _tags(architecture: str) -> list[str]:
    return [name.partition(".")[2] for name in _timm().list_pretrained(f"{architecture}.*")]


@functools.cache
def entry(name: str) -> Entry:
    """Return what the registry says of a name, without its prefix.

    Raises:
        ConfigError: If timm is not installed or does not know the name.
    """
    timm = _timm()
    word, _, tag = name.partition(".")
    if not re.match(NAME_PATTERN, PREFIX + name) or not timm.is_model(word) or (tag and tag not in _tags(word)):
        like = [f'"{PREFIX}{one}"' for one in near(name)]
        hint = f" (did you mean {' or '.join(like)}?)" if like else ""
        raise ConfigError(
            f"backbone = {shown(PREFIX + name, 200)} is not known to timm {timm.__version__}{hint}; "
            "python -m fairface_core.backbones 'timm/*PART*' lists names"
        )
    held = timm.get_pretrained_cfg(name, allow_unregistered=True)
    cfg: dict[str, Any] = held.to_dict() if held is not None else timm.models.PretrainedCfg().to_dict()
    channels, height, width = cfg.get("input_size") or (3, 224, 224)
    if channels != 3 or height != width:
        raise ConfigError(
            f"backbone = '{PREFIX}{name}' takes {channels} channels of {width} x {height} px; accepted: RGB in a square"
        )
    named = cfg.get("classifier") or ()
    return Entry(
        image_size=height,
        mean=_three(cfg["mean"]),
        std=_three(cfg["std"]),
        interpolation=str(cfg.get("interpolation") or "bicubic"),
        resizable=not cfg.get("fixed_input_size", False),
        classifiers=(named,) if isinstance(named, str) else tuple(named),
        hub_id=cfg.get("hf_hub_id") or None,
        hub_file=cfg.get("hf_hub_filename") or None,
        url=cfg.get("url") or None,
    )


def _three(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def build(name: str, image_size: int) -> nn.Module:
    """Return the feature extractor with fresh weights: `float [B, 3, S, S] -> float [B, feature_dim]`."""
    # A network whose position embeddings or windows hang on the input takes its size when it is made.
    sized = {} if entry(name).resizable else {"img_size": image_size}
    return _timm().create_model(name, num_classes=0, **sized)


@functools.cache
def counted(name: str, image_size: int) -> Counts:
    """Return what a pass at this input size takes.

    Raises:
        ConfigError: If the network cannot be built for that size, or gives no feature vector for two images in training.
    """
    import torch

    where = f"backbone = '{PREFIX}{name}' cannot be used at image_size = {image_size}"
    own = entry(name).image_size
    advice = f"its own is {own}" if image_size != own else "choose another backbone"
    try:
        # Some initializers draw from the CPU's generator, whatever the device.
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            network = build(name, image_size)
            patch = getattr(getattr(network, "patch_embed", None), "patch_size", None)
            found = None if _is_cut(patch, image_size) else count(network, image_size)
    except Exception as error:
        # Not narrower: each network refuses an input in words and classes of its own.
        said = (str(error).strip().splitlines() or [""])[0][:200]
        raise ConfigError(f"{where}: {type(error).__name__} {said}; {advice}") from error
    if found is None:
        side = max(patch) if isinstance(patch, tuple) else patch
        raise ConfigError(f"{where}: it cuts the image into patches of {side} px; use a multiple of {side}")
    return found


def _is_cut(patch: Any, image_size: int) -> bool:
    sides = patch if isinstance(patch, tuple) else (patch,)
    return any(isinstance(side, int) and side and image_size % side for side in sides)


def count(network: nn.Module, image_size: int) -> Counts:
    """Count one pass in training mode; of a network on the meta device nothing is computed. It cannot be trained then.

    Raises:
        TypeError: If its answer is no feature vector.
    """
    import torch
    from torch import nn
    from torch.nn.modules.batchnorm import _BatchNorm
    from torch.utils.flop_counter import FlopCounterMode

    macs = {"conv": 0, "depthwise": 0}

    def note(module: Any, _: Any, output: Tensor) -> None:
        weight = module.weight
        macs["conv"] += (number := output.shape[0] * output[0, 0].numel() * weight.numel())
        macs["depthwise"] += number if module.groups > 1 and weight.shape[1] == 1 else 0

    hooks = [one.register_forward_hook(note) for one in network.modules() if isinstance(one, nn.Conv2d)]
    device = next(network.parameters()).device
    network.requires_grad_(False)  # torch's counter follows gradients too, and refuses parameters that are arguments
    images = torch.zeros(_PROBE_IMAGES, 3, image_size, image_size, device=device)
    try:
        with FlopCounterMode(display=False) as flops:
            features = network.train()(images)
    finally:
        for hook in hooks:
            hook.remove()
    if not isinstance(features, torch.Tensor) or features.ndim != 2 or len(features) != _PROBE_IMAGES:
        given = list(features.shape) if isinstance(features, torch.Tensor) else type(features).__name__
        raise TypeError(f"its answer is no feature vector but {given}")
    total = flops.get_total_flops() / 2
    return Counts(
        feature_dim=features.shape[1],
        num_params=sum(one.numel() for one in network.parameters()),
        gmac=total / _PROBE_IMAGES / 1e9,
        conv_share=macs["conv"] / total,
        depthwise_share=macs["depthwise"] / total,
        batch_norm=any(isinstance(one, _BatchNorm) for one in network.modules()),
        stochastic_depth=bool(droppable(network)),
    )


def droppable(network: nn.Module) -> list[str]:
    """Return the names of the modules that drop a block at random, and of the identities that timm builds where none is dropped."""
    return [
        name
        for name, module in network.named_modules()
        if type(module).__name__ in ("StochasticDepth", "DropPath")
        or (type(module).__name__ == "Identity" and re.search(r"drop_path\d*$", name))
    ]


def adapted(name: str, network: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Bring weights of this architecture into the shape of a network that `build` made: timm's own conversion.

    It knows the names that the authors of each architecture used, and interpolates position embeddings and relative
    position tables to another input size. The classifier is left out.

    Args:
        name: The name, without its prefix.
        network: Takes the weights.
        state: Of any input size.

    Returns:
        What is left is for the caller to compare with the network's own names and shapes.
    """
    gone = tuple(f"{one}." for one in entry(name).classifiers)
    kept = {key: value for key, value in state.items() if not key.startswith(gone)}
    own = network.state_dict()
    if kept.keys() == own.keys() and all(kept[key].shape == own[key].shape for key in own):
        return kept
    for convert in _converters(network):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of timm's own code, about its speed and its indexing
                changed = convert(dict(state), network)
        except (KeyError, ValueError, TypeError, RuntimeError, AttributeError, IndexError):
            continue  # not the names that it knows
        kept = {key: value for key, value in changed.items() if not key.startswith(gone)}
        if own.keys() <= kept.keys():
            break
    return kept


def _converters(network: nn.Module) -> Iterator[Any]:
    """Yield the functions of the module that defines this class which convert a state dict, by timm's names for them."""
    module = sys.modules[type(network).__module__]
    for word in ("checkpoint_filter_fn", "_filter_fn"):
        if convert := getattr(module, word, None):
            yield convert


def check_optimizer(name: str) -> str:
    """Return the name of an optimizer; nothing is imported for it.

    Raises:
        ValueError: If it is timm's, and timm is not installed.
    """
    if name == "lamb" and importlib.util.find_spec("timm") is None:
        raise ValueError(_MISSING)
    return name


def lamb(groups: list[dict[str, Any]], lr: float, weight_decay: float) -> Optimizer:
    """Return timm's LAMB (You et al., 1904.00962) with its defaults, but that it shortens no gradient: `clip_grad_norm` does."""
    from timm.optim import Lamb

    optimizer = Lamb(groups, lr=lr, weight_decay=weight_decay, max_grad_norm=None)
    optimizer.register_step_post_hook(_forget_steps_at_rest)
    return optimizer


def _forget_steps_at_rest(optimizer: Optimizer, *_: Any) -> None:
    """Let a group that had no gradients yet begin at its first step: timm counts by group, and its empty steps too.

    The moments of a backbone that was frozen would be taken for old ones, and its first steps be up to 6.6 times too long.
    """
    for group in optimizer.param_groups:
        if all(parameter.grad is None for parameter in group["params"]):
            del group["step"]
