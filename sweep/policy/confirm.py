"""What runs next: which trials explore, which configuration wins its group, which trials confirm it.

Everything here is a pure function of trial records, so a sweep that was killed anywhere goes on as if it had
not been. `choose_group` is asked at the start, on resume and whenever a trial ended; whatever it names under `explore`
and `confirm` should be running or queued, and whatever it names under `stopped` and `skipped` should say so on
disk. Nothing here imports ray or reads a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from sweep.policy.states import ENDED, SCORE_KEY, RungDecision, TrialState


@dataclass(frozen=True)
class GroupChoice:
    """What one group needs now. Tuples hold trial ids, in plan order but for `explore`.

    Attributes:
        group: The group.
        explore: To run under ASHA, the one to start next first (see `_explore_order`).
        over: Whether exploration is over.
        winner: The configuration that won, once exploration is over and one survived.
        winner_score: Its score: mean over the seeds that got furthest of their best mean_f1 so far.
        confirm: To run to the full budget, each from its own state where it has one.
        stopped: Must stand as stopped on disk.
        skipped: Must stand as skipped on disk, for `skip_reason`.
        skip_reason: One sentence; empty while nothing is skipped.
        prune: Full training states that nothing can need any more.
        done: Nothing is left to run.
        decisions: What a race or a look decides now, to be stored before anything else of this counts; see
            `sweep.policy.race` and `sweep.policy.settle`.
        later: Seeds of the winner that a later round may run.
        left: Seeds of the winner that no round will run; they must say so on disk, for `left_reason`.
        left_reason: One sentence.
    """

    group: str
    explore: tuple[str, ...]
    over: bool
    winner: str | None
    winner_score: float | None
    confirm: tuple[str, ...]
    stopped: tuple[str, ...]
    skipped: tuple[str, ...]
    skip_reason: str
    prune: tuple[str, ...]
    done: bool
    decisions: tuple[RungDecision, ...] = ()
    later: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    left_reason: str = ""


@dataclass(frozen=True)
class _Standing:
    """A configuration as exploration left it."""

    config_id: str
    trials: tuple[TrialState, ...]
    score: float | None  # None: no seed of it survived an epoch.
    settled: bool  # Nothing, not even a retry of a failed seed on resume, can change `score`.

    @property
    def rank(self) -> tuple[bool, float, str]:
        """Smaller is better. A configuration that lost a seed to divergence comes after all that did not."""
        assert self.score is not None
        diverged = any(t.lost_exploring and t.status == "diverged" for t in self.trials)
        return diverged, -self.score, self.config_id


def _standing(config_id: str, trials: Sequence[TrialState]) -> _Standing:
    # A seed lost while it was being confirmed still counts as explored: the winner must not change under way.
    usable = [t for t in trials if t.explored and not t.lost_exploring]
    furthest = max((len(t.explored) for t in usable), default=0)
    best = [max(t.explored) for t in usable if len(t.explored) == furthest]
    score = fmean(best) if best else None
    settled = not any(t.exploring or (t.lost_exploring and t.status == "failed") for t in trials)
    return _Standing(config_id, tuple(trials), score, settled)


@dataclass(frozen=True)
class Worth:
    """What exploration says of a configuration, for a search that proposes others.

    Attributes:
        score: What its winner is chosen by: the mean, over its seeds that got furthest, of their best mean_f1 so far. None if
            nothing survived.
        epochs: How far these seeds got.
        over: Whether none of its seeds explores any more.
        diverged: Whether one of them diverged.
    """

    score: float | None
    epochs: int
    over: bool
    diverged: bool


def worth_of(trials: Sequence[TrialState]) -> Worth:
    """Return what exploration says of one configuration, given all its trials."""
    lost = [t.status for t in trials if t.lost_exploring]
    epochs = max((len(t.explored) for t in trials if not t.lost_exploring), default=0)
    over = not any(t.exploring for t in trials)
    return Worth(_standing(trials[0].config_id, trials).score, epochs, over, "diverged" in lost)


def choose_group(states: Sequence[TrialState], *, confirm: bool = True, to_come: int | None = None) -> GroupChoice:
    """Decide for one group what runs, what is over and what may be thrown away.

    The winner is the configuration with the highest mean, over its seeds that got furthest, of their best
    validation mean_f1 so far; equal means go to the smaller config_id. Lost seeds do not count, a configuration
    with a diverged seed is taken only when no other is left, and one that has no seed left to confirm makes way
    for the next.

    Args:
        states: The planned trials of the group, in plan order.
        confirm: Whether winners are brought to the full budget.
        to_come: Configurations that a search is still to propose, without which exploration is not over; None without one.
    """
    assert states, "a group has at least one trial"
    assert len({state.group for state in states}) == 1, "choose_group takes the trials of one group"
    by_config: dict[str, list[TrialState]] = {}
    for state in states:
        by_config.setdefault(state.config_id, []).append(state)
    standings = [_standing(config_id, trials) for config_id, trials in by_config.items()]
    ranked = sorted((s for s in standings if s.score is not None), key=lambda s: s.rank)

    explore = _explore_order(states, ranked, as_planned=to_come is not None)
    over = not explore and not to_come
    # Without confirm nothing can be lost after exploration, and a winner is the best explored configuration.
    alive = (s for s in ranked if not all(t.lost for t in s.trials))
    winner = next(alive, None) if over else None
    to_confirm = (
        {t.trial_id for t in winner.trials if t.status != "completed" and not t.lost} if winner and confirm else set()
    )
    # Until one full run of the winner exists, all its seeds may still fail and the next configuration be needed.
    closed = over and (not confirm or winner is None or _has_full_run(winner))
    skipped = tuple(
        t.trial_id
        for t in states
        if closed and not t.explores and t.trial_id not in to_confirm and t.status not in ENDED
    )
    return GroupChoice(
        group=states[0].group,
        explore=explore,
        over=over,
        winner=winner.config_id if winner else None,
        winner_score=winner.score if winner else None,
        confirm=tuple(t.trial_id for t in states if t.trial_id in to_confirm),
        stopped=tuple(
            t.trial_id
            for t in states
            if (t.stop or t.status == "stopped")
            and t.trial_id not in to_confirm
            and t.status != "completed"
            and not t.lost
        ),
        skipped=skipped,
        skip_reason=_skip_reason(states, winner, confirm) if skipped else "",
        prune=_prunable(states, ranked, to_confirm, confirm=confirm),
        done=over and not to_confirm,
    )


def _explore_order(states: Sequence[TrialState], ranked: Sequence[_Standing], *, as_planned: bool) -> tuple[str, ...]:
    """Order the trials that still explore so that ASHA saves most.

    Stop-type ASHA lets early arrivals through, so scores that arrive in rising order save nothing. Trials that have
    begun come first. Then each configuration's first seed, from the middle of the plan outward: where quality
    rises and falls once along a grid, the middle is never the worst. Then the other seeds, those of the best
    configuration so far first. The order decides what is compared when, never what a rung or the winner is. A search says itself
    which comes first: the defaults.
    """
    configs = list(dict.fromkeys(t.config_id for t in states))
    middle = (len(configs) - 1) / 2
    outward = {config_id: i if as_planned else abs(i - middle) for i, config_id in enumerate(configs)}
    rank = {standing.config_id: i for i, standing in enumerate(ranked)}
    round_of: dict[str, int] = {}
    keyed = []
    for t in states:
        if not t.explores:
            continue
        turn = round_of[t.config_id] = round_of.get(t.config_id, -1) + 1
        if not t.exploring:
            continue
        if t.scores or t.status == "running":
            key: tuple[float, ...] = (0,)
        elif turn == 0:
            key = (1, outward[t.config_id])
        else:
            key = (2, rank.get(t.config_id, len(configs)), outward[t.config_id], turn)
        keyed.append((key, t.trial_id))
    return tuple(trial_id for _, trial_id in sorted(keyed, key=lambda item: item[0]))


def _has_full_run(standing: _Standing) -> bool:
    return any(t.status == "completed" for t in standing.trials)


def _skip_reason(states: Sequence[TrialState], winner: _Standing | None, confirm: bool) -> str:
    if not confirm:
        return "confirm is off: only the seeds that explore are run"
    if winner is None:
        lost = [t.status for t in states if t.lost]
        counts = ", ".join(f"{lost.count(s)} {s}" for s in ("diverged", "failed") if s in lost)
        return f"no configuration of {states[0].group} survived exploration ({counts})"
    return (
        f"{winner.config_id} won {states[0].group} with {SCORE_KEY} {winner.score:.4f}; "
        "only its seeds are run to the full budget"
    )


def _prunable(
    states: Sequence[TrialState], ranked: Sequence[_Standing], to_confirm: set[str], *, confirm: bool
) -> tuple[str, ...]:
    """Name the trials whose full state nothing can need any more.

    A finished or diverged trial never goes on. A stopped one may be confirmed as long as its configuration can
    win, which is out of the question once a configuration ranks above it whose own rank can no longer change
    and which has a full run. That often holds long before exploration is over. Failed trials keep their state
    for a retry on resume.
    """
    sure = next((s for s in ranked if s.settled and _has_full_run(s)), None)
    out = {s.config_id for s in ranked if sure and s.settled and s.rank > sure.rank}
    return tuple(
        t.trial_id
        for t in states
        if t.scores
        and t.trial_id not in to_confirm
        and (
            t.status in ("completed", "diverged")
            or ((t.stop or t.status == "stopped") and not t.lost and (not confirm or t.config_id in out))
        )
    )
