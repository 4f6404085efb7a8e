"""How sure are we: intervals of a score, differences between two configurations, and when to call a tie.

Two things vary: the test images (a few thousand were drawn, others could have been) and the seed (the same recipe,
trained again, gives another model). A configuration is usually known by two or three seeds scored on the *same* images.
Drawing images and seeds with replacement does not do here: it counts the seeds' private errors on the images twice
and, of three seeds, a third of the seed variance not at all, so its intervals are too wide or too narrow as the one
or the other prevails (benchmarks/results). Instead, the two are estimated apart and added, in four steps:

1. Images (`image_covariance`): the paired bootstrap variance of the mean score (or of the difference of two) with the
   trained models held fixed. This is the whole of what other images would change, and the least an interval can be.
2. Seeds (sweep/results/borrow.py): the sample variance S^2 of the seeds' scores holds their luck, and their private
   errors on these images too. Those the bootstrap knows (the mean variance of a seed's score less the mean covariance
   of two seeds' scores), so they are taken out of step 1 and S^2 is never believed to be less. Few seeds know S^2
   badly; the sweep's other configurations lend it degrees of freedom.
3. Both together (`Spread.half_width`): a normal quantile for what is known, and for not knowing the seeds' part more, by
   Student's quantile and by its share in the whole. The p-value is the level whose interval just reaches 0.
4. Many pairs (`holm`): the p-values of one table are corrected, and so are those of being equal for practical
   purposes; from what is left follow the verdicts and the ranks that the data allow.

One seed shows no luck, and what others would lend does not cover it: 66 % where its own luck is three times theirs.
Its interval speaks of the trained model at hand, and says so; and the verdict on a pair is never that one configuration is
better, because copies of one recipe would be called different in 18 % of cases (benchmarks/results, luck 0.006).

Checked by simulation in benchmarks/stats_coverage.py and, smaller, in the tests.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np

from sweep.results.bootstrap import Metric, Predictions, image_covariance
from sweep.results.borrow import SeedVariance, Spread, moderate
from sweep.space.spec import EQUAL_WITHIN

Outcome = Literal["a", "b", "equal", "tie", "one seed"]

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
        df: Degrees of freedom of its seed variance, those that other configurations lent included; 0 for one seed.
    """

    mean: float
    sd: float | None
    n: int
    low: float
    high: float
    covers: str
    df: float

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
        low: Lower end of the 95 % interval, not adjusted for the number of pairs. Of a sweep that looked repeatedly it is
            that of all looks together, which its levels widen (a repeated confidence interval).
        high: Its upper end.
        p_greater: Probability that the difference is positive: 1 - p_value / 2, or p_value / 2 where it is negative
            (the mass above 0 of the distribution whose quantiles the intervals are).
        p_value: Two-sided, of no difference: 1 less the level of the interval that just reaches 0, times 0.05 / level.
        p_holm: The same, Holm-corrected over all pairs of one table; None until `compare_all`.
        margin: Differences below it are none for practical purposes, in mean_f1.
        p_equal: Of a difference of at least the margin, either way: the larger p-value of the two one-sided tests.
            `compare_all` corrects it after Holm too.
        se_images: Standard error of the difference that other test images would bring.
        se_seeds: The same of other seeds; 0 where the seeds differ no more than the images explain.
        num_seeds: Seeds of a and of b.
        num_images: Test images.
        spread: Where the interval comes from.
        level: 0.05, or the share of it that a look was given.
    """

    a: str
    b: str
    difference: float
    low: float
    high: float
    p_greater: float
    p_value: float
    p_holm: float | None
    margin: float
    p_equal: float
    se_images: float
    se_seeds: float
    num_seeds: tuple[int, int]
    num_images: int
    spread: Spread
    level: float = 1 - CONFIDENCE

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

        `tie`: the (Holm-corrected) p-value is not below `alpha`. `equal`: it is not, and that of a difference of at
        least the margin is. `one seed`: it is, so one trained model is better than the other, but a configuration of
        one seed cannot tell itself from a lucky draw.
        """
        p_value = self.p_value if self.p_holm is None else self.p_holm
        if not p_value < alpha:
            return "equal" if self.p_equal < alpha and not self.one_seed else "tie"
        if self.one_seed:
            return "one seed"
        return "a" if self.difference > 0 else "b"


def score_interval(
    predictions: Sequence[Predictions],
    *,
    lenders: Sequence[Sequence[float]] = (),
    metric: Metric = "mean_f1",
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Return the mean of a metric of one configuration and its interval over seeds and images.

    Args:
        predictions: One per seed, on the same images.
        lenders: The same metric of the seeds of each other configuration, on the same images: they lend degrees of
            freedom.
        metric: Which one.
        num_resamples: Bootstrap resamples of the images.
        seed: Of the resamples: the same input gives the same interval.
    """
    scores = np.array([one.score(metric) for one in predictions])
    mean = float(scores.mean())
    covariance = image_covariance(predictions, num_resamples=num_resamples, seed=seed, metric=metric)
    variance = _seed_variance([scores, *lenders], [_private(covariance)])
    half = float(_spread([scores], covariance, variance, [0]).of_score().half_width(1 - CONFIDENCE))
    several = len(scores) > 1
    sd = float(scores.std(ddof=1)) if several else None
    low, high, covers = max(mean - half, 0.0), min(mean + half, 1.0), COVERS_BOTH if several else COVERS_IMAGES
    return Interval(mean, sd, len(scores), low, high, covers, float(variance.df[0]) if several else 0.0)


def compare(
    a: Sequence[Predictions],
    b: Sequence[Predictions],
    *,
    names: tuple[str, str] = ("a", "b"),
    lenders: Sequence[Sequence[float]] = (),
    margin: float = EQUAL_WITHIN,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare two configurations, each given by the predictions of its seeds on the same images.

    Args:
        a: One Predictions per seed.
        b: The same for the other configuration; the numbers of seeds may differ.
        names: What the Comparison calls them.
        lenders: Test mean_f1 of the seeds of each further configuration.
        margin: Differences below it are none for practical purposes.
        num_resamples: Bootstrap resamples of the images, the same ones for all models: a paired bootstrap.
        seed: Of the resamples.
    """
    both = dict(zip(("a", "b"), (a, b), strict=True))
    (pair,) = compare_all(both, lenders=lenders, margin=margin, num_resamples=num_resamples, seed=seed)
    return dataclasses.replace(pair, a=names[0], b=names[1], p_holm=None)


def compare_all(
    configurations: Mapping[str, Sequence[Predictions]],
    *,
    lenders: Sequence[Sequence[float]] = (),
    margin: float = EQUAL_WITHIN,
    level_of: Callable[[int], float] = lambda num_seeds: 1 - CONFIDENCE,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> list[Comparison]:
    """Compare every pair of configurations, Holm-corrected over the pairs.

    Args:
        configurations: Name -> one Predictions per seed, all on the same images.
        lenders: Test mean_f1 of the seeds of each further configuration; those that are compared lend too.
        margin: Differences below it are none for practical purposes.
        level_of: What a pair is judged at, given the number of seeds of the one with fewer: 0.05, or what a sweep that
            looked repeatedly has spent there (`sweep.policy.spending.spent_level`).
        num_resamples: Bootstrap resamples of the images; they are drawn and scored once for all pairs.
        seed: Of the resamples.

    Returns:
        One Comparison a pair, in the order of `itertools.combinations`.
    """
    if len(configurations) < 2:
        return []
    everyone = [one for seeds in configurations.values() for one in seeds]
    covariance = image_covariance(everyone, num_resamples=num_resamples, seed=seed)
    names = list(configurations)
    scores = [np.array([one.mean_f1 for one in seeds]) for seeds in configurations.values()]
    ends = np.cumsum([len(values) for values in scores])
    rows = [np.arange(end - len(values), end) for end, values in zip(ends, scores, strict=True)]
    variance = _seed_variance([*scores, *lenders], [_private(covariance[np.ix_(own, own)]) for own in rows])
    pairs = []
    for i, j in combinations(range(len(names)), 2):
        both = np.concatenate([rows[i], rows[j]])
        spread = _spread([scores[i], scores[j]], covariance[np.ix_(both, both)], variance, [i, j])
        difference = float(scores[i].mean() - scores[j].mean())
        about = (margin, len(everyone[0].age_true), level_of(int(spread.num_seeds.min())))
        pairs.append(_comparison((names[i], names[j]), difference, spread, *about))
    different, equal = holm([pair.p_value for pair in pairs]), holm([pair.p_equal for pair in pairs])
    return [
        dataclasses.replace(pair, p_holm=float(p), p_equal=float(q))
        for pair, p, q in zip(pairs, different, equal, strict=True)
    ]


def _private(covariance: np.ndarray) -> float:
    """Step 2: return the variance of one seed's own errors on these images, from the `image_covariance` of a configuration."""
    n = len(covariance)
    if n == 1:
        return 0.0
    return max(float(np.diagonal(covariance).mean() - covariance[~np.eye(n, dtype=bool)].mean()), 0.0)


def _seed_variance(groups: Sequence[Sequence[float] | np.ndarray], private: Sequence[float]) -> SeedVariance:
    """Step 2: return the variances between the seeds of all groups; the first ones' private errors are known."""
    own = [np.var(scores, ddof=1) if len(scores) > 1 else np.nan for scores in groups]
    least = np.zeros(len(groups))
    least[: len(private)] = private
    return moderate(np.array(own), [len(scores) for scores in groups], least=least)


def _spread(
    groups: Sequence[np.ndarray], covariance: np.ndarray, variance: SeedVariance, which: Sequence[int]
) -> Spread:
    """Step 3: return the spread of mean(groups[0]), or of mean(groups[0]) - mean(groups[1]).

    Args:
        groups: The seeds' scores of one or two configurations.
        covariance: `image_covariance` of all their models, in the same order.
        variance: Of all configurations of the sweep.
        which: Where the groups are among those.
    """
    num_seeds = np.array([len(scores) for scores in groups])
    contrast = np.repeat(np.array([1.0, -1.0])[: len(groups)] / num_seeds, num_seeds)
    parts = np.split(np.arange(len(covariance)), num_seeds.cumsum()[:-1])
    private = np.array([_private(covariance[np.ix_(part, part)]) for part in parts])
    # Of models that agree on every image the variance is 0, and rounding may put it below.
    images = max(float(contrast @ covariance @ contrast - (private / num_seeds).sum()), 0.0)
    chosen = list(which)
    moderated = np.where(num_seeds > 1, variance.moderated[chosen], np.nan)
    return Spread(np.array(images), private, variance.own[chosen], moderated, variance.df[chosen], num_seeds)


def _comparison(
    names: tuple[str, str], difference: float, spread: Spread, margin: float, num_images: int, level: float
) -> Comparison:
    """Step 3: return the comparison of one pair, not yet corrected for the others."""
    # A level below 0.05 is a p-value that much larger: Holm's correction then weighs all pairs alike.
    larger = (1 - CONFIDENCE) / level
    half, p_value = float(spread.half_width(level)), min(larger * float(spread.p_value(abs(difference))), 1.0)
    private = float((spread.private / spread.num_seeds).sum())
    return Comparison(
        a=names[0],
        b=names[1],
        difference=difference,
        low=difference - half,
        high=difference + half,
        p_greater=1 - p_value / 2 if difference > 0 else p_value / 2,
        p_value=p_value,
        p_holm=None,
        margin=margin,
        p_equal=min(larger * float(equal_p_value(spread, difference, margin)), 1.0),
        se_images=(float(spread.images) + private) ** 0.5,
        se_seeds=float(spread.seeds - private) ** 0.5,
        num_seeds=(int(spread.num_seeds[0]), int(spread.num_seeds[1])),
        num_images=num_images,
        spread=spread,
        level=level,
    )


def equal_p_value(spread: Spread, difference: float | np.ndarray, margin: float) -> np.ndarray:
    """Step 3: return the p-value of a difference of at least `margin`, either way; small: equal for practical purposes.

    The larger of the p-values of two one-sided tests, of -margin and of +margin: below 0.05 exactly where the 90 %
    interval lies within the margins. Source: Schuirmann, "A comparison of the two one-sided tests procedure and the power
    approach for assessing the equivalence of average bioavailability", J. Pharmacokinet. Biopharm. 15, 1987.
    """
    room = margin - np.abs(difference)
    one_sided = spread.p_value(np.abs(room)) / 2
    return np.where(room > 0, one_sided, 1 - one_sided)


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Step 4: return Holm's adjusted p-values, float64, in the given order, along the last axis.

    The smallest of m is multiplied by m, the next by m - 1, and so on; none is below the one before it or above 1.
    Source: Holm, "A Simple Sequentially Rejective Multiple Test Procedure", Scand. J. Statist. 6, 1979. SciPy has
    only the false discovery rate, which promises less.
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, axis=-1, kind="stable")
    scaled = np.take_along_axis(p, order, axis=-1) * np.arange(p.shape[-1], 0, -1)
    adjusted = np.empty_like(p)
    np.put_along_axis(adjusted, order, np.minimum(np.maximum.accumulate(scaled, axis=-1), 1.0), axis=-1)
    return adjusted
