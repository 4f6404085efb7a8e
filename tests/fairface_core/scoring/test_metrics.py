"""Every number of metrics.py against scikit-learn, torch or a count by hand."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from fairface_core.labels import AGE_GROUPS, GENDERS
from fairface_core.scoring.metrics import (
    CALIBRATION_BINS,
    Logits,
    Truth,
    confusion,
    constant_mean_f1,
    detail_metrics,
    f1_per_class,
    macro_f1,
    probabilities,
    split_metrics,
)


class Answered(NamedTuple):
    """What a model says of some images, and their labels."""

    logits: Logits
    truth: Truth


EXACT = {"rel": 0, "abs": 1e-9}


def scored_split(rows: int, seed: int, ages: tuple[int, ...] = tuple(range(9))) -> Answered:
    """Return float32 logits and int64 labels of a model that is right more often than not."""
    rng = np.random.default_rng(seed)
    age, gender = rng.choice(ages, rows), rng.integers(0, 2, rows)
    age_logits = rng.normal(0, 2, (rows, 9)) + 2.5 * np.eye(9)[age]
    gender_logits = rng.normal(0, 1, (rows, 2)) + 2.0 * np.eye(2)[gender]
    return answered(age_logits.astype(np.float32), gender_logits.astype(np.float32), age, gender)


def answered(age_logits: np.ndarray, gender_logits: np.ndarray, age: np.ndarray, gender: np.ndarray) -> Answered:
    return Answered(Logits(age_logits, gender_logits), SimpleNamespace(age=age, gender=gender))


SPLITS = [
    pytest.param(scored_split(2191, 0), id="2191 rows"),
    pytest.param(scored_split(40, 1, ages=(2, 3, 4)), id="six true age groups absent"),
    pytest.param(scored_split(1, 2), id="one row"),
]


def scores(split: Answered, **options: object) -> dict[str, float]:
    given_options = {"class_weights": None, "age_loss_weight": 0.5, "batch_size": 64}
    return split_metrics(*split, **{**given_options, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("split", SPLITS)
def test_split_metrics_are_scikit_learns(split: Answered) -> None:
    logits, labels = split
    found = scores(split)
    for key, pred, truth, k in (
        ("age", logits.age.argmax(1), labels.age, 9),
        ("gen", logits.gender.argmax(1), labels.gender, 2),
    ):
        macro = sk.f1_score(truth, pred, labels=range(k), average="macro", zero_division=0)
        assert found[f"{key}_f1m"] == pytest.approx(macro, **EXACT)
        assert found[f"{key}_acc"] == pytest.approx(sk.accuracy_score(truth, pred), **EXACT)
    assert found["mean_f1"] == pytest.approx((found["age_f1m"] + found["gen_f1m"]) / 2, **EXACT)
    assert all(type(value) is float for value in found.values())


@pytest.mark.parametrize("split", SPLITS)
def test_confusion_has_truth_in_rows_as_in_scikit_learn(split: Answered) -> None:
    pred, truth = split.logits.age.argmax(1), split.truth.age
    table = confusion(pred, truth, 9)
    assert table.dtype == np.int64
    np.testing.assert_array_equal(table, sk.confusion_matrix(truth, pred, labels=range(9)))


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("batch_size", [1, 64, 2191, 5000])
def test_loss_is_torchs_over_chunks(weighted: bool, batch_size: int) -> None:
    """The original's loss: the mean of per-batch weighted means, each counted by its rows; 2191 = 34 * 64 + 15."""
    split = scored_split(2191, 3)
    rng = np.random.default_rng(4)
    age_weights, gender_weights = rng.uniform(0.2, 4, 9).astype(np.float32), np.array([0.9, 1.1], np.float32)
    age_loss = torch.nn.CrossEntropyLoss(torch.from_numpy(age_weights).double() if weighted else None)
    gender_loss = torch.nn.CrossEntropyLoss(torch.from_numpy(gender_weights).double() if weighted else None)
    total = 0.0
    for start in range(0, 2191, batch_size):
        a, g, age, gender = (
            torch.from_numpy(array[start : start + batch_size])
            for array in (split.logits.age, split.logits.gender, split.truth.age, split.truth.gender)
        )
        total += len(a) * float(0.3 * age_loss(a.double(), age) + 0.7 * gender_loss(g.double(), gender))
    found = scores(
        split,
        class_weights=(age_weights, gender_weights) if weighted else None,
        age_loss_weight=0.3,
        batch_size=batch_size,
    )
    assert found["loss"] == pytest.approx(total / 2191, **EXACT)


def test_loss_of_logits_that_are_not_finite_is_not_finite() -> None:
    """The trainer sees a divergence by it; a warning would be an error here."""
    split = scored_split(50, 5)
    split.logits.age[7, 2], split.logits.gender[9, 0] = np.nan, np.inf
    assert not np.isfinite(scores(split)["loss"])


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=60))
@settings(deadline=None)
def test_macro_f1_of_any_labels_is_scikit_learns(pairs: list[tuple[int, int]]) -> None:
    truth, pred = np.array(pairs).T
    expected = sk.f1_score(truth, pred, labels=range(9), average="macro", zero_division=0)
    assert macro_f1(confusion(pred, truth, 9)) == pytest.approx(expected, **EXACT)


def test_f1_per_class_takes_stacks_of_counts() -> None:
    hits, true_counts, pred_counts = np.array([[2, 0], [0, 5]]), np.array([4, 5]), np.array([[2, 1], [0, 5]])
    np.testing.assert_allclose(f1_per_class(hits, true_counts, pred_counts), [[2 / 3, 0], [0, 1]], atol=1e-15)


def test_probabilities_are_the_rounded_softmax() -> None:
    logits = np.array([[1000.0, 999.0], [-3.0, 5.0]], dtype=np.float32)
    found = probabilities(logits)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, torch.from_numpy(logits).double().softmax(1).float().numpy())


@pytest.mark.parametrize("split", SPLITS)
def test_per_class_is_scikit_learns(split: Answered) -> None:
    details = detail_metrics(*split)
    for rows, labels, pred, truth in (
        (details["age_per_class"], AGE_GROUPS, split.logits.age.argmax(1), split.truth.age),
        (details["gender_per_class"], GENDERS, split.logits.gender.argmax(1), split.truth.gender),
    ):
        expected = sk.precision_recall_fscore_support(truth, pred, labels=range(len(labels)), zero_division=0)
        assert [row["label"] for row in rows] == list(labels)
        for name, values in zip(("precision", "recall", "f1", "n"), expected, strict=True):
            np.testing.assert_allclose([row[name] for row in rows], values, rtol=0, atol=1e-9)


def test_age_error_by_hand() -> None:
    age = np.array([0, 3, 3, 8, 4])
    pred = np.array([0, 4, 1, 0, 4])
    gender = np.array([0, 1, 1, 0, 0])
    details = detail_metrics(*answered(np.eye(9)[pred], np.eye(2)[[0, 1, 1, 0, 1]], age, gender))
    error = details["age_error"]
    assert error["mean_abs_bins"] == pytest.approx((0 + 1 + 2 + 8 + 0) / 5)
    assert error["mean_bins"] == pytest.approx((0 + 1 - 2 - 8 + 0) / 5)
    assert error["within_one_acc"] == pytest.approx(3 / 5)
    assert {k: n for k, n in error["histogram"].items() if n} == {"-8": 1, "-2": 1, "0": 2, "1": 1}
    assert list(error["histogram"]) == [str(i) for i in range(-8, 9)]
    assert details["both_acc"] == pytest.approx(1 / 5)  # row 0; row 4 has the wrong gender


def expected_calibration_error(prob: np.ndarray, truth: np.ndarray) -> float:
    """Guo et al. 2017, equation 3, written as it is printed: a loop over bins (low, high]."""
    confidence, right = prob.max(1).astype(np.float64), prob.argmax(1) == truth
    total = 0.0
    for m in range(1, CALIBRATION_BINS + 1):
        inside = (confidence > (m - 1) / CALIBRATION_BINS) & (confidence <= m / CALIBRATION_BINS)
        if inside.any():
            total += inside.sum() / len(truth) * abs(right[inside].mean() - confidence[inside].mean())
    return total


def test_calibration_follows_from_the_stored_probabilities() -> None:
    """`predictions.parquet` holds float32: the report must be recomputable from it, not from hidden digits."""
    logits, labels = scored_split(2191, 6)
    found = detail_metrics(logits, labels)["calibration"]
    for task, values, truth in (("age", logits.age, labels.age), ("gender", logits.gender, labels.gender)):
        prob = probabilities(values)
        assert found[f"{task}_ece"] == pytest.approx(expected_calibration_error(prob, truth), **EXACT)
        bins = found[f"{task}_bins"]
        assert sum(one["n"] for one in bins) == 2191
        assert all((one["confidence"] is None) == (one["n"] == 0) for one in bins)
        assert all(one["low"] < one["confidence"] <= one["high"] for one in bins if one["n"])
    assert found["num_bins"] == CALIBRATION_BINS == len(found["age_bins"])


def test_calibration_of_a_known_model() -> None:
    """Always 0.8 sure and right in 6 of 10: the error is 0.2. Sure and right: 0."""
    truth = np.array([0] * 6 + [1] * 4)
    gender_logits = np.log(np.tile([0.8, 0.2], (10, 1)))
    age_logits = 100.0 * np.eye(9)[np.zeros(10, dtype=int)]
    found = detail_metrics(*answered(age_logits, gender_logits, np.zeros(10, dtype=int), truth))["calibration"]
    assert found["gender_ece"] == pytest.approx(0.2, abs=1e-7)
    assert found["age_ece"] == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize("split", SPLITS)
def test_details_are_json_without_nan(split: Answered) -> None:
    details = detail_metrics(*split)
    assert json.loads(json.dumps(details, allow_nan=False)) == details


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 1)), min_size=1, max_size=60))
def test_the_best_constant_answer_scores_as_scikit_learn_says(pairs: list[tuple[int, int]]) -> None:
    age, gender = np.array(pairs).T
    best = [
        max(
            sk.f1_score(truth, np.full_like(truth, answer), labels=range(k), average="macro", zero_division=0)
            for answer in range(k)
        )
        for truth, k in ((age, 9), (gender, 2))
    ]
    assert constant_mean_f1(age, gender) == pytest.approx(sum(best) / 2, abs=1e-12)
