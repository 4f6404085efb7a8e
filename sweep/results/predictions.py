"""The stored predictions of a trial, checked against its report: what intervals and comparisons are made from."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fairface_core.errors import StorageError
from fairface_core.files.parquet_pages import page_sizes
from fairface_core.labels import AGE_GROUPS, GENDERS
from sweep.results.bootstrap import Predictions
from sweep.run_folder.records import RunRecord, TrialRecord

# A report and the predictions beside it are written by the same function from the same arrays.
_SAME_SCORE = 1e-9
# Ten times FairFace, both splits. A text is the name of a split or of a CSV.
_MAX_ROWS, _MAX_BYTES, _MAX_TEXT_BYTES = 2_000_000, 2**29, 4_096
_FOREIGN = "predictions.parquet: not the columns of a trial; no interval and no comparison"
_TEXTS = ("split", "csv")
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
        with pq.ParquetFile(io.BytesIO(raw), read_dictionary=list(_TEXTS)) as file:
            problem = _too_large(raw, file.metadata, columns)
            if problem:
                return f"predictions.parquet: {problem}; no interval and no comparison"
            table = file.read(columns=columns, use_threads=False)
    except FileNotFoundError:
        return "predictions.parquet: missing; no interval and no comparison"
    except (StorageError, pa.ArrowException, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:80]
        return f"predictions.parquet: damaged ({reason}); no interval and no comparison"
    except ValueError as error:
        return f"predictions.parquet: damaged ({error}); no interval and no comparison"
    except KeyError:
        return _FOREIGN
    try:
        for name in _TEXTS:
            table = table.set_column(table.column_names.index(name), name, _plain_texts(table[name]))
        val, test = (_predictions(table, split) for split in ("val", "test"))
    except (ValueError, KeyError, TypeError, AssertionError, pa.ArrowException):
        return _FOREIGN
    assert record.report is not None
    for name, found, stated in (
        ("validation", val.mean_f1, record.report["mean_f1"]),
        ("test", test.mean_f1, record.report["test_metrics"]["mean_f1"]),
    ):
        if abs(found - stated) > _SAME_SCORE:
            return f"predictions.parquet: gives {name} mean_f1 {found:.6f}, report.json says {stated:.6f}"
    rows = _split(table, "test")
    names = "\0".join(map(str, rows["csv"].unique().to_pylist()))
    labels = test.age_true.tobytes() + test.gender_true.tobytes()
    return Scored(val, test, names.encode() + rows["line"].to_numpy().tobytes() + labels)


def _too_large(raw: bytes, metadata: Any, columns: Sequence[str]) -> str:
    """Say why a file is not unpacked: a few bytes of Parquet can stand for any number of rows, or for one long text."""
    if metadata.num_rows > _MAX_ROWS:
        return f"{metadata.num_rows:,} rows, accepted up to {_MAX_ROWS:,}"
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            if column.total_uncompressed_size > _MAX_BYTES:
                return f"a column of {column.total_uncompressed_size:,} bytes, accepted up to {_MAX_BYTES:,}"
    unpacked = sum(page_sizes(io.BytesIO(raw), metadata, columns))
    return f"pages of {unpacked:,} bytes, accepted up to {_MAX_BYTES:,}" if unpacked > _MAX_BYTES else ""


def _plain_texts(column: Any) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    for chunk in column.chunks:
        longest = pc.max(pc.binary_length(chunk.dictionary)).as_py() if isinstance(chunk, pa.DictionaryArray) else None
        if (longest or 0) > _MAX_TEXT_BYTES:
            raise ValueError("a text of many bytes")
    return column.cast(pa.string())


def _split(table: Any, split: str) -> Any:
    import pyarrow.compute as pc

    return table.filter(pc.equal(table["split"], split))


def _predictions(table: Any, split: str) -> Predictions:
    rows = _split(table, split)
    arrays = []
    for name, classes in _CLASSES.items():
        values = rows[name].to_numpy().astype(np.int64)
        if not len(values) or values.min() < 0 or values.max() >= classes:
            raise ValueError(name)
        arrays.append(values)
    return Predictions(*arrays)
