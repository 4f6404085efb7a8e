"""How seeds vary, when each configuration has two or three: its own variance, and what the others lend.

Two seeds show a variance with one degree of freedom, and the t quantile of one degree of freedom is 12.7. A sweep holds
more: every configuration with two or more seeds says something of how seeds vary. So each keeps its own variance and
is moved towards the mean variance of the others (`moderate`), as Smyth does for thousands of genes. With a handful of
configurations three things are done otherwise, each decided by simulation (benchmarks.stats_coverage, whose results
compare them):

- How much the others count is not estimated. From a few variances of one degree of freedom it can not be: Smyth's
  estimate of the prior's degrees of freedom was infinite in 58 % of sweeps of two seeds whose deviations differ threefold, and in 64
  to 67 % of those whose deviations do not. They count as many degrees of freedom as they have, at most `MAX_BORROWED`; a single
  other one, which may be an odd one, as three quarters of them.
- A configuration whose own seeds differ by much more than the others' keeps its own variance, with its own degrees of
  freedom: its luck is not theirs (`ALONE_BELOW`). If the difference is beyond doubt it does not lend either
  (`NOT_LENDING_BELOW`, stricter: dropping the largest variance by chance makes the rest too sure). Both come by degrees
  (`TAPER`): one more lender, or one image, must not double an interval.
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
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy import special, stats

Floats = npt.NDArray[np.float64]

# With 6, copies of eight backbones, one of threefold luck, on images that hardly matter are called different in 5.2 % (two
# seeds) and 3.0 % (three seeds) of sweeps; without a limit in 5.7 and 4.5 %. Four backbones of three seeds lend 6.
MAX_BORROWED = 6.0
# Of a single other configuration's degrees of freedom. At its word, copies of two backbones of three seeds, one of threefold luck,
# are called different in more than 5 % of sweeps (benchmarks/results).
SINGLE_LENDER = 0.75
# Of the share of luck in the variance, see `Spread.half_width`: scores are compared with nobody, and need less slack.
OF_DIFFERENCES, OF_SCORES = 0.125, 0.75
# Levels of the F test of a configuration's variance against the mean variance of the others.
ALONE_BELOW = 0.02
NOT_LENDING_BELOW = 0.002
# A share of one half at the level itself; the whole at four times the level, nothing at a quarter of it.
TAPER = 4.0


@dataclass(frozen=True)
class SeedVariance:
    """Variances of one seed's score on the images at hand, of `[...]` sweeps with `[k]` configurations each.

    Attributes:
        own: Sample variance between the seeds, `[..., k]`; nan for one seed.
        moderated: What to believe instead, `[..., k]`; nan where there is one seed and nobody lends.
        df: Degrees of freedom of `moderated`, `[..., k]`.
        borrows: Share of what the others have to lend that it takes, 0 to 1, `[..., k]`: 0 where its own seeds differ by
            much more than theirs.
        lends: Share of its own degrees of freedom that it lends, 0 to 1, `[..., k]`.
    """

    own: Floats
    moderated: Floats
    df: Floats
    borrows: Floats
    lends: Floats


def moderate(
    own: Floats, num_seeds: npt.ArrayLike, *, least: npt.ArrayLike = 0.0, max_borrowed: float = MAX_BORROWED
) -> SeedVariance:
    """Move each configuration's variance towards that of the others.

    With d degrees of freedom of its own, variance S^2, and others whose mean variance (weighted by theirs) is s0^2,
    a configuration is given

        (d0 s0^2 + d S^2) / (d0 + d)    with d0 + d degrees of freedom,    d0 = min(others' degrees of freedom, 6);

    of a single other configuration, 3/4 of its degrees of freedom. A test against the others decides what share of d0 it
    takes, and a stricter one what share of its d it lends.

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
        return np.divide(np.maximum(total, 0.0), df, out=np.zeros(own.shape), where=df > 0), df

    # Seeds that score exactly alike are constant answers, not calm: they lend nothing.
    speaks = known > 0
    variance, df = others(np.where(speaks, d, 0.0))
    variance = np.maximum(variance, least)
    ratio = np.divide(known, variance, out=np.zeros(own.shape), where=variance > 0)
    compared = (d > 0) & (df > 0)
    p_value = np.where(compared, stats.f.sf(ratio, np.maximum(d, 1), np.maximum(df, 1)), 1.0)
    lends, borrows = np.where(speaks, _share(p_value, NOT_LENDING_BELOW), 0.0), _share(p_value, ALONE_BELOW)
    variance, df = others(lends * d)
    beside_one = np.clip(lends.sum(axis=-1, keepdims=True) - lends - 1, 0.0, 1.0)
    borrowed = borrows * np.minimum((SINGLE_LENDER + (1 - SINGLE_LENDER) * beside_one) * df, max_borrowed)
    total = borrowed + d
    moderated = np.divide(borrowed * variance + d * known, total, out=np.full(own.shape, np.nan), where=total > 0)
    return SeedVariance(np.where(d > 0, own, np.nan), moderated, total, borrows, lends)


def _share(p_value: Floats, level: float) -> Floats:
    """Return 0 for p-values far below a level, 1 far above it, by the logarithm in between."""
    logs = np.log(np.maximum(p_value, np.finfo(np.float64).tiny) / level) / np.log(TAPER)
    return np.clip((1 + logs) / 2, 0.0, 1.0)


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
        exponent: c in `half_width`.
    """

    images: Floats
    private: Floats
    own: Floats
    moderated: Floats
    df: Floats
    num_seeds: Floats
    exponent: float = OF_DIFFERENCES

    @property
    def seeds(self) -> Floats:
        """Variance that other seeds would bring, their private errors included, `[...]`."""
        return (np.maximum(np.nan_to_num(self.moderated), self.private) / self.num_seeds).sum(axis=-1)

    def of_score(self) -> Spread:
        """Return the same for the interval of a single score."""
        return dataclasses.replace(self, exponent=OF_SCORES)

    def half_width(self, alpha: npt.ArrayLike) -> Floats:
        """Return half the width of the intervals of level 1 - alpha, `[...]`.

            sqrt(z^2 (images + s) + u^c sum over g of (t_df^2 - z^2) moderated / n),    s = sum of max(moderated, private) / n

        The first term is the variance at its word; the second is for not knowing the seeds' part of it. u is the share of
        luck in the whole: (sum of (moderated - private / 2) / n) / (images + s), 0 where the seeds differ by less than half
        of what their private errors, which are known, would make them. Where luck is all there is, u = 1, and that is
        Student's interval.

        c = 0 is MOVER (Zou and Donner, Statistics in Medicine 27, 2008, equation 3: squared half widths add, each with its
        own quantile). It is too wide in between: with 2 degrees of freedom and half of the variance from images a 95 % interval
        covers 97.5 %, because the excess of t^2 over z^2 counts in proportion to the share of the part that is not known. In
        the series for the exact interval it counts by that share squared, which is c = 1 (Welch, "The generalization of
        'Student's' problem when several different population variances are involved", Biometrika 34, 1947: the term in
        1 / df). But borrowed variances may differ from the lenders', and calling copies different is worse than an
        interval that is too wide. Hence `OF_DIFFERENCES` and `OF_SCORES`, found by simulation (benchmarks/results).

        No part is below z^2 own / n: nobody borrows calm.

        Args:
            alpha: One, or `[...]`.
        """
        alpha = np.asarray(alpha, dtype=np.float64)
        z2 = special.ndtri(alpha / 2) ** 2
        t2 = special.stdtrit(np.where(self.df > 0, self.df, 1.0), alpha[..., None] / 2) ** 2
        known, unsure, least = self._terms
        part = np.maximum(z2[..., None] * known + (t2 - z2[..., None]) * unsure, z2[..., None] * least)
        return np.sqrt(z2 * self.images + part.sum(axis=-1))

    @cached_property
    def _terms(self) -> tuple[Floats, Floats, Floats]:
        """What `half_width` sums over the configurations, whatever alpha: their parts of s, of u^c (...), and own / n."""
        moderated = np.nan_to_num(self.moderated)
        known = np.maximum(moderated, self.private)
        luck = np.maximum(((moderated - self.private / 2) / self.num_seeds).sum(axis=-1), 0.0)
        total = self.images + self.seeds
        share = np.divide(luck, total, out=np.zeros(np.shape(total)), where=total > 0)
        unsure = (share**self.exponent)[..., None] * moderated
        return known / self.num_seeds, unsure / self.num_seeds, np.nan_to_num(self.own) / self.num_seeds

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
