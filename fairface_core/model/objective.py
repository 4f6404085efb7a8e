"""Class weights and the joint loss."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fairface_core.config.train_config import TrainConfig
from fairface_core.labels import AGE_GROUPS, GENDERS
from fairface_core.model.age_losses import age_loss_sum

# Of `effective_number`: from about a thousand images on, a class gains nothing by more of them.
_BETA = 0.999


def class_weights(labels: np.ndarray, num_classes: int, weighting: str = "inverse_frequency") -> np.ndarray:
    """Return the classes' weights in the loss, float32 `[num_classes]`, divided by their mean.

    They come from the label column, not from decoded images. A class with no row counts as one row: its weight
    stays finite, and no training row uses it.

    Args:
        labels: int64 [N], 0..num_classes-1.
        num_classes: How many there are.
        weighting: `inverse_frequency`: sum / count. `effective_number`: (1 - b) / (1 - b^count) with b = 0.999, Cui et al.,
            "Class-Balanced Loss Based on Effective Number of Samples" (1901.05555). `none`: 1.
    """
    counts = np.bincount(labels, minlength=num_classes).astype(np.float64)
    if weighting == "none":
        return np.ones(num_classes, dtype=np.float32)
    if weighting == "effective_number":
        weights = (1 - _BETA) / (1 - _BETA ** np.maximum(counts, 1.0))
    else:
        weights = counts.sum() / np.maximum(counts, 1.0)
    return (weights / weights.mean()).astype(np.float32)


def loss_weights(config: TrainConfig, age: np.ndarray, gender: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the class weights of a run, float32 [9] and [2], from its training labels, both int64 [N].

    They correct what is drawn: a balanced sampler draws every class alike, which leaves nothing to be weighted.
    """
    weighting = "none" if config.sampler == "balanced" else config.weighting
    return class_weights(age, len(AGE_GROUPS), weighting), class_weights(gender, len(GENDERS), weighting)


@dataclass(frozen=True)
class Objective:
    """`age_loss_weight * L(age) + (1 - age_loss_weight) * CE(gender)`, both class-weighted.

    Attributes:
        age_weights: float32 [9] on the device.
        gender_weights: float32 [2] on the device.
        age_loss_weight: Share of the age loss, 0..1.
        age_loss: Which loss L is: age_losses.py.
        label_smoothing: Share of each label that is spread over all classes.
    """

    age_weights: Tensor
    gender_weights: Tensor
    age_loss_weight: float
    age_loss: str = "cross_entropy"
    label_smoothing: float = 0.0

    @classmethod
    def of(cls, config: TrainConfig, age: np.ndarray, gender: np.ndarray, device: torch.device) -> Objective:
        """Build a run's objective from its training labels, both int64 [N]."""
        age_weights, gender_weights = (torch.from_numpy(w).to(device) for w in loss_weights(config, age, gender))
        return cls(age_weights, gender_weights, config.age_loss_weight, config.age_loss, config.label_smoothing)

    def totals(self, age: Tensor, gender: Tensor) -> tuple[Tensor, Tensor]:
        """Return the summed class weights of a batch: what the two weighted means divide by.

        An image of several classes, blended by mixup or cutmix, weighs what its classes weigh, by their shares in it.
        """
        if age.is_floating_point():
            return (age @ self.age_weights).sum(), (gender @ self.gender_weights).sum()
        return self.age_weights[age].sum(), self.gender_weights[gender].sum()

    def loss(
        self,
        age_logits: Tensor,
        gender_logits: Tensor,
        age: Tensor,
        gender: Tensor,
        totals: tuple[Tensor, Tensor],
    ) -> Tensor:
        """Return the joint loss, a float32 scalar.

        Args:
            age_logits: float [B, 9].
            gender_logits: float [B, 2].
            age: int64 [B], or shares of the classes, float32 [B, 9].
            gender: int64 [B], or float32 [B, 2].
            totals: `totals()` of the whole batch. A micro-batch is a part of it: the losses of all parts then sum
                to the loss of the batch exactly, which separate weighted means would not.
        """
        age_loss = age_loss_sum(self.age_loss, age_logits.float(), age, self.age_weights, self.label_smoothing)
        gender_loss = functional.cross_entropy(
            gender_logits.float(), gender, self.gender_weights, reduction="sum", label_smoothing=self.label_smoothing
        )
        return self.age_loss_weight * (age_loss / totals[0]) + (1.0 - self.age_loss_weight) * (gender_loss / totals[1])
