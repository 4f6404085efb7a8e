"""Which trials run, ran and come next: the driver's one view of a sweep, and the one writer of what it decides.

Everything here follows from plan.json and the trial folders; nothing needs Ray. `fit` writes `running`, `completed` and
`diverged`; this module writes `planned`, `stopped`, `failed`, `skipped`, and `decisions.json`, each before anything
else acts on it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from fairface_core.errors import StorageError
from fairface_core.files.folder import Folder, write_json
from fairface_core.trial.reports import EPOCH_FIGURES, STATE_FILES
from fairface_core.trial.writing import write_history, write_status
from sweep.driving.placement import Needs, Placement
from sweep.driving.trials import ERROR_FILE, Leg, Trial, open_trial
from sweep.driving.worker import AT_MOST_KEY, Ending
from sweep.plan.plan import Plan
from sweep.policy.confirm import GroupChoice, choose_group
from sweep.policy.race import RaceRule, choose_race
from sweep.policy.settle import settle
from sweep.policy.states import (
    CONFIRM,
    DECISIONS_FILE,
    EXPLORE,
    SETTLE,
    Phase,
    RungDecision,
    TrialState,
    decisions_to_json,
)
from sweep.run_folder.records import RunRecord

# An object store may refuse a request now and then; a full disk may be freed by a trial that ends.
_WRITE_PAUSES_S = (0.5, 2.0, 8.0)
# A trial that ran out of memory goes on with half as many images at a time, but not with fewer than so many: what does not
# fit then is no question of the batch.
_FEWEST_IMAGES = 8


class Ledger:
    """All trials of a sweep.

    Args:
        run: The run folder.
        plan: The plan.
        confirm: Whether winners are brought to the full budget.
        max_retries: Further tries of a trial that crashed or hung.
        record: The run as it stands on disk, for a resume; None for a new one.
    """

    def __init__(
        self, run: Folder, plan: Plan, *, confirm: bool, max_retries: int, record: RunRecord | None = None
    ) -> None:
        self.run, self.plan = run, plan
        self.notes: list[str] = []
        self.confirms, self._max_retries = confirm, max_retries
        given = plan.scheduler
        self.races = given.kind == "race"
        self._settles = confirm and given.confirm == SETTLE
        self._rule = RaceRule(plan.epochs, given.grace_epochs, given.reduction_factor)
        found = {one.trial_id: one for one in record.records} if record else {}
        self.trials = {
            planned.trial_id: open_trial(
                planned, run.sub("trials", planned.trial_id), found.get(planned.trial_id), self.notes
            )
            for planned in plan.trials
        }
        self.groups: dict[str, tuple[Trial, ...]] = {
            group: tuple(self.trials[planned.trial_id] for planned in members)
            for group, members in plan.groups().items()
        }
        # None: something changed since it was asked for.
        self._choices: dict[str, GroupChoice | None] = dict.fromkeys(self.groups)
        self._settled: dict[str, GroupChoice] = {}

    # What comes next.

    def open_for_resume(self, again: Sequence[str] = ("failed",)) -> None:
        """Set every trial that is to go on to `planned`, those that ended in one of these ways included."""
        for trial in self.trials.values():
            if trial.status == "diverged" in again and self.races:
                self._forgive(trial)
            if trial.status == "running" or trial.status in again:
                if trial.status == "diverged":
                    self._begin_anew_if_pruned(trial)
                trial.attempts += 1
                self._mark(trial, "planned", "goes on after a restart of the sweep")

    def _forgive(self, trial: Trial) -> None:
        """Take back that a configuration fell for want of this trial: no value was compared."""
        for other in self.groups[trial.group]:
            kept = tuple(one for one in other.decisions if not (one.stop and one.value is None))
            if other.planned.config_id == trial.planned.config_id and kept != other.decisions:
                self._store(functools.partial(write_json, other.folder, DECISIONS_FILE, decisions_to_json(kept)))
                other.decisions = kept
                self._begin_anew_if_pruned(other)
                self._mark(other, "planned", "a seed of its configuration is run again")

    def _begin_anew_if_pruned(self, trial: Trial) -> None:
        """Take back the epochs of a trial whose state `settle` removed, or was lost: `fit` refuses a history without a state."""
        if trial.scores and not any(map(trial.folder.exists, STATE_FILES)):
            self._store(lambda: write_history(trial.folder, ()))
            trial.taken_back = len(trial.scores)
            trial.scores, trial.history = [], []
            self._choices[trial.group] = None
        trial.pruned = False

    def states(self) -> tuple[TrialState, ...]:
        """Return what the scheduler needs to refill its rungs, in plan order."""
        return tuple(trial.state() for trial in self.trials.values())

    def settle(self) -> None:
        """Bring what stands on disk in line with the policy: stopped, skipped, pruned states."""
        for group in self.groups:
            choice = self._choice(group)
            for trial in map(self.trials.__getitem__, choice.stopped):
                if trial.status != "stopped" and trial.stop is not None:
                    self._mark(trial, "stopped", trial.stop.reason(), trial.stop.detail())
            for trial in map(self.trials.__getitem__, choice.skipped):
                if trial.status != "skipped":
                    self._mark(trial, "skipped", choice.skip_reason)
            for trial in map(self.trials.__getitem__, choice.left):
                if trial.status not in ("stopped", "skipped") or trial.reason != choice.left_reason:
                    self._mark(trial, "stopped" if trial.scores else "skipped", choice.left_reason, {"kind": SETTLE})
            for trial in map(self.trials.__getitem__, choice.prune):
                if not trial.pruned and trial.leg is None:
                    for name in STATE_FILES:
                        self._store(lambda trial=trial, name=name: trial.folder.remove(name))  # type: ignore[misc]
                    trial.pruned = True

    def next_leg(self, placement: Placement) -> Leg | None:
        """Return the leg to hand to Ray now, or None while nothing may be handed over."""
        for group in self.groups:
            choice = self._choice(group)
            phase: Phase = CONFIRM if choice.over else EXPLORE
            refused: set[Needs] = set()
            for trial in map(self.trials.__getitem__, choice.confirm if choice.over else choice.explore):
                if trial.leg is not None or trial.needs in refused:
                    continue
                if placement.may_submit(trial.needs):
                    if trial.status == "stopped":
                        self._begin_anew_if_pruned(trial)
                    trial.legs += 1
                    trial.leg = Leg(trial, phase, trial.legs)
                    placement.submitted(trial.needs)
                    return trial.leg
                refused.add(trial.needs)
        return None

    @property
    def finished(self) -> bool:
        """Whether nothing runs and nothing is left to run."""
        return all(
            self._choice(group).done and all(trial.leg is None for trial in trials)
            for group, trials in self.groups.items()
        )

    def choices(self) -> dict[str, GroupChoice]:
        """Return what each group needs now."""
        return {group: self._choice(group) for group in self.groups}

    def _choice(self, group: str) -> GroupChoice:
        if not self._settles:
            return self._alone(group)
        if None in self._choices.values() or not self._settled:
            self._settled = self._settle()
        return self._settled[group]

    def _settle(self) -> dict[str, GroupChoice]:
        """Return what all groups need once the new decisions of a look are stored."""
        states = {group: self._states(group) for group in self.groups}
        alone = {group: self._alone(group) for group in self.groups}
        choices = settle(alone, states, margin=self.plan.equal_within, next_order=self._next_order())
        made = [decision for choice in choices.values() for decision in choice.decisions]
        for decision in made:
            self.decided(decision)
        return self._settle() if made else choices

    def _alone(self, group: str) -> GroupChoice:
        """Return what a group needs if its winner is to run with all its seeds."""
        choice = self._choices[group]
        if choice is None:
            to_come = self.plan.to_come.get(group)
            choice = (
                self._race(group)
                if self.races
                else choose_group(self._states(group), confirm=self.confirms, to_come=to_come)
            )
            self._choices[group] = choice
        return choice

    def at_most(self, trial: Trial) -> int | None:
        """Return how many images at a time did not run out of memory in the trial's group; None while all did fit."""
        return min((one.at_most for one in self.groups[trial.group] if one.at_most is not None), default=None)

    def _race(self, group: str) -> GroupChoice:
        """Return what a race needs once its new decisions are stored: nothing follows from one that is not."""
        while True:
            choice = choose_race(self._states(group), self._rule)
            if not choice.decisions:
                return choice
            first = self._next_order()
            for decision in choice.decisions:
                self.decided(dataclasses.replace(decision, order=first + decision.order))

    def _next_order(self) -> int:
        return 1 + max((one.order for trial in self.trials.values() for one in trial.decisions), default=-1)

    def _states(self, group: str) -> list[TrialState]:
        return [trial.state() for trial in self.groups[group]]

    def goes_on(self, trial_id: str, figures: Mapping[str, Any]) -> bool:
        """Take an epoch of a race, and say whether its leg runs on; after the last epoch it ends by itself."""
        trial = self.trials[trial_id]
        if trial.leg is None:
            return True
        self.epoch(trial.leg, figures)
        choice = self._choice(trial.group)
        full = len(trial.scores) >= self.plan.epochs
        return full or trial_id in choice.explore or trial_id in choice.confirm

    # What happens.

    def decided(self, decision: RungDecision) -> None:
        """Store a rung's decision; the scheduler calls this before Ray hears of it.

        Raises:
            StorageError: It cannot be stored, so it must not count as made.
        """
        trial = self.trials[decision.trial_id]
        decisions = (*trial.decisions, decision)
        self._store(lambda: write_json(trial.folder, DECISIONS_FILE, decisions_to_json(decisions)))
        trial.decisions = decisions
        self._choices[trial.group] = None

    def began(self, leg: Leg) -> None:
        """A worker has the leg."""
        leg.started = True
        leg.trial.status, leg.trial.reason = "running", ""
        self._choices[leg.trial.group] = None

    def epoch(self, leg: Leg, figures: Mapping[str, Any]) -> None:
        """An epoch is complete on disk."""
        trial, number = leg.trial, int(figures["epoch"])
        # A retry repeats the epoch that its predecessor had not committed.
        trial.scores[number - 1 :] = [float(figures["mean_f1"])]
        trial.history[number - 1 :] = [{name: figures[name] for name in EPOCH_FIGURES if name in figures}]
        self._choices[trial.group] = None

    def ended(self, leg: Leg, ending: Ending | None) -> bool:
        """Note how a leg ended.

        Args:
            leg: The leg.
            ending: How; None if the scheduler stopped it.

        Returns:
            Whether the trial will be tried again.
        """
        trial = leg.trial
        trial.leg = None
        self._choices[trial.group] = None
        again = False
        if ending is None and trial.stop is not None:
            self._mark(trial, "stopped", trial.stop.reason(), trial.stop.detail())
        elif ending is None and self.races:
            self._mark(trial, "planned", f"waits at epoch {len(trial.scores)} for others of its group")
        elif ending is not None and ending.kind in ("completed", "diverged"):
            trial.status, trial.reason = ending.kind, ending.reason
        else:
            again = self._failed(trial, ending or Ending("error", "the trial ended without saying how"))
        self.settle()
        return again

    def _failed(self, trial: Trial, ending: Ending) -> bool:
        if ending.traceback:
            # Its own file: a reason is read by people, a traceback by those who mend programs.
            with contextlib.suppress(StorageError):
                trial.folder.write(ERROR_FILE, ending.traceback.encode(errors="replace"))
        if ending.kind == "oom":
            half = (ending.at_once or 0) // 2
            again = half >= _FEWEST_IMAGES
            if again:
                trial.at_most = half
        else:
            # Halving ends by itself and takes no retry away.
            trial.failures += 1
            again = ending.retry and trial.failures <= self._max_retries
        if again:
            trial.attempts += 1
            trial.status, trial.reason = "planned", f"retry after {ending.kind}: {ending.reason}"
            if ending.kind == "oom":
                trial.reason += f"; {trial.group} goes on with {trial.at_most} images at a time"
                self._mark(trial, "planned", trial.reason, {"kind": ending.kind, AT_MOST_KEY: trial.at_most})
            return True
        tries = f" ({trial.attempts} attempts)" if trial.attempts > 1 else ""
        detail = {"kind": ending.kind, "attempts": trial.attempts, AT_MOST_KEY: trial.at_most}
        self._mark(trial, "failed", f"{ending.kind}: {ending.reason}{tries}", detail)
        return False

    def interrupted(self, signal_name: str) -> None:
        """Say of every trial that was running that it goes on with --resume."""
        for trial in self.trials.values():
            if trial.leg is not None and trial.leg.started:
                with contextlib.suppress(StorageError):
                    self._mark(trial, "planned", f"interrupted by {signal_name}; goes on with --resume")
            trial.leg = None

    def count(self, *statuses: str, among: Iterable[Trial] | None = None) -> int:
        """Return how many trials have one of these statuses."""
        return sum(trial.status in statuses for trial in (self.trials.values() if among is None else among))

    # Writing.

    def _mark(
        self,
        trial: Trial,
        status: str,
        reason: str,
        detail: Mapping[str, Any] | None = None,
    ) -> None:
        trial.status, trial.reason = status, reason
        self._choices[trial.group] = None
        self._store(
            lambda: write_status(
                trial.folder,
                status,
                reason=reason,
                detail=detail,
                epochs_trained=len(trial.scores),
                attempts=trial.attempts,
            )
        )

    def _store(self, write: Callable[[], None]) -> None:
        for pause_s in _WRITE_PAUSES_S:
            try:
                write()
                return
            except StorageError:
                time.sleep(pause_s)
        write()
