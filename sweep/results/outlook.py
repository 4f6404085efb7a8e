"""What a verdict rests on and what would change it, in sentences: borrowed variances, the smallest gap seen, what decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sweep.results.leaderboard import Board, Configuration
from sweep.results.planning import MAX_IMAGES_FACTOR, MAX_SEEDS, planned, smallest_gap, what_decides
from sweep.results.stats import Comparison
from sweep.wording import counted, listing, number, score

# A verdict stays a few sentences: the nearest rivals are the ones to decide about.
_MAX_TIES = 2


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
    alone = [one.group for one in several if one.test and one.test.df == one.test.n - 1]
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
    seen = max(smallest_gap(pair.spread, num_pairs) for pair in tied)
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
            said.append(f"{what}, would take {listing(ways, 'or')}.")
        else:
            most = f"{MAX_SEEDS} seeds or {MAX_IMAGES_FACTOR:g} times the test images"
            said.append(f"{what}, {most} would not do: it takes more of both.")
        if official and _official_shows(pair, official, num_pairs):
            said[-1] += f" Protocol official, with {official:,}, would do."
    return said


def _official_shows(pair: Comparison, images: int, num_pairs: int) -> bool:
    spread = planned(pair.spread, images_factor=images / pair.num_images)
    return smallest_gap(spread, num_pairs) <= abs(pair.difference)


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
