"""Which group is best, in a sentence that claims no more than the intervals allow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from sweep.policy.spending import FIRST_LOOK, LEVEL, spent_level
from sweep.policy.states import OVER
from sweep.results.leaderboard import Board, Configuration
from sweep.results.planning import seed_variance, what_would_decide
from sweep.results.stats import Comparison, compare_all
from sweep.run_folder.records import RunRecord
from sweep.wording import counted, listing, number, p_words, score, settings, signed, signed_span, span

Kind = Literal["ahead", "one seed", "equal", "tie", "disagree", "alone", "not compared", "none"]


@dataclass(frozen=True)
class Verdict:
    """The answer of a sweep.

    Attributes:
        kind: `ahead`: the configuration that validation chose is better on test than every other group's best.
            `one seed`: it is ahead of each on these images, but of a single seed, which may be luck. `equal`: a larger
            difference than the space's margin from at least one of those is ruled out. `tie`: at least one of those
            cannot be told from it. `disagree`: one of them is better on test. `alone`: a single group is
            ranked. `not compared`: predictions are missing or of different images. `none`: nothing is ranked yet.
        headline: The answer in a few words.
        sentence: The answer with its numbers.
        caveats: What it does not cover, one sentence each.
        comparisons: Every pair of groups, the one with the better validation score first.
    """

    kind: Kind
    headline: str
    sentence: str
    caveats: tuple[str, ...]
    comparisons: tuple[Comparison, ...]


def judge(board: Board) -> Verdict:
    """Compare the best configuration of each group on the test images, and say what follows."""
    best = list(board.best_of_group.values())
    caveats = _caveats(board, best)
    if not best:
        return Verdict("none", "No answer yet", _nothing_ranked(board), caveats, ())
    leader = best[0]
    if len(best) == 1:
        headline = f"{leader.group}, with no rival" if len(board.run.groups) == 1 else f"Only {leader.group} is ranked"
        if board.run.running:
            headline += " so far"
        return Verdict("alone", headline, f"{_scores(leader)}. {_no_rival(board)}", caveats, ())
    problem = _why_incomparable(best)
    if problem:
        sentence = f"{_scores(leader)}. The groups cannot be compared: {problem}."
        return Verdict("not compared", "No comparison", sentence, caveats, ())
    most = board.run.plan.most_seeds
    comparisons = tuple(
        compare_all(
            {one.group: [s.test for s in one.scored] for one in best},
            lenders=[one.test_scores() for one in board.lenders(*best)],
            margin=board.run.plan.equal_within,
            level_of=lambda num_seeds: spent_level(num_seeds, most) if most else LEVEL,
        )
    )
    against = comparisons[: len(best) - 1]
    kind, headline, sentence = _answer(leader, best[1:], against)
    deciding = tuple(what_would_decide(board, against, len(comparisons)))
    return Verdict(kind, headline, sentence, deciding + caveats, comparisons)


def _answer(
    leader: Configuration, others: Sequence[Configuration], pairs: Sequence[Comparison]
) -> tuple[Kind, str, str]:
    """Word the result of the leader against every other group; `pairs` has the leader as `a`."""
    found = [(pair.verdict(), other, pair) for other, pair in zip(others, pairs, strict=True)]
    behind = [(other, pair) for outcome, other, pair in found if outcome == "a"]
    equal = [(other, pair) for outcome, other, pair in found if outcome == "equal"]
    tied = [(other, pair) for outcome, other, pair in found if outcome == "tie"]
    maybe = [(other, pair) for outcome, other, pair in found if outcome == "one seed" and pair.difference > 0]
    better = [(other, pair) for outcome, other, pair in found if outcome in ("b", "one seed") and pair.difference < 0]
    parts = [_scores(leader)]
    if better:
        parts.append(
            f"Validation and test disagree: on test, {_each(better, flip=True)} ahead of it. The choice stands, since "
            "choosing by test would flatter the chosen one, but it should not be called the best"
        )
        if any(pair.one_seed for _, pair in better):
            parts.append("With one seed, either may be luck")
    if tied:
        parts.append(f"It is a tie with {_each(tied)}: the test images and seeds do not tell them apart")
    if equal:
        margin = number(equal[0][1].margin)
        parts.append(f"For practical purposes it equals {_each(equal)}: a difference of {margin} or more is ruled out")
    if maybe:
        parts.append(f"On these test images it is ahead of {_each(maybe)}, but one seed cannot tell that from luck")
    if behind:
        parts.append(f"It is ahead of {_each(behind)}")
        overlapping = [other.group for other, _ in behind if _overlap(leader, other)]
        if overlapping:
            parts.append(
                f"Its interval and that of {listing(overlapping)} overlap, but the paired comparison, on the same "
                "images, tells them apart"
            )
    sentence = ". ".join(parts) + "."
    if better:
        return "disagree", "Validation and test disagree", sentence
    if tied:
        return "tie", f"A tie: {listing([leader.group, *(other.group for other, _ in tied)])}", sentence
    if equal:
        names = listing([leader.group, *(other.group for other, _ in equal)])
        return "equal", f"Equal for practical purposes: {names}", sentence
    if maybe:
        return "one seed", f"{leader.group} leads on one seed, which may be luck", sentence
    return "ahead", f"{leader.group} is ahead", sentence


def _scores(one: Configuration) -> str:
    values = f" ({settings(one.values)})" if one.values else ""
    seeds = counted(len(one.full), "seed")
    interval = f" (95\u202f% interval {span(*one.test_span)})" if one.test_span else ""
    val, test = score(fmean(one.val_scores())), score(fmean(one.test_scores()))
    return (
        f"{one.group}{values} has the best validation mean_f1, {val} over {seeds}; on test it reaches {test}{interval}"
    )


def _each(items: Sequence[tuple[Configuration, Comparison]], *, flip: bool = False) -> str:
    """Return `b (difference +0.010, 95 % interval +0.001 to +0.019) and c (...)`."""
    words = []
    for other, pair in items:
        difference, low, high = pair.difference, pair.low, pair.high
        if flip:
            difference, low, high = -difference, -high, -low
        corrected = ""
        if pair.verdict() == "tie" and pair.p_holm is not None and not low <= 0 <= high:
            corrected = f", p = {p_words(pair.p_holm)} after correction for the number of pairs"
        words.append(
            f"{other.group} (difference {signed(difference)}, 95\u202f% interval {signed_span(low, high)}{corrected})"
        )
    text = listing(words)
    return f"{text} {'is' if len(items) == 1 else 'are'}" if flip else text


def _constant(one: Configuration) -> str:
    says = f"{one.group} gives every test image the same {listing(one.constant_heads)}"
    return f"{says}: it has learned nothing." if len(one.constant_heads) == 2 else f"{says}."


def _nothing_learned(run: RunRecord) -> list[str]:
    """Say in which groups the first comparison decided nothing, for nobody had learned anything: as decided then."""
    if not run.rungs:
        return []
    first = run.rungs[0]
    found: dict[str, float] = {}
    for group in run.groups:
        there = [d for r in run.records if r.group == group for d in r.decisions if d.rung == first]
        # A race notes no cutoff where nobody is clearly above a constant answer.
        idle = all(d.cutoff is None if d.kind == "race" else not d.stop and d.score <= d.constant for d in there)
        if there and idle and max(d.constant for d in there) > 0:
            found[group] = max(d.constant for d in there)
    if not found:
        return []
    clearly = "clearly " if run.plan.scheduler.kind == "race" else ""
    return [
        f"At epoch {math.ceil(first)}, where trials of {listing(list(found))} are first compared, none was {clearly}above a "
        f"constant answer (mean_f1 {score(max(found.values()))}), so none was stopped there. A larger grace_epochs, "
        "pretrained weights or smaller learning rates would make that comparison mean something."
    ]


def _overlap(a: Configuration, b: Configuration) -> bool:
    assert a.test_span and b.test_span
    return a.test_span[0] <= b.test_span[1] and b.test_span[0] <= a.test_span[1]


def _why_incomparable(best: Sequence[Configuration]) -> str:
    without = [one.group for one in best if not one.scored]
    if without:
        return f"the stored predictions of {listing(without)} are missing or damaged"
    if len({one.scored[0].test_images for one in best}) > 1:
        return "they were scored on different test images"
    return ""


def _nothing_ranked(board: Board) -> str:
    run = board.run
    if run.running:
        done = sum(run.count(status) for status in OVER)
        over = f"No configuration has the full budget yet: {done} of {counted(len(run.records), 'trial')} are over."
        return over + _so_far(run)
    lost = run.count("failed") + run.count("diverged")
    if lost == len(run.records):
        return f"All {len(run.records)} trials failed or diverged; the reasons are listed under Failures."
    return "No configuration has the full budget for all its seeds, so none is ranked; partial ones are listed apart."


def _so_far(run: RunRecord) -> str:
    scored = [record for record in run.records if record.best_mean_f1 is not None]
    if not scored:
        return ""
    best = max(scored, key=lambda record: record.best_mean_f1 or 0.0)
    values = settings({key: best.config.get(key) for key in run.swept_keys} | {"seed": best.seed})
    after = f"after {best.epochs_trained} of {counted(run.epochs, 'epoch')}"
    return f" The best validation mean_f1 so far is {score(best.best_mean_f1)}, of {best.group} ({values}) {after}."


def _no_rival(board: Board) -> str:
    if len(board.run.groups) == 1:
        return f"It is the only {board.run.group_by} of this sweep, so there is nothing to compare it with."
    return f"No other {board.run.group_by} has a ranked configuration, so there is nothing to compare it with."


def _caveats(board: Board, best: Sequence[Configuration]) -> tuple[str, ...]:
    run = board.run
    caveats = []
    if run.running:
        left = run.count("planned") + run.count("running")
        caveats.append(f"The sweep is not over: {left} of {counted(len(run.records), 'trial')} are still to end.")
    missing = [group for group in run.groups if group not in board.best_of_group]
    if missing and best:
        notes = []
        for group in missing:
            nearest = next(one for one in board.partial if one.group == group)
            notes.append(f"{group} ({settings(nearest.values) or nearest.config_id}: {nearest.note})")
        caveats.append(f"Without a full-budget configuration, and so not ranked: {'; '.join(notes)}.")
    single = [one.group for one in best if len(one.full) == 1]
    if single:
        caveats.append(
            f"One seed only for {listing(single)}: the interval covers other test images, not another training run. "
            "Two or more seeds would show what is luck."
        )
    caveats += seed_variance(board, best)
    caveats += [_constant(one) for one in best if one.constant_heads]
    caveats += _nothing_learned(run)
    caveats += _looked(run, best)
    lost = [f"{one.group} ({one.note})" for one in best if not all(r.full_budget or r.left for r in one.records)]
    if lost:
        caveats.append(f"Means over fewer seeds than planned: {listing(lost)}.")
    digests = {(r.report or {}).get("provenance", {}).get("data_digest") for one in best for r in one.full}
    if len(digests) > 1:
        caveats.append("The trials did not all see the same data (their data digests differ).")
    codes = {(r.report or {}).get("provenance", {}).get("code_digest") for one in best for r in one.full}
    if len(codes) > 1:
        caveats.append("The trials were not all trained by the same code (their code digests differ).")
    caveats += _formats(best)
    parts = {one.group: sizes for one in best if (sizes := _parts(one))}
    if parts:
        words = [f"{group} ({', '.join(map(str, sizes))} images)" for group, sizes in parts.items()]
        caveats.append(
            f"Out of memory, so trained in parts of a batch: {listing(words)}. Gradients are those of the whole batch, "
            "but batch norm saw the parts."
        )
    return tuple(caveats)


def _looked(run: RunRecord, best: Sequence[Configuration]) -> list[str]:
    """Say of a sweep that settles what the looks cost, and who was left."""
    most = run.plan.most_seeds
    if most is None or len(best) < 2:
        return []
    fewest = sorted({max(len(one.full), FIRST_LOOK) for one in best})
    levels = listing([f"{spent_level(n, most):.4f} with {n} seeds" for n in fewest])
    said = f"Seeds came in rounds, up to {most} each, decided on validation. Each look has its share of the 5\u202f%: {levels}."
    left = [
        f"{one.group} ({counted(len(one.full), 'seed')})"
        for one in best
        if any(r.stop for c in one.full for r in c.looks)
    ]
    return [f"{said} Left early: {listing(left)}." if left else said]


def _formats(best: Sequence[Configuration]) -> list[str]:
    """Say so where the seeds of a configuration had other number formats, or trials other kinds of processors too.

    On one kind of CPU each configuration has the format that its backbone and size gain by: no difference to tell.
    """
    chosen, kinds = [], set()
    for one in best:
        facts = [(record.report or {}).get("provenance", {}) for record in one.full]
        chosen.append({str(fact.get("amp_dtype")) for fact in facts})
        kinds |= {
            str("bf16" in str(fact.get("cpu_features")) if fact.get("device") == "cpu" else fact.get("device_name"))
            for fact in facts
        }
    formats = set().union(*chosen)
    if len(formats) < 2 or (len(kinds) == 1 and all(len(found) == 1 for found in chosen)):
        return []
    return [f"The trials did not all compute in the same number format ({', '.join(sorted(formats))})."]


def _parts(one: Configuration) -> list[int]:
    """Return the parts of a batch in which some of its runs were trained, where the plan asked for none."""
    given = {
        size
        for r in one.full
        if (size := (r.report or {}).get("provenance", {}).get("micro_batch_size")) != r.config.get("micro_batch_size")
    }
    return sorted(size for size in given if isinstance(size, int))
