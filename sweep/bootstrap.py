"""Scores of many models on the same resamples of the test images, thousands of resamples in a tenth of a second."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fairface_core.labels import AGE_GROUPS, GENDERS
from fairface_core.metrics import confusion, f1_per_class, macro_f1

# Weights of one block of resamples: 2**21 float64 are 16 MiB, whatever the number of resamples and images.
_BLOCK_WEIGHTS = 2**21
_NUM_AGES, _NUM_GENDERS = len(AGE_GROUPS), len(GENDERS)


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
        """Return (age macro-F1 + gender macro-F1) / 2, as `fairface_core.metrics` does."""
        age = macro_f1(confusion(self.age_pred, self.age_true, _NUM_AGES))
        return (age + macro_f1(confusion(self.gender_pred, self.gender_true, _NUM_GENDERS))) / 2


def image_covariance(predictions: Sequence[Predictions], *, num_resamples: int, seed: int) -> np.ndarray:
    """Return the covariance, float64 `[models, models]`, of the models' mean_f1 over resamples of the test images."""
    return np.atleast_2d(np.cov(resampled_scores(predictions, num_resamples=num_resamples, seed=seed)))


def resampled_scores(predictions: Sequence[Predictions], *, num_resamples: int, seed: int) -> np.ndarray:
    """Return the mean_f1, float64 `[models, num_resamples]`, of all models on the same resamples of the images.

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
    strata = first.age_true * _NUM_GENDERS + first.gender_true
    indicators = _indicators(predictions)
    rows_of_block = max(1, _BLOCK_WEIGHTS // len(strata))
    generators = np.random.default_rng(seed).spawn(int(strata.max()) + 1)
    blocks = []
    for start in range(0, num_resamples, rows_of_block):
        weights = resample_weights(strata, min(rows_of_block, num_resamples - start), generators)
        blocks.append(_scores_of_counts(weights @ indicators))
    return np.concatenate(blocks).T


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


def _scores_of_counts(counts: np.ndarray) -> np.ndarray:
    """Return mean_f1, float64 `[resamples, models]`, from counts in the order of `_indicators`."""
    ages, both = _NUM_AGES, _NUM_AGES + _NUM_GENDERS
    true = counts[:, None, :both]
    models = counts[:, both:].reshape(len(counts), -1, 2 * both)
    age = f1_per_class(models[..., :ages], true[..., :ages], models[..., ages : 2 * ages])
    gender_right, gender_pred = models[..., 2 * ages : ages + both], models[..., ages + both :]
    gender = f1_per_class(gender_right, true[..., ages:], gender_pred)
    return (age.mean(axis=-1) + gender.mean(axis=-1)) / 2
