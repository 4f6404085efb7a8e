"""Settle: the winners of all groups get seeds in rounds, one each, until it is clear which is the best.

From the second round on all contenders are compared (a *look*; one seed shows no luck, so there is nothing to see before).
Whoever can no longer be the best is left with the seeds it has. When one contender is left, or no seeds are, it is over.

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
    choices: Mapping[str, GroupChoice], states: Mapping[str, Sequence[TrialState]], *, next_order: int = 0
) -> dict[str, GroupChoice]:
    """Narrow what all groups need down to what the next look needs.

    Args:
        choices: What each group needs if its winner is run with all its seeds.
        states: The trials of each group, in plan order.
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
                decided = _look(look, left, spent_level(look, most) / math.comb(len(everyone), 2))
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


def _look(look: int, left: Sequence[_Contender], level: float) -> list[RungDecision]:
    """Return what a look says of each contender; what was said before stays. One seed cannot be compared, and goes on."""
    # Of those that were told before, a seed that failed then may be running again.
    at = [value_at([t for t in one.first(look) if t.status == "completed"], 0, None, 0.0) for one in left]
    best = min(range(len(left)), key=lambda i: (-at[i].mean, left[i].group))
    prior = sampling_error(at[best].score, max(t.val_images for one in left for t in one.seeds))
    squares = math.fsum((x - mean) ** 2 for v in at for mean in [v.mean] for x in v.values)
    degrees = sum(len(v.values) - 1 for v in at)
    variance = (PRIOR_DOF * prior**2 + squares) / (PRIOR_DOF + degrees)
    decided = []
    for one, value in zip(left, at, strict=True):
        few = min(len(value.values), len(at[best].values))
        cutoff = None
        if few >= FIRST_LOOK:
            of_seeds, of_images = _quantiles(level, few - 1 + min(degrees - (few - 1), _MAX_BORROWED))
            seeds = of_seeds**2 * variance * (1 / len(value.values) + 1 / len(at[best].values))
            cutoff = at[best].mean - math.sqrt(seeds + of_images**2 * 2 * prior**2)
        last = value.seeds[-1]
        stop = cutoff is not None and value.mean < cutoff
        judged = (float(look), len(last.scores), value.values[-1], cutoff, stop, 0)
        decided.append(one.told(look) or RungDecision(last.trial_id, one.group, *judged, kind=SETTLE, value=value.mean))
    return decided


@cache
def _quantiles(level: float, known: int) -> tuple[float, float]:
    """Return those of Student's t with so many degrees of freedom, and of the normal distribution, two-sided."""
    from scipy import stats  # half a second, which only settling pays

    return float(stats.t.isf(level / 2, known)), float(stats.norm.isf(level / 2))
