"""Prediction sets: the thresholds by another way of counting, and the share of truths that the sets then hold."""

from __future__ import annotations

import math
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairface_core.scoring.conformal import (
    LEVELS_PERCENT,
    calibrate,
    calibrate_probabilities,
    least_probabilities,
    level_name,
    prediction_sets,
)
from fairface_core.scoring.metrics import Logits, probabilities


def drawn(n: int, seed: int, skill: float = 1.5) -> tuple[Logits, np.ndarray, np.ndarray]:
    """Logits that know something of the truth."""
    rng = np.random.default_rng(seed)
    age, gender = rng.integers(0, 9, n), rng.integers(0, 2, n)
    age_logits, gender_logits = rng.normal(size=(n, 9)), rng.normal(size=(n, 2))
    age_logits[np.arange(n), age] += skill
    gender_logits[np.arange(n), gender] += skill
    return Logits(age_logits.astype(np.float32), gender_logits.astype(np.float32)), age, gender


@given(st.integers(1, 250), st.integers(0, 2**32 - 1))
def test_so_many_validation_truths_lie_in_their_sets_and_no_smaller_sets_hold_them(n: int, seed: int) -> None:
    logits, age, gender = drawn(n, seed)
    conformal = calibrate(logits, SimpleNamespace(age=age, gender=gender))
    prob = probabilities(logits.age)[np.arange(n), age]
    for percent in LEVELS_PERCENT:
        needed = math.ceil((n + 1) * Fraction(percent, 100))
        least = conformal["age"][f"0.{percent}"]
        if needed > n:
            assert least == 0.0, "too few images: only the set of all labels promises as much"
        else:
            assert (prob >= least).sum() >= needed > (prob > least).sum()


def test_the_share_of_truths_in_the_sets_is_the_one_asked_for() -> None:
    """Over 200 draws of 500 validation images: the mean share lies between `level` and `level + 1/501`."""
    shares = []
    for seed in range(200):
        logits, age, gender = drawn(500, seed)
        least, _ = least_probabilities(calibrate(logits, SimpleNamespace(age=age, gender=gender)), 0.9) or (
            math.nan,
            math.nan,
        )
        new, truth, _ = drawn(2000, 10_000 + seed)
        shares.append(prediction_sets(probabilities(new.age), least)[np.arange(2000), truth].mean())
    error = np.std(shares) / math.sqrt(len(shares))
    assert 0.9 - 3 * error < np.mean(shares) < 0.9 + 1 / 501 + 3 * error
    assert error < 0.002, "the check would pass for anything"


def test_the_likeliest_label_is_always_in_the_set() -> None:
    sets = prediction_sets(np.array([[0.4, 0.3, 0.3], [0.9, 0.05, 0.05]], np.float32), 0.8)
    np.testing.assert_array_equal(sets, [[True, False, False], [True, False, False]])


def test_levels() -> None:
    assert [level_name(level) for level in (0.5, 0.9, 0.99, 0.29, 1.0, 0.905, -0.9)] == [
        "0.50", "0.90", "0.99", None, None, None, None,
    ]  # fmt: skip
    assert level_name(0.57) == "0.57", "57 is not 0.57 * 100 in floats"


@pytest.mark.parametrize(
    "damage", [{"age": 3}, {"gender": {"0.90": "x"}}, {"age": {"0.90": 7}}, {"gender": None}, {"age": {}}]
)
def test_damaged_figures_are_none(damage: dict[str, object]) -> None:
    prob = np.full((20, 9), 1 / 9), np.full((20, 2), 0.5)
    whole = calibrate_probabilities(*prob, np.zeros(20, np.int64), np.zeros(20, np.int64))
    assert least_probabilities(whole, 0.9) is not None
    assert least_probabilities({**whole, **damage}, 0.9) is None
