"""The file of answers: CSV, Parquet or JSON lines, a row a picture, written as the answers come."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from fairface_core.errors import ConfigError, StorageError
from fairface_core.labels import AGE_GROUPS, GENDERS
from fairface_core.prediction.stream import Answers
from fairface_core.scoring.conformal import prediction_sets

FORMATS = ("csv", "parquet", "jsonl")
# What stands for a set of all labels: it says nothing.
ABSTAIN = "abstain"
_TASKS = (("age", AGE_GROUPS), ("gender", GENDERS))
_BOX = ("face_left", "face_top", "face_right", "face_bottom")
_CONFIDENCE = "face_confidence"


@dataclass(frozen=True)
class Layout:
    """Which columns a file of answers has beyond the plain ones.

    Attributes:
        least: The least probabilities of age and gender in a prediction set; None for no sets.
        faces: Whether answers are about faces, whose boxes are told.
    """

    least: tuple[float, float] | None = None
    faces: bool = False


class Writer(Protocol):
    """Takes answers as they come."""

    def write(self, answers: Answers) -> None:
        """Add a row a picture."""


def format_of(path: Path) -> str:
    """Return the format that a file name asks for.

    Raises:
        ConfigError: If it ends in none of them.
    """
    name = path.suffix.lower().removeprefix(".")
    if name not in FORMATS:
        raise ConfigError(f"--out {path}: its name must end in {', '.join(f'.{name}' for name in FORMATS)}")
    return name


@contextmanager
def open_writer(out: Path | None, kind: str, layout: Layout, stdout: IO[str]) -> Iterator[Writer]:
    """Open the place for answers. A file of that name appears when all of them are in it, and not before.

    Args:
        out: The file, or None for standard output.
        kind: One of `FORMATS`.
        layout: Its columns.
        stdout: Standard output.

    Raises:
        StorageError: If it cannot be written.
    """
    if out is None:
        yield _text_writer(stdout, kind, layout)
        return
    part = out.with_name(f".{out.name}.part{os.getpid()}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if kind == "parquet":
            with _ParquetWriter(part, layout) as parquet:
                yield parquet
        else:
            with part.open("w", encoding="utf-8", newline="") as file:
                yield _text_writer(file, kind, layout)
        part.replace(out)
    except OSError as error:
        raise StorageError(f"cannot write {out}: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)


def _text_writer(file: IO[str], kind: str, layout: Layout) -> Writer:
    return _JsonWriter(file, layout) if kind == "jsonl" else _CsvWriter(file, layout)


class _CsvWriter:
    def __init__(self, file: IO[str], layout: Layout) -> None:
        self._writer = csv.writer(file, lineterminator="\n")
        self._layout = layout
        self._begun = False

    def write(self, answers: Answers) -> None:
        columns = columns_of(answers, self._layout)
        if not self._begun:
            self._writer.writerow(columns)
            self._begun = True
        for row in zip(*columns.values(), strict=True):
            self._writer.writerow(["|".join(cell) if isinstance(cell, list) else cell for cell in row])


class _JsonWriter:
    def __init__(self, file: IO[str], layout: Layout) -> None:
        self._file, self._layout = file, layout

    def write(self, answers: Answers) -> None:
        columns = columns_of(answers, self._layout)
        for row in zip(*columns.values(), strict=True):
            self._file.write(json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False) + "\n")


class _ParquetWriter:
    def __init__(self, path: Path, layout: Layout) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        kinds: dict[str, Any] = {"file": pa.string(), "error": pa.string(), _CONFIDENCE: pa.float32()}
        kinds |= dict.fromkeys(_BOX, pa.int32())
        for task, labels in _TASKS:
            kinds |= {task: pa.string(), f"{task}_set": pa.list_(pa.string())}
            kinds |= dict.fromkeys((f"{task}_prob", *_probability_names(task, labels)), pa.float32())
        names = _names(layout)
        self._schema = pa.schema([(name, kinds[name]) for name in names])
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._layout = layout

    def __enter__(self) -> _ParquetWriter:
        return self

    def __exit__(self, *raised: object) -> None:
        self._writer.close()

    def write(self, answers: Answers) -> None:
        import pyarrow as pa

        self._writer.write_table(pa.table(columns_of(answers, self._layout), schema=self._schema))


def _probability_names(task: str, labels: Sequence[str]) -> list[str]:
    return [f"{task}_prob_{label}" for label in labels]


def _names(layout: Layout) -> list[str]:
    sets = [f"{task}_set" for task, _ in _TASKS] if layout.least is not None else []
    faces = [*_BOX, _CONFIDENCE] if layout.faces else []
    shares = [name for task, labels in _TASKS for name in _probability_names(task, labels)]
    return ["file", "age", "age_prob", "gender", "gender_prob", *sets, *shares, *faces, "error"]


def columns_of(answers: Answers, layout: Layout) -> dict[str, list[Any]]:
    """Return the columns of a file of answers; None where there is none.

    `file`; `age`, `gender`: labels; `age_prob`, `gender_prob`: their probabilities; `age_set`, `gender_set`: the labels
    of the prediction set, or `ABSTAIN` alone; `age_prob_0-2`, ..., `gender_prob_Female`: every probability;
    `face_left`, `face_top`, `face_right`, `face_bottom` (pixels) and `face_confidence`; `error`.
    """
    columns: dict[str, list[Any]] = {"file": answers.file, "error": [error or None for error in answers.error]}
    for number, (task, labels) in enumerate(_TASKS):
        shares, chosen = (answers.age_prob, answers.age) if task == "age" else (answers.gender_prob, answers.gender)
        known = chosen >= 0
        columns[task] = [labels[k] if k >= 0 else None for k in chosen]
        columns[f"{task}_prob"] = _cells(shares[np.arange(len(chosen)), chosen], known)
        columns |= {name: _cells(shares[:, k], known) for k, name in enumerate(_probability_names(task, labels))}
        if layout.least is not None:
            columns[f"{task}_set"] = _set_cells(shares, known, labels, layout.least[number])
    columns |= {name: [face.box[k] if face else None for face in answers.face] for k, name in enumerate(_BOX)}
    columns[_CONFIDENCE] = [round(face.confidence, 3) if face else None for face in answers.face]
    return {name: columns[name] for name in _names(layout)}


def _cells(values: np.ndarray, known: np.ndarray) -> list[float | None]:
    # The shortest text that reads back to the same float32 is half as long as that of the same value as a float64.
    return [float(str(value)) if there else None for value, there in zip(values, known, strict=True)]


def _set_cells(prob: np.ndarray, known: np.ndarray, labels: Sequence[str], least: float) -> list[Any]:
    cells: list[Any] = [None] * len(prob)
    rows = np.flatnonzero(known)
    for row, chosen in zip(rows, prediction_sets(prob[rows], least), strict=True):
        cells[row] = [ABSTAIN] if chosen.all() else [label for label, here in zip(labels, chosen, strict=True) if here]
    return cells
