"""Trial folders -> benchmark_results.csv and leaderboard.csv.

The folders are the truth; the two files can be deleted and rebuilt from them at any time. A damaged trial file
never ends a sweep's report: it is named in its record and left out of the numbers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from fairface_core.config import TrainConfig
from fairface_core.errors import StorageError
from fairface_core.report import CONTRACT_COLUMNS, benchmark_row
from fairface_core.storage import Folder
from sweep.records import RunRecord, TrialRecord, read_run
from sweep.trial_files import CONTRACT_FIELDS
from sweep.wording import plain

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "BENCHMARK_CSV",
    "LEADERBOARD_CSV",
    "RunRecord",
    "TrialRecord",
    "benchmark_rows",
    "csv_of",
    "one_writer",
    "read_run",
    "rebuild",
    "typed_frame",
    "write_benchmark",
]

BENCHMARK_CSV = "benchmark_results.csv"
LEADERBOARD_CSV = "leaderboard.csv"
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
        if int in kinds and any(isinstance(cell, int) and abs(cell) >= 2**63 for cell in cells):
            kinds = {object}
        dtype = {
            frozenset({bool}): "boolean",
            frozenset({int}): "Int64",
            frozenset({float}): "float64",
            frozenset({int, float}): "float64",
        }.get(frozenset(kinds), "object")
        columns[name] = pd.Series(cells, dtype=dtype)
    return pd.DataFrame(columns)


def write_benchmark(folder: Folder) -> RunRecord:
    """Read the trial folders and write benchmark_results.csv alone: milliseconds a trial, for use during a sweep."""
    with one_writer(folder, BENCHMARK_CSV):
        run = read_run(folder)
        folder.write(BENCHMARK_CSV, csv_of(benchmark_rows(run)))
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
        folder.write(LEADERBOARD_CSV, csv_of(leaderboard(run)))
    return run


def csv_of(frame: pd.DataFrame) -> bytes:
    """Return a table as CSV text (UTF-8, LF) whose floats read back to the same bits.

    A plan from a stranger can hold any text: one that a spreadsheet would take for a formula begins with an
    apostrophe, and none can begin a line of its own.
    """
    texts = frame.select_dtypes(include="object")
    frame = frame.assign(**{str(name): texts[name].map(_cell) for name in texts})
    return frame.to_csv(index=False, lineterminator="\n").encode(errors="replace")


def _cell(cell: Any) -> Any:
    if not isinstance(cell, str):
        return cell
    text = plain(cell)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


@contextlib.contextmanager
def one_writer(folder: Folder, name: str) -> Iterator[None]:
    """Let one process at a time read the trials and write `name`, so that an older reading never lands last.

    The driver and `python -m sweep.report` on a running sweep write the same files. An object store has no lock:
    there a file is at worst one trial behind until it is written next.
    """
    path = folder.path()
    # Without a plan it is no run folder: the reader will say so, and no file is to appear in it.
    if path is None or not (path / "plan.json").is_file():
        yield
        return
    from filelock import FileLock

    lock = FileLock(path / f".{name}.lock")
    try:
        lock.acquire()
    except OSError as error:
        raise StorageError(f"cannot write in {path}: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()
