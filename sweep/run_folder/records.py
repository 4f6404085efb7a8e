"""A run folder in memory: the plan, and of every trial what its files say and what is damaged in them."""

from __future__ import annotations

import itertools
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

from fairface_core.errors import ConfigError, StorageError
from fairface_core.files.folder import Folder, is_remote, read_json
from fairface_core.trial.reading import CONTRACT_FIELDS, read_history, read_report, read_status
from sweep.plan.plan import Plan, PlannedTrial
from sweep.policy.race import rung_epochs
from sweep.policy.states import DECISIONS_FILE, SETTLE, RungDecision, decisions_from_json

# Files of a trial are small; on an object store it is the round trips that take the time.
_READERS = 16


@dataclass(frozen=True)
class TrialRecord:
    """One planned trial, as its folder tells it.

    Attributes:
        planned: Its entry in plan.json.
        status: planned, running, completed, stopped, diverged, failed or skipped; `planned` if it has no status yet.
        reason: Why it ended as it did, in words.
        detail: The same for programs, such as ASHA's rung, score and cutoff.
        epochs_trained: Epochs finished, 0 before the first.
        attempts: How often it was started.
        history: One dict an epoch, the columns of history.csv.
        report: report.json, checked; None where there is none that can be used.
        problems: What was damaged in its files.
        decisions: What its rungs said, decisions.json; empty where it cannot be used.
        looks: What looks said of its group, from the same file; see `sweep.policy.settle`.
        linked: Whether a link stands in the place of its folder, or of `trials`: nothing was read there.
    """

    planned: PlannedTrial
    status: str
    reason: str
    detail: dict[str, Any]
    epochs_trained: int
    attempts: int
    history: list[dict[str, Any]]
    report: dict[str, Any] | None
    problems: tuple[str, ...]
    linked: bool = False
    decisions: tuple[RungDecision, ...] = ()
    looks: tuple[RungDecision, ...] = ()

    @property
    def problem(self) -> str:
        """What is damaged, in one line; empty if nothing is."""
        return "; ".join(self.problems)

    @property
    def trial_id(self) -> str:
        """Name of its folder under `trials/`."""
        return self.planned.trial_id

    @property
    def config(self) -> dict[str, Any]:
        """The config values that the space decided."""
        return self.planned.config

    @property
    def group(self) -> str:
        """The value it is grouped by: its backbone."""
        return self.planned.group

    @property
    def seed(self) -> int:
        """Its training seed."""
        return self.planned.seed

    @property
    def config_id(self) -> str:
        """Names its configuration; equal for all seeds of it."""
        return self.planned.config_id

    @property
    def best_mean_f1(self) -> float | None:
        """Best validation mean_f1 so far, None before the first epoch."""
        if self.report is not None:
            return float(self.report["mean_f1"])
        return max((epoch["mean_f1"] for epoch in self.history), default=None)

    def timing(self, name: str) -> float | None:
        """Return an entry of the report's `timing`; of GPU hours the share that the trial had of a GPU."""
        value = self.report["timing"].get(name) if self.report else None
        return value * min(self.planned.gpu or 1.0, 1.0) if value and name == "gpu_hours" else value

    @property
    def begun(self) -> bool:
        """Whether there is a trial folder to look into. An interrupted trial is planned again, with its epochs."""
        return self.status != "planned" or self.epochs_trained > 0

    @property
    def left(self) -> bool:
        """Whether settling needed no run of it."""
        return self.status in ("stopped", "skipped") and self.detail.get("kind") == SETTLE

    @property
    def full_budget(self) -> bool:
        """Whether it was trained for all its epochs and its report can be used."""
        report = self.report
        return self.status == "completed" and report is not None and report["epochs_trained"] >= report["epochs"]


@dataclass(frozen=True)
class RunRecord:
    """A run folder in memory.

    Attributes:
        folder: Where it is.
        plan: plan.json.
        records: One per planned trial, in plan order.
        space_text: space.yaml as it was asked; empty if it is gone.
        sweep: sweep.json (provenance, resources, start and end); empty if it is gone.
        problems: What is damaged in the run folder's own files.
    """

    folder: Folder
    plan: Plan
    records: tuple[TrialRecord, ...]
    space_text: str
    sweep: dict[str, Any]
    problems: tuple[str, ...]

    @property
    def name(self) -> str:
        """The run folder's name."""
        return self.location.rpartition("/")[2]

    @property
    def location(self) -> str:
        """Where the run folder is: its path, or its URI without the options and credentials that one may hold."""
        uri = self.folder.uri
        return re.sub(r"(?<=://)[^/@]*@", "", uri.partition("?")[0]) if is_remote(uri) else uri

    @property
    def group_by(self) -> str:
        """The config key that trials are grouped by."""
        return self.plan.group_by

    @property
    def epochs(self) -> int:
        """The full budget of one trial, epochs."""
        return self.plan.epochs

    @property
    def rungs(self) -> tuple[float, ...]:
        """The epochs at which a trial may be stopped; none for a sweep that runs all in full."""
        scheduler = self.plan.scheduler
        if scheduler.kind == "fifo":
            return ()
        if scheduler.kind == "race":
            return rung_epochs(scheduler.grace_epochs, scheduler.reduction_factor, self.epochs)
        milestones = (scheduler.grace_epochs * scheduler.reduction_factor**k for k in itertools.count())
        return tuple(itertools.takewhile(lambda epoch: epoch < self.epochs, milestones))

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """The groups, in plan order."""
        return tuple(dict.fromkeys(record.group for record in self.records))

    @cached_property
    def swept_keys(self) -> tuple[str, ...]:
        """Config keys whose values differ within a group, without the seed."""
        return self.plan.swept_keys

    @property
    def epoch_s(self) -> dict[str, float]:
        """Mean seconds of an epoch by group, of the groups that have trained one."""
        times: dict[str, list[float]] = {}
        for record in self.records:
            times.setdefault(record.group, []).extend(e["train_s"] + e["eval_s"] for e in record.history)
        return {group: fmean(seconds) for group, seconds in times.items() if seconds}

    @property
    def running(self) -> bool:
        """Whether trials are still to come, or were when the sweep was interrupted."""
        return any(record.status in ("planned", "running") for record in self.records) or any(
            self.plan.to_come.values()
        )

    def count(self, status: str) -> int:
        """Return how many trials have this status."""
        return sum(record.status == status for record in self.records)


def read_run(folder: Folder) -> RunRecord:
    """Read a run folder. A damaged trial file is named in its record; it never raises.

    Raises:
        ConfigError: If the folder has no plan that can be used, so that nothing can be said of the run.
    """
    plan = _read_plan(folder)
    problems: list[str] = []
    try:
        space_text = folder.read("space.yaml").decode(errors="replace")
    except (FileNotFoundError, StorageError):
        space_text = ""
        problems.append("space.yaml: missing or unreadable")
    sweep: Any = {}
    try:
        sweep = read_json(folder, "sweep.json")
    except FileNotFoundError:
        pass
    except StorageError:
        problems.append("sweep.json: cannot be read as JSON; the file is damaged")
    if not isinstance(sweep, dict):
        sweep = {}
        problems.append("sweep.json: not a JSON object")
    with ThreadPoolExecutor(_READERS) as pool:
        records = tuple(pool.map(lambda planned: _read_trial(folder, planned, plan.group_by), plan.trials))
    return RunRecord(folder, plan, records, space_text, sweep, tuple(problems))


def _read_plan(folder: Folder) -> Plan:
    where = f"{folder.uri}/plan.json"
    path = folder.path()
    if path is not None and path.is_file():
        raise ConfigError(
            f"{path}: a file; RUN_DIR is the folder of one sweep, such as runs/<name>, that holds plan.json"
        )
    try:
        plan = Plan.from_json(read_json(folder, "plan.json"), where=where)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{where}: no such file; RUN_DIR is the folder of one sweep, such as runs/<name>, that sweep.run made"
        ) from error
    if not plan.trials:
        raise ConfigError(f"{where}: it plans no trial")
    return plan


def _read_trial(folder: Folder, planned: PlannedTrial, group_by: str) -> TrialRecord:
    trial = folder.sub("trials", planned.trial_id)
    if _is_linked(folder, trial):
        problem = "its folder is a link, which is not followed: put the folder itself in its place"
        return TrialRecord(
            planned=planned,
            status="failed",
            reason=problem,
            detail={},
            epochs_trained=0,
            attempts=0,
            history=[],
            report=None,
            problems=(problem,),
            linked=True,
        )
    status, problems = read_status(trial)
    history, history_problems = read_history(trial)
    report, report_problems = read_report(trial, _identity(planned, group_by))
    decisions, decision_problems = _read_decisions(trial, planned)
    problems += history_problems + report_problems + decision_problems
    if status.status == "completed" and report is None and not report_problems:
        problems.append("report.json: missing, though the trial is completed")
    return TrialRecord(
        planned=planned,
        status=status.status,
        reason=status.reason,
        detail=status.detail,
        # The status is written last: the report may be an epoch ahead of it, never behind what was committed.
        epochs_trained=max(status.epochs_trained, report["epochs_trained"] if report else 0, len(history)),
        attempts=status.attempts,
        history=history,
        report=report,
        problems=tuple(problems),
        decisions=tuple(one for one in decisions if one.kind != SETTLE),
        looks=tuple(one for one in decisions if one.kind == SETTLE),
    )


def _read_decisions(trial: Folder, planned: PlannedTrial) -> tuple[tuple[RungDecision, ...], list[str]]:
    try:
        decisions = decisions_from_json(read_json(trial, DECISIONS_FILE))
    except FileNotFoundError:
        return (), []
    except (StorageError, ValueError) as error:
        return (), [f"{DECISIONS_FILE}: {error}; status and history are used instead"]
    if any(decision.trial_id != planned.trial_id for decision in decisions):
        return (), [f"{DECISIONS_FILE}: is of another trial; status and history are used instead"]
    return decisions, []


def _is_linked(run: Folder, trial: Folder) -> bool:
    """Whether a trial's folder lies elsewhere: a run folder from a stranger may lead reads and writes anywhere."""
    above, below = run.path(), trial.path()
    return below is not None and above is not None and below.resolve() != above.resolve() / below.relative_to(above)


def _identity(planned: PlannedTrial, group_by: str) -> dict[str, Any]:
    """Return the planned values that a report must repeat: the contract's, the seed and the group."""
    return {key: planned.config[key] for key in {*CONTRACT_FIELDS, "seed", group_by} if key in planned.config}
