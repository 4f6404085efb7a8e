"""Prediction sets that hold the truth as often as asked: split conformal prediction on validation.

Source: A. N. Angelopoulos and S. Bates, "A Gentle Introduction to Conformal Prediction and Distribution-Free Uncertainty
Quantification", 2021 (arXiv:2107.07511), section 1: the score of a label is one minus its probability. M. Sadinle, J.
Lei and L. Wasserman, "Least Ambiguous Set-Valued Classifiers With Bounded Error Levels", JASA 114, 2019
(arXiv:1609.00451), show that this score gives the smallest sets on average. With n validation images a label is in the
set if its probability is at least the ceil((n + 1) * level)-th largest one that a validation image gave its true label.
The truth of a new image of the same kind is then in its set with a probability of at least `level`, and at most
`level + 1 / (n + 1)` where no two are equal.

Two things make the real share differ: the promise holds for all images together, not for each group of them, and the
best epoch was chosen on the same validation images, which flatters them a little.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fairface_core.scoring.metrics import probabilities

if TYPE_CHECKING:
    from fairface_core.scoring.metrics import Logits, Truth

# Shares, in per cent, for which a report keeps thresholds.
LEVELS_PERCENT = range(50, 100)


def calibrate(logits: Logits, truth: Truth) -> dict[str, Any]:
    """Return what `report.json` keeps under `conformal`: of both heads, the least probability at every level.

    Args:
        logits: Of N >= 1 validation images.
        truth: Their labels.

    Returns:
        `num_images`, and `age`, `gender`: {"0.50": least probability, ..., "0.99": ...}; JSON-able.
    """
    return calibrate_probabilities(probabilities(logits.age), probabilities(logits.gender), truth.age, truth.gender)


def calibrate_probabilities(
    age_prob: np.ndarray, gender_prob: np.ndarray, age: np.ndarray, gender: np.ndarray
) -> dict[str, Any]:
    """Return the same of probabilities, float `[N, 9]` and `[N, 2]`: those of `predictions.parquet`, or their mean."""
    return {
        "num_images": len(age),
        "age": _thresholds(age_prob[np.arange(len(age)), age]),
        "gender": _thresholds(gender_prob[np.arange(len(gender)), gender]),
    }


def _thresholds(true_prob: np.ndarray) -> dict[str, float]:
    """Return level -> the least probability of a label in the set; 0 where too few images say anything of a level."""
    descending = np.sort(true_prob.astype(np.float64))[::-1]
    found = {}
    for percent in LEVELS_PERCENT:
        # ceil((N + 1) * level) in whole numbers: 0.9 * 10 is more than 9 in floats.
        rank = -(-(len(descending) + 1) * percent // 100)
        found[f"0.{percent}"] = float(descending[rank - 1]) if rank <= len(descending) else 0.0
    return found


def level_name(level: float) -> str | None:
    """Return the key of a level in a report, such as `0.90`; None if none is kept for it."""
    percent = round(level * 100)
    return f"0.{percent}" if percent in LEVELS_PERCENT and abs(level * 100 - percent) < 1e-9 else None


def prediction_sets(prob: np.ndarray, least: float) -> np.ndarray:
    """Return which labels are in the sets, bool `[N, k]`.

    The likeliest label always is: an empty set would tell nothing. The sets can so hold the truth more often than
    asked, where a head is right more often than that.

    Args:
        prob: float `[N, k]`.
        least: The least probability of a label in a set, as `calibrate` returns it.
    """
    chosen = prob >= least
    chosen[np.arange(len(prob)), prob.argmax(axis=1)] = True
    return chosen


def least_probabilities(conformal: Mapping[str, Any], level: float) -> tuple[float, float] | None:
    """Return the least probabilities of age and gender at a level, or None if the content does not hold them.

    Args:
        conformal: `report.json["conformal"]`, or whatever a stranger put in its place.
        level: A share, such as 0.9.
    """
    name = level_name(level)
    values: list[Any] = [
        conformal[task].get(name) for task in ("age", "gender") if isinstance(conformal.get(task), Mapping)
    ]
    if len(values) < 2 or not all(isinstance(value, float | int) and 0 <= value <= 1 for value in values):
        return None
    return float(values[0]), float(values[1])
