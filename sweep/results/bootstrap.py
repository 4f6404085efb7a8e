"""Scores of many models on the same resamples of the test images, thousands of resamples in a tenth of a second."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fairface_core.labels import AGE_GROUPS, GENDERS
from fairface_core.scoring.metrics import confusion, f1_per_class, macro_f1

# Weights of one block of resamples: 2**21 float64 are 16 MiB, whatever the number of resamples and images.
_BLOCK_WEIGHTS = 2**21
_NUM_AGES, _NUM_GENDERS = len(AGE_GROUPS), len(GENDERS)

Metric = Literal["mean_f1", "age_acc", "age_f1m", "gen_acc", "gen_f1m"]


@dataclass(frozen=True, eq=False)
class Predictions:
    """What one trained model said of the test images.

    Attributes:
        age_true: int `[N]`, 0..8; the same images in the same order for all models that are compared.
        gender_true: int `[N]`, 0..1.
        age_pred: int `[N]`, 0..8.
        gender_pred: int `[N]`, 0..1.
    """

    age_true: np.ndarray
    gender_true: np.ndarray
    age_pred: np.ndarray
    gender_pred: np.ndarray

    def __post_init__(self) -> None:
        shapes = {array.shape for array in (self.age_true, self.gender_true, self.age_pred, self.gender_pred)}
        assert len(shapes) == 1 and len(self.age_true) > 0, f"predictions are four equally long columns, not {shapes}"

    @property
    def mean_f1(self) -> float:
        """Return (age macro-F1 + gender macro-F1) / 2, as `fairface_core.scoring.metrics` does."""
        return (self.score("age_f1m") + self.score("gen_f1m")) / 2

    @property
    def constant_heads(self) -> frozenset[str]:
        """The heads that give every image the same answer: they have learned nothing, or forgotten it."""
        heads = {"age group": self.age_pred, "gender": self.gender_pred}
        return frozenset(name for name, pred in heads.items() if (pred == pred[0]).all())

    def score(self, metric: Metric) -> float:
        """Return a metric, as `fairface_core.scoring.metrics` does."""
        if metric == "mean_f1":
            return self.mean_f1
        if metric.startswith("age"):
            table = confusion(self.age_pred, self.age_true, _NUM_AGES)
        else:
            table = confusion(self.gender_pred, self.gender_true, _NUM_GENDERS)
        return macro_f1(table) if metric.endswith("f1m") else float(np.trace(table) / table.sum())


def image_covariance(
    predictions: Sequence[Predictions], *, num_resamples: int, seed: int, metric: Metric = "mean_f1"
) -> np.ndarray:
    """Return the covariance, float64 `[models, models]`, of the models' scores over resamples of the test images."""
    return np.atleast_2d(np.cov(resampled_scores(predictions, num_resamples=num_resamples, seed=seed, metric=metric)))


def resampled_scores(
    predictions: Sequence[Predictions], *, num_resamples: int, seed: int, metric: Metric = "mean_f1"
) -> np.ndarray:
    """Return a metric, float64 `[models, num_resamples]`, of all models on the same resamples of the images.

    F1 needs only counts (true, predicted and right images of each class), and the counts of all resamples are one
    product: `weights [num_resamples, N] @ indicators [N, counts]`. `scipy.stats.bootstrap` gives the same for one
    model and plain resampling (a test compares them), but calls Python once a resample.
    """
    assert num_resamples > 1, "one resample has no variance"
    first = predictions[0]
    for other in predictions[1:]:
        assert np.array_equal(first.age_true, other.age_true) and np.array_equal(
            first.gender_true, other.gender_true
        ), "models are compared on the same images in the same order"
    strata = image_strata(first.age_true, first.gender_true)
    indicators = _indicators(predictions)
    rows_of_block = max(1, _BLOCK_WEIGHTS // len(strata))
    generators = np.random.default_rng(seed).spawn(int(strata.max()) + 1)
    blocks = []
    for start in range(0, num_resamples, rows_of_block):
        weights = resample_weights(strata, min(rows_of_block, num_resamples - start), generators)
        blocks.append(_scores_of_counts(weights @ indicators, metric))
    return np.concatenate(blocks).T


def image_strata(age: np.ndarray, gender: np.ndarray) -> np.ndarray:
    """Return the stratum of each image, int64 `[N]`: age group x gender, none of a single image.

    A single image cannot show how its stratum varies. Taken for fixed, such images made the intervals of small test
    sets too narrow (150 simulated models: 64, 71 and 75 % coverage at 22, 60 and 120 images; 91 % when joined; at 500
    there are none). They join the other gender of their age group, or else the nearest group.
    Source: Wolter, "Introduction to Variance Estimation", 2nd ed., 2007, section 2.5 (collapsed strata).

    Args:
        age: int `[N]`, 0..8.
        gender: int `[N]`, 0..1.
    """
    strata = np.asarray(age, dtype=np.int64) * _NUM_GENDERS + gender
    while True:
        present, counts = np.unique(strata, return_counts=True)
        if len(present) == 1 or counts.min() > 1:
            return strata
        single = int(present[counts == 1][0])
        others = [int(code) for code in present if code != single]
        # The other gender of the same age group first.
        distance = {code: (code // _NUM_GENDERS != single // _NUM_GENDERS, abs(code - single)) for code in others}
        strata[strata == single] = min(others, key=distance.__getitem__)


def resample_weights(strata: np.ndarray, num_resamples: int, generators: Sequence[np.random.Generator]) -> np.ndarray:
    """Return how often each image counts in each resample, float64 `[num_resamples, N]`.

    The test split has fixed numbers of each age group and gender, so a resample draws within each of these strata: from
    n images, n - 1 with replacement, each counted n / (n - 1) times. A stratum keeps its size in every resample. Drawn
    n times, the 12 images of a rare stratum would vary by a twelfth too little; drawn from all images at once, a rare
    age group could vanish, and the score's interval came out 4 % too wide. A stratum of one image cannot show how it
    varies: it counts once.
    Source: Rao and Wu, "Resampling Inference With Complex Survey Data", JASA 83, 1988.

    Args:
        strata: int `[N]`, codes from 0.
        num_resamples: Rows of the result.
        generators: One a code: the n-th resample is the same in whatever blocks they are asked for.
    """
    weights = np.ones((num_resamples, len(strata)))
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        n = len(members)
        if n > 1:
            drawn = generators[stratum].integers(0, n, size=(num_resamples, n - 1))
            drawn += np.arange(num_resamples)[:, None] * n
            counts = np.bincount(drawn.ravel(), minlength=num_resamples * n).reshape(num_resamples, n)
            weights[:, members] = counts * (n / (n - 1))
    return weights


def _indicators(predictions: Sequence[Predictions]) -> np.ndarray:
    """Return float64 `[N, 11 + 22 models]`: true classes; of each model the right and the predicted ones."""
    ages, genders = np.eye(_NUM_AGES), np.eye(_NUM_GENDERS)
    columns = [ages[predictions[0].age_true], genders[predictions[0].gender_true]]
    for one in predictions:
        for classes, truth, pred in (
            (ages, one.age_true, one.age_pred),
            (genders, one.gender_true, one.gender_pred),
        ):
            columns += [classes[truth] * (pred == truth)[:, None], classes[pred]]
    return np.concatenate(columns, axis=1)


def _scores_of_counts(counts: np.ndarray, metric: Metric) -> np.ndarray:
    """Return a metric, float64 `[resamples, models]`, from counts in the order of `_indicators`."""
    ages, both = _NUM_AGES, _NUM_AGES + _NUM_GENDERS
    true = counts[:, None, :both]
    models = counts[:, both:].reshape(len(counts), -1, 2 * both)
    age_right, age_pred = models[..., :ages], models[..., ages : 2 * ages]
    gender_right, gender_pred = models[..., 2 * ages : ages + both], models[..., ages + both :]
    match metric:
        case "age_acc":
            return age_right.sum(axis=-1) / true[..., :ages].sum(axis=-1)
        case "gen_acc":
            return gender_right.sum(axis=-1) / true[..., ages:].sum(axis=-1)
        case "age_f1m":
            return f1_per_class(age_right, true[..., :ages], age_pred).mean(axis=-1)
        case "gen_f1m":
            return f1_per_class(gender_right, true[..., ages:], gender_pred).mean(axis=-1)
        case "mean_f1":
            both_f1 = [_scores_of_counts(counts, "age_f1m"), _scores_of_counts(counts, "gen_f1m")]
            return (both_f1[0] + both_f1[1]) / 2
