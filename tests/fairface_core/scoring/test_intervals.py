"""Intervals by influence, against resampling the images two thousand times."""

from __future__ import annotations

import numpy as np
import pytest

from fairface_core.scoring.intervals import mean_f1_difference, mean_f1_interval
from sweep.results.bootstrap import Predictions, resampled_scores


def drawn(n: int, seed: int, skill: float) -> tuple[np.ndarray, np.ndarray]:
    truth = truths(n)
    rng = np.random.default_rng(seed)
    age = np.where(rng.random(n) < skill, truth[0], (truth[0] + rng.integers(-1, 2, n)).clip(0, 8))
    return age, np.where(rng.random(n) < skill + 0.2, truth[1], 1 - truth[1])


def truths(n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(99)
    age = rng.choice(9, n, p=[0.02, 0.12, 0.11, 0.30, 0.21, 0.12, 0.07, 0.03, 0.02])
    return age, rng.integers(0, 2, n)


@pytest.mark.parametrize("seed", range(4))
def test_the_interval_is_that_of_the_bootstrap(seed: int) -> None:
    truth, pred = truths(2000), drawn(2000, seed, 0.5)
    one = Predictions(*truth, *pred)
    value, low, high = mean_f1_interval(*pred, *truth)
    assert value == pytest.approx(one.mean_f1, abs=1e-12)
    resampled = resampled_scores([one], num_resamples=4000, seed=seed)[0]
    assert high - low == pytest.approx(2 * 1.96 * resampled.std(ddof=1), rel=0.06)
    assert (low + high) / 2 == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_so_is_that_of_a_difference(seed: int) -> None:
    truth, first = truths(2000), drawn(2000, seed, 0.55)
    second = tuple(
        np.where(np.random.default_rng(seed).random(2000) < 0.9, a, b)
        for a, b in zip(first, drawn(2000, 7, 0.4), strict=True)
    )
    value, low, high = mean_f1_difference(first, second, *truth)
    pair = [Predictions(*truth, *pred) for pred in (first, second)]
    assert value == pytest.approx(pair[0].mean_f1 - pair[1].mean_f1, abs=1e-12)
    a, b = resampled_scores(pair, num_resamples=4000, seed=seed)
    assert high - low == pytest.approx(2 * 1.96 * (a - b).std(ddof=1), rel=0.06)
    assert high - low < mean_f1_interval(*first, *truth)[2] - mean_f1_interval(*first, *truth)[1], "pairing must help"


def test_equal_answers_differ_by_nothing() -> None:
    pred = drawn(300, 1, 0.5)
    assert mean_f1_difference(pred, pred, *truths(300)) == (0.0, 0.0, 0.0)


def test_all_right_and_one_image() -> None:
    truth = truths(300)
    assert mean_f1_interval(*truth, *truth) == (1.0, 1.0, 1.0)
    one = np.array([3]), np.array([1])
    assert mean_f1_interval(*one, *one)[1:] == (pytest.approx((1 / 9 + 1 / 2) / 2),) * 2
