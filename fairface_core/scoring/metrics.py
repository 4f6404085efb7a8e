"""The only file that turns logits and labels into numbers.

Arrays are collected once per evaluation; every number below follows from them, so it can be recomputed from
`predictions.parquet` with scikit-learn (the tests do, to 1e-9). The subgroup audit stands in `audit.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from fairface_core.labels import AGE_GROUPS, GENDERS

CALIBRATION_BINS = 15


@dataclass(frozen=True)
class Logits:
    """What a model says of N images, in the order of the split: float32 [N, 9] and float32 [N, 2]."""

    age: np.ndarray
    gender: np.ndarray

    @property
    def finite(self) -> bool:
        """Whether every logit is a finite number."""
        return bool(np.isfinite(self.age).all() and np.isfinite(self.gender).all())


class Truth(Protocol):
    """The labels of N images, such as `dataset.rows.Rows`: int64 [N] 0..8 and int64 [N] 0..1."""

    @property
    def age(self) -> np.ndarray: ...  # noqa: D102
    @property
    def gender(self) -> np.ndarray: ...  # noqa: D102


def confusion(pred: np.ndarray, truth: np.ndarray, k: int) -> np.ndarray:
    """Count int64 `[k, k]` pairs of classes 0..k-1; rows are the truth, columns the predictions."""
    cells = np.asarray(truth, dtype=np.int64) * k + np.asarray(pred, dtype=np.int64)
    return np.bincount(cells, minlength=k * k).reshape(k, k)


def f1_per_class(hits: np.ndarray, true_counts: np.ndarray, pred_counts: np.ndarray) -> np.ndarray:
    """Return F1 = 2 hits / (true + predicted), 0 for a class that occurs in neither; any shape, element by element.

    It takes counts and not rows so that a bootstrap can score thousands of resamples in one call.
    """
    total = np.asarray(true_counts + pred_counts, dtype=np.float64)
    return np.divide(2.0 * hits, total, out=np.zeros_like(total), where=total > 0)


def macro_f1(table: np.ndarray) -> float:
    """Return the mean F1 over all k classes of a confusion matrix `[k, k]`, rows = truth.

    A class without images and predictions counts as 0, as in scikit-learn's
    `f1_score(..., labels=range(k), average="macro", zero_division=0)`.
    """
    return float(f1_per_class(np.diagonal(table), table.sum(axis=1), table.sum(axis=0)).mean())


def constant_mean_f1(age: np.ndarray, gender: np.ndarray) -> float:
    """Return the mean_f1 of the best answer that is the same for every image: its commonest age group and gender.

    A class of share p that is always answered has F1 = 2p / (1 + p), the others have 0: scikit-learn's
    `DummyClassifier(strategy="most_frequent")`. About 0.2 on FairFace; a model below it has learned nothing yet.

    Args:
        age: int `[N]`, 0..8, N >= 1.
        gender: int `[N]`, 0..1.
    """
    shares = [np.bincount(truth).max() / len(truth) for truth in (age, gender)]
    age_f1m, gen_f1m = (2 * p / (1 + p) / k for p, k in zip(shares, (len(AGE_GROUPS), len(GENDERS)), strict=True))
    return float((age_f1m + gen_f1m) / 2)


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Return the softmax, float32 `[N, k]`: the values that `predictions.parquet` keeps.

    Computed in float64 and rounded once; the calibration below uses the rounded values, so that it can be
    recomputed from the file.
    """
    from scipy import special  # 0.2 s, which no start has to wait for

    with np.errstate(invalid="ignore"):  # a diverged model has NaN logits: the trainer reports it by its loss
        return special.softmax(np.asarray(logits, dtype=np.float64), axis=1).astype(np.float32)


def mean_probabilities(members: Sequence[np.ndarray]) -> np.ndarray:
    """Return the mean of several models' probabilities, each float32 `[N, k]`; summed in float64, rounded once."""
    return np.stack(members).mean(axis=0, dtype=np.float64).astype(np.float32)


def _cross_entropy(
    logits: np.ndarray, truth: np.ndarray, class_weight: np.ndarray | None, starts: np.ndarray
) -> np.ndarray:
    """Return the class-weighted mean cross-entropy of each chunk that begins at `starts`, float64."""
    from scipy import special

    with np.errstate(invalid="ignore"):
        log_prob = special.log_softmax(np.asarray(logits, dtype=np.float64), axis=1)
    row_loss = -log_prob[np.arange(len(truth)), truth]
    row_weight = np.ones(len(truth)) if class_weight is None else np.asarray(class_weight, dtype=np.float64)[truth]
    return np.add.reduceat(row_loss * row_weight, starts) / np.add.reduceat(row_weight, starts)


def split_metrics(
    logits: Logits,
    truth: Truth,
    *,
    class_weights: tuple[np.ndarray, np.ndarray] | None,
    age_loss_weight: float,
    batch_size: int,
) -> dict[str, float]:
    """Return `loss, age_acc, age_f1m, gen_acc, gen_f1m, mean_f1, age_mae_groups, age_within_one_acc` of one split.

    Args:
        logits: Of N >= 1 images.
        truth: Their labels.
        class_weights: Of the loss, age `[9]` and gender `[2]`; None weighs all classes alike.
        age_loss_weight: Share of the age loss in the joint loss, 0..1.
        batch_size: The loss is, as the original script computed it, the mean over consecutive chunks of this many
            rows, weighted by their rows. Each chunk is a class-weighted mean (`torch.nn.CrossEntropyLoss`), so
            the value depends a little on the chunks. All other metrics do not.

    Returns:
        Plain floats. `mean_f1 = (age_f1m + gen_f1m) / 2` is what a sweep selects by, on the validation split. Age groups are
        ordered: `age_mae_groups` is the mean distance of the answer from the truth, in groups, `age_within_one_acc` the share
        of answers at most one group off. The loss is the cross-entropy of the classes whatever the training's loss was.
        The loss of logits that are not finite is not finite.
    """
    rows = len(truth.age)
    assert rows > 0, "a split without rows has no metrics"
    starts = np.arange(0, rows, batch_size)
    chunk_rows = np.diff(np.append(starts, rows))
    age_weights, gender_weights = class_weights or (None, None)
    joint = age_loss_weight * _cross_entropy(logits.age, truth.age, age_weights, starts) + (
        1.0 - age_loss_weight
    ) * _cross_entropy(logits.gender, truth.gender, gender_weights, starts)
    age_pred = logits.age.argmax(axis=1)
    age_table = confusion(age_pred, truth.age, len(AGE_GROUPS))
    distance = np.abs(age_pred - truth.age)
    gender_table = confusion(logits.gender.argmax(axis=1), truth.gender, len(GENDERS))
    age_f1m, gen_f1m = macro_f1(age_table), macro_f1(gender_table)
    return {
        "loss": float(joint @ chunk_rows / rows),
        "age_acc": float(np.trace(age_table) / rows),
        "age_f1m": age_f1m,
        "gen_acc": float(np.trace(gender_table) / rows),
        "gen_f1m": gen_f1m,
        "mean_f1": (age_f1m + gen_f1m) / 2,
        "age_mae_groups": float(distance.mean()),
        "age_within_one_acc": float((distance <= 1).mean()),
    }


def _per_class(table: np.ndarray, labels: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return precision, recall, F1 and the number of images of each class; an undefined ratio is 0."""
    hits, true_counts, pred_counts = np.diagonal(table), table.sum(axis=1), table.sum(axis=0)
    f1 = f1_per_class(hits, true_counts, pred_counts)
    return [
        {
            "label": label,
            "precision": float(hits[i] / max(pred_counts[i], 1)),
            "recall": float(hits[i] / max(true_counts[i], 1)),
            "f1": float(f1[i]),
            "n": int(true_counts[i]),
        }
        for i, label in enumerate(labels)
    ]


def _calibration(prob: np.ndarray, pred: np.ndarray, truth: np.ndarray) -> tuple[float, list[dict[str, Any]]]:
    """Return the expected calibration error and its reliability bins.

    ECE = sum over bins of n_bin / N * |accuracy - mean confidence|, over equally wide bins (low, high] of the
    confidence of the predicted class. Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017,
    section 2.
    """
    confidence = prob[np.arange(len(pred)), pred].astype(np.float64)
    right = (pred == truth).astype(np.float64)
    # A NaN (diverged model) falls into the first bin instead of raising in the cast.
    position = np.nan_to_num(np.ceil(confidence * CALIBRATION_BINS)).astype(np.int64) - 1
    position = position.clip(0, CALIBRATION_BINS - 1)
    count = np.bincount(position, minlength=CALIBRATION_BINS)
    confidence_sum = np.bincount(position, weights=confidence, minlength=CALIBRATION_BINS)
    right_sum = np.bincount(position, weights=right, minlength=CALIBRATION_BINS)
    bins = [
        {
            "low": i / CALIBRATION_BINS,
            "high": (i + 1) / CALIBRATION_BINS,
            "n": int(count[i]),
            "confidence": float(confidence_sum[i] / count[i]) if count[i] else None,
            "accuracy": float(right_sum[i] / count[i]) if count[i] else None,
        }
        for i in range(CALIBRATION_BINS)
    ]
    return float(np.abs(right_sum - confidence_sum).sum() / len(pred)), bins


def detail_metrics(logits: Logits, truth: Truth) -> dict[str, Any]:
    """Return the per-trial analysis that `report.json` keeps for the test split; JSON-able.

    Args:
        logits: Of N >= 1 images.
        truth: Their labels.

    Returns:
        `age_per_class` (9) and `gender_per_class` (2): label, precision, recall, f1, n.
        `age_error`: in age groups, predicted minus true: `mean_abs_bins`, `mean_bins` (its sign says whether faces are
        taken for older), `within_one_acc`, `histogram` {"-8".."8": images}.
        `both_acc`: share of images with age group and gender right.
        `calibration`: `age_ece`, `gender_ece`, `num_bins`, `age_bins`, `gender_bins` (low, high, n, confidence,
        accuracy; the last two are None in an empty bin).
    """
    age, gender = truth.age, truth.gender
    assert len(age) > 0, "a split without rows has no metrics"
    age_pred, gender_pred = logits.age.argmax(axis=1), logits.gender.argmax(axis=1)
    error = age_pred.astype(np.int64) - age
    farthest = len(AGE_GROUPS) - 1
    histogram = np.bincount(error + farthest, minlength=2 * farthest + 1)
    age_ece, age_bins = _calibration(probabilities(logits.age), age_pred, age)
    gender_ece, gender_bins = _calibration(probabilities(logits.gender), gender_pred, gender)
    return {
        "age_per_class": _per_class(confusion(age_pred, age, len(AGE_GROUPS)), AGE_GROUPS),
        "gender_per_class": _per_class(confusion(gender_pred, gender, len(GENDERS)), GENDERS),
        "age_error": {
            "mean_abs_bins": float(np.abs(error).mean()),
            "mean_bins": float(error.mean()),
            "within_one_acc": float((np.abs(error) <= 1).mean()),
            "histogram": {str(i - farthest): int(n) for i, n in enumerate(histogram)},
        },
        "both_acc": float(((age_pred == age) & (gender_pred == gender)).mean()),
        "calibration": {
            "age_ece": age_ece,
            "gender_ece": gender_ece,
            "num_bins": CALIBRATION_BINS,
            "age_bins": age_bins,
            "gender_bins": gender_bins,
        },
    }
