"""How sure are we: intervals of a score, differences between two configurations, and when to call a tie.

Two things vary: the test images (a few thousand were drawn, others could have been) and the seed (the same recipe,
trained again, gives another model). A configuration is usually known by three seeds scored on the *same* images.
Drawing images and seeds with replacement does not do here: it counts the seeds' private errors on the images twice
and, of three seeds, a third of the seed variance not at all, so its intervals are too wide or too narrow as the one
or the other prevails (benchmarks/results). Instead, the two are estimated apart and added:

- Images: the paired bootstrap variance of the mean score (or of the difference of two) with the trained models held
  fixed. This is the whole of what other images would change, and the least that an interval can be.
- Seeds: the sample variance S^2 of the seeds' scores holds their luck, and their private errors on these images too.
  The latter the bootstrap knows: the mean variance of a seed's score less the mean covariance of two seeds' scores.
  What S^2 has in excess of it, divided by n seeds, is the variance that other seeds would bring; 0 if there is none.
- An interval's half width is `sqrt((z se_images)^2 + (t se_seeds)^2)`: each part with its own quantile, because n seeds
  know their excess from n - 1 degrees of freedom only (two configurations: Welch-Satterthwaite). Such sums of
  squared half widths are Cochran's, and MOVER's (Zou and Donner, Statistics in Medicine 27, 2008).
- One seed shows no luck. The interval then speaks of the trained model at hand, and says so; and the verdict on a pair
  is never that one configuration is better, because copies of one recipe would be called different in 18 % of cases
  (benchmarks/results, luck 0.006).

Checked by simulation in benchmarks/stats_coverage.py and, smaller, in the tests.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from scipy import optimize, stats

from sweep.results.bootstrap import Metric, Predictions, image_covariance

Outcome = Literal["a", "b", "tie", "one seed"]

CONFIDENCE = 0.95
NUM_RESAMPLES = 2000

COVERS_IMAGES = "other test images, for the trained models at hand: one seed does not show how seeds vary"
COVERS_BOTH = "other seeds and other test images"


@dataclass(frozen=True)
class Interval:
    """A mean over seeds and its 95 % interval.

    Attributes:
        mean: Mean over seeds.
        sd: Standard deviation over seeds (n - 1); None for one seed.
        n: Seeds.
        low: Lower end.
        high: Upper end.
        covers: What it would hold for, in words.
    """

    mean: float
    sd: float | None
    n: int
    low: float
    high: float
    covers: str

    @property
    def ends(self) -> tuple[float, float]:
        """Both ends."""
        return self.low, self.high


@dataclass(frozen=True)
class Comparison:
    """Test mean_f1 of configuration a minus that of b.

    Attributes:
        a: Name of the first configuration.
        b: Name of the second.
        difference: Mean over a's seeds minus mean over b's.
        low: Lower end of the 95 % interval, not adjusted for the number of pairs.
        high: Its upper end.
        p_greater: Probability that the difference is positive: 1 - p_value / 2, or p_value / 2 where it is negative
            (the mass above 0 of the distribution whose quantiles the intervals are).
        p_value: Two-sided, of no difference: 1 less the level of the interval that just reaches 0.
        p_holm: The same, Holm-corrected over all pairs of one table; None until `compare_all`.
        se_images: Standard error of the difference that other test images would bring.
        se_seeds: The same of other seeds; 0 where the seeds differ no more than the images explain.
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
    se_images: float
    se_seeds: float
    num_seeds: tuple[int, int]
    num_images: int

    @property
    def covers(self) -> str:
        """What the comparison would hold for, in words."""
        return COVERS_IMAGES if self.one_seed else COVERS_BOTH

    @property
    def one_seed(self) -> bool:
        """Whether one of the two was trained with a single seed."""
        return min(self.num_seeds) == 1

    def verdict(self, alpha: float = 1 - CONFIDENCE) -> Outcome:
        """Return which configuration is better, or why none is called so.

        `tie`: the (Holm-corrected) p-value is not below `alpha`. `one seed`: it is, so one trained model is better than
        the other, but a configuration of one seed cannot tell itself from a lucky draw.
        """
        p_value = self.p_value if self.p_holm is None else self.p_holm
        if not p_value < alpha:
            return "tie"
        if self.one_seed:
            return "one seed"
        return "a" if self.difference > 0 else "b"


def score_interval(
    predictions: Sequence[Predictions],
    *,
    metric: Metric = "mean_f1",
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Return the mean of a metric of one configuration and its interval over seeds and images.

    Args:
        predictions: One per seed, on the same images.
        metric: Which one.
        num_resamples: Bootstrap resamples of the images.
        seed: Of the resamples: the same input gives the same interval.
    """
    scores = np.array([one.score(metric) for one in predictions])
    mean = float(scores.mean())
    covariance = image_covariance(predictions, num_resamples=num_resamples, seed=seed, metric=metric)
    half = _Spread.of([scores], covariance).half_width(1 - CONFIDENCE)
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


@dataclass(frozen=True)
class _Spread:
    """Variances of a mean over seeds, or of the difference of two: from images, from seeds, and the latter's df."""

    images: float
    seeds: float
    df: float

    @classmethod
    def of(cls, groups: Sequence[np.ndarray], covariance: np.ndarray) -> _Spread:
        """Estimate them for mean(groups[0]), or for mean(groups[0]) - mean(groups[1]).

        Args:
            groups: The seeds' scores of one or two configurations.
            covariance: `image_covariance` of all their models, in the same order.
        """
        contrast = np.concatenate(
            [np.full(len(scores), sign / len(scores)) for scores, sign in zip(groups, (1, -1), strict=False)]
        )
        excess, first = [], 0
        for scores in groups:
            n = len(scores)
            own = covariance[first : first + n, first : first + n]
            first += n
            if n > 1:
                private = np.diagonal(own).mean() - own[~np.eye(n, dtype=bool)].mean()
                excess.append((max(float(scores.var(ddof=1) - private), 0.0) / n, n - 1))
        seeds = sum(variance for variance, _ in excess)
        squares = sum(variance**2 / df for variance, df in excess)
        # Of models that agree on every image the variance is 0, and rounding may put it below.
        images = max(float(contrast @ covariance @ contrast), 0.0)
        return cls(images, seeds, seeds**2 / squares if squares > 0 else float("inf"))

    def half_width(self, alpha: float) -> float:
        """Return half the width of the interval of level 1 - alpha."""
        z, t = stats.norm.isf(alpha / 2), stats.t.isf(alpha / 2, self.df)
        return float(np.sqrt(z**2 * self.images + t**2 * self.seeds))

    def p_value(self, difference: float) -> float:
        """Return the alpha whose interval just reaches 0; 0 below 1e-15."""
        distance, smallest = abs(difference), 1e-15
        if distance < 1e-12:  # the rounding of a mean; one image more or less right moves a score by far more
            return 1.0
        if self.half_width(smallest) <= distance:
            return 0.0
        return float(optimize.brentq(lambda alpha: self.half_width(alpha) - distance, smallest, 1.0, xtol=1e-15))


def _comparison(
    names: tuple[str, str], a: np.ndarray, b: np.ndarray, covariance: np.ndarray, num_images: int
) -> Comparison:
    difference = float(a.mean() - b.mean())
    spread = _Spread.of([a, b], covariance)
    half, p_value = spread.half_width(1 - CONFIDENCE), spread.p_value(difference)
    return Comparison(
        a=names[0],
        b=names[1],
        difference=difference,
        low=difference - half,
        high=difference + half,
        p_greater=1 - p_value / 2 if difference > 0 else p_value / 2,
        p_value=p_value,
        p_holm=None,
        se_images=spread.images**0.5,
        se_seeds=spread.seeds**0.5,
        num_seeds=(len(a), len(b)),
        num_images=num_images,
    )
