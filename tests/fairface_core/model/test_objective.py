"""Class weights and the joint loss against torch's own words for them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from fairface_core.model.objective import Objective, class_weights


def test_weights_are_inverse_frequencies_over_their_mean() -> None:
    weights = class_weights(np.array([0] * 6 + [1] * 3 + [2] * 1), 3)
    raw = np.array([10 / 6, 10 / 3, 10 / 1])
    np.testing.assert_allclose(weights, raw / raw.mean(), rtol=1e-6)
    assert weights.dtype == np.float32


def test_an_absent_class_keeps_a_finite_weight() -> None:
    weights = class_weights(np.array([0, 0, 2]), 3)
    assert np.isfinite(weights).all()
    assert weights.mean() == pytest.approx(1.0)


def batch(n: int = 37) -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(0)
    return (
        torch.randn(n, 9, generator=g), torch.randn(n, 2, generator=g),
        torch.randint(0, 9, (n,), generator=g), torch.randint(0, 2, (n,), generator=g),
    )  # fmt: skip


@pytest.mark.parametrize("share", [0.5, 0.8])
def test_the_loss_is_the_weighted_sum_of_torchs_weighted_means(share: float) -> None:
    age_logits, gender_logits, age, gender = batch()
    objective = Objective.from_labels(age.numpy(), gender.numpy(), share, torch.device("cpu"))
    expected = share * functional.cross_entropy(age_logits, age, objective.age_weights) + (
        1 - share
    ) * functional.cross_entropy(gender_logits, gender, objective.gender_weights)
    got = objective.loss(age_logits, gender_logits, age, gender, objective.totals(age, gender))
    torch.testing.assert_close(got, expected)


def test_micro_batches_add_up_to_the_batch() -> None:
    age_logits, gender_logits, age, gender = batch()
    objective = Objective.from_labels(age.numpy(), gender.numpy(), 0.5, torch.device("cpu"))
    totals = objective.totals(age, gender)
    whole = objective.loss(age_logits, gender_logits, age, gender, totals)
    parts = [
        objective.loss(age_logits[i : i + 8], gender_logits[i : i + 8], age[i : i + 8], gender[i : i + 8], totals)
        for i in range(0, 37, 8)
    ]
    torch.testing.assert_close(torch.stack(parts).sum(), whole)
