"""Trial folders -> benchmark_results.csv.

The folders are the truth; the file can be deleted and rebuilt from them at any time, and is kept up to date while trials run. A damaged trial file
never ends a sweep's report: it is named in its record and left out of the numbers.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any

from fairface_core.config.train_config import TrainConfig
from fairface_core.errors import FairfaceError
from fairface_core.files.folder import Folder
from fairface_core.trial.benchmark_csv import CONTRACT_COLUMNS, benchmark_row
from fairface_core.trial.reading import CONTRACT_FIELDS
from sweep.results.statistics import STATISTICS
from sweep.results.tables import csv_of, one_writer, typed_frame
from sweep.run_folder.records import RunRecord, TrialRecord, read_run

if TYPE_CHECKING:
    import pandas as pd

BENCHMARK_CSV = "benchmark_results.csv"
# It is rewritten whole, for at most this share of the time.
_SHARE = 0.1
_PAUSE_S = 2.0
# After the contract, what each trial is and how far it came; then the added keys of `benchmark_row`.
_TRIAL_COLUMNS = ("trial_id", "status", "epochs_trained", "mean_f1", "images_per_s", "num_params", "device")


def benchmark_rows(run: RunRecord) -> pd.DataFrame:
    """Return the benchmark: exactly one row per planned trial, the 13 contract columns first.

    A trial without a usable report has its configuration and status, and empty metrics.
    """
    rows = [_benchmark_row(run, record) for record in run.records]
    names = dict.fromkeys((*CONTRACT_COLUMNS, *_TRIAL_COLUMNS))
    names.update(dict.fromkeys(key for row in rows for key in row))
    return typed_frame(rows, list(names))


def _benchmark_row(run: RunRecord, record: TrialRecord) -> dict[str, Any]:
    out_dir = f"{run.location}/trials/{record.trial_id}"
    defaults = {name: TrainConfig.model_fields[name].default for name in CONTRACT_FIELDS}
    row: dict[str, Any] = {name: record.config.get(name, default) for name, default in defaults.items()}
    row |= {"out_dir": out_dir, "mean_f1": record.best_mean_f1}
    report = record.report
    if report is not None:
        row |= benchmark_row(report, out_dir)
        row |= {key: record.timing(key) for key in ("epoch_s", "peak_memory_gib", "gpu_hours")}
        row |= {one.column: one.of(report) for one in STATISTICS if one.column}
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


def write_benchmark(folder: Folder) -> RunRecord:
    """Read the trial folders and write benchmark_results.csv alone: milliseconds a trial, for use during a sweep."""
    with one_writer(folder, BENCHMARK_CSV):
        run = read_run(folder)
        folder.write(BENCHMARK_CSV, csv_of(benchmark_rows(run)))
    return run


class BenchmarkTable:
    """The writer of one run's benchmark_results.csv."""

    def __init__(self, run: Folder) -> None:
        self._run = run
        self._dirty = False
        self._thread: threading.Thread | None = None
        self._next = 0.0

    def changed(self) -> None:
        """A row is new."""
        self._dirty = True

    def tick(self) -> None:
        """Write, if something changed and enough time has passed."""
        if not self._dirty or time.monotonic() < self._next or (self._thread and self._thread.is_alive()):
            return
        self._dirty = False
        self._thread = threading.Thread(target=self._write_quietly, name="benchmark-csv", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Wait for a writing that is under way."""
        if self._thread is not None:
            self._thread.join()

    def write(self) -> None:
        """Write now."""
        write_benchmark(self._run)

    def _write_quietly(self) -> None:
        began = time.monotonic()
        # It is written again at the end, where a refusal is told.
        with contextlib.suppress(FairfaceError):
            self.write()
        spent = time.monotonic() - began
        self._next = time.monotonic() + max(_PAUSE_S, spent / _SHARE)
