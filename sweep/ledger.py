"""Which trials run, ran and come next: the driver's one view of a sweep, and the one writer of what it decides.

Everything here follows from plan.json and the trial folders; nothing needs Ray. A *leg* is one stretch of one trial in
one worker: a trial that is stopped and confirmed later, or that crashes and is retried, has several, all in the same
folder. `fit` writes `running`, `completed` and `diverged`; this module writes `planned`, `stopped`, `failed`,
`skipped`, and `decisions.json`, each before anything else acts on it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fairface_core.errors import StorageError
from fairface_core.report import write_status
from fairface_core.storage import Folder, read_json, write_json
from sweep.confirm import GroupChoice, choose_group
from sweep.placement import Needs, Placement
from sweep.plan_file import Plan, PlannedTrial
from sweep.records import RunRecord, TrialRecord
from sweep.trial_state import (
    CONFIRM,
    DECISIONS_FILE,
    EXPLORE,
    Phase,
    RungDecision,
    TrialState,
    decisions_from_json,
    decisions_to_json,
)
from sweep.worker import Ending

# What fairface_core.checkpoint writes, without importing torch (a test holds them together).
STATE_FILES = ("state.pt", "state.prev.pt")
ERROR_FILE = "error.txt"
# An object store may refuse a request now and then; a full disk may be freed by a trial that ends.
_WRITE_PAUSES_S = (0.5, 2.0, 8.0)
MAX_HALVINGS = 1


@dataclass(eq=False)
class Leg:
    """One stretch of one trial in one worker.

    Attributes:
        trial: Whose.
        phase: `explore` or `confirm`.
        number: 1, 2 ... among the trial's legs since this driver started.
        started: Whether a worker has it.
    """

    trial: Trial
    phase: Phase
    number: int
    started: bool = False


@dataclass(eq=False)
class Trial:
    """One planned trial as it stands now.

    Attributes:
        planned: Its entry in the plan.
        folder: Its folder.
        status: As in status.json.
        reason: Why, in words.
        scores: Validation mean_f1 of epochs 1..n.
        decisions: What its rungs said.
        attempts: How often it was tried, counting failures only.
        failures: Crashes and hangs since this driver started.
        halvings: How often its micro-batch was halved.
        leg: The leg that Ray has, if one is.
        legs: Legs since this driver started.
        last: Figures of the last epoch that was reported to this driver.
    """

    planned: PlannedTrial
    folder: Folder
    status: str = "planned"
    reason: str = ""
    scores: list[float] = field(default_factory=list)
    decisions: tuple[RungDecision, ...] = ()
    attempts: int = 1
    failures: int = 0
    halvings: int = 0
    leg: Leg | None = None
    legs: int = 0
    pruned: bool = False
    last: Mapping[str, Any] = field(default_factory=dict)

    @property
    def trial_id(self) -> str:
        """Our stable id."""
        return self.planned.trial_id

    @property
    def group(self) -> str:
        """What it is compared within."""
        return self.planned.group

    @property
    def needs(self) -> Needs:
        """What it takes while it runs."""
        return Needs(self.planned.cpu, self.planned.gpu)

    def state(self) -> TrialState:
        """Return what the policy needs to know."""
        return TrialState(
            trial_id=self.trial_id,
            group=self.group,
            config_id=self.planned.config_id,
            seed=self.planned.seed,
            explores=self.planned.explores,
            status=self.status,
            scores=tuple(self.scores),
            decisions=self.decisions,
        )


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
        self.plan = plan
        self.notes: list[str] = []
        self._confirm, self._max_retries = confirm, max_retries
        found = {one.trial_id: one for one in record.records} if record else {}
        self.trials = {
            planned.trial_id: self._open(planned, run.sub("trials", planned.trial_id), found.get(planned.trial_id))
            for planned in plan.trials
        }
        self.groups: dict[str, tuple[Trial, ...]] = {
            group: tuple(self.trials[planned.trial_id] for planned in members)
            for group, members in plan.groups().items()
        }
        # None: something changed since it was asked for.
        self._choices: dict[str, GroupChoice | None] = dict.fromkeys(self.groups)

    def _open(self, planned: PlannedTrial, folder: Folder, record: TrialRecord | None) -> Trial:
        if record is None or record.status == "planned" and not record.history and not record.epochs_trained:
            return Trial(planned, folder)
        trial = Trial(
            planned,
            folder,
            status=record.status,
            reason=record.reason,
            scores=[epoch["mean_f1"] for epoch in record.history],
            attempts=record.attempts,
            last=record.history[-1] if record.history else {},
        )
        self.notes += [f"{planned.trial_id}: {problem}" for problem in record.problems]
        trial.decisions = self._decisions(folder, planned, record)
        return trial

    def _decisions(self, folder: Folder, planned: PlannedTrial, record: TrialRecord) -> tuple[RungDecision, ...]:
        problem = ""
        try:
            decisions = decisions_from_json(read_json(folder, DECISIONS_FILE))
            if all(decision.trial_id == planned.trial_id for decision in decisions):
                return decisions
            problem = "is of another trial"
        except FileNotFoundError:
            pass
        except (StorageError, ValueError) as error:
            problem = str(error)
        if problem:
            self.notes.append(f"{planned.trial_id}: {DECISIONS_FILE}: {problem}; its history is used instead")
        if record.status == "stopped" and record.detail.get("kind") == "asha":
            with contextlib.suppress(KeyError, TypeError, ValueError):
                detail = record.detail
                cutoff = None if detail["cutoff"] is None else float(detail["cutoff"])
                where = (float(detail["rung"]), int(detail["epoch"]), float(detail["score"]))
                # Orders only have to differ; those of lost files come after all that were kept.
                order = 1_000_000 + len(self.notes)
                return (RungDecision(planned.trial_id, planned.group, *where, cutoff, True, order),)
        return ()

    # What comes next.

    def open_for_resume(self) -> None:
        """Set every trial that is to go on to `planned`, those that failed included."""
        for trial in self.trials.values():
            if trial.status in ("running", "failed"):
                trial.attempts += 1
                self._mark(trial, "planned", "goes on after a restart of the sweep")

    def states(self) -> tuple[TrialState, ...]:
        """Return what the scheduler needs to refill its rungs, in plan order."""
        return tuple(trial.state() for trial in self.trials.values())

    def settle(self) -> None:
        """Bring what stands on disk in line with the policy: stopped, skipped, pruned states."""
        for group in self.groups:
            choice = self._choice(group)
            for trial in map(self.trials.__getitem__, choice.stopped):
                stop = next((decision for decision in trial.decisions if decision.stop), None)
                if trial.status != "stopped" and stop is not None:
                    self._mark(trial, "stopped", stop.reason(), stop.detail())
            for trial in map(self.trials.__getitem__, choice.skipped):
                if trial.status != "skipped":
                    self._mark(trial, "skipped", choice.skip_reason)
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
        choice = self._choices[group]
        if choice is None:
            states = [trial.state() for trial in self.groups[group]]
            choice = self._choices[group] = choose_group(states, confirm=self._confirm)
        return choice

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
        trial.last = figures
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
        stop = next((decision for decision in trial.decisions if decision.stop), None)
        again = False
        if ending is None and stop is not None:
            self._mark(trial, "stopped", stop.reason(), stop.detail())
        elif ending is not None and ending.kind in ("completed", "diverged"):
            trial.status, trial.reason = ending.kind, ending.reason
        else:
            again = self._failed(trial, ending or Ending("error", "the trial ended without saying how"))
        self.settle()
        return again

    def _failed(self, trial: Trial, ending: Ending) -> bool:
        trial.failures += 1
        if ending.traceback:
            # Its own file: a reason is read by people, a traceback by those who mend programs.
            with contextlib.suppress(StorageError):
                trial.folder.write(ERROR_FILE, ending.traceback.encode(errors="replace"))
        if ending.kind == "oom":
            again = trial.halvings < MAX_HALVINGS
            trial.halvings += again
        else:
            again = ending.retry and trial.failures <= self._max_retries
        if again:
            trial.attempts += 1
            trial.status, trial.reason = "planned", f"retry after {ending.kind}: {ending.reason}"
            return True
        tries = f" ({trial.attempts} attempts)" if trial.attempts > 1 else ""
        detail = {"kind": ending.kind, "attempts": trial.attempts, "half_micro_batch": trial.halvings > 0}
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
        for pause_s in (*_WRITE_PAUSES_S, None):
            try:
                return write()
            except StorageError:
                if pause_s is None:
                    raise
                time.sleep(pause_s)
