"""What runs next: which trials explore, which configuration wins its group, which trials confirm it.

Everything here is a pure function of trial records, so a sweep that was killed anywhere goes on as if it had
not been. `choose` is asked at the start, on resume and whenever a trial ended; whatever it names under `explore`
and `confirm` should be running or queued, and whatever it names under `stopped` and `skipped` should say so on
disk. Nothing here imports ray or reads a file.

Why a trial folder holds `decisions.json` beside its history: a history alone cannot say whether a trial that
was killed right after a rung's epoch had been told to go on or had not been judged yet, nor that a trial now at
epoch 5 had been stopped at 3 while exploring and is being confirmed. The driver therefore stores every rung
decision before Ray hears of it (`GroupedASHA(on_decision=...)`), about two small files' writes a trial.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

# Keys of a Ray trial's config by which scheduler and searcher know our trials; Ray's own ids change on resume.
TRIAL_ID_KEY = "trial_id"
GROUP_KEY = "group"
PHASE_KEY = "phase"
Phase = Literal["explore", "confirm"]
EXPLORE: Phase = "explore"
CONFIRM: Phase = "confirm"
# Keys of what a trial reports to Ray: epochs trained so far, counted from 1 also after a resume, and the score.
EPOCH_KEY = "epoch"
SCORE_KEY = "mean_f1"

DECISIONS_FILE = "decisions.json"
_SCHEMA_VERSION = 1


@dataclass(frozen=True)
class RungDecision:
    """What a rung said to a trial, and why.

    Attributes:
        trial_id: Our stable trial id.
        group: The group whose rung it was.
        rung: Epochs at which the rung lies; a fraction for a fractional reduction factor.
        epoch: The epoch that was judged, the first one at or above `rung`.
        score: The trial's validation mean_f1 at that epoch.
        cutoff: The score it had to reach; None for the first trial of a rung, which always passes.
        stop: Whether the trial was stopped.
        order: Position among all decisions of the sweep, from 0: the order in which trials arrived, by which
            every cutoff can be worked out again.
    """

    trial_id: str
    group: str
    rung: float
    epoch: int
    score: float
    cutoff: float | None
    stop: bool
    order: int

    def detail(self) -> dict[str, Any]:
        """Return what `status.json` holds under `detail` for a trial that this decision stopped."""
        return {
            "kind": "asha",
            "rung": self.rung,
            "epoch": self.epoch,
            "score": self.score,
            "cutoff": self.cutoff,
            "phase": EXPLORE,
        }

    def reason(self) -> str:
        """Return the decision in one sentence."""
        verdict = "stopped" if self.stop else "goes on"
        bound = "first in its rung" if self.cutoff is None else f"cutoff {self.cutoff:.4f}"
        return f"{verdict} by ASHA at epoch {self.epoch} (rung {self.rung:g}): {SCORE_KEY} {self.score:.4f}, {bound}"


def decisions_to_json(decisions: Sequence[RungDecision]) -> dict[str, Any]:
    """Return the content of a trial's `decisions.json`."""
    return {"schema_version": _SCHEMA_VERSION, "decisions": [asdict(decision) for decision in decisions]}


def decisions_from_json(value: object) -> tuple[RungDecision, ...]:
    """Read the content of a trial's `decisions.json`.

    Raises:
        ValueError: Saying what is wrong with it.
    """
    if not isinstance(value, Mapping) or not isinstance(value.get("decisions"), list):
        raise ValueError('expected an object with a list "decisions"')
    if value.get("schema_version") != _SCHEMA_VERSION:
        raise ValueError(f"schema_version {value.get('schema_version')!r}, this version reads {_SCHEMA_VERSION}")
    return tuple(_decision(item, position) for position, item in enumerate(value["decisions"]))


def _decision(item: object, position: int) -> RungDecision:
    wanted: dict[str, tuple[type, ...]] = {
        "trial_id": (str,),
        "group": (str,),
        "rung": (int, float),
        "epoch": (int,),
        "score": (int, float),
        "cutoff": (int, float, type(None)),
        "stop": (bool,),
        "order": (int,),
    }
    assert wanted.keys() == {field.name for field in fields(RungDecision)}
    if not isinstance(item, Mapping) or item.keys() != wanted.keys():
        raise ValueError(f"decision {position}: expected exactly the keys {', '.join(wanted)}")
    for name, types in wanted.items():
        # bool is an int to isinstance; as a number in a file it is damage.
        if not isinstance(item[name], types) or (isinstance(item[name], bool) and bool not in types):
            raise ValueError(f"decision {position}: {name} = {item[name]!r}")
    return RungDecision(**item)


@dataclass(frozen=True)
class TrialState:
    """All that the policy needs to know of a trial.

    Attributes:
        trial_id: Our stable trial id.
        group: What its score is compared within (the value of `group_by`).
        config_id: The same for all seeds of one configuration.
        seed: Its seed.
        explores: Whether it is among the seeds that explore; the others run for a winner only.
        status: planned, running, completed, stopped, diverged, failed or skipped. `failed` is final here: a
            driver that retries failed trials on resume hands them in as planned.
        scores: Validation mean_f1 of epochs 1..n, exploration and confirm together.
        decisions: What its rungs said.
    """

    trial_id: str
    group: str
    config_id: str
    seed: int
    explores: bool
    status: str = "planned"
    scores: tuple[float, ...] = ()
    decisions: tuple[RungDecision, ...] = ()

    @property
    def stop(self) -> RungDecision | None:
        """The decision that ended its exploration, if one did."""
        return next((decision for decision in self.decisions if decision.stop), None)

    @property
    def explored(self) -> tuple[float, ...]:
        """Scores of the epochs trained while exploring; what a confirm run adds never changes a choice."""
        if not self.explores:
            return ()
        return self.scores[: self.stop.epoch] if self.stop else self.scores

    @property
    def exploring(self) -> bool:
        """Whether exploration still has to run it."""
        return self.explores and self.stop is None and self.status not in _ENDED

    @property
    def lost(self) -> bool:
        """Whether it can never be a full run."""
        return self.status in ("diverged", "failed")

    @property
    def lost_exploring(self) -> bool:
        """Whether it was lost before its exploration was over."""
        return self.explores and self.lost and self.stop is None


_ENDED = frozenset({"completed", "stopped", "diverged", "failed"})


@dataclass(frozen=True)
class GroupChoice:
    """What one group needs now. All tuples hold trial ids in plan order.

    Attributes:
        group: The group.
        explore: To run under ASHA.
        over: Whether exploration is over.
        winner: The configuration that won, once exploration is over and one survived.
        winner_score: Its score: mean over the seeds that got furthest of their best mean_f1 so far.
        confirm: To run to the full budget, each from its own state where it has one.
        stopped: Must stand as stopped on disk.
        skipped: Must stand as skipped on disk, for `skip_reason`.
        skip_reason: One sentence; empty while nothing is skipped.
        prune: Full training states that nothing can need any more.
        done: Nothing is left to run.
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


@dataclass(frozen=True)
class _Standing:
    """A configuration as exploration left it."""

    config_id: str
    trials: tuple[TrialState, ...]
    score: float | None  # None: no seed of it survived with a finite score.
    settled: bool  # Nothing, not even a retry of a failed seed on resume, can change `score`.

    @property
    def rank(self) -> tuple[bool, float, str]:
        """Smaller is better. A configuration that lost a seed to divergence comes after all that did not."""
        assert self.score is not None
        diverged = any(t.lost_exploring and t.status == "diverged" for t in self.trials)
        return diverged, -self.score, self.config_id


def _standing(config_id: str, trials: Sequence[TrialState]) -> _Standing:
    # A seed lost while it was being confirmed still counts as explored: the winner must not change under way.
    usable = [t for t in trials if not t.lost_exploring and any(map(math.isfinite, t.explored))]
    score = None
    if usable:
        furthest = max(len(t.explored) for t in usable)
        best = [max(filter(math.isfinite, t.explored)) for t in usable if len(t.explored) == furthest]
        score = math.fsum(best) / len(best)
    settled = not any(t.exploring or (t.lost_exploring and t.status == "failed") for t in trials)
    return _Standing(config_id, tuple(trials), score, settled)


def choose(states: Iterable[TrialState], *, confirm: bool = True) -> dict[str, GroupChoice]:
    """Decide for every group what runs, what is over and what may be thrown away.

    Args:
        states: All planned trials, in plan order.
        confirm: Whether winners are brought to the full budget.

    Returns:
        Group to choice, in plan order.
    """
    groups: dict[str, list[TrialState]] = {}
    for state in states:
        groups.setdefault(state.group, []).append(state)
    return {name: choose_group(members, confirm=confirm) for name, members in groups.items()}


def choose_group(states: Sequence[TrialState], *, confirm: bool = True) -> GroupChoice:
    """Decide for one group; see `choose`.

    The winner is the configuration with the highest mean, over its seeds that got furthest, of their best
    validation mean_f1 so far; equal means go to the smaller config_id. Lost seeds do not count, a configuration
    with a diverged seed is taken only when no other is left, and one that has no seed left to confirm makes way
    for the next.
    """
    assert states, "a group has at least one trial"
    assert len({state.group for state in states}) == 1, "choose_group takes the trials of one group"
    by_config: dict[str, list[TrialState]] = {}
    for state in states:
        by_config.setdefault(state.config_id, []).append(state)
    standings = [_standing(config_id, trials) for config_id, trials in by_config.items()]
    ranked = sorted((s for s in standings if s.score is not None), key=lambda s: s.rank)

    explore = tuple(t.trial_id for t in states if t.exploring)
    over = not explore
    # Without confirm nothing can be lost after exploration, and a winner is the best explored configuration.
    alive = (s for s in ranked if not all(t.lost for t in s.trials))
    winner = next(alive, None) if over else None
    to_confirm = (
        {t.trial_id for t in winner.trials if t.status != "completed" and not t.lost}
        if winner and confirm
        else set()
    )
    # Until one full run of the winner exists, all its seeds may still fail and the next configuration be needed.
    closed = over and (not confirm or winner is None or _has_full_run(winner))
    skipped = tuple(
        t.trial_id
        for t in states
        if closed and not t.explores and t.trial_id not in to_confirm and t.status not in _ENDED
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
