"""Which fields of the training recipe do not go together, told before anything starts. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fairface_core.backbones import spec_of

# What these losses say of one true group means nothing for a blend of two that may lie far apart.
_ONE_TRUE_GROUP = ("coral", "corn", "mean_variance")


def recipe_problems(config: Any) -> Iterator[str]:
    """Yield what is wrong with a recipe as a whole, one line each.

    Args:
        config: A TrainConfig, whose single values are right and whose backbone is known. (Its module imports this one.)
    """
    for name in ("warmup_epochs", "freeze_epochs"):
        value = getattr(config, name)
        if value and value >= config.epochs:
            yield f"{name} = {value}: with epochs = {config.epochs} nothing follows; accepted: less than epochs"
    if config.min_lr > config.lr:
        yield f"min_lr = {config.min_lr:g}: above lr = {config.lr:g}; accepted: at most lr"
    if config.min_lr and config.schedule == "constant":
        yield f"min_lr = {config.min_lr:g}: schedule = constant never falls to it; use cosine or linear, or leave it out"
    for name in ("mixup", "cutmix"):
        if getattr(config, name) and config.age_loss in _ONE_TRUE_GROUP:
            yield (
                f"{name} = {getattr(config, name):g}: age_loss = {config.age_loss} needs one true age group an image; use "
                f"cross_entropy or soft_labels, or {name} 0"
            )
    if config.label_smoothing and config.age_loss != "cross_entropy":
        yield (
            f"label_smoothing = {config.label_smoothing:g}: it knows no order and age_loss = {config.age_loss} does; use "
            "cross_entropy, or label_smoothing 0"
        )
    spec = spec_of(config.backbone)
    if config.drop_path is not None and not spec.stochastic_depth:
        yield f"drop_path = {config.drop_path:g}: {spec.name} has no stochastic depth; leave it out"
    if config.norm_momentum is not None and not spec.batch_norm:
        yield f"norm_momentum = {config.norm_momentum:g}: {spec.name} has no batch norm; leave it out"
