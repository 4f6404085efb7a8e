"""How far a score of one trained model, or the difference of two, would move with other test images.

Macro-F1 is a smooth function of counts, so its variance follows from each image's influence on it (the delta method),
with no resampling: K. Takahashi, K. Yamamoto, A. Kuchiba and T. Koyama, "Confidence interval for micro-averaged F1 and
macro-averaged F1 scores", Applied Intelligence 52, 2022. The test split has fixed numbers of each age group and gender,
so the influences vary within these strata alone. Seeds are not in it: the model at hand is taken as it is.
"""

from __future__ import annotations

import math

import numpy as np

from fairface_core.labels import AGE_GROUPS, GENDERS
from fairface_core.scoring.metrics import confusion, f1_per_class, macro_f1

# Standard errors on each side of a 95 % interval: scipy.stats.norm.isf(0.025).
_Z = 1.959963984540054


def mean_f1_interval(
    age_pred: np.ndarray, gender_pred: np.ndarray, age: np.ndarray, gender: np.ndarray
) -> tuple[float, float, float]:
    """Return mean_f1 and its 95 % interval over images: (value, low, high).

    Args:
        age_pred: int `[N]`, 0..8, N >= 1.
        gender_pred: int `[N]`, 0..1.
        age: int `[N]`, the truth.
        gender: int `[N]`, the truth.
    """
    value = _mean_f1(age_pred, gender_pred, age, gender)
    half = _Z * _standard_error(_influence(age_pred, gender_pred, age, gender), age, gender)
    return value, max(value - half, 0.0), min(value + half, 1.0)


def mean_f1_difference(
    ours: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray], age: np.ndarray, gender: np.ndarray
) -> tuple[float, float, float]:
    """Return mean_f1 of one model minus that of another on the same images, and its 95 % interval: (value, low, high).

    Args:
        ours: Age and gender answers of the one, int `[N]` each.
        other: Those of the other.
        age: int `[N]`, the truth.
        gender: int `[N]`, the truth.
    """
    value = _mean_f1(*ours, age, gender) - _mean_f1(*other, age, gender)
    influence = _influence(*ours, age, gender) - _influence(*other, age, gender)
    half = _Z * _standard_error(influence, age, gender)
    return value, value - half, value + half


def _mean_f1(age_pred: np.ndarray, gender_pred: np.ndarray, age: np.ndarray, gender: np.ndarray) -> float:
    tables = confusion(age_pred, age, len(AGE_GROUPS)), confusion(gender_pred, gender, len(GENDERS))
    return sum(map(macro_f1, tables)) / 2


def _influence(age_pred: np.ndarray, gender_pred: np.ndarray, age: np.ndarray, gender: np.ndarray) -> np.ndarray:
    """Return how fast mean_f1 moves as one image counts more, float64 `[N]`.

    Of F1 = 2 R / S, with R right images of a class and S true and predicted ones: (2 right - F1 (true + predicted)) / S.
    """
    total = np.zeros(len(age))
    for pred, truth, k in ((age_pred, age, len(AGE_GROUPS)), (gender_pred, gender, len(GENDERS))):
        table = confusion(pred, truth, k)
        size = table.sum(axis=0) + table.sum(axis=1)
        f1 = f1_per_class(np.diagonal(table), table.sum(axis=1), table.sum(axis=0))
        share = 1.0 / np.maximum(size, 1)
        total += (2.0 * (pred == truth) * share[truth] - f1[truth] * share[truth] - f1[pred] * share[pred]) / k
    return total / 2


def _standard_error(influence: np.ndarray, age: np.ndarray, gender: np.ndarray) -> float:
    stratum = np.asarray(age, dtype=np.int64) * len(GENDERS) + gender
    variance = 0.0
    for code in np.unique(stratum):
        members = influence[stratum == code]
        if len(members) > 1:  # a single image cannot show how its stratum varies
            variance += len(members) * float(members.var(ddof=1))
    return math.sqrt(variance)
