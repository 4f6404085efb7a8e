"""One trial as the driver knows it: what its folder tells, the leg that Ray has of it, and what the death of its worker means.

A *leg* is one stretch of one trial in one worker: a trial that is stopped and confirmed later, or that crashes and is
retried, has several, all in the same folder.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fairface_core.files.folder import Folder
from fairface_core.trial.reports import constant_of, val_images_of
from sweep.driving.placement import Needs
from sweep.driving.worker import AT_MOST_KEY, Ending
from sweep.plan.plan import PlannedTrial
from sweep.policy.states import SETTLE, Phase, RungDecision, TrialState
from sweep.run_folder.records import TrialRecord

# Ray's own memory monitor. Its text on any other death guesses at "the OOM killer" too.
_MEMORY_WORDS = ("running low on memory", "NODE_OUT_OF_MEMORY")
ERROR_FILE = "error.txt"
# Orders of decisions whose file was lost only have to differ, and to come after all that were kept.
_LOST_ORDER = 1_000_000


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
        decisions: What its rungs, and looks, said.
        attempts: How often it was tried, counting failures only.
        failures: Crashes and hangs since this driver started.
        at_most: Images that it may hold in memory at a time since it ran out; None if it never did.
        leg: The leg that Ray has, if one is.
        legs: Legs since this driver started.
        pruned: Whether its training states were removed.
        taken_back: Epochs that are trained again, for no training state was left to go on from.
        history: Figures of its epochs, the columns of history.csv.
    """

    planned: PlannedTrial
    folder: Folder
    status: str = "planned"
    reason: str = ""
    scores: list[float] = field(default_factory=list)
    decisions: tuple[RungDecision, ...] = ()
    attempts: int = 1
    failures: int = 0
    at_most: int | None = None
    leg: Leg | None = None
    legs: int = 0
    pruned: bool = False
    taken_back: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)

    @property
    def trial_id(self) -> str:
        """Our stable id."""
        return self.planned.trial_id

    @property
    def group(self) -> str:
        """What it is compared within."""
        return self.planned.group

    @property
    def stop(self) -> RungDecision | None:
        """The decision that ended its exploration, if one did."""
        return next((decision for decision in self.decisions if decision.stop and decision.kind != SETTLE), None)

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
            decisions=tuple(one for one in self.decisions if one.kind != SETTLE),
            looks=tuple(one for one in self.decisions if one.kind == SETTLE),
            constant=constant_of(self.history),
            val_images=val_images_of(self.history),
        )


def open_trial(planned: PlannedTrial, folder: Folder, record: TrialRecord | None, notes: list[str]) -> Trial:
    """Return a trial as its folder tells it.

    Args:
        planned: Its entry in the plan.
        folder: Its folder.
        record: What was read there; None where nothing can be there.
        notes: Gets one line for each file that is damaged.
    """
    if record is None:
        return Trial(planned, folder)
    if record.status == "planned" and not record.epochs_trained:
        return Trial(planned, folder, at_most=_images_at_a_time(record))
    notes += [f"{planned.trial_id}: {problem}" for problem in record.problems]
    return Trial(
        planned,
        folder,
        status=record.status,
        reason=record.reason,
        scores=[epoch["mean_f1"] for epoch in record.history],
        decisions=_decisions(planned, record, notes),
        attempts=record.attempts,
        at_most=_images_at_a_time(record),
        history=list(record.history),
    )


def _images_at_a_time(record: TrialRecord) -> int | None:
    """Return how many images a trial was brought down to, as its status or the report of its best epoch says."""
    trained = ((record.report or {}).get("provenance") or {}).get("micro_batch_size")
    # What the space asks for is no sign of memory: others of the group may have asked for more.
    said = record.detail.get(AT_MOST_KEY) or (None if trained == record.config.get("micro_batch_size") else trained)
    return said if isinstance(said, int) and said > 0 else None


def _decisions(planned: PlannedTrial, record: TrialRecord, notes: list[str]) -> tuple[RungDecision, ...]:
    """Return what its rungs said; where decisions.json is lost, the status still says why it was stopped."""
    if record.decisions or record.looks:
        return record.decisions + record.looks
    detail = record.detail
    kind = detail.get("kind")
    if record.status == "stopped" and kind in ("asha", "race"):
        with contextlib.suppress(KeyError, TypeError, ValueError):
            cutoff = None if detail["cutoff"] is None else float(detail["cutoff"])
            judged = (float(detail["rung"]), int(detail["epoch"]), float(detail["score"]))
            order = _LOST_ORDER + len(notes)
            return (RungDecision(planned.trial_id, planned.group, *judged, cutoff, stop=True, order=order, kind=kind),)
    return ()


@dataclass(eq=False)
class Flight:
    """A leg in Ray's hands.

    Attributes:
        leg: The leg.
        pulse_key: Where its worker leaves signs of life.
        beats: The last sign seen.
        alive_at: When something last moved, monotonic seconds.
        actor: Ray's handle of the worker, once it runs.
        ending: How the worker says that the leg ended.
        killed: Why we ended its worker, if we did.
    """

    leg: Leg
    pulse_key: bytes
    beats: bytes | None = None
    alive_at: float = field(default_factory=time.monotonic)
    actor: Any = None
    ending: Ending | None = None
    killed: Ending | None = None


def death(error_file: str | None) -> Ending:
    """Word the death of a worker from what Ray wrote about it; its pickled exception is left alone."""
    try:
        text = Path(error_file or "").read_text(encoding="utf-8", errors="replace")
    except (OSError, TypeError):
        text = ""
    if any(words in text for words in _MEMORY_WORDS):
        # The host's memory: smaller batches on the device would not help.
        return Ending("crash", "the machine ran low on memory, Ray ended the worker", retry=True, traceback=text)
    if text and ("creation task" in text or "The actor" not in text):
        # It could not even begin, such as for want of a package on that machine.
        last = next((line for line in reversed(text.splitlines()) if line.strip()), "")
        return Ending("error", last.strip(), traceback=text)
    what = "its machine is gone" if "node has died" in text else f"its process was killed or died; see {ERROR_FILE}"
    return Ending("crash", what, retry=True, traceback=text)
