"""How seeds vary, when each configuration has two or three: its own variance, and what the others lend.

Two seeds show a variance with one degree of freedom, and the t quantile of one degree of freedom is 12.7. A sweep holds
more: every configuration with two or more seeds says something of how seeds vary. So each keeps its own variance and
is moved towards the mean variance of the others (`moderate`), as Smyth does for thousands of genes. With a handful of
configurations three things are done otherwise, each decided by simulation (benchmarks.stats_coverage, whose results
compare them):

- How much the others count is not estimated. From a few variances of one degree of freedom it can not be: Smyth's
  estimate of the prior's degrees of freedom was infinite in 58 % of sweeps of two seeds whose deviations differ threefold, and in 64
  to 67 % of those whose deviations do not. They count as many degrees of freedom as they have, at most `MAX_BORROWED`.
- A configuration whose own seeds differ by much more than the others' keeps its own variance, with its own degrees of
  freedom: its luck is not theirs (`ALONE_BELOW`). If the difference is beyond doubt it does not lend either
  (`NOT_LENDING_BELOW`, stricter: dropping the largest variance by chance makes the rest too sure).
- A configuration may borrow degrees of freedom, but not calm: no interval is narrower than its own deviation would
  make it if that were known exactly (`Spread`).

Who may lend (`sweep.results.leaderboard.lending`): full-budget configurations with two seeds or more, scored on the same
images and about as good as the best of their group. Trials that were stopped early may not: on recorded curves the
deviation between seeds at the first rung was 0.6 to 1.7 times that of the full run, 0.6 to 3.7 times after one epoch
(benchmarks/results).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]

# With 6, copies of eight backbones, one of threefold luck, on images that hardly matter are called different in 4.8 % (two
# seeds) and 3.0 % (three seeds) of sweeps; without a limit in 5.5 and 5.1 %. Four backbones of three seeds lend 6.
MAX_BORROWED = 6.0
# Levels of the F test of a configuration's variance against the mean variance of the others.
ALONE_BELOW = 0.02
NOT_LENDING_BELOW = 0.002


@dataclass(frozen=True)
class SeedVariance:
    """Variances of one seed's score on the images at hand, of `[...]` sweeps with `[k]` configurations each.

    Attributes:
        own: Sample variance between the seeds, `[..., k]`; nan for one seed.
        moderated: What to believe instead, `[..., k]`; nan where there is one seed and nobody lends.
        df: Degrees of freedom of `moderated`, `[..., k]`.
        alone: Whether a configuration borrows nothing because its own seeds differ by much more, bool `[..., k]`.
        lends: Whether it lends, bool `[..., k]`.
    """

    own: Floats
    moderated: Floats
    df: Floats
    alone: npt.NDArray[np.bool_]
    lends: npt.NDArray[np.bool_]


def moderate(
    own: Floats, num_seeds: npt.ArrayLike, *, least: npt.ArrayLike = 0.0, max_borrowed: float = MAX_BORROWED
) -> SeedVariance:
    """Move each configuration's variance towards that of the others.

    With d degrees of freedom of its own, variance S^2, and others whose mean variance (weighted by theirs) is s0^2,
    a configuration is given

        (d0 s0^2 + d S^2) / (d0 + d)    with d0 + d degrees of freedom,    d0 = min(others' degrees of freedom, 6).

    Source: Smyth, "Linear models and empirical Bayes methods for assessing differential expression in microarray
    experiments", Stat. Appl. Genet. Mol. Biol. 3(1), 2004, section 3 (there d0 and s0^2 are estimated, and the
    configuration itself takes part in them; here it does not, so that d0 and d are of different seeds). Equal numbers
    of seeds and few others make it the pooled variance.

    The test is that of two variances, F = S^2 / s0^2, one-sided, with d and the others' degrees of freedom; s0^2 is taken for
    no less than what images alone explain, so that others whose seeds happened to agree accuse nobody.

    Args:
        own: Sample variances between seeds, `[..., k]`; what stands for one seed does not matter.
        num_seeds: Seeds of each, int `[k]`.
        least: Variance of a seed's private errors of each, `[k]` or `[..., k]`: what images alone explain.
        max_borrowed: The most degrees of freedom that others may add.
    """
    own = np.asarray(own, dtype=np.float64)
    d = np.broadcast_to(np.asarray(num_seeds, dtype=np.float64) - 1, own.shape)
    known = np.where(d > 0, own, 0.0)

    def others(weight: Floats) -> tuple[Floats, Floats]:
        """Return the mean variance of all others, and their degrees of freedom."""
        df = weight.sum(axis=-1, keepdims=True) - weight
        total = (weight * known).sum(axis=-1, keepdims=True) - weight * known
        return np.maximum(total, 0.0) / np.maximum(df, 1.0), df

    # Seeds that score exactly alike are constant answers, not calm: they lend nothing.
    weight = np.where(known > 0, d, 0.0)
    variance, df = others(weight)
    variance = np.maximum(variance, least)
    ratio = np.divide(known, variance, out=np.zeros(own.shape), where=variance > 0)
    compared = (d > 0) & (df > 0)
    p_value = np.where(compared, stats.f.sf(ratio, np.maximum(d, 1), np.maximum(df, 1)), 1.0)
    lends = (weight > 0) & (p_value >= NOT_LENDING_BELOW)
    variance, df = others(np.where(lends, d, 0.0))
    borrowed = np.minimum(df, max_borrowed)
    alone = p_value < ALONE_BELOW
    borrowed = np.where(alone, 0.0, borrowed)
    total = borrowed + d
    moderated = np.divide(borrowed * variance + d * known, total, out=np.full(own.shape, np.nan), where=total > 0)
    return SeedVariance(np.where(d > 0, own, np.nan), moderated, total, alone, lends)


@dataclass(frozen=True)
class Spread:
    """What a mean over seeds, or a difference of two, may be off by: `[...]` estimates of `[g]` configurations each.

    Attributes:
        images: Variance that other images would bring, whatever the seeds, `[...]`.
        private: Variance of one seed's own errors on these images (the bootstrap knows it), `[..., g]`; it is part
            of the variance between seeds, and the least that this can be.
        own: Sample variance between the seeds, `[..., g]`; nan for one seed, which shows no luck.
        moderated: What is believed of it, `[..., g]`; nan: not known, and left out.
        df: Degrees of freedom of that, `[..., g]`.
        num_seeds: Seeds, int `[g]` or `[..., g]`.
    """

    images: Floats
    private: Floats
    own: Floats
    moderated: Floats
    df: Floats
    num_seeds: Floats

    @property
    def seeds(self) -> Floats:
        """Variance that other seeds would bring, their private errors included, `[...]`."""
        return (np.maximum(np.nan_to_num(self.moderated), self.private) / self.num_seeds).sum(axis=-1)

    def private_known(self) -> Spread:
        """Return the same with private errors among what images bring, which is known: only luck keeps its t quantile.

        Intervals of scores are made so; they cover what they should. A comparison takes the t quantile for the whole variance
        between seeds, private errors included: its intervals are wider than need be with two seeds, but what S^2 shows
        of luck alone is too often too little, and copies would be called different in up to 9 % of sweeps.
        """
        return dataclasses.replace(
            self,
            images=self.images + (self.private / self.num_seeds).sum(axis=-1),
            private=np.zeros_like(self.private),
            own=np.maximum(self.own - self.private, 0.0),
            moderated=np.maximum(self.moderated - self.private, 0.0),
        )

    def half_width(self, alpha: npt.ArrayLike) -> Floats:
        """Return half the width of the intervals of level 1 - alpha, `[...]`.

        Each part has its own quantile, since each is known with its own degrees of freedom, and the squared half widths
        add:

            sqrt(z^2 images + sum over g of max(t_df^2 moderated, z^2 own, z^2 private) / n)

        Source: MOVER, Zou and Donner, Statistics in Medicine 27, 2008, equation 3 (for symmetric limits; before them
        Cochran's for two means). The maximum is what a configuration may not borrow: see the module.

        Args:
            alpha: One, or `[...]`.
        """
        alpha = np.asarray(alpha, dtype=np.float64)
        z2 = stats.norm.isf(alpha / 2) ** 2
        t2 = stats.t.isf(alpha[..., None] / 2, np.maximum(self.df, 1e-9)) ** 2
        least = np.maximum(np.nan_to_num(self.own), self.private)
        part = np.maximum(np.where(np.isnan(self.moderated), 0.0, t2 * self.moderated), z2[..., None] * least)
        return np.sqrt(z2 * self.images + (part / self.num_seeds).sum(axis=-1))

    def p_value(self, distance: npt.ArrayLike) -> Floats:
        """Return the alpha whose half width is just `distance`, `[...]`: two-sided, of no difference.

        By bisection of its logarithm down to 1e-15; below that it is 0.
        """
        distance = np.asarray(distance, dtype=np.float64)
        low, high = np.full(distance.shape, np.log(1e-15)), np.zeros(distance.shape)
        certain = self.half_width(np.exp(low)) <= distance
        for _ in range(45):
            middle = (low + high) / 2
            wider = self.half_width(np.exp(middle)) > distance
            low, high = np.where(wider, middle, low), np.where(wider, high, middle)
        # The rounding of a mean is no difference: one image more or less right moves a score by far more.
        return np.where(distance < 1e-12, 1.0, np.where(certain, 0.0, np.exp(high)))
