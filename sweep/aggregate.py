"""Trial folders -> one value in memory -> benchmark_results.csv and leaderboard.csv.

The folders are the truth; the two files here can be deleted and rebuilt from them at any time. A damaged trial
file never ends a sweep's report: it is named in its record and left out of the numbers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from fairface_core.config import TrainConfig
from fairface_core.errors import ConfigError, StorageError
from fairface_core.report import CONTRACT_COLUMNS, benchmark_row
from fairface_core.storage import Folder, read_json
from sweep.trial_files import (
    CONTRACT_FIELDS,
    STATUSES,
    PlanFile,
    faults_of,
    read_history,
    read_report,
    read_status,
)

if TYPE_CHECKING:
    import pandas as pd

BENCHMARK_CSV = "benchmark_results.csv"
LEADERBOARD_CSV = "leaderboard.csv"
# After the contract, what each trial is and how far it came; then the added keys of `benchmark_row`.
_TRIAL_COLUMNS = ("trial_id", "status", "epochs_trained", "mean_f1", "images_per_s", "num_params", "device")
# Files of a trial are small; on an object store it is the round trips that take the time.
_READERS = 16


@dataclass(frozen=True)
class TrialRecord:
    """One planned trial, as its folder tells it.

    Attributes:
        trial_id: Name of its folder under `trials/`.
        planned: Its entry in plan.json: trial_id, config, group, seed, config_id, ...
        status: One of `trial_files.STATUSES`; `planned` if it has no status yet.
        reason: Why it ended as it did, in words.
        detail: The same for programs, such as ASHA's rung, score and cutoff.
        epochs_trained: Epochs finished, 0 before the first.
        attempts: How often it was started.
        history: One dict an epoch, the columns of history.csv.
        report: report.json, checked; None where there is none that can be used.
        problems: What was damaged in its files.
    """

    trial_id: str
    planned: dict[str, Any]
    status: str
    reason: str
    detail: dict[str, Any]
    epochs_trained: int
    attempts: int
    history: list[dict[str, Any]]
    report: dict[str, Any] | None
    problems: tuple[str, ...]

    @property
    def problem(self) -> str:
        """What is damaged, in one line; empty if nothing is."""
        return "; ".join(self.problems)

    @property
    def config(self) -> dict[str, Any]:
        """The config values that the space decided."""
        return self.planned["config"]

    @property
    def group(self) -> str:
        """The value it is grouped by: its backbone."""
        return self.planned["group"]

    @property
    def seed(self) -> int:
        """Its training seed."""
        return self.planned["seed"]

    @property
    def config_id(self) -> str:
        """Names its configuration; equal for all seeds of it."""
        return self.planned["config_id"]

    @property
    def best_mean_f1(self) -> float | None:
        """Best validation mean_f1 so far, None before the first epoch."""
        if self.report is not None:
            return float(self.report["mean_f1"])
        return max((epoch["mean_f1"] for epoch in self.history), default=None)

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
    plan: dict[str, Any]
    records: tuple[TrialRecord, ...]
    space_text: str
    sweep: dict[str, Any]
    problems: tuple[str, ...]

    @property
    def name(self) -> str:
        """The run folder's name."""
        return self.folder.uri.rstrip("/").rpartition("/")[2]

    @property
    def group_by(self) -> str:
        """The config key that trials are grouped by."""
        return str(self.plan.get("group_by") or "backbone")

    @cached_property
    def epochs(self) -> int:
        """The full budget of one trial, epochs."""
        stated = self.plan.get("epochs")
        if stated:
            return int(stated)
        budgets = [record.config.get("epochs") for record in self.records]
        return max((n for n in budgets if isinstance(n, int)), default=TrainConfig.model_fields["epochs"].default)

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """The groups, in plan order."""
        return tuple(dict.fromkeys(record.group for record in self.records))

    @cached_property
    def swept_keys(self) -> tuple[str, ...]:
        """Config keys whose values differ between trials, without the seed and the group key."""
        keys = dict.fromkeys(key for record in self.records for key in record.config)
        return tuple(
            key
            for key in keys
            if key not in ("seed", self.group_by)
            and len({repr(record.config.get(key)) for record in self.records}) > 1
        )

    @property
    def running(self) -> bool:
        """Whether trials are still to come, or were when the sweep was interrupted."""
        return any(record.status in ("planned", "running") for record in self.records)

    def count(self, status: str) -> int:
        """Return how many trials have this status."""
        return sum(record.status == status for record in self.records)


def read_run(folder: Folder) -> RunRecord:
    """Read a run folder. A damaged trial file is named in its record; it never raises.

    Raises:
        ConfigError: If the folder has no plan that can be used, so that nothing can be said of the run.
    """
    plan = _read_plan(folder)
    group_by = str(plan.get("group_by") or "backbone")
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
        records = tuple(pool.map(lambda planned: _read_trial(folder, planned, group_by), plan["trials"]))
    return RunRecord(folder, plan, records, space_text, sweep, tuple(problems))


def _read_plan(folder: Folder) -> dict[str, Any]:
    where = f"{folder.uri}/plan.json"
    try:
        raw = read_json(folder, "plan.json")
    except FileNotFoundError as error:
        raise ConfigError(
            f"{where}: no such file; RUN_DIR is the folder of one sweep, such as runs/<name>, that sweep.run made"
        ) from error
    try:
        checked = PlanFile.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(faults_of(error, where)) from error
    ids = [trial.trial_id for trial in checked.trials]
    if not ids:
        raise ConfigError(f"{where}: it plans no trial")
    if len(set(ids)) < len(ids):
        raise ConfigError(f"{where}: {next(i for i in ids if ids.count(i) > 1)} is planned twice")
    return dict(raw)


def _read_trial(folder: Folder, planned: dict[str, Any], group_by: str) -> TrialRecord:
    trial = folder.sub("trials", planned["trial_id"])
    status, problems = read_status(trial)
    history, history_problems = read_history(trial)
    report, report_problems = read_report(trial, _identity(planned, group_by))
    problems += history_problems + report_problems
    if status.status == "completed" and report is None and not report_problems:
        problems.append("report.json: missing, though the trial is completed")
    return TrialRecord(
        trial_id=planned["trial_id"],
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
    )


def _identity(planned: dict[str, Any], group_by: str) -> dict[str, Any]:
    """Return the planned values that a report must repeat: the contract's, the seed and the group."""
    return {key: planned["config"][key] for key in {*CONTRACT_FIELDS, "seed", group_by} if key in planned["config"]}


def benchmark_rows(run: RunRecord) -> pd.DataFrame:
    """Return the benchmark: exactly one row per planned trial, the 13 contract columns first.

    A trial without a usable report has its configuration and status, and empty metrics.
    """
    rows = [_benchmark_row(run, record) for record in run.records]
    names = dict.fromkeys((*CONTRACT_COLUMNS, *_TRIAL_COLUMNS))
    names.update(dict.fromkeys(key for row in rows for key in row))
    return typed_frame(rows, list(names))


def _benchmark_row(run: RunRecord, record: TrialRecord) -> dict[str, Any]:
    out_dir = run.folder.sub("trials", record.trial_id).uri
    defaults = {name: TrainConfig.model_fields[name].default for name in CONTRACT_FIELDS}
    row: dict[str, Any] = {name: record.config.get(name, default) for name, default in defaults.items()}
    row |= {"out_dir": out_dir, "mean_f1": record.best_mean_f1}
    report = record.report
    if report is not None:
        row |= benchmark_row(report, out_dir)
        row |= {key: report["timing"].get(key) for key in ("epoch_s", "peak_memory_gib", "gpu_hours")}
    return {
        **row,
        **{key: record.config.get(key) for key in run.swept_keys},
        "trial_id": record.trial_id,
        "status": record.status,
        "reason": record.problem or record.reason,
        "group": record.group,
        "config_id": record.config_id,
        "epochs_trained": record.epochs_trained,
        "attempts": record.attempts,
    }


def typed_frame(rows: list[dict[str, Any]], names: list[str]) -> pd.DataFrame:
    """Return a table whose integers stay integers where cells are empty (pandas would make them floats)."""
    import pandas as pd

    columns = {}
    for name in names:
        cells = [row.get(name) for row in rows]
        kinds = {type(cell) for cell in cells if cell is not None}
        dtype = {
            frozenset({bool}): "boolean",
            frozenset({int}): "Int64",
            frozenset({float}): "float64",
            frozenset({int, float}): "float64",
        }.get(frozenset(kinds), "object")
        columns[name] = pd.Series(cells, dtype=dtype)
    return pd.DataFrame(columns, columns=names)


def write_benchmark(folder: Folder) -> RunRecord:
    """Read the trial folders and write benchmark_results.csv alone: milliseconds a trial, for use during a sweep."""
    with one_writer(folder, BENCHMARK_CSV):
        run = read_run(folder)
        folder.write(BENCHMARK_CSV, _csv(benchmark_rows(run)))
    return run


def rebuild(folder: Folder) -> RunRecord:
    """Write both CSVs from the trial folders. The leaderboard's intervals take seconds.

    Raises:
        ConfigError: If the folder has no usable plan.
        StorageError: If a CSV cannot be written.
    """
    from sweep.leaderboard import leaderboard

    write_benchmark(folder)
    with one_writer(folder, LEADERBOARD_CSV):
        run = read_run(folder)
        folder.write(LEADERBOARD_CSV, _csv(leaderboard(run)))
    return run


def _csv(frame: pd.DataFrame) -> bytes:
    return frame.to_csv(index=False, lineterminator="\n").encode()


@contextlib.contextmanager
def one_writer(folder: Folder, name: str) -> Iterator[None]:
    """Let one process at a time read the trials and write `name`, so that an older reading never lands last.

    The driver and `python -m sweep.report` on a running sweep write the same files. An object store has no lock:
    there a file is at worst one trial behind until it is written next.
    """
    path = folder.path()
    if path is None or not path.is_dir():
        yield
        return
    from filelock import FileLock

    with FileLock(path / f".{name}.lock"):
        yield


assert set(_TRIAL_COLUMNS).isdisjoint(CONTRACT_COLUMNS) and "completed" in STATUSES
