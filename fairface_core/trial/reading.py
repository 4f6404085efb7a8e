"""What the files of a trial folder must hold before their content is believed.

A run folder may be damaged, half copied, written by another version or by a stranger. Each function returns what
can be used and says, one line each, what was left out and why. Nothing here raises for the content of a file.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from fairface_core.config.train_config import identity_fields
from fairface_core.errors import StorageError
from fairface_core.files.folder import Folder, read_json
from fairface_core.trial.benchmark_csv import CONTRACT_COLUMNS
from fairface_core.trial.reports import REPORT_SCHEMA

# The configuration that the contract columns of the benchmark CSV repeat.
CONTRACT_FIELDS = tuple(name for name in CONTRACT_COLUMNS if name in identity_fields())

Status = Literal["planned", "running", "completed", "stopped", "diverged", "failed", "skipped"]
STATUSES: tuple[str, ...] = get_args(Status)

# The bounds keep a number that nobody measured from overflowing what is computed from it.
Finite = Annotated[float, Field(allow_inf_nan=False, ge=-1e15, le=1e15)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=10**15)]


class _Checked(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)


class StatusFile(_Checked):
    """`status.json`. `planned` also stands for a trial that has no folder yet."""

    status: Status
    reason: str = ""
    detail: dict[str, Any] = {}
    epochs_trained: Count = 0
    attempts: Count = 1


class _Metrics(_Checked):
    loss: Finite | None = None
    age_acc: Share
    age_f1m: Share
    gen_acc: Share
    gen_f1m: Share
    mean_f1: Share


class _ClassRow(_Checked):
    label: str
    precision: Share
    recall: Share
    f1: Share
    n: Count


class _AgeError(_Checked):
    mean_abs_bins: Finite
    within_one_acc: Share
    histogram: dict[str, Count]


class _CalibrationBin(_Checked):
    n: Count
    confidence: Share | None
    accuracy: Share | None


class _Calibration(_Checked):
    age_ece: Share
    gender_ece: Share
    age_bins: list[_CalibrationBin] = []
    gender_bins: list[_CalibrationBin] = []


class _GroupRow(_Checked):
    group: str
    n: Count
    too_small: bool
    age_acc: Share
    age_acc_low: Share
    age_acc_high: Share
    age_f1m: Share | None
    gen_acc: Share
    gen_acc_low: Share
    gen_acc_high: Share
    gen_f1m: Share | None


class _WorstGroup(_Checked):
    group: str
    n: Count
    value: Share


class _LargestGap(_Checked):
    gap: Finite
    best: str
    worst: str
    by_chance: Finite | None = None
    p_value: Share | None = None


class _BorderRow(_Checked):
    group: str
    false_older_n: Count
    false_older: Share | None
    false_older_low: Share | None
    false_older_high: Share | None
    false_younger_n: Count
    false_younger: Share | None
    false_younger_low: Share | None
    false_younger_high: Share | None


class _Border(_Checked):
    younger: str
    older: str
    by: dict[str, list[_BorderRow]]


class _Subgroups(_Checked):
    by: dict[str, list[_GroupRow]]
    worst_group: dict[str, dict[str, _WorstGroup | None]] = {}
    largest_gap: dict[str, dict[str, _LargestGap | None]] = {}
    max_log_ratio_disparity: dict[str, dict[str, Finite | None]] = {}
    border: _Border | None = None


class _Timing(_Checked):
    images_per_s: Finite | None = None
    epoch_s: Finite | None = None
    train_s: Finite | None = None
    eval_images_per_s: Finite | None = None
    peak_memory_gib: Finite | None = None
    gpu_hours: Finite | None = None


class _Model(_Checked):
    num_params: Count


class _Provenance(_Checked):
    device: str
    device_name: str | None = None
    data_digest: str | None = None
    code_digest: str | None = None


class ReportCore(_Checked):
    """The part of `report.json` without which the report cannot be used at all."""

    config: dict[str, Any]
    test_metrics: _Metrics
    val_metrics: _Metrics
    mean_f1: Share
    best_epoch: Annotated[int, Field(ge=1)]
    epochs: Annotated[int, Field(ge=1)]
    epochs_trained: Annotated[int, Field(ge=1)]
    protocol: str
    timing: _Timing
    model: _Model
    provenance: _Provenance


# Sections that are left out one by one when they are damaged; the rest of the report stands.
_SECTIONS: dict[str, TypeAdapter[Any]] = {
    "data": TypeAdapter(dict[str, Any]),
    "age_labels": TypeAdapter(list[str]),
    "gender_labels": TypeAdapter(list[str]),
    "age_per_class": TypeAdapter(list[_ClassRow]),
    "gender_per_class": TypeAdapter(list[_ClassRow]),
    "age_error": TypeAdapter(_AgeError),
    "both_acc": TypeAdapter(Share),
    "calibration": TypeAdapter(_Calibration),
    "subgroups": TypeAdapter(_Subgroups),
}


def faults_of(error: ValidationError, where: str, *, limit: int = 3) -> list[str]:
    """Return one line for each of the first faults that pydantic found in a file."""
    lines = [
        f"{where}: {'.'.join(str(part) for part in item['loc']) or 'content'}: {item['msg'].lower()}"
        for item in error.errors(include_url=False, include_input=False)[:limit]
    ]
    if error.error_count() > limit:
        lines.append(f"{where}: and {error.error_count() - limit} more")
    return lines


def read_status(folder: Folder) -> tuple[StatusFile, list[str]]:
    """Return a trial's status, and what is wrong with the file. A trial without a folder is `planned`."""
    try:
        return StatusFile.model_validate(read_json(folder, "status.json")), []
    except FileNotFoundError:
        return StatusFile(status="planned"), []
    except StorageError:
        problems = ["status.json: cannot be read as JSON; the file is damaged"]
    except ValidationError as error:
        problems = faults_of(error, "status.json")
    return StatusFile(status="failed", reason="its status.json is damaged"), problems


def read_history(folder: Folder) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the epochs of `history.csv` as numbers, up to the first row that is damaged.

    Returns:
        One dict an epoch (the two epochs and the images an int, every other column a float or None), and what was left out.
    """
    try:
        text = folder.read("history.csv").decode()
    except FileNotFoundError:
        return [], []
    except (StorageError, UnicodeDecodeError):
        return [], ["history.csv: cannot be read; the file is damaged"]
    history: list[dict[str, Any]] = []
    try:
        for row in csv.DictReader(io.StringIO(text, newline=""), strict=True):
            values = {name: _number(cell) for name, cell in row.items() if name}
            epoch, score = values.get("epoch"), values.get("mean_f1")
            if epoch != len(history) + 1 or score is None or not 0 <= score <= 1:
                return history, [
                    f"history.csv: the row of epoch {len(history) + 1} is damaged; later rows are left out"
                ]
            history.append(
                {
                    k: int(v) if k in ("epoch", "best_epoch", "val_images") and v is not None else v
                    for k, v in values.items()
                }
            )
    except csv.Error:
        return history, [f"history.csv: damaged after epoch {len(history)}"]
    return history, []


def _number(cell: Any) -> float | None:
    try:
        value = float(cell)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def read_report(folder: Folder, expected: Mapping[str, Any]) -> tuple[dict[str, Any] | None, list[str]]:
    """Return `report.json` with damaged sections removed, or None if it is absent or cannot be used.

    Args:
        folder: The trial folder.
        expected: Config values that the plan decided; a report of another configuration is refused.
    """
    try:
        raw = read_json(folder, "report.json")
    except FileNotFoundError:
        return None, []
    except StorageError:
        return None, ["report.json: cannot be read as JSON; the file is damaged"]
    if isinstance(raw, dict) and raw.get("schema_version") != REPORT_SCHEMA:
        return None, [
            f"report.json: schema_version is {raw.get('schema_version')!r}; this program reads {REPORT_SCHEMA}"
        ]
    try:
        core = ReportCore.model_validate(raw)
    except ValidationError as error:
        return None, faults_of(error, "report.json")
    absent = [name for name in CONTRACT_FIELDS if name not in core.config]
    if absent:
        return None, [f"report.json: config lacks {', '.join(absent)}"]
    foreign = [
        f"report.json: {name} is {core.config.get(name)!r}, planned was {value!r}: the report of another trial"
        for name, value in expected.items()
        if core.config.get(name) != value
    ]
    if foreign:
        return None, foreign
    problems: list[str] = []
    report = dict(raw)
    for name, adapter in _SECTIONS.items():
        if report.get(name) is None:
            report.pop(name, None)
            continue
        try:
            adapter.validate_python(report[name])
        except ValidationError as error:
            del report[name]
            problems += faults_of(error, f"report.json: {name} left out", limit=1)
    return report, problems
