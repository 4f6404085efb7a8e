"""Class weights and the joint loss against torch's own words for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from fairface_core.config.train_config import TrainConfig
from fairface_core.model.objective import Objective, class_weights, loss_weights


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
    objective = Objective.of(TrainConfig(age_loss_weight=share), age.numpy(), gender.numpy(), torch.device("cpu"))
    expected = share * functional.cross_entropy(age_logits, age, objective.age_weights) + (
        1 - share
    ) * functional.cross_entropy(gender_logits, gender, objective.gender_weights)
    got = objective.loss(age_logits, gender_logits, age, gender, objective.totals(age, gender))
    torch.testing.assert_close(got, expected)


def test_micro_batches_add_up_to_the_batch() -> None:
    age_logits, gender_logits, age, gender = batch()
    objective = Objective.of(TrainConfig(), age.numpy(), gender.numpy(), torch.device("cpu"))
    totals = objective.totals(age, gender)
    whole = objective.loss(age_logits, gender_logits, age, gender, totals)
    parts = [
        objective.loss(age_logits[i : i + 8], gender_logits[i : i + 8], age[i : i + 8], gender[i : i + 8], totals)
        for i in range(0, 37, 8)
    ]
    torch.testing.assert_close(torch.stack(parts).sum(), whole)


def test_the_effective_number_lies_between_the_frequency_and_nothing() -> None:
    labels = np.repeat(np.arange(3), [2000, 200, 20])
    weights = class_weights(labels, 3, "effective_number")
    raw = np.array([(1 - 0.999) / (1 - 0.999**n) for n in (2000, 200, 20)])
    np.testing.assert_allclose(weights, raw / raw.mean(), rtol=1e-6)
    frequency = class_weights(labels, 3)
    assert 1 < weights[2] / weights[0] < frequency[2] / frequency[0]
    assert class_weights(labels, 3, "none").tolist() == [1, 1, 1]


def test_a_balanced_sampler_leaves_nothing_to_be_weighted() -> None:
    age, gender = np.arange(40) % 9 // 2, np.arange(40) % 3 // 2
    for sampler, is_flat in (("shuffled", False), ("balanced", True)):
        age_weights, gender_weights = loss_weights(TrainConfig(sampler=sampler), age, gender)
        assert (np.ptp(age_weights[:5]) == 0) == (np.ptp(gender_weights) == 0) == is_flat


@pytest.mark.parametrize("recipe", [{}, {"label_smoothing": 0.1}, {"age_loss": "soft_labels"}])
def test_a_blend_counts_as_a_share_of_each_of_its_images(recipe: dict[str, Any]) -> None:
    """Labels that are shares of 1 and 0 give the loss of the labels; halves give the loss of both labels' images."""
    age_logits, gender_logits, age, gender = batch()
    objective = Objective.of(TrainConfig(**recipe), age.numpy(), gender.numpy(), torch.device("cpu"))

    def loss(logits: tuple[torch.Tensor, torch.Tensor], age: torch.Tensor, gender: torch.Tensor) -> torch.Tensor:
        return objective.loss(*logits, age, gender, objective.totals(age, gender))

    logits = (age_logits, gender_logits)
    shares = functional.one_hot(age, 9).float(), functional.one_hot(gender, 2).float()
    torch.testing.assert_close(loss(logits, *shares), loss(logits, age, gender))
    halves = [(one + one.roll(1, 0)) / 2 for one in shares]
    twice = [torch.cat([one, one]) for one in logits]
    both = [torch.cat([one, one.roll(1, 0)]) for one in (age, gender)]
    torch.testing.assert_close(loss(logits, *halves), loss((twice[0], twice[1]), *both))
