"""The stored predictions of a trial, checked against its report: what intervals and comparisons are made from."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np

from fairface_core.errors import StorageError
from fairface_core.labels import AGE_GROUPS, GENDERS
from sweep.records import RunRecord, TrialRecord
from sweep.stats import Predictions

# A report and the predictions beside it are written by the same function from the same arrays.
_SAME_SCORE = 1e-9
_CLASSES = {
    "age_true": len(AGE_GROUPS),
    "gender_true": len(GENDERS),
    "age_pred": len(AGE_GROUPS),
    "gender_pred": len(GENDERS),
}


@dataclass(frozen=True)
class Scored:
    """A trial's stored predictions on both splits.

    Attributes:
        val: On validation.
        test: On the test images.
        test_images: Names the test images and their order: two trials with equal values were scored alike.
    """

    val: Predictions
    test: Predictions
    test_images: bytes


def read_scored(run: RunRecord, record: TrialRecord) -> Scored | str:
    """Return a full run's predictions, or what is wrong with them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = ["split", "csv", "line", *_CLASSES]
    try:
        raw = run.folder.sub("trials", record.trial_id).read("predictions.parquet")
        table = pq.read_table(io.BytesIO(raw), columns=columns)
    except FileNotFoundError:
        return "predictions.parquet: missing; no interval and no comparison"
    except (StorageError, pa.ArrowException, OSError) as error:
        return f"predictions.parquet: damaged ({str(error).splitlines()[0][:80]}); no interval and no comparison"
    try:
        val, test = (_predictions(table, split) for split in ("val", "test"))
    except (ValueError, KeyError, TypeError, AssertionError):
        return "predictions.parquet: not the columns of a trial; no interval and no comparison"
    assert record.report is not None
    for name, found, stated in (
        ("validation", val.mean_f1, record.report["mean_f1"]),
        ("test", test.mean_f1, record.report["test_metrics"]["mean_f1"]),
    ):
        if abs(found - stated) > _SAME_SCORE:
            return f"predictions.parquet: gives {name} mean_f1 {found:.6f}, report.json says {stated:.6f}"
    rows = _split(table, "test")
    names = "\0".join(rows["csv"].cast(pa.string()).unique().to_pylist())
    labels = test.age_true.tobytes() + test.gender_true.tobytes()
    return Scored(val, test, names.encode() + rows["line"].to_numpy().tobytes() + labels)


def _split(table: Any, split: str) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    return table.filter(pc.equal(table["split"].cast(pa.string()), split))


def _predictions(table: Any, split: str) -> Predictions:
    rows = _split(table, split)
    arrays = []
    for name, classes in _CLASSES.items():
        values = rows[name].to_numpy().astype(np.int64)
        if not len(values) or values.min() < 0 or values.max() >= classes:
            raise ValueError(name)
        arrays.append(values)
    return Predictions(*arrays)
