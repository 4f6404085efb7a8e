"""What a sweep could have seen, and what would decide a tie: more seeds, or more test images."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from sweep.results.borrow import MAX_BORROWED, Spread
from sweep.results.stats import CONFIDENCE, Comparison

POWER = 0.8
# Beyond these the answer is "not by that": nobody trains a hundred seeds more.
MAX_SEEDS = 50
MAX_IMAGES_FACTOR = 100.0


@dataclass(frozen=True)
class Decider:
    """What would show a difference of the size seen with 80 % power, everything else staying as it is.

    Attributes:
        seeds: Seeds of each configuration; None if no number up to 50 would.
        images: Test images; None if not even a hundred times as many would.
    """

    seeds: int | None
    images: int | None


def smallest_gap(spread: Spread, num_pairs: int) -> float:
    """Return the smallest true difference that would be told apart with 80 % power.

    Half the width of the interval at Holm's first and strictest level, 0.05 / num_pairs, plus z_0.8 standard errors of the
    difference itself. Source: the usual sample-size formula (for example Chow, Shao and Wang, "Sample Size
    Calculations in Clinical Research", 2nd ed., 2008, section 3.2), with the intervals of `Spread`.
    """
    error = math.sqrt(float(spread.images + spread.seeds))
    return float(spread.half_width((1 - CONFIDENCE) / num_pairs)) + float(stats.norm.ppf(POWER)) * error


def planned(spread: Spread, *, num_seeds: int | None = None, images_factor: float = 1.0) -> Spread:
    """Return what a spread would be with another number of seeds for all, and with more test images.

    More images lower what images bring, the seeds' private errors included; luck stays. More seeds know their variance
    with more degrees of freedom, and so do those that lend.
    """
    now = spread.num_seeds
    then = np.asarray(now if num_seeds is None else np.full(now.shape, num_seeds))
    private = spread.private / images_factor
    luck = np.maximum(spread.moderated - spread.private, 0.0)
    borrowed = np.minimum((spread.df - (now - 1)) * (then - 1) / np.maximum(now - 1, 1), MAX_BORROWED)
    return dataclasses.replace(
        spread,
        images=spread.images / images_factor,
        private=private,
        own=luck + private,
        moderated=luck + private,
        df=borrowed + then - 1,
        num_seeds=then,
    )


def what_decides(pair: Comparison, num_pairs: int) -> Decider:
    """Return how many seeds of each, or how many test images, would show a difference of the size seen."""
    assert not pair.one_seed, "one seed shows no luck, so nothing can be planned from it"
    gap = abs(pair.difference)

    def shows(num_seeds: int | None, factor: float) -> bool:
        return smallest_gap(planned(pair.spread, num_seeds=num_seeds, images_factor=factor), num_pairs) <= gap

    seeds = next((n for n in range(max(pair.num_seeds), MAX_SEEDS + 1) if shows(n, 1.0)), None)
    if not shows(None, MAX_IMAGES_FACTOR):
        return Decider(seeds, None)
    low, high = 0.0, math.log(MAX_IMAGES_FACTOR)
    while high - low > 0.005:
        middle = (low + high) / 2
        low, high = (low, middle) if shows(None, math.exp(middle)) else (middle, high)
    return Decider(seeds, math.ceil(pair.num_images * math.exp(high)))
