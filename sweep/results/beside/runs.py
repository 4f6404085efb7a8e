"""Two runs beside each other: what was asked differently, and paired differences where the test images are the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean

from sweep import wording
from sweep.plan.plan import space_changes
from sweep.results.facts import flat, protocols
from sweep.results.leaderboard import Board, Configuration
from sweep.results.stats import Comparison, compare, holm

# What makes the same space give other numbers.
_FACTS = ("code_digest", "git_commit", "data_digest", "device_name", "amp_dtype", "python", "versions")


@dataclass(frozen=True)
class GroupPair:
    """The best configuration of a group in each run; None where the run ranks none.

    Attributes:
        group: The group: a backbone.
        a: In the first run.
        b: In the second.
        pair: The first less the second, on the same test images; None where they cannot be paired.
        why_not: Why not, in words; empty where they are paired.
    """

    group: str
    a: Configuration | None
    b: Configuration | None
    pair: Comparison | None
    why_not: str


@dataclass(frozen=True)
class RunPair:
    """Two runs, compared.

    Attributes:
        a: The first leaderboard.
        b: The second.
        changes: (key, value in a, value in b) of what differs in the spaces and in what ran them.
        groups: One entry per group of either, those of a's leaderboard first. p-values are Holm-corrected.
    """

    a: Board
    b: Board
    changes: tuple[tuple[str, str, str], ...]
    groups: tuple[GroupPair, ...]

    @property
    def names(self) -> tuple[str, str]:
        """What to call them: their folders' names, or their paths where those are equal."""
        first, second = self.a.run, self.b.run
        return (first.name, second.name) if first.name != second.name else (first.location, second.location)


def compare_runs(a: Board, b: Board) -> RunPair:
    """Compare the best configuration of each group of two runs, chosen in each by its own validation scores."""
    order = dict.fromkeys([*a.best_of_group, *b.best_of_group, *a.run.groups, *b.run.groups])
    groups = [_group_pair(a, b, group) for group in order]
    paired = [(at, one.pair) for at, one in enumerate(groups) if one.pair is not None]
    different, equal = (holm([getattr(pair, name) for _, pair in paired]) for name in ("p_value", "p_equal"))
    for (at, pair), p, q in zip(paired, different, equal, strict=True):
        corrected = dataclasses.replace(pair, p_holm=float(p), p_equal=float(q))
        groups[at] = dataclasses.replace(groups[at], pair=corrected)
    facts = [dict(_facts(board)) for board in (a, b)]
    ran = [(key, *(side.get(key, "") for side in facts)) for key in {**facts[0], **facts[1]}]
    changes = [*space_changes(a.run.plan, b.run.plan), *_trials(a, b), *((key, x, y) for key, x, y in ran if x != y)]
    return RunPair(a, b, tuple(changes), tuple(groups))


def _trials(a: Board, b: Board) -> list[tuple[str, str, str]]:
    ids = [{trial.trial_id for trial in board.run.plan.trials} for board in (a, b)]
    same = len(ids[0] & ids[1])
    first, second = (f"{len(own):,}, {len(own) - same:,} of them in this run alone" for own in ids)
    return [("trials", first, second)] if ids[0] != ids[1] else []


def _group_pair(a: Board, b: Board, group: str) -> GroupPair:
    first, second = a.best_of_group.get(group), b.best_of_group.get(group)
    why_not = ""
    if first is None or second is None:
        why_not = "ranked in neither" if first is second else f"ranked in {'A' if first else 'B'} alone"
    elif not first.scored or not second.scored:
        why_not = "predictions are missing or cannot be used"
    elif first.scored[0].test_images != second.scored[0].test_images:
        why_not = "other test images"
    if why_not or first is None or second is None:
        return GroupPair(group, first, second, None, why_not)
    lent = [other.test_scores() for board, own in ((a, first), (b, second)) for other in board.lenders(own)]
    sides = [[one.test for one in side.scored] for side in (first, second)]
    margin = max(a.run.plan.equal_within, b.run.plan.equal_within)
    return GroupPair(group, first, second, compare(*sides, names=("A", "B"), lenders=lent, margin=margin), "")


def _facts(board: Board) -> Iterator[tuple[str, str]]:
    """Return what ran the trials of a run; where they differ, every value."""
    seen: dict[str, dict[str, None]] = {}
    for record in board.run.records:
        provenance = record.report["provenance"] if record.report else {}
        for name, text in flat({key: provenance[key] for key in _FACTS if key in provenance}):
            seen.setdefault(name, {})[text] = None
    for name, texts in seen.items():
        yield name, " and ".join(texts)
    yield "protocol", protocols(board.run)


def lines(found: RunPair) -> list[str]:
    """Word a comparison for a terminal."""
    first, second = found.names
    told = [f"A  {first}", f"B  {second}", ""]
    told += [f"{key}: {x or 'not given'} -> {y or 'not given'}" for key, x, y in found.changes] or [
        "the same space, the same program, the same data"
    ]
    told.append("")
    rows: list[tuple[str, ...]] = [
        (found.a.run.group_by, "test, A", "test, B", "A − B", "95 % interval", "Holm p", "result")
    ]
    rows += [_row(one) for one in found.groups]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for head, *cells, result in rows:
        middle = "  ".join(cell.rjust(width) for cell, width in zip(cells, widths[1:-1], strict=True))
        told.append(f"{head.ljust(widths[0])}  {middle}  {result}")
    return told


def result_words(one: GroupPair) -> str:
    """Return which side is better, or why none is called so."""
    if one.pair is None:
        return f"not paired: {one.why_not}"
    outcome = one.pair.verdict()
    return {"a": "A is better", "b": "B is better", "one seed": "one seed: may be luck"}.get(outcome, outcome)


def _row(one: GroupPair) -> tuple[str, ...]:
    scores = [wording.score(fmean(side.test_scores())) if side else wording.NOTHING for side in (one.a, one.b)]
    pair = one.pair
    paired = [wording.NOTHING] * 3
    if pair is not None:
        assert pair.p_holm is not None, "compare_runs corrects them"
        paired = [
            wording.signed(pair.difference),
            wording.signed_span(pair.low, pair.high),
            wording.p_words(pair.p_holm),
        ]
    return wording.plain(wording.shortened(one.group, 60)), *scores, *paired, result_words(one)
