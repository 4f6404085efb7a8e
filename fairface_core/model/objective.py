"""Class weights and the joint loss."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fairface_core.labels import AGE_GROUPS, GENDERS


def class_weights(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Return inverse-frequency weights `float32 [num_classes]`: sum / count, divided by their mean.

    They come from the label column, not from decoded images. A class with no row counts as one row: its weight
    stays finite, and no training row uses it.
    """
    counts = np.bincount(labels, minlength=num_classes).astype(np.float64)
    weights = counts.sum() / np.maximum(counts, 1.0)
    return (weights / weights.mean()).astype(np.float32)


@dataclass(frozen=True)
class Objective:
    """`age_loss_weight * CE(age) + (1 - age_loss_weight) * CE(gender)`, both class-weighted.

    Attributes:
        age_weights: float32 [9] on the device.
        gender_weights: float32 [2] on the device.
        age_loss_weight: Share of the age loss, 0..1.
    """

    age_weights: Tensor
    gender_weights: Tensor
    age_loss_weight: float

    @classmethod
    def from_labels(
        cls, age: np.ndarray, gender: np.ndarray, age_loss_weight: float, device: torch.device
    ) -> Objective:
        """Build it from the training labels, both int64 [N]."""
        return cls(
            torch.from_numpy(class_weights(age, len(AGE_GROUPS))).to(device),
            torch.from_numpy(class_weights(gender, len(GENDERS))).to(device),
            age_loss_weight,
        )

    def totals(self, age: Tensor, gender: Tensor) -> tuple[Tensor, Tensor]:
        """Return the summed class weights of a batch: what the two weighted means divide by."""
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
            age: int64 [B].
            gender: int64 [B].
            totals: `totals()` of the whole batch. A micro-batch is a part of it: the losses of all parts then sum
                to the loss of the batch exactly, which separate weighted means would not.
        """
        age_loss = functional.cross_entropy(age_logits.float(), age, self.age_weights, reduction="sum") / totals[0]
        gender_loss = (
            functional.cross_entropy(gender_logits.float(), gender, self.gender_weights, reduction="sum") / totals[1]
        )
        return self.age_loss_weight * age_loss + (1.0 - self.age_loss_weight) * gender_loss
