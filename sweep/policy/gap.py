"""What a race compares at a rung: values of configurations, and the gap that each may lie behind the best one.

`sweep.policy.race` says why they are what they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from sweep.policy.states import TrialState

RISE_SHARE = 0.5
GAP_ERRORS = 0.5
FULL_GAP_ERRORS = 1.5
LEARNED_ERRORS = 5.0
PRIOR_DOF = 2
# Of value = score + share * (score - score below), were their errors independent.
_VALUE_SPREAD = math.hypot(1 + RISE_SHARE, RISE_SHARE)
# Where no history says how many validation images there are.
_USUAL_VAL_IMAGES = 2_000


@dataclass(frozen=True)
class Value:
    """A configuration at a rung: means over the seeds that reached it."""

    seeds: tuple[TrialState, ...]
    values: tuple[float, ...]
    score: float
    rise: float

    @property
    def mean(self) -> float:
        """The configuration's value."""
        return fmean(self.values)


def value_at(seeds: Sequence[TrialState], epoch: int, below: int | None, constant: float) -> Value:
    """Value seeds at a rung; a rise counts from epoch `below`, 0 for the start; None: the full budget, which has none."""
    if below is None:
        scores = tuple(max(t.scores) for t in seeds)
        return Value(tuple(seeds), scores, fmean(scores), 0.0)
    rises = [max(0.0, t.scores[epoch - 1] - (t.scores[below - 1] if below else constant)) for t in seeds]
    values = tuple(t.scores[epoch - 1] + RISE_SHARE * rise for t, rise in zip(seeds, rises, strict=True))
    return Value(tuple(seeds), values, fmean(t.scores[epoch - 1] for t in seeds), fmean(rises))


def sampling_error(score: float, val_images: int) -> float:
    """Return the standard error of a mean_f1 over other validation images: an upper bound for the mean of two shares.

    Age and gender count as two shares of the images; by concavity their mean has at most this error. Macro-F1 of rare
    classes varies more; the multiples above were chosen with this formula.
    """
    share = min(max(score, 0.0), 1.0)
    return math.sqrt(share * (1 - share) / (2 * (val_images or _USUAL_VAL_IMAGES)))


@dataclass(frozen=True)
class Rung:
    """Where trials are looked at, and how strictly.

    Attributes:
        epoch: Where it lies.
        below: Epoch that rises count from; None at the full budget.
        most: Most seeds of each configuration.
        alone: Whether only the best goes on.
    """

    epoch: int
    below: int | None
    most: int
    alone: bool

    @property
    def climbing(self) -> bool:
        """Whether a rise widens the gap."""
        return self.below is not None and not self.alone

    def gaps(self, at: Mapping[str, Value], val_images: int) -> dict[str, float]:
        """Return how far behind the best each configuration may lie."""
        best = at[best_of(at)]
        spread, errors = (1.0, FULL_GAP_ERRORS) if self.below is None else (_VALUE_SPREAD, GAP_ERRORS)
        prior = spread * sampling_error(best.score, val_images)
        squares = math.fsum((x - v.mean) ** 2 for v in at.values() for x in v.values)
        degrees = sum(len(v.values) - 1 for v in at.values())
        sd = math.sqrt((PRIOR_DOF * prior**2 + squares) / (PRIOR_DOF + degrees))
        return {
            name: errors * sd * math.sqrt(1 / len(v.values) + 1 / len(best.values))
            + self.climbing * RISE_SHARE * v.rise
            for name, v in at.items()
        }


def best_of(at: Mapping[str, Value]) -> str:
    """Return who has the highest value; equal ones go to the smaller name."""
    return min(at, key=lambda name: (-at[name].mean, name))


def learned(values: Iterable[Value], constant: float, val_images: int) -> bool:
    """Tell whether anybody at a rung is clearly above the best answer that is the same for every image."""
    top = max(value.score for value in values)
    return top - constant > LEARNED_ERRORS * sampling_error(top, val_images)
