"""The learning rate: of an epoch, and within the epochs of the warm-up."""

from __future__ import annotations

import math

from fairface_core.config.train_config import TrainConfig


def epoch_lr(config: TrainConfig, epoch: int) -> float:
    """Return the learning rate of an epoch, counted from 1; of one of the warm-up, what it ends at.

    It changes from epoch to epoch and not within one, as the original script's did (torch's CosineAnnealingLR, stepped once
    an epoch, SGDR, 1608.03983): the first epoch after the warm-up has `lr`, and `min_lr` would come right after
    the last one. A linear schedule is the straight line between the two.
    """
    if epoch <= config.warmup_epochs:
        return config.lr * epoch / config.warmup_epochs
    done, length = epoch - 1 - config.warmup_epochs, config.epochs - config.warmup_epochs
    if config.schedule == "cosine":
        return config.min_lr + 0.5 * (config.lr - config.min_lr) * (1.0 + math.cos(math.pi * done / length))
    return config.lr if config.schedule == "constant" else config.lr - (config.lr - config.min_lr) * done / length


def warmup_share(epoch: int, share: float) -> float:
    """Return by what the learning rate of an epoch of the warm-up is multiplied for one of its steps.

    Over all steps of the warm-up the rate rises by equal amounts, to `lr` at the last one: Goyal et al., "Accurate, Large
    Minibatch SGD" (1706.02677), section 2.2.

    Args:
        epoch: Counted from 1.
        share: How much of the epoch the step completes, above 0 and up to 1.
    """
    return (epoch - 1 + share) / epoch
