"""How sure are we: intervals of a score, differences between two configurations, and when to call a tie.

Two things vary: the test images (a few thousand were drawn, others could have been) and the seed (the same recipe,
trained again, gives another model). A configuration is usually known by three seeds scored on the *same* images.
Drawing images and seeds with replacement does not do here: it counts the seeds' private errors on the images twice
and, of three seeds, a third of the seed variance not at all, so its intervals are too wide or too narrow as the one
or the other prevails (benchmarks/results). Instead, each variance is estimated apart:

    score of seed s on the test images = mu + common(images) + own(seed s, images)

- `common` is what the images do to all seeds alike. Its variance is the mean covariance between the scores of two
  different seeds over bootstrap resamples of the images; for a difference A - B, the covariances AA + BB - 2 AB.
- `own` holds the seed's luck and its private errors on the images. Its variance is the plain sample variance S^2 of the
  seeds' scores; the mean of n seeds keeps S^2 / n of it.
- Their sum has few degrees of freedom (Welch-Satterthwaite, from n - 1 of each S^2): a t interval.
- It is never narrower than the images alone allow: the bootstrap variance of the mean score with the trained models
  held fixed is a floor, which by chance equal seeds would otherwise undercut.
- With one seed only that floor is known. The interval then speaks of this one trained model, and says so.

Checked by simulation in benchmarks/stats_coverage.py and, smaller, in the tests.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from scipy import stats

from sweep.bootstrap import Predictions, image_covariance

CONFIDENCE = 0.95
NUM_RESAMPLES = 2000

COVERS_SEEDS = "other seeds, on these test images"
COVERS_IMAGES = "other test images, for the trained models at hand: one seed does not show how seeds vary"
COVERS_BOTH = "other seeds and other test images"


@dataclass(frozen=True)
class Interval:
    """A mean over seeds and its 95 % interval.

    Attributes:
        mean: Mean over seeds.
        sd: Standard deviation over seeds (n - 1); None for one seed.
        n: Seeds.
        low: Lower end; None where nothing is known of the variation.
        high: Upper end.
        covers: What it would hold for, in words.
    """

    mean: float
    sd: float | None
    n: int
    low: float | None
    high: float | None
    covers: str


@dataclass(frozen=True)
class Comparison:
    """Test mean_f1 of configuration a minus that of b.

    Attributes:
        a: Name of the first configuration.
        b: Name of the second.
        difference: Mean over a's seeds minus mean over b's.
        low: Lower end of the 95 % interval, not adjusted for the number of pairs.
        high: Its upper end.
        p_greater: Probability that the difference is positive: the mass above 0 of the t distribution that gives the
            interval (a confidence distribution; a flat prior makes it a posterior).
        p_value: Two-sided, of no difference; below 0.05 exactly where the interval leaves 0 out.
        p_holm: The same, Holm-corrected over all pairs of one table; None until `compare_all`.
        standard_error: Of the difference.
        df: Degrees of freedom of the t distribution; infinite where only the images count.
        num_seeds: Seeds of a and of b.
        num_images: Test images.
    """

    a: str
    b: str
    difference: float
    low: float
    high: float
    p_greater: float
    p_value: float
    p_holm: float | None
    standard_error: float
    df: float
    num_seeds: tuple[int, int]
    num_images: int

    @property
    def covers(self) -> str:
        """What the comparison would hold for, in words."""
        return COVERS_BOTH if min(self.num_seeds) > 1 else COVERS_IMAGES

    def verdict(self, alpha: float = 1 - CONFIDENCE) -> Literal["a", "b", "tie"]:
        """Return which one is better, or `tie` where the (Holm-corrected) p-value is not below `alpha`."""
        p_value = self.p_value if self.p_holm is None else self.p_holm
        if not p_value < alpha:
            return "tie"
        return "a" if self.difference > 0 else "b"


def seed_interval(values: Sequence[float] | np.ndarray) -> Interval:
    """Return mean, sd and the t interval over seeds of any score.

    It covers other seeds on the same images; `score_interval` covers other images as well.

    Args:
        values: One score a seed, at least one.
    """
    scores = np.asarray(values, dtype=np.float64)
    assert scores.size > 0, "no seeds, no interval"
    mean, n = float(scores.mean()), scores.size
    if n == 1:
        return Interval(mean, None, 1, None, None, COVERS_SEEDS)
    sd = float(scores.std(ddof=1))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * sd / n**0.5
    return Interval(mean, sd, n, mean - half, mean + half, COVERS_SEEDS)


def score_interval(
    predictions: Sequence[Predictions], *, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> Interval:
    """Return the mean test mean_f1 of one configuration and its interval over seeds and images.

    Args:
        predictions: One per seed, on the same images.
        num_resamples: Bootstrap resamples of the images.
        seed: Of the resamples: the same input gives the same interval.
    """
    scores = _scores(predictions)
    mean = float(scores.mean())
    covariance = image_covariance(predictions, num_resamples=num_resamples, seed=seed)
    error, df = _standard_error([scores], covariance)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, df)) * error
    sd = float(scores.std(ddof=1)) if len(scores) > 1 else None
    covers = COVERS_BOTH if len(scores) > 1 else COVERS_IMAGES
    return Interval(mean, sd, len(scores), max(mean - half, 0.0), min(mean + half, 1.0), covers)


def compare(
    a: Sequence[Predictions],
    b: Sequence[Predictions],
    *,
    names: tuple[str, str] = ("a", "b"),
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare two configurations, each given by the predictions of its seeds on the same images.

    Args:
        a: One Predictions per seed.
        b: The same for the other configuration; the numbers of seeds may differ.
        names: What the Comparison calls them.
        num_resamples: Bootstrap resamples of the images, the same ones for all models: a paired bootstrap.
        seed: Of the resamples.
    """
    covariance = image_covariance([*a, *b], num_resamples=num_resamples, seed=seed)
    return _comparison(names, _scores(a), _scores(b), covariance, len(a[0].age_true))


def compare_all(
    configurations: Mapping[str, Sequence[Predictions]], *, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> list[Comparison]:
    """Compare every pair of configurations, Holm-corrected over the pairs.

    Args:
        configurations: Name -> one Predictions per seed, all on the same images.
        num_resamples: Bootstrap resamples of the images; they are drawn and scored once for all pairs.
        seed: Of the resamples.

    Returns:
        One Comparison a pair, in the order of `itertools.combinations`.
    """
    if len(configurations) < 2:
        return []
    everyone = [one for seeds in configurations.values() for one in seeds]
    covariance = image_covariance(everyone, num_resamples=num_resamples, seed=seed)
    scores = {name: _scores(seeds) for name, seeds in configurations.items()}
    ends = np.cumsum([len(values) for values in scores.values()])
    rows = {name: np.arange(end - len(scores[name]), end) for name, end in zip(scores, ends, strict=True)}
    pairs = []
    for a, b in combinations(scores, 2):
        both = np.concatenate([rows[a], rows[b]])
        block = covariance[np.ix_(both, both)]
        pairs.append(_comparison((a, b), scores[a], scores[b], block, len(everyone[0].age_true)))
    adjusted = holm([pair.p_value for pair in pairs])
    return [dataclasses.replace(pair, p_holm=float(p)) for pair, p in zip(pairs, adjusted, strict=True)]


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return Holm's adjusted p-values, float64, in the given order.

    The smallest of m is multiplied by m, the next by m - 1, and so on; none is below the one before it, none above 1.
    Source: Holm, "A Simple Sequentially Rejective Multiple Test Procedure", Scand. J. Statist. 6, 1979. SciPy has
    only the false discovery rate, which promises less.
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1.0)
    return adjusted


def _scores(predictions: Sequence[Predictions]) -> np.ndarray:
    return np.array([one.mean_f1 for one in predictions])


def _standard_error(groups: Sequence[np.ndarray], covariance: np.ndarray) -> tuple[float, float]:
    """Return standard error and degrees of freedom of mean(groups[0]), or of mean(groups[0]) - mean(groups[1]).

    Args:
        groups: The seeds' scores of one or two configurations.
        covariance: `image_covariance` of all their models, in the same order.
    """
    signs = (1.0, -1.0)[: len(groups)]
    sizes = [len(scores) for scores in groups]
    contrast = np.concatenate([np.full(n, sign / n) for n, sign in zip(sizes, signs, strict=True)])
    images = float(contrast @ covariance @ contrast)
    # Between two seeds of one group only the common part of the images covaries: the diagonal stays out.
    group = np.repeat(np.arange(len(groups)), sizes)
    same = group[:, None] == group[None, :]
    shared = sum(
        covariance[np.ix_(group == i, group == i)][~np.eye(n, dtype=bool) if n > 1 else ...].mean()
        for i, n in enumerate(sizes)
    )
    if len(groups) == 2:
        shared -= 2 * covariance[~same].mean()
    luck = [(float(scores.var(ddof=1)) / n, n - 1) for scores, n in zip(groups, sizes, strict=True) if n > 1]
    total = max(float(shared), 0.0) + sum(variance for variance, _ in luck)
    if total <= images or not luck:
        return images**0.5, float("inf")
    return total**0.5, total**2 / sum(variance**2 / df for variance, df in luck)


def _comparison(
    names: tuple[str, str], a: np.ndarray, b: np.ndarray, covariance: np.ndarray, num_images: int
) -> Comparison:
    difference = float(a.mean() - b.mean())
    error, df = _standard_error([a, b], covariance)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, df)) * error
    # Two models that agree on every image have no error and no difference.
    statistic = difference / error if error > 0 else 0.0
    return Comparison(
        a=names[0],
        b=names[1],
        difference=difference,
        low=difference - half,
        high=difference + half,
        p_greater=float(stats.t.cdf(statistic, df)),
        p_value=min(1.0, 2 * float(stats.t.sf(abs(statistic), df))),
        p_holm=None,
        standard_error=error,
        df=df,
        num_seeds=(len(a), len(b)),
        num_images=num_images,
    )
