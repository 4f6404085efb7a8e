"""What a sweep could have seen and what would decide a tie (more seeds, more test images), in numbers and in sentences."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from sweep.results.borrow import MAX_BORROWED, Spread
from sweep.results.leaderboard import Board, Configuration
from sweep.results.stats import CONFIDENCE, Comparison
from sweep.wording import counted, listing, number, score

POWER = 0.8
# Beyond these the answer is "not by that": nobody trains a hundred seeds more.
MAX_SEEDS = 50
MAX_IMAGES_FACTOR = 100.0
# A verdict stays a few sentences: the nearest rivals are the ones to decide about.
_MAX_TIES = 2


@dataclass(frozen=True)
class Decider:
    """What would show a difference of the size seen with 80 % power, everything else staying as it is.

    Attributes:
        seeds: Seeds of each configuration; None if no number up to 50 would.
        images: Test images; None if not even a hundred times as many would.
    """

    seeds: int | None
    images: int | None


def smallest_gap(spread: Spread, num_pairs: int, level: float = 1 - CONFIDENCE) -> float:
    """Return the smallest true difference that would be told apart with 80 % power.

    Half the width of the interval at Holm's first and strictest level, `level` / num_pairs, plus z_0.8 standard errors of the
    difference itself. Source: the usual sample-size formula (for example Chow, Shao and Wang, "Sample Size
    Calculations in Clinical Research", 2nd ed., 2008, section 3.2), with the intervals of `Spread`.
    """
    error = math.sqrt(float(spread.images + spread.seeds))
    return float(spread.half_width(level / num_pairs)) + float(stats.norm.ppf(POWER)) * error


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
        spread = planned(pair.spread, num_seeds=num_seeds, images_factor=factor)
        return smallest_gap(spread, num_pairs, pair.level) <= gap

    seeds = next((n for n in range(max(pair.num_seeds), MAX_SEEDS + 1) if shows(n, 1.0)), None)
    if not shows(None, MAX_IMAGES_FACTOR):
        return Decider(seeds, None)
    low, high = 0.0, math.log(MAX_IMAGES_FACTOR)
    while high - low > 0.005:
        middle = (low + high) / 2
        low, high = (low, middle) if shows(None, math.exp(middle)) else (middle, high)
    return Decider(seeds, math.ceil(pair.num_images * math.exp(high)))


def seed_variance(board: Board, best: Sequence[Configuration]) -> list[str]:
    """Say from how many configurations the seeds' variance is known, with how many degrees of freedom.

    Args:
        board: The leaderboard.
        best: The best configuration of each group, those that are compared.
    """
    several = [one for one in best if one.test and one.test.n > 1]
    lending = {id(one) for one in (*several, *board.lenders(*best))} if several else set()
    if len(lending) < 2:
        double = [one.group for one in several if one.test and one.test.n == 2]
        return [
            f"Two seeds only for {group}, and no other configuration to learn from how seeds vary: the interval is about "
            "twice as wide as a third seed would make it."
            for group in double
        ]
    alone = [one.group for one in several if one.test and round(one.test.df) == one.test.n - 1]
    sharing = [one for one in several if one.group not in alone]
    said = []
    if sharing:
        known = sorted({round(one.test.df) for one in sharing if one.test})
        own = sorted({one.test.n - 1 for one in sharing if one.test})
        degrees = f"{_range(known)} degrees of freedom where a configuration's own seeds give {_range(own)}"
        said.append(f"Seed variance from {counted(len(lending), 'configuration')}: {degrees}.")
    if alone:
        verb = "differ" if len(alone) == 1 else "each differ"
        said.append(
            f"The seeds of {listing(alone)} {verb} by much more than the others': such variance is judged by its own seeds."
        )
    return said


def what_would_decide(board: Board, pairs: Sequence[Comparison], num_pairs: int) -> list[str]:
    """Say of the ties what gap could have been seen, and how many seeds or test images would show the one that was seen.

    Args:
        board: The leaderboard.
        pairs: The leader against every other group.
        num_pairs: Pairs in all, for which p-values are corrected.
    """
    tied = [pair for pair in pairs if pair.verdict() == "tie" and not pair.one_seed]
    if not tied:
        return []
    seen = max(smallest_gap(pair.spread, num_pairs, pair.level) for pair in tied)
    said = [f"The smallest gap that this sweep would have seen in 80\u202f% of cases is {score(seen)}."]
    official = _official_images(board)
    for pair in sorted(tied, key=lambda pair: -abs(pair.difference))[:_MAX_TIES]:
        gap = abs(pair.difference)
        what = f"To tell {pair.a} and {pair.b} apart at the gap seen, {score(gap)}"
        if gap < pair.margin:
            said.append(
                f"The gap between {pair.a} and {pair.b}, {score(gap)}, is within {number(pair.margin)}: hardly worth deciding."
            )
            continue
        found = what_decides(pair, num_pairs)
        ways = []
        if found.seeds is not None:
            ways.append(f"{counted(found.seeds, 'seed')} of each instead of {_range(sorted(set(pair.num_seeds)))}")
        if found.images is not None:
            ways.append(f"about {_rounded(found.images):,} test images instead of {pair.num_images:,}")
        if ways:
            said.append(f"{what}, would take {', or '.join(ways)}.")
        else:
            most = f"{MAX_SEEDS} seeds or {MAX_IMAGES_FACTOR:g} times the test images"
            said.append(f"{what}, {most} would not do: it takes more of both.")
        if official and _official_shows(pair, official, num_pairs):
            said[-1] += f" Protocol official, with {official:,}, would do."
    return said


def _official_shows(pair: Comparison, images: int, num_pairs: int) -> bool:
    spread = planned(pair.spread, images_factor=images / pair.num_images)
    return smallest_gap(spread, num_pairs, pair.level) <= abs(pair.difference)


def _official_images(board: Board) -> int | None:
    """Return how many test images protocol `official` would have, where the sweep used the other one."""
    counts = set()
    for record in board.run.records:
        if record.report is None:
            continue
        rows = record.report.get("data", {}).get("csv_rows")
        count = rows.get("val") if isinstance(rows, Mapping) else None
        if record.report["protocol"] != "seed" or not isinstance(count, int):
            return None
        counts.add(count)
    return counts.pop() if len(counts) == 1 else None


def _rounded(count: int) -> int:
    """Return a number that was reckoned, upwards to two digits."""
    step = 10 ** max(len(str(count)) - 2, 0)
    return -(-count // step) * step


def _range(values: Sequence[int]) -> str:
    return str(values[0]) if len(values) == 1 else f"{values[0]} to {values[-1]}"
