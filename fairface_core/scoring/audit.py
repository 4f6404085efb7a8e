"""For whom it fails: accuracy and F1 by gender, age group, race and race x gender."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fairface_core.labels import AGE_GROUPS, GENDERS
from fairface_core.scoring.metrics import confusion, f1_per_class

MIN_IMAGES = 30
CONFIDENCE = 0.95
# Draws behind "what gap would equally good groups show": p-values in steps of 1/2000, about 3 ms an axis.
_CHANCE_DRAWS = 1999
_CHANCE_SEED = 0
# The first age group above the border: 20-29.
_OLDER = AGE_GROUPS.index("20-29")
_NOT_GIVEN = {"", "nan", "none", "<na>"}


def wilson(right: int, n: int) -> tuple[float, float]:
    """Return the Wilson 95 % interval of a share `right / n`, n >= 1.

    Source: Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 22, 1927; without
    continuity correction, as `scipy.stats` computes it.
    """
    # Imported here: it takes 0.6 s, and a run has no need of it before its first epoch is scored.
    from scipy import stats

    interval = stats.binomtest(right, n).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def max_log_ratio_disparity(accuracies: np.ndarray) -> float | None:
    """Return FairFace's maximum accuracy disparity: max over group pairs (i, j) of log(accuracy_i / accuracy_j).

    `epsilon = max_{i,j} log( P(Y_hat = Y | A = i) / P(Y_hat = Y | A = j) )`, natural logarithm: 0 when all groups are
    equally accurate, 0.105 when the worst has 90 % of the best one's accuracy. Source: K. Karkkainen and J. Joo,
    "FairFace: Face Attribute Dataset for Balanced Race, Gender, and Age for Bias Measurement and Mitigation",
    WACV 2021, pages 1548-1558 (arXiv:1908.04913), section on generalization across race groups.

    Args:
        accuracies: float `[groups]`, 0..1.

    Returns:
        None for fewer than two groups, and when a group has accuracy 0 (the ratio has no bound).
    """
    if len(accuracies) < 2 or accuracies.min() <= 0:
        return None
    return math.log(accuracies.max() / accuracies.min())


def subgroup_audit(
    age_pred: np.ndarray, gender_pred: np.ndarray, age: np.ndarray, gender: np.ndarray, race: np.ndarray | None = None
) -> dict[str, Any]:
    """Return what `report.json` keeps under `subgroups`; JSON-able.

    Args:
        age_pred: int `[N]`, 0..8, N >= 1.
        gender_pred: int `[N]`, 0..1.
        age: int `[N]`, the truth.
        gender: int `[N]`, the truth.
        race: text `[N]`, or None where the CSV has no such column. An image with a blank one is left out of the two
            race axes and counted in `race_not_given`.

    Returns:
        `min_images`, `confidence`; `overall`: one row; `by`: {axis: rows} with the axes `gender`, `age` and, with race,
        `race`, `race_x_gender`. A row: group, n, too_small, and age_acc, gen_acc, each with its Wilson interval
        (`_low`, `_high`), age_f1m, gen_f1m. Macro-F1 is over the classes that the group's images have; it is None
        where the group itself is one class (age_f1m by age, gen_f1m by gender).

        `worst_group`, `largest_gap`, `max_log_ratio_disparity`: {axis: {"age_acc": ..., "gen_acc": ...}}. They compare
        the groups of at least `min_images` images alone; None where fewer than two are left. Groups of a few hundred
        images differ by chance, so a gap stands beside `by_chance`, the mean gap of groups that are all equally
        accurate, and `p_value`, the share of such draws whose gap is at least as large.

        `border`: answers on the other side of 20, where the groups `younger` and `older` meet: `by`: {axis: rows} for
        `all`, `gender`, `race`, `race_x_gender`. A row: group; `false_older`, the share of images labelled 19 or younger
        that are answered 20 or older, its count of images `false_older_n` and Wilson interval; `false_younger`, the
        reverse. FairFace has no line at 18 and its labels are impressions: this is no error rate of an age check.
    """
    assert len(age) > 0, "an audit needs images"
    groups, not_given = _groups(age, gender, race)
    by = _rows(groups, age_pred, gender_pred, age, gender)
    everyone = np.ones(len(age), dtype=bool)
    compared = {axis: _compare(rows) for axis, rows in by.items()}
    audit: dict[str, Any] = {
        "min_images": MIN_IMAGES,
        "confidence": CONFIDENCE,
        "overall": _row("all", everyone, (age_pred, gender_pred, age, gender)),
        "by": by,
    }
    if race is not None:
        audit["race_not_given"] = not_given
    audit["border"] = {
        "younger": AGE_GROUPS[_OLDER - 1],
        "older": AGE_GROUPS[_OLDER],
        "by": {
            axis: [_border_row(label, age_pred[mask], age[mask]) for label, mask in masks.items() if mask.any()]
            for axis, masks in ({"all": {"all": everyone}} | groups).items()
            if axis != "age"
        },
    }
    for fact in ("worst_group", "largest_gap", "max_log_ratio_disparity"):
        audit[fact] = {
            axis: {metric: facts[fact] for metric, facts in metrics.items()} for axis, metrics in compared.items()
        }
    return audit


def group_rows(
    age_pred: np.ndarray, gender_pred: np.ndarray, age: np.ndarray, gender: np.ndarray, race: np.ndarray | None = None
) -> dict[str, list[dict[str, Any]]]:
    """Return `by` of `subgroup_audit` alone, for the same arguments: none of its draws is made."""
    return _rows(_groups(age, gender, race)[0], age_pred, gender_pred, age, gender)


def _groups(
    age: np.ndarray, gender: np.ndarray, race: np.ndarray | None
) -> tuple[dict[str, dict[str, np.ndarray]], int]:
    """Return the mask of each group of each axis, and how many images say nothing of race."""
    groups: dict[str, dict[str, np.ndarray]] = {
        "gender": {label: gender == k for k, label in enumerate(GENDERS)},
        "age": {label: age == k for k, label in enumerate(AGE_GROUPS)},
    }
    if race is None:
        return groups, 0
    names = np.array([str(value).strip() for value in race])
    given = sorted(name for name in set(names.tolist()) if name.lower() not in _NOT_GIVEN)
    groups["race"] = {name: names == name for name in given}
    groups["race_x_gender"] = {
        f"{name} x {label}": (names == name) & (gender == k) for name in given for k, label in enumerate(GENDERS)
    }
    return groups, int((~np.isin(names, given)).sum())


def _rows(groups: dict[str, dict[str, np.ndarray]], *arrays: np.ndarray) -> dict[str, list[dict[str, Any]]]:
    return {
        axis: [_row(label, mask, arrays) for label, mask in masks.items() if mask.any()]
        for axis, masks in groups.items()
    }


def _row(label: str, mask: np.ndarray, arrays: tuple[np.ndarray, ...]) -> dict[str, Any]:
    age_pred, gender_pred, age, gender = (array[mask] for array in arrays)
    n = len(age)
    row: dict[str, Any] = {"group": label, "n": n, "too_small": n < MIN_IMAGES}
    for task, pred, truth, k in (("age", age_pred, age, len(AGE_GROUPS)), ("gen", gender_pred, gender, len(GENDERS))):
        right = int((pred == truth).sum())
        low, high = wilson(right, n)
        row |= {f"{task}_acc": right / n, f"{task}_acc_low": low, f"{task}_acc_high": high}
        row[f"{task}_f1m"] = _group_macro_f1(confusion(pred, truth, k))
    return row


def _border_row(label: str, age_pred: np.ndarray, age: np.ndarray) -> dict[str, Any]:
    row: dict[str, Any] = {"group": label}
    answered_older, labelled_older = age_pred >= _OLDER, age >= _OLDER
    for name, crossed, base in (
        ("false_older", answered_older & ~labelled_older, ~labelled_older),
        ("false_younger", ~answered_older & labelled_older, labelled_older),
    ):
        n, wrong = int(base.sum()), int(crossed.sum())
        low, high = wilson(wrong, n) if n else (None, None)
        row |= {f"{name}_n": n, name: wrong / n if n else None, f"{name}_low": low, f"{name}_high": high}
    return row


def _group_macro_f1(table: np.ndarray) -> float | None:
    """Return macro-F1 over the true classes of a group, None if there is one alone: its F1 would repeat its recall.

    An absent class counts nothing here (in the scores of a whole split it counts 0): a group must not look worse
    because nobody in it is older than 70.
    """
    true_counts = table.sum(axis=1)
    present = true_counts > 0
    if present.sum() < 2:
        return None
    return float(f1_per_class(np.diagonal(table), true_counts, table.sum(axis=0))[present].mean())


def _compare(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return, for each accuracy, the worst group, the largest gap and the disparity of one axis."""
    rows = [row for row in rows if not row["too_small"]]
    compared: dict[str, dict[str, Any]] = {}
    for metric in ("age_acc", "gen_acc"):
        values = np.array([row[metric] for row in rows])
        if len(rows) < 2:
            compared[metric] = dict.fromkeys(("worst_group", "largest_gap", "max_log_ratio_disparity"))
            continue
        worst, best = rows[int(values.argmin())], rows[int(values.argmax())]
        gap = float(values.max() - values.min())
        by_chance, p_value = _gap_by_chance(np.array([row["n"] for row in rows]), values, gap)
        compared[metric] = {
            "worst_group": {
                "group": worst["group"],
                "n": worst["n"],
                "value": worst[metric],
                "low": worst[f"{metric}_low"],
                "high": worst[f"{metric}_high"],
            },
            "largest_gap": {
                "gap": gap,
                "best": best["group"],
                "worst": worst["group"],
                "by_chance": by_chance,
                "p_value": p_value,
            },
            "max_log_ratio_disparity": max_log_ratio_disparity(values),
        }
    return compared


def _gap_by_chance(sizes: np.ndarray, accuracies: np.ndarray, gap: float) -> tuple[float, float]:
    """Return the mean gap, and the share of gaps >= `gap`, when right answers fall on groups at random.

    The exact null distribution given the number of right answers: a multivariate hypergeometric draw, that is, a
    permutation test. A chi-square approximation would be poor for gender, where groups have a handful of errors.
    """
    right = round(float(sizes @ accuracies))
    draws = np.random.default_rng(_CHANCE_SEED).multivariate_hypergeometric(sizes, right, size=_CHANCE_DRAWS) / sizes
    gaps = draws.max(axis=1) - draws.min(axis=1)
    at_least = int((gaps >= gap - 1e-12).sum())
    return float(gaps.mean()), (1 + at_least) / (1 + _CHANCE_DRAWS)
