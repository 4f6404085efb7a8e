"""Sweeps of few seeds, thousands at a time: do borrowed variances cover, and do they tell backbones apart?

Simulated are the scores themselves, not the predictions (benchmarks/stats_coverage.py does those): a score is its
configuration's true one, plus what these images do to all, plus what they do to its configuration, plus a seed's own part, luck
and private errors together. The first two variances, and that of private errors, are known, as the bootstrap knows
them nearly; the variance between seeds is not. Everything from the scores on is the product's own code: `moderate`, `Spread`,
`holm`, `equal_p_value`.

Units are mean_f1, at 2,191 test images. The models that stats_coverage.py simulates have 0.0047, 0.0034 and 0.006 (400 draws) for
the three standard deviations below: less in common, and private errors as large as most luck. Some cases use that.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.measure import Row
from sweep.results.borrow import MAX_BORROWED, SINGLE_LENDER, SeedVariance, Spread, moderate
from sweep.results.planning import smallest_gap
from sweep.results.stats import equal_p_value, holm
from sweep.space.spec import EQUAL_WITHIN

Floats = npt.NDArray[np.float64]

# Standard deviations: of a score by images that all models share; by those of a configuration (so that the standard
# error of a difference is 0.005); of a seed's private errors.
SHARED, OF_CONFIGURATION, PRIVATE = 0.008, 0.005 / 2**0.5, 0.003
MUCH_PRIVATE = 0.006
# A test set of 500 images instead of 2,191.
SMALL = (2191 / 500) ** 0.5
EQUAL_DEVIATION, CALM, LOUD = 0.008, 0.004, 0.012
# What other learning rates deviate by, in units of their backbone's best one: the last epochs of the recorded curves of real
# faces (benchmarks/results/curves_*.csv, three seeds each), for rates whose score is within 0.03 of the best, and for those
# within 0.14.
NEAR_RATES = (0.35, 0.73, 2.1, 0.73, 1.24)
ALL_RATES = (*NEAR_RATES, 1.04, 2.7, 0.81, 3.5, 0.11)


@dataclass(frozen=True)
class Case:
    """One kind of sweep.

    Attributes:
        name: What a reader should know.
        seeds: Seeds of each configuration.
        deviations: Standard deviation between the seeds of each, at 2,191 images.
        gap: By how much the first is better; the others are copies of one another.
        tails: Degrees of freedom of the luck's t distribution (scaled to the deviation); None: normal.
        images: Factor on the three standard deviations by images.
        private: Standard deviation of a seed's private errors.
        lenders: Further configurations that lend for each that is compared.
        factors: What their deviations are drawn from, in units of that of the compared one.
        borrow_one: Give a configuration of one seed the interval that borrowed variance would; the product does not.
        max_borrowed: As in `moderate`.
        judge_equal: Ask for equality too, which takes as long as the rest.
    """

    name: str
    seeds: tuple[int, ...]
    deviations: tuple[float, ...]
    gap: float = 0.0
    tails: float | None = None
    images: float = 1.0
    private: float = PRIVATE
    lenders: int = 0
    factors: tuple[float, ...] = NEAR_RATES
    borrow_one: bool = False
    max_borrowed: float = MAX_BORROWED
    judge_equal: bool = False


@dataclass(frozen=True)
class Shares:
    """What share of the sweeps, or of the intervals of all sweeps.

    Attributes:
        scores: Intervals of a configuration's score that hold the true one.
        differences: Intervals of a difference that hold the true one.
        last_score: The same of the last configuration alone: the loud one.
        last_difference: The same of its differences.
        different: Sweeps in which any pair of copies is called different.
        power: Pairs with the first configuration that are told apart.
        equal: Pairs with the first configuration that are called equal for practical purposes.
    """

    scores: float
    differences: float
    last_score: float
    last_difference: float
    different: float
    power: float
    equal: float


def _spread(case: Case, variance: SeedVariance, which: npt.NDArray[np.int64]) -> Spread:
    """Return the spreads of the configurations `which` [m, 1] or of the pairs [m, 2], `[sweeps, m]`."""
    seeds = np.array(case.seeds)[which]
    private = np.where(seeds > 1, (case.private * case.images) ** 2, 0.0)
    pairs = which.shape[1] == 2
    images = np.full(len(which), 2 * OF_CONFIGURATION**2 if pairs else SHARED**2 + OF_CONFIGURATION**2)
    images = images * case.images**2
    if not case.borrow_one:
        images = images + np.where(seeds > 1, 0.0, (case.private * case.images) ** 2).sum(axis=1)
    moderated = np.where((seeds > 1) | case.borrow_one, variance.moderated[:, which], np.nan)
    whole = np.broadcast_to(private, moderated.shape)
    return Spread(np.broadcast_to(images, moderated.shape[:2]), whole, variance.own[:, which], moderated,
                  variance.df[:, which], np.broadcast_to(seeds, moderated.shape))  # fmt: skip


def _p_values_below(alpha: float, spread: Spread, distance: Floats) -> Floats:
    """Return `Spread.p_value` where it is below alpha, else 1: the same to Holm at that level, and most are not."""
    p_values = np.ones(distance.shape)
    short = distance > spread.half_width(alpha)
    chosen = {field.name: getattr(spread, field.name) for field in fields(spread)}
    chosen = {name: value[short] if isinstance(value, np.ndarray) else value for name, value in chosen.items()}
    p_values[short] = Spread(**chosen).p_value(distance[short])
    return p_values


def simulate(case: Case, *, sweeps: int, seed: int = 0) -> Shares:
    """Draw sweeps of one kind and judge them as the product does."""
    rng = np.random.default_rng(seed)
    k = len(case.seeds)
    truth = np.zeros(k)
    truth[0] = case.gap
    extra = case.private**2 * (case.images**2 - 1)
    deviations = np.sqrt(np.square(case.deviations) + extra)
    means, own = np.empty((sweeps, k)), np.empty((sweeps, k * (1 + case.lenders)))
    seeds = [*case.seeds, *(n for n in case.seeds for _ in range(case.lenders))]
    for i, n in enumerate(seeds):
        scale: Any = deviations[i] if i < k else deviations[(i - k) // case.lenders] * rng.choice(
            case.factors, (sweeps, 1)
        )  # fmt: skip
        luck = rng.standard_normal((sweeps, n))
        if case.tails is not None:
            luck = rng.standard_t(case.tails, (sweeps, n)) / (case.tails / (case.tails - 2)) ** 0.5
        private = np.minimum(case.private * case.images, scale)
        scores = np.sqrt(scale**2 - private**2) * luck + private * rng.standard_normal((sweeps, n))
        own[:, i] = scores.var(axis=1, ddof=1) if n > 1 else np.nan
        if i < k:
            means[:, i] = scores.mean(axis=1)
    means += truth + case.images * (
        SHARED * rng.standard_normal((sweeps, 1)) + OF_CONFIGURATION * rng.standard_normal((sweeps, k))
    )
    variance = moderate(own, seeds, least=(case.private * case.images) ** 2, max_borrowed=case.max_borrowed)
    singles, pairs = np.arange(k)[:, None], np.array(list(combinations(range(k), 2)))
    score_holds = np.abs(means - truth) <= _spread(case, variance, singles).of_score().half_width(0.05)
    spread = _spread(case, variance, pairs)
    a, b = pairs.T
    difference, true_difference = means[:, a] - means[:, b], truth[a] - truth[b]
    holds = np.abs(difference - true_difference) <= spread.half_width(0.05)
    told_apart = holm(_p_values_below(0.05, spread, np.abs(difference))) < 0.05
    told_apart &= np.array(case.seeds)[pairs].min(axis=1) > 1
    equal = np.zeros_like(told_apart)
    if case.judge_equal:
        equal = (holm(equal_p_value(spread, difference, EQUAL_WITHIN)) < 0.05) & ~told_apart
    copies = told_apart[:, true_difference == 0]
    return Shares(
        float(score_holds.mean()), float(holds.mean()), float(score_holds[:, -1].mean()),
        float(holds[:, b == k - 1].mean()), float(copies.any(axis=1).mean()),
        float(told_apart[:, a == 0].mean()), float(equal[:, a == 0].mean()),
    )  # fmt: skip


def unequal(k: int) -> dict[str, tuple[float, ...]]:
    """Return deviations of k configurations that differ threefold, by pattern."""
    steps = tuple(float(value) for value in np.geomspace(CALM, LOUD, k))
    patterns = {"one loud": (CALM,) * (k - 1) + (LOUD,), "one calm": (LOUD,) * (k - 1) + (CALM,), "in steps": steps}
    return {"one loud": patterns["one loud"]} if k == 2 else patterns


def copies() -> Iterator[Case]:
    """Yield every kind of sweep of copies that must cover and must not be called different."""
    for n in (2, 3, 5):
        for k in (2, 3, 4, 8):
            same = (EQUAL_DEVIATION,) * k
            where = f"{n} seeds, {k} backbones"
            plain = Case(f"{where}, equal", (n,) * k, same)
            yield plain
            yield replace(plain, name=f"{where}, equal, hardly any luck", deviations=(0.0035,) * k)
            for name, deviations in unequal(k).items():
                yield replace(plain, name=f"{where}, threefold: {name}", deviations=deviations)
            yield replace(plain, name=f"{where}, heavy tails (t, 3 df)", tails=3)
            yield replace(plain, name=f"{where}, 500 images", images=SMALL)


def power() -> Iterator[tuple[Case, float | None]]:
    """Yield the four rows whose power has a bar (the third has none)."""
    for n, k, gap, bar in ((2, 4, 0.03, 0.30), (2, 4, 0.05, 0.70), (2, 8, 0.03, None), (3, 4, 0.03, 0.65)):
        yield Case(f"power: {n} seeds, {k} backbones, gap {gap}", (n,) * k, (EQUAL_DEVIATION,) * k, gap), bar


def detectable_gap(seeds: int, k: int) -> float:
    """Return the gap that the planning calls visible with 80 % power, from the true variances."""
    lent = (seeds - 1) * (k - 1) * (SINGLE_LENDER if k == 2 else 1.0)
    df = np.full(2, seeds - 1 + min(lent, MAX_BORROWED))
    variance, private = np.full(2, EQUAL_DEVIATION**2), np.full(2, PRIVATE**2)
    images = np.array(2 * OF_CONFIGURATION**2)
    return smallest_gap(Spread(images, private, variance, variance, df, np.full(2, seeds)), k * (k - 1) // 2)


def questions() -> Iterator[Case]:
    """Yield the cases that decided something, without a bar of their own."""
    same = (EQUAL_DEVIATION,) * 4
    for n in (2, 3, 5):
        yield Case(f"{n} seeds, 4 backbones, one of tenfold luck", (n,) * 4, (CALM,) * 3 + (10 * CALM,))
    for n in (2, 3):
        best = Case(f"{n} seeds, 4 backbones, gap 0.03, only the best rates lend", (n,) * 4, same, 0.03)
        yield best
        for words, factors in (
            ("two near rates each lend too", NEAR_RATES),
            ("any two rates each lend too", ALL_RATES),
        ):
            yield replace(best, name=f"{n} seeds, 4 backbones, gap 0.03, {words}", lenders=2, factors=factors)
    for name, last in (("equal", EQUAL_DEVIATION), ("threefold", 3 * EQUAL_DEVIATION)):
        deviations = (*same[:3], last)
        yield Case(f"3 seeds, and 1 seed that borrows, its luck {name}", (3, 3, 3, 1), deviations, borrow_one=True)
    for n, k in ((2, 2), (2, 4), (2, 8), (3, 8)):
        doubled = Case(
            f"{n} seeds, {k} backbones, one loud, all doubled", (n,) * k, tuple(2 * s for s in unequal(k)["one loud"])
        )
        yield doubled
        yield replace(doubled, name=f"{doubled.name}, no limit to what is borrowed", max_borrowed=float("inf"))
    for n, k in ((2, 2), (3, 2), (2, 4), (3, 4), (2, 8)):
        patterns: tuple[tuple[str, tuple[float, ...]], ...] = (
            ("no luck", (MUCH_PRIVATE,) * k),
            ("equal luck 0.005", (EQUAL_DEVIATION,) * k),
            ("one of threefold luck", tuple((luck**2 + MUCH_PRIVATE**2) ** 0.5 for luck in unequal(k)["one loud"])),
            ("one of threefold deviation", (MUCH_PRIVATE,) * (k - 1) + (3 * MUCH_PRIVATE,)),
        )
        for words, own in patterns:
            name = f"{n} seeds, {k} backbones, private errors 0.006, {words}"
            yield Case(name, (n,) * k, own, private=MUCH_PRIVATE)
    for n, k in ((2, 2), (2, 4), (3, 4), (5, 4), (3, 8)):
        gap = detectable_gap(n, k)
        yield Case(f"{n} seeds, {k} backbones, planned for 80 %: gap {gap:.3f}", (n,) * k, (EQUAL_DEVIATION,) * k, gap)


def equivalence() -> Iterator[Case]:
    """Yield sweeps on 10,954 images whose gap is none, and just the margin: the latter may not be called equal."""
    for n, k in ((3, 4), (5, 2)):
        for gap in (0.0, EQUAL_WITHIN):
            name = f"{n} seeds, {k} backbones, 10,954 images, luck 0.004, gap {gap:g}"
            yield Case(name, (n,) * k, (CALM,) * k, gap, images=0.2**0.5, judge_equal=True)


def rows(*, sweeps: int, seed: int = 0, only: str = "", progress: Callable[[str], None]) -> list[Row]:
    """Simulate every case whose name the pattern finds, and return what has a bar and what has none.

    Coverages are given as their distance from 95 %, which is to be 2 points at most; the coverage stands in the facts.
    """
    made: list[Row] = []

    def take(case: Case, *, bars: bool, power_bar: float | None = None, equal_bar: float | None = None) -> None:
        if not re.search(only, case.name):
            return
        progress(case.name)
        got = simulate(case, sweeps=sweeps, seed=seed)
        loud = {"last": {"score": got.last_score, "difference": got.last_difference}}
        for what, share in (("scores", got.scores), ("differences", got.differences)):
            name, goal = f"{case.name}: {what} cover", 0.02 if bars else None
            made.append(Row(name, abs(share - 0.95), goal, sweeps, sense="<=", facts={"coverage": share, **loud}))
        goal = 0.05 if bars else None
        made.append(Row(f"{case.name}: copies called different", got.different, goal, sweeps, sense="<="))
        if case.gap:
            made.append(Row(f"{case.name}: told apart", got.power, power_bar, sweeps))
        if equal_bar is not None:
            bar = equal_bar if case.gap else None
            made.append(Row(f"{case.name}: called equal", got.equal, bar, sweeps, sense="<="))

    for case in copies():
        take(case, bars=True)
    for case, bar in power():
        take(case, bars=True, power_bar=bar)
    for case in equivalence():
        take(case, bars=True, equal_bar=0.05)
    for case in questions():
        take(case, bars=False)
    return made
