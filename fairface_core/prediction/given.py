"""Anybody's answers for a split, out of a CSV: image, age group and gender, as labels or as probabilities."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fairface_core.dataset.columns import AGE_COLUMNS, GENDER_COLUMNS, IMAGE_COLUMNS, image_columns
from fairface_core.dataset.spelling import parse_age, parse_gender
from fairface_core.dataset.table import Table, read_table
from fairface_core.errors import DataError, Problems, shown
from fairface_core.labels import AGE_GROUPS, GENDERS

# A sum of probabilities that were written with three digits is this near to one.
_SUM_TOLERANCE = 0.01
_TASKS = (("age", AGE_GROUPS, AGE_COLUMNS, parse_age), ("gender", GENDERS, GENDER_COLUMNS, parse_gender))


@dataclass(frozen=True)
class Answers:
    """Answers in the order of the images that were asked for.

    Attributes:
        index: int64 [M], which of these images are answered, ascending.
        age: int64 [M], 0..8.
        gender: int64 [M], 0..1.
        age_prob: float64 [M, 9]; None where the file gives labels alone.
        gender_prob: float64 [M, 2]; the same.
        num_other: Rows of the file that are about other images.
    """

    index: np.ndarray
    age: np.ndarray
    gender: np.ndarray
    age_prob: np.ndarray | None
    gender_prob: np.ndarray | None
    num_other: int


def read_answers(
    path: Path, files: Sequence[str], *, img_col: str, allow_missing: bool, also: Sequence[str] = ()
) -> Answers:
    """Read a CSV of answers and put them in the order of the images.

    Labels stand in a column `age` (or `age_group`, `agegroup`) and a column `gender`, in any of the spellings of a label
    CSV; probabilities in columns `age_prob_0-2` or `age_prob_0` and so on, `gender_prob_Male` or `gender_prob_0` and so
    on. Where there are both, the labels answer. An image is found by what the label CSV calls it, or by a longer path
    that ends so.

    Args:
        path: The CSV.
        files: What the label CSV calls the images.
        img_col: Image column; where the CSV has none of that name, its usual other names are tried.
        also: Second names of the images, such as those that Parquet rows give theirs; "" for none.
        allow_missing: Leave out the images without an answer; otherwise they are an error.

    Raises:
        DataError: With one line for each problem.
    """
    problems = Problems()
    table = read_table(path, problems, name=str(path))
    problems.raise_if_any()
    assert table is not None
    reader = _Reader(table, img_col, problems)
    found = reader.read(_names(files, also))
    missing = [files[place] for place in range(len(files)) if place not in found]
    if missing and not allow_missing and not problems:
        problems.add(
            "images without an answer",
            f"{path}: {len(missing):,} of {len(files):,} images have no answer, first {shown(missing[0], 200)}; answer all "
            "of them, or use --on_bad_image skip to score the others alone",
        )
    problems.raise_if_any()
    if not found:
        raise DataError(
            f"{path}: none of its {len(table.rows):,} rows is about an image of the split; the first one names "
            f"{shown(table.rows[0][reader.image] if table.rows else '', 200)}, the split has {shown(files[0], 200)}"
        )
    return reader.answers(found)


class _Reader:
    """One CSV of answers."""

    def __init__(self, table: Table, img_col: str, problems: Problems) -> None:
        self.table, self.problems = table, problems
        self.folded = [name.casefold() for name in table.header]
        image = image_columns(table.header, img_col)
        self.labels: dict[str, int] = {}
        self.shares: dict[str, list[int]] = {}
        for task, classes, names, _ in _TASKS:
            if found := self._columns(names):
                self.labels[task] = found[0]
            shares = [self._columns((f"{task}_prob_{label}", f"{task}_prob_{k}")) for k, label in enumerate(classes)]
            if all(shares):
                self.shares[task] = [columns[0] for columns in shares]
            if task not in self.labels and task not in self.shares:
                self._refuse(f"no column {' or '.join(names)}, and not all of {task}_prob_{classes[0]}, ...")
        if len(image) != 1:
            self._refuse(
                f"{len(image) or 'no'} columns hold the image; accepted: {', '.join((img_col, *IMAGE_COLUMNS))}"
            )
        problems.raise_if_any()
        self.image = image[0]
        self.num_other = 0

    def _columns(self, names: Sequence[str]) -> list[int]:
        wanted = {name.strip().casefold() for name in names}
        return [i for i, name in enumerate(self.folded) if name in wanted]

    def _refuse(self, what: str) -> None:
        header = ", ".join(shown(name, 30) for name in self.table.header[:16])
        self.problems.add(
            "columns", f"{self.table.name} line {self.table.header_line}: {what}; the header has {header}"
        )

    def read(self, places: dict[str, int]) -> dict[int, int]:
        """Return place of an image -> row of its answer."""
        found: dict[int, int] = {}
        for row, cells in enumerate(self.table.rows):
            place = _place(_plain(cells[self.image]), places)
            if place is None:
                self.num_other += 1
            elif self._is_blank(cells):
                continue
            elif (first := found.setdefault(place, row)) != row and self._said(first) != self._said(row):
                self._note(row, f"{shown(cells[self.image], 200)} has another answer on line {self.table.lines[first]}")
        return found

    def _is_blank(self, cells: Sequence[str]) -> bool:
        """Whether a row has no answer: `predict` leaves one so whose image it could not read."""
        columns = [*self.labels.values(), *(i for shares in self.shares.values() for i in shares)]
        return not any(cells[i].strip() for i in columns)

    def _said(self, row: int) -> list[str]:
        cells = self.table.rows[row]
        return [cells[i].strip() for i in (*self.labels.values(), *(i for part in self.shares.values() for i in part))]

    def _note(self, row: int, what: str) -> None:
        self.problems.add("answers", f"{self.table.name} line {self.table.lines[row]}: {what}")

    def answers(self, found: dict[int, int]) -> Answers:
        """Return the answers of these rows."""
        index = sorted(found)
        rows = [found[place] for place in index]
        prob = {task: self._shares(task, rows) for task in self.shares}
        chosen = {}
        for task, classes, _, parse in _TASKS:
            if task not in self.labels:
                chosen[task] = prob[task].argmax(axis=1)
                continue
            parsed = [parse(self.table.rows[row][self.labels[task]]) for row in rows]
            for row, one in zip(rows, parsed, strict=True):
                if one is None:
                    cell = shown(self.table.rows[row][self.labels[task]])
                    self._note(row, f"{task} {cell} is not one of the {task} labels; accepted: {', '.join(classes)}")
            chosen[task] = np.array([0 if one is None else one.index for one in parsed], dtype=np.int64)
            if task in prob:
                self._check_agreement(task, rows, prob[task], chosen[task])
        self.problems.raise_if_any()
        return Answers(
            np.array(index, dtype=np.int64), chosen["age"], chosen["gender"], prob.get("age"), prob.get("gender"),
            self.num_other,
        )  # fmt: skip

    def _shares(self, task: str, rows: Sequence[int]) -> np.ndarray:
        shares = np.zeros((len(rows), len(self.shares[task])))
        for at, row in enumerate(rows):
            cells = [self.table.rows[row][i] for i in self.shares[task]]
            try:
                shares[at] = [float(cell) for cell in cells]
            except ValueError:
                self._note(row, f"{task} probabilities {shown(' '.join(cells))} are not all numbers")
                continue
            if not (shares[at] >= 0).all() or not abs(shares[at].sum() - 1) < _SUM_TOLERANCE:
                self._note(
                    row, f"{task} probabilities sum to {shares[at].sum():.3g} or are negative; they must sum to 1"
                )
        return shares

    def _check_agreement(self, task: str, rows: Sequence[int], prob: np.ndarray, chosen: np.ndarray) -> None:
        at = np.arange(len(rows))
        for i in np.flatnonzero(prob[at, chosen] < prob.max(axis=1) - 1e-6):
            self._note(
                rows[int(i)], f"{task} and the largest of its probabilities are two answers; leave one of them out"
            )


def _names(files: Sequence[str], also: Sequence[str]) -> dict[str, int]:
    """Return name -> place; a second name counts where no other image has it."""
    names = {file: place for place, file in enumerate(map(_plain, files))}
    times = Counter(map(_plain, also))
    for place, name in enumerate(map(_plain, also)):
        if name and times[name] == 1:
            names.setdefault(name, place)
    return names


def _plain(name: str) -> str:
    return name.strip().replace("\\", "/").removeprefix("./")


def _place(name: str, places: dict[str, int]) -> int | None:
    """Return the place of the image whose name is this one, or a tail of it that begins at a folder."""
    while name not in places:
        name = name.partition("/")[2]
        if not name:
            return None
    return places[name]
