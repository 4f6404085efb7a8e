"""From gradients to weights: parameter groups, optimizer, clipping, and the moving average of the weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim.swa_utils import get_ema_multi_avg_fn

from fairface_core.config.train_config import TrainConfig
from fairface_core.model.adjust import block_of
from fairface_core.model.network import AgeGenderModel
from fairface_core.timm_models import lamb

_BACKBONE = "feature_extractor"
# Of more than one dimension and yet never decayed, by the last part of their names: torchvision's and timm's.
_NOT_DECAYED = ("layer_scale", "class_token", "pos_embedding", "cls_token", "pos_embed", "reg_token")


class Updates:
    """The optimizer of a model and what belongs to it.

    Attributes:
        scaler: Gradient scaler; of use in float16 alone.
        averaged: The moving average of the model, in evaluation mode; None without `ema_decay`.
    """

    def __init__(self, config: TrainConfig, model: AgeGenderModel, device: torch.device, *, scaled: bool) -> None:
        self._config, self._model = config, model
        groups, self._lr_factors = parameter_groups(config, model)
        fused = device.type != "mps"
        self._optimizer: torch.optim.Optimizer
        if config.optimizer == "sgd":
            self._optimizer = torch.optim.SGD(
                groups, lr=config.lr, momentum=0.9, nesterov=True, weight_decay=config.weight_decay, fused=fused
            )
        elif config.optimizer == "lamb":
            self._optimizer = lamb(groups, config.lr, config.weight_decay)
        else:
            self._optimizer = torch.optim.AdamW(groups, lr=config.lr, weight_decay=config.weight_decay, fused=fused)
        self.scaler = torch.amp.GradScaler(device.type, enabled=scaled)
        self.averaged = copy.deepcopy(model).eval().requires_grad_(False) if config.ema_decay else None
        self._steps = 0

    def set_lr(self, lr: float) -> None:
        """Set the learning rate; heads and blocks of the backbone have their multiples of it."""
        for group, factor in zip(self._optimizer.param_groups, self._lr_factors, strict=True):
            group["lr"] = lr * factor

    def step(self) -> None:
        """Change the weights by the gradients that were gathered, and forget these."""
        if self._config.clip_grad_norm:
            self.scaler.unscale_(self._optimizer)
            clip_grad_norm_(self._model.parameters(), self._config.clip_grad_norm)
        self.scaler.step(self._optimizer)
        self.scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        if self.averaged is not None:
            self._steps += 1
            self._average(self.averaged)

    def _average(self, averaged: nn.Module) -> None:
        """Move the average: Polyak's, with a decay that grows to `ema_decay` over the first steps.

        With a constant one the random weights of the start would count for a thousand steps. Source of
        `min(decay, (1 + n) / (10 + n))`: TensorFlow's ExponentialMovingAverage. The statistics of batch norm are averaged too.
        """
        move = get_ema_multi_avg_fn(min(self._config.ema_decay, (1 + self._steps) / (10 + self._steps)))
        means, values = [], []
        for mean, value in zip(averaged.state_dict().values(), self._model.state_dict().values(), strict=True):
            if mean.is_floating_point():
                means.append(mean)
                values.append(value)
            else:
                mean.copy_(value)
        move(means, values, self._steps)

    def state(self) -> dict[str, Any]:
        """Return the tensors that a resumed run needs; they are not copies."""
        state = {"optimizer": self._optimizer.state_dict(), "scaler": self.scaler.state_dict()}
        if self.averaged is not None:
            state["averaged"] = {"model": self.averaged.state_dict(), "steps": self._steps}
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over a saved state.

        Raises:
            KeyError, TypeError, ValueError, RuntimeError, AttributeError: If it is of another model or optimizer.
        """
        self._optimizer.load_state_dict(state["optimizer"])
        # A state that was written without a scaler, in bf16 on another GPU, leaves a fresh one as it is.
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        if self.averaged is not None:
            self.averaged.load_state_dict(state["averaged"]["model"])
            self._steps = int(state["averaged"]["steps"])


def parameter_groups(config: TrainConfig, model: AgeGenderModel) -> tuple[list[dict[str, Any]], list[float]]:
    """Return the optimizer's groups, and for each by what the learning rate is multiplied in it.

    Without `head_lr_factor`, `layer_decay` and `no_decay_on_norm_and_bias` there is one group, in the order of
    `model.parameters()`: an older run's state fits. A backbone that is frozen at first is apart where the optimizer asks for it.

    Raises:
        ConfigError: If the blocks of the backbone have no order that is known.
    """
    groups: dict[tuple[float, bool, bool], list[Tensor]] = {}
    for name, parameter, factor in _with_lr_factors(config, model):
        spared = config.no_decay_on_norm_and_bias and (parameter.ndim <= 1 or name.endswith(_NOT_DECAYED))
        # timm's LAMB counts steps by group, and torch's fused SGD refuses a group in which some momenta have not begun.
        apart = config.optimizer != "adamw" and config.freeze_epochs > 0 and name.startswith(_BACKBONE)
        groups.setdefault((factor, spared, apart), []).append(parameter)
    made = [
        {"params": params, **({"weight_decay": 0.0} if spared else {})} for (_, spared, _), params in groups.items()
    ]
    return made, [factor for factor, *_ in groups]


def _with_lr_factors(config: TrainConfig, model: AgeGenderModel) -> Iterator[tuple[str, Tensor, float]]:
    """Yield each parameter's name, itself and its multiple of the learning rate.

    `layer_decay ** (blocks above it)`: Bao et al., "BEiT" (2106.08254); the heads lie above the last block.
    """
    decays = config.layer_decay != 1
    depths = block_of(model.feature_extractor) if decays else {}
    top = max(depths.values(), default=0) + 1
    for name, parameter in model.named_parameters():
        part, _, inner = name.partition(".")
        if part != _BACKBONE:
            yield name, parameter, config.head_lr_factor
        else:
            yield name, parameter, config.layer_decay ** (top - depths[inner]) if decays else 1.0


def scored_weights(state: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """Return the weights of a run's state that belong into best.pt: the moving average where there is one."""
    return state["averaged"]["model"] if "averaged" in state else state["model"]


def freeze_backbone(model: AgeGenderModel, frozen: bool) -> None:
    """Keep a backbone as it is, its batch statistics and stochastic depth included, or let it be trained again.

    The model must be in training mode.
    """
    model.feature_extractor.requires_grad_(not frozen)
    model.feature_extractor.train(not frozen)
