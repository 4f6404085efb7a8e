"""Settle: the winners of all groups get seeds in rounds, one each, until it is clear which is the best.

From the second round on all contenders are compared (a *look*; one seed shows no luck, so there is nothing to see before).
Whoever can no longer be the best is left with the seeds it has, and so is whoever the seeds still to come would hardly tell from the
best (`FUTILE_BELOW`): a tie that stays one is not worth them. When one contender is left, or no seeds are, it is over.

Only validation decides, as everywhere: which seeds are run is a choice, and the test images must not make choices. A group is left
once the verdict, on test, may be expected: it lies further behind the best than the half width that
`sweep.results.stats` would give their difference. So the seeds are pooled over the contenders (the sampling error of the validation
images stands in for two more), with the verdict's degrees of freedom and its correction for the number of pairs. For the
error of the test images stands the sampling error of the validation images, unpaired: FairFace has a quarter as many
test images, and pairing takes the factor back (0.0047 against the 0.0048 of simulated test sets).

Looking again and again would make the verdict too sure: seeds that were lucky on validation are lucky on test too, and a pair
is left alone just when it looks decided. So the 5 % are spent over the looks, here and by the verdict: `sweep.policy.spending`.
`benchmarks/results/settle_2cores_2026-11.md` says what that costs.

Everything is a pure function of scores. A look is taken when all contenders have their seeds, so no order of arrival changes it; what
it decided is stored with the seed that each got last, and binds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

from sweep.policy.confirm import GroupChoice
from sweep.policy.gap import PRIOR_DOF, sampling_error, value_at
from sweep.policy.spending import FIRST_LOOK, spent_level
from sweep.policy.states import SETTLE, RungDecision, TrialState

# As `sweep.results.borrow.MAX_BORROWED`.
_MAX_BORROWED = 6
# Chance of a verdict below which no further seed is run. 0.1 and 0.2 save little more, and lose more verdicts (benchmarks/results).
FUTILE_BELOW = 0.05


@dataclass(frozen=True)
class _Contender:
    """A group's winner, with the seeds that it has or can have, in the order of the plan."""

    group: str
    seeds: tuple[TrialState, ...]

    def first(self, look: int) -> tuple[TrialState, ...]:
        """Return the seeds that a look compares.

        ASHA may have run later seeds in full because they scored well; those before them, which it stopped, then belong to
        the first look too.
        """
        done = [place for place, t in enumerate(self.seeds, start=1) if t.status == "completed"]
        return self.seeds[: max(look, *done, 0)]

    def told(self, look: int) -> RungDecision | None:
        """Return what a look said of it before."""
        return next((d for t in self.seeds for d in t.looks if d.rung == look), None)

    def missing(self, look: int) -> list[str]:
        """Return the seeds that must be run in full before a look can be taken."""
        return [] if self.told(look) else [t.trial_id for t in self.first(look) if t.status != "completed"]

    @property
    def unfinished(self) -> tuple[str, ...]:
        """All seeds that are not run in full."""
        return tuple(t.trial_id for t in self.seeds if t.status != "completed")


def settle(
    choices: Mapping[str, GroupChoice],
    states: Mapping[str, Sequence[TrialState]],
    *,
    margin: float,
    next_order: int = 0,
) -> dict[str, GroupChoice]:
    """Narrow what all groups need down to what the next look needs.

    Args:
        choices: What each group needs if its winner is run with all its seeds.
        states: The trials of each group, in plan order.
        margin: Differences below it are none for practical purposes.
        next_order: Order of the first new decision.

    Returns:
        The choices. Where any of them holds `decisions`, these come first: store them, add them to the states and ask again.
    """
    left = [
        _Contender(group, tuple(t for t in states[group] if t.config_id == choice.winner and not t.lost))
        for group, choice in choices.items()
        if choice.winner is not None
    ]
    everyone, reasons = left, dict.fromkeys(choices, "")
    most = max(sum(t.config_id == trials[0].config_id for t in trials) for trials in states.values())
    exploring = any(not choice.over for choice in choices.values())
    wanted: dict[str, list[str]] = {}
    look, running, new = 1, True, list[RungDecision]()
    while running:
        wanted = {one.group: one.missing(look) for one in left}
        if exploring or any(wanted.values()):
            break
        if len(left) > 1 and look >= FIRST_LOOK:
            told = {one.group: one.told(look) for one in left}
            decided = [d for d in told.values() if d]
            if len(decided) < len(left):
                decided = _look(look, left, most, math.comb(len(everyone), 2), margin)
            new += [d for d in decided if not told[d.group]]
            reasons |= {d.group: d.reason() for d in decided if d.stop}
            left = [one for one, d in zip(left, decided, strict=True) if not d.stop]
        look += 1
        running = any(len(one.seeds) >= look for one in left) and (len(left) > 1 or look <= FIRST_LOOK)
    on = {one.group for one in left} if running else set()
    out = dict(choices)
    for one in everyone:
        now = tuple(wanted[one.group]) if one.group in on else ()
        gone = one.unfinished if one.group not in on and not exploring else ()
        out[one.group] = replace(
            choices[one.group],
            confirm=now,
            later=tuple(name for name in one.unfinished if name not in now and name not in gone),
            left=gone,
            left_reason=reasons[one.group] or "settled: no further seed is needed",
            prune=(*choices[one.group].prune, *(t.trial_id for t in one.seeds if t.trial_id in gone and t.scores)),
            done=one.group not in on and not exploring,
            decisions=tuple(replace(d, order=next_order + i) for i, d in enumerate(new) if d.group == one.group),
        )
    return out


def _look(look: int, left: Sequence[_Contender], most: int, pairs: int, margin: float) -> list[RungDecision]:
    """Return what a look says of each contender; what was said before stays. One seed cannot be compared, and goes on."""
    # Of those that were told before, a seed that failed then may be running again.
    at = [value_at([t for t in one.first(look) if t.status == "completed"], 0, None, 0.0) for one in left]
    best = min(range(len(left)), key=lambda i: (-at[i].mean, left[i].group))
    prior = sampling_error(at[best].score, max(t.val_images for one in left for t in one.seeds))
    squares = math.fsum((x - mean) ** 2 for v in at for mean in [v.mean] for x in v.values)
    now, end = [len(v.values) for v in at], [len(one.seeds) for one in left]
    variance = (PRIOR_DOF * prior**2 + squares) / (PRIOR_DOF + sum(now) - len(now))
    decided = []
    for i, (one, value) in enumerate(zip(left, at, strict=True)):
        cutoff, stop = None, False
        if min(now[i], now[best]) >= FIRST_LOOK:
            gap = _Gap(at[best].mean - value.mean, variance, 2 * prior**2, (now[i], now[best]), sum(now) - len(now))
            cutoff = at[best].mean - gap.half_width(spent_level(look, most) / pairs)
            later = replace(gap, num_seeds=(end[i], end[best]), degrees=sum(end) - len(end))
            stop = value.mean < cutoff
            if not stop and i != best and later.num_seeds != gap.num_seeds:
                stop = gap.chance(later, spent_level(min(later.num_seeds), most) / pairs, margin) < FUTILE_BELOW
        last = value.seeds[-1]
        judged = (float(look), len(last.scores), value.values[-1], cutoff, stop, 0)
        decided.append(one.told(look) or RungDecision(last.trial_id, one.group, *judged, kind=SETTLE, value=value.mean))
    return decided


@dataclass(frozen=True)
class _Gap:
    """A difference of two contenders and what it may be off by.

    Attributes:
        size: How far one lies behind the other.
        variance: Of one seed.
        images: Variance that images bring to the difference.
        num_seeds: Seeds of the two.
        degrees: Degrees of freedom of all contenders' seeds.
    """

    size: float
    variance: float
    images: float
    num_seeds: tuple[int, int]
    degrees: int

    @property
    def known(self) -> int:
        """Degrees of freedom of the seeds' variance as the verdict counts them: its own, and what others lend."""
        own = min(self.num_seeds) - 1
        return own + min(self.degrees - own, _MAX_BORROWED)

    @property
    def of_means(self) -> float:
        """Variance that seeds bring to the difference."""
        return self.variance * sum(1 / n for n in self.num_seeds)

    def half_width(self, level: float) -> float:
        """Return half the width that the verdict would give it, two-sided."""
        of_seeds, of_images = _quantiles(level, self.known)
        return math.sqrt(of_seeds**2 * self.of_means + of_images**2 * self.images)

    def chance(self, later: _Gap, level: float, margin: float) -> float:
        """Return the probability that with the seeds still to come one is called better, or both equal within a margin.

        Predictive power: with a flat prior, the difference at the end is that of now, give or take what further seeds
        can move it by. Source: Spiegelhalter, Freedman and Blackburn, "Monitoring clinical trials: conditional or
        predictive power?", Controlled Clinical Trials 7, 1986.
        """
        from scipy import stats

        at_the_end = stats.t(self.known, self.size, math.sqrt(self.of_means - later.of_means))
        beyond = later.half_width(level)
        within = min(max(margin - later.half_width(2 * level), 0.0), beyond)
        return float(at_the_end.sf(beyond) + at_the_end.cdf(-beyond) + at_the_end.cdf(within) - at_the_end.cdf(-within))


@cache
def _quantiles(level: float, known: int) -> tuple[float, float]:
    """Return those of Student's t with so many degrees of freedom, and of the normal distribution, two-sided."""
    from scipy import stats  # half a second, which only settling pays

    return float(stats.t.isf(level / 2, known)), float(stats.norm.isf(level / 2))
