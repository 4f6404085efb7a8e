"""Race: which seed of which configuration runs to which rung, who falls there, and who wins its group.

The unit is the configuration. At a rung (ASHA's epochs) each one that is still in the race runs one seed; whoever is
further behind the best than the gap falls, and the others run their next seed to the same rung before anybody goes
higher. A trial that waits keeps its state on disk.

- A seed's value at a rung is its score plus half of its rise since the rung below (since epoch 1 at the first rung).
  Curves flatten: another factor of epochs brings about half of what the last one brought. A configuration's value is
  the mean over its seeds that have reached the rung.
- The gap is half a standard error of the difference of two values. Their spread is pooled over the seeds, with the
  sampling error of the validation images standing in for two more degrees of freedom, for it is all there is with one
  seed each. Until the last rung, the gap of a configuration is wider by half of its own rise: who climbs may overtake.
- The first rung that decides anything has one seed of each, the next up to two, and so on. The last one leaves one
  configuration, unless it was the first to decide anything; then those left race on over the full budget, over all
  seeds, with a gap of 1.5 standard errors.
- A rung at which nobody is five standard errors above a constant answer decides nothing. Networks that have not
  begun to learn stray four above it.

`benchmarks/results/race_2cores_2026-11.md` says on which curves the constants were chosen, and what they do on others.

Everything is a pure function of scores: no order of arrival, no clock. Decisions are stored all the same, and bind: a
failed seed that a resume runs again, or a configuration that is added later, changes nothing that was decided.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

from sweep.policy.confirm import GroupChoice
from sweep.policy.gap import Rung, Value, best_of, learned, value_at
from sweep.policy.states import ENDED, SCORE_KEY, RungDecision, TrialState


def rung_epochs(grace_epochs: int, reduction_factor: float, epochs: int) -> tuple[int, ...]:
    """Return the epochs at which trials are judged, lowest first: ASHA's rungs, without the last epoch."""
    found: dict[int, None] = {}
    rung = float(grace_epochs)
    while math.ceil(rung) < epochs:
        found[math.ceil(rung)] = None
        rung *= reduction_factor
    return tuple(found)


@dataclass(frozen=True)
class RaceRule:
    """When a race looks at its trials.

    Attributes:
        epochs: Full budget of a trial.
        grace_epochs: The first rung.
        reduction_factor: Ratio between rungs.
    """

    epochs: int
    grace_epochs: int
    reduction_factor: float

    @cached_property
    def rungs(self) -> tuple[int, ...]:
        """Epochs of the rungs, the full budget last."""
        return (*rung_epochs(self.grace_epochs, self.reduction_factor, self.epochs), self.epochs)


@dataclass(frozen=True)
class _Racer:
    """A configuration in the race, its trials in the order of the plan."""

    config_id: str
    trials: tuple[TrialState, ...]

    def usable(self, epoch: int) -> list[TrialState]:
        """Return the seeds that have reached an epoch or still can."""
        return [t for t in self.trials if len(t.scores) >= epoch or not t.lost]

    def told(self, epoch: int) -> bool | None:
        """What was decided of it: True to fall at this rung or below, False to go on here or higher, None if nothing was."""
        decisions = [d for t in self.trials for d in t.decisions]
        if any(d.stop and d.rung <= epoch for d in decisions):
            return True
        return False if any(not d.stop and d.rung >= epoch for d in decisions) else None

    def fell_below(self, epoch: int) -> bool:
        """Whether it fell at a lower rung, by a decision that now stands alone: who caused it was lost since."""
        return any(t.stop is not None and t.stop.rung < epoch for t in self.trials)

    def diverged(self, epoch: int) -> bool:
        """Whether it lost a seed to divergence before an epoch."""
        return any(t.status == "diverged" and len(t.scores) < epoch for t in self.trials)


class _Missing(Exception):
    """These trials have to reach an epoch before a rung can be decided."""

    def __init__(self, trial_ids: Sequence[str]) -> None:
        super().__init__(*trial_ids)
        self.trial_ids = tuple(trial_ids)


class _Race:
    """One group's race, worked out from its scores."""

    def __init__(self, states: Sequence[TrialState], rule: RaceRule, next_order: int) -> None:
        by_config: dict[str, list[TrialState]] = {}
        for state in states:
            # Seeds beyond the grid's are for a winner only.
            if state.explores:
                by_config.setdefault(state.config_id, []).append(state)
        self.racers = [_Racer(name, tuple(trials)) for name, trials in by_config.items()]
        self.decisions: list[RungDecision] = []
        self._rule, self._next_order = rule, next_order
        self._constant = max(t.constant for t in states)
        self._val_images = max(t.val_images for t in states)

    def winner(self) -> _Racer | None:
        """Run the race as far as the scores go; None if nobody is left.

        Raises:
            _Missing: It is not over.
        """
        rule, left, below, looks = self._rule, self.racers, 0, 0
        for epoch in rule.rungs:
            left = self._fit(left, epoch)
            if epoch == rule.epochs:
                rung = Rung(epoch, None, max(len(racer.trials) for racer in self.racers), alone=True)
            else:
                alone = looks > 0 and epoch == rule.rungs[-2]
                rung = Rung(epoch, below or min(1, epoch - 1), 1 + looks, alone=alone)
            if len(left) > 1:
                left, decided = self._decide(rung, left)
                below, looks = epoch, looks + decided
        for racer in left:
            self._won(racer)
        return left[0] if left else None

    def _won(self, racer: _Racer) -> None:
        """Note the winner once, so that what it loses while its seeds run in full is nothing to the race."""
        begun = [t for t in racer.trials if t.scores]
        # The first one's note is written last: while it is missing, a driver died among them.
        if len(self.racers) > 1 and begun and not any(d.rung == self._rule.epochs for d in begun[0].decisions):
            value = _last_value(racer, self.decisions)
            for t in reversed(begun):
                self._note(racer, t, self._rule.epochs, len(t.scores), value, value, stop=False)

    def _fit(self, left: list[_Racer], epoch: int) -> list[_Racer]:
        """Leave out those with no seed left, and those that lost one to divergence while there are others."""
        left = [racer for racer in left if racer.usable(epoch) and not racer.fell_below(epoch)]
        whole = [racer for racer in left if racer.told(epoch) is False or not racer.diverged(epoch)]
        for racer in left if whole else []:
            if racer not in whole:
                self._fell(racer, epoch, None, None)
        return whole or left

    def _decide(self, rung: Rung, left: list[_Racer]) -> tuple[list[_Racer], bool]:
        """Decide a rung: who goes on, and whether it decided anything."""
        epoch, racing, decided = rung.epoch, left, True
        told = {racer.config_id: racer.told(epoch) for racer in left}
        cutoffs: dict[str, float | None] = {}
        at: dict[str, Value] = {}
        for num_seeds in range(1, rung.most + 1):
            at |= self._values(rung, racing, told, num_seeds)
            racing = [racer for racer in racing if racer.config_id in at]
            here = {racer.config_id: at[racer.config_id] for racer in racing}
            decided = bool(here) and (rung.below is None or learned(here.values(), self._constant, self._val_images))
            if not decided:
                break
            top, gaps = here[best_of(here)].mean, rung.gaps(here, self._val_images)
            cutoffs |= {name: top - gap for name, gap in gaps.items()}
            racing = [racer for racer in racing if here[racer.config_id].mean >= top - gaps[racer.config_id]]
            if len(racing) == 1 or not any(
                told[racer.config_id] is None and len(racer.usable(epoch)) > num_seeds for racer in racing
            ):
                break
            for racer in left:
                if racer not in racing and racer.config_id in at and told[racer.config_id] is not False:
                    self._fell(racer, epoch, at[racer.config_id].mean, cutoffs[racer.config_id])
        # What was decided before binds.
        on = [r for r in left if told[r.config_id] is False or (told[r.config_id] is None and r in racing)]
        here = {racer.config_id: at[racer.config_id] for racer in on if racer.config_id in at}
        if decided and rung.alone and here:
            cutoffs |= dict.fromkeys(here, here[best_of(here)].mean)
            on = [racer for racer in on if racer.config_id == best_of(here)]
        for racer in left:
            value, cutoff = at.get(racer.config_id), cutoffs.get(racer.config_id)
            if racer not in on:
                self._fell(racer, epoch, value.mean if value else None, cutoff)
            elif value:
                for t in value.seeds:
                    self._note(racer, t, epoch, epoch, value.mean, cutoff, stop=False)
        return on, decided

    def _values(
        self, rung: Rung, racing: Sequence[_Racer], told: Mapping[str, bool | None], num_seeds: int
    ) -> dict[str, Value]:
        at: dict[str, Value] = {}
        missing: list[TrialState] = []
        for racer in racing:
            # Those that were there first: a larger space, or a resume, may put a seed before the ones that were judged.
            wanted = sorted(racer.usable(rung.epoch), key=lambda t: len(t.scores) < rung.epoch)[:num_seeds]
            there = [t for t in wanted if len(t.scores) >= rung.epoch]
            if told[racer.config_id] is None:
                missing += [t for t in wanted if t not in there]
            if there:
                at[racer.config_id] = value_at(there, rung.epoch, rung.below, self._constant)
        if missing:
            # Those that have begun first.
            raise _Missing([t.trial_id for t in sorted(missing, key=lambda t: not (t.scores or t.status == "running"))])
        return at

    def _fell(self, racer: _Racer, rung: int, value: float | None, cutoff: float | None) -> None:
        """Decide for every trial of a configuration that has begun and was not told yet."""
        for t in racer.trials:
            if t.scores and t.status not in ENDED:
                self._note(racer, t, rung, min(rung, len(t.scores)), value, cutoff, stop=True)

    def _note(
        self,
        racer: _Racer,
        t: TrialState,
        rung: int,
        epoch: int,
        value: float | None,
        cutoff: float | None,
        *,
        stop: bool,
    ) -> None:
        known = [d for d in (*t.decisions, *self.decisions) if d.trial_id == t.trial_id]
        if any(d.stop or d.rung == rung for d in known):
            return
        # A driver that died between two of its writes has told another seed of this configuration already: it is one judgment.
        for d in (d for other in racer.trials for d in other.decisions if d.rung == rung and d.stop == stop):
            value, cutoff = d.value, d.cutoff
        order = self._next_order + len(self.decisions)
        judged = (float(rung), epoch, t.scores[epoch - 1], cutoff, stop, order, self._constant)
        self.decisions.append(RungDecision(t.trial_id, t.group, *judged, kind="race", value=value))


def choose_race(states: Sequence[TrialState], rule: RaceRule, *, next_order: int = 0) -> GroupChoice:
    """Decide for one group; like `sweep.policy.confirm.choose_group`, of a race.

    Args:
        states: The group's trials, in plan order.
        rule: When the race looks.
        next_order: Order of the first new decision.

    Returns:
        The choice. Where it holds `decisions`, these come first: store them, add them to the states and ask again.
    """
    race = _Race(states, rule, next_order)
    explore: tuple[str, ...] = ()
    winner = None
    try:
        winner = race.winner()
    except _Missing as missing:
        explore = missing.trial_ids
    over = not explore
    if over and winner is None:
        winner = _nextbest_of(race.racers)
    seeds = [t for t in states if winner and t.config_id == winner.config_id]
    to_confirm = [t.trial_id for t in seeds if t.status != "completed" and not t.lost]
    wanted = {*explore, *to_confirm}
    # Until one full run of the winner exists, all its seeds may still fail and the next configuration be needed.
    closed = over and (winner is None or any(t.status == "completed" for t in seeds))
    left_over = [t for t in states if t.trial_id not in wanted and t.status != "completed" and not t.lost]
    stopped = tuple(t.trial_id for t in left_over if t.stop or t.status == "stopped")
    skipped = tuple(t.trial_id for t in left_over if closed and not t.scores and t.trial_id not in stopped)
    score = _last_value(winner) if winner else None
    reason = f"no configuration of {states[0].group} survived the race"
    if winner:
        reason = f"{winner.config_id} won {states[0].group} with {SCORE_KEY} {score or 0.0:.4f}; only its seeds are run to the full budget"
    return GroupChoice(
        group=states[0].group,
        explore=explore,
        over=over,
        winner=winner.config_id if winner else None,
        winner_score=score,
        confirm=tuple(to_confirm),
        stopped=stopped,
        skipped=skipped,
        skip_reason=reason if skipped else "",
        prune=tuple(
            t.trial_id
            for t in states
            if t.scores
            and t.trial_id not in wanted
            and (t.status in ("completed", "diverged") or (closed and t.trial_id in stopped))
        ),
        done=over and not to_confirm,
        decisions=tuple(race.decisions),
    )


def _nextbest_of(racers: Iterable[_Racer]) -> _Racer | None:
    """Return who came furthest of those that can still be run in full, when the winner lost all its seeds."""

    def rank(racer: _Racer) -> tuple[bool, bool, float, float, str]:
        rungs = [d.rung for t in racer.trials for d in t.decisions]
        value = _last_value(racer)
        diverged = any(t.status == "diverged" for t in racer.trials)
        unfinished = not any(t.status == "completed" for t in racer.trials)
        return unfinished, diverged, -max(rungs, default=0.0), -(value or 0.0), racer.config_id

    return min((racer for racer in racers if not all(t.lost for t in racer.trials)), key=rank, default=None)


def _last_value(racer: _Racer, new: Iterable[RungDecision] = ()) -> float | None:
    """Return its value at the last rung that judged it; without one, the mean of its seeds' best scores so far."""
    mine = {t.trial_id for t in racer.trials}
    told = [d for t in racer.trials for d in t.decisions] + [d for d in new if d.trial_id in mine]
    told = [d for d in told if d.value is not None]
    if told:
        return max(told, key=lambda d: d.rung).value
    best = [max(t.scores) for t in racer.trials if t.scores]
    return fmean(best) if best else None
