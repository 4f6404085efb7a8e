"""One label CSV as checked rows: columns found, labels repaired, images located, every problem with its line."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from fairface_core.dataset.columns import OpenedCsv
from fairface_core.dataset.image_finder import Location, Refusal
from fairface_core.dataset.sources.class_names import ORDERS
from fairface_core.dataset.spelling import Parsed, parse_age, parse_gender
from fairface_core.dataset.table import Table
from fairface_core.errors import Problems, shown
from fairface_core.labels import AGE_GROUPS, GENDERS

FOLLOWS_POLICY = frozenset({"missing images", "unreadable images"})
# 3-9 and 10-19 are saved as dates in the language of the spreadsheet, of which English alone is read.
_DATE_ADVICE = "; if a spreadsheet made a date of it, save that column as text or as ISO dates such as 2026-03-09"
T = TypeVar("T")
_NUMBER = re.compile(r"\d+")
_TRUTH = {"true": 1, "1": 1, "false": 0, "0": 0}


@dataclass(frozen=True)
class Rows:
    """Rows of one CSV, or a part of them; aligned arrays of length N.

    Attributes:
        csv_name: File name of the CSV, such as `fairface_label_val.csv`; `train` or `val` for rows of Parquet files.
        line: int64 [N], 1-based physical line in that CSV; 0-based row over all Parquet files of the split.
        file: object (str) [N], the text of the image column; Parquet file and row there (`0.25/train.parquet:17`).
        path: object (str) [N], place of the image (`fairface_core.images.places`), such as the absolute path of its file
            with all links resolved.
        age: int64 [N], 0..8.
        gender: int64 [N], 0..1.
        race: object (str) [N], "" where the cell is empty; None where the CSV has no such column.
        service_test: int8 [N], 1 true, 0 false, -1 not said; None where the CSV has no such column.
        in_parquet: Whether the rows come from Parquet files.
    """

    csv_name: str
    line: np.ndarray
    file: np.ndarray
    path: np.ndarray
    age: np.ndarray
    gender: np.ndarray
    race: np.ndarray | None
    service_test: np.ndarray | None = None
    in_parquet: bool = False

    def where(self, index: int) -> str:
        """Return where a row stands and what it names, for a message."""
        text = shown(self.file[index], 200)
        return text if self.in_parquet else f"{self.csv_name} line {self.line[index]}: {text}"

    def row_name(self, index: int) -> str:
        """Return a short name of a row, such as `line 7`."""
        return str(self.file[index]) if self.in_parquet else f"line {self.line[index]}"

    def tokens(self, index: np.ndarray) -> list[str]:
        """Return what the digest of the data knows these rows by: the CSV and line, or those of a plain CSV."""
        name, first = (f"fairface_label_{self.csv_name}.csv", 2) if self.in_parquet else (self.csv_name, 0)
        return [f"{name}:{line + first}" for line in self.line[index].tolist()]

    def take(self, index: np.ndarray) -> Rows:
        """Return the rows at these positions, int [M], in that order."""
        return Rows(
            csv_name=self.csv_name,
            line=self.line[index],
            file=self.file[index],
            path=self.path[index],
            age=self.age[index],
            gender=self.gender[index],
            race=None if self.race is None else self.race[index],
            service_test=None if self.service_test is None else self.service_test[index],
            in_parquet=self.in_parquet,
        )

    def __len__(self) -> int:
        """Return N."""
        return len(self.line)


@dataclass(frozen=True)
class LabelFile:
    """What one CSV holds.

    Attributes:
        rows: Its rows without repeats. `path` is "" where the image is missing or no regular file.
        names: Image names in normal form, aligned with `rows`; they enter the digest of the data.
        places: Image paths before links are followed, aligned with `rows`.
        columns: Role ("image", "age", ...) -> name of the column that plays it.
        encoding: Text encoding of the CSV, or `Parquet`.
        delimiter: Character between its fields.
        num_csv_rows: Rows with text in the CSV, repeats and refused ones included.
        blank_rows: Rows without text.
        repeated_rows: Rows that say again, letter for letter after repair, what an earlier one says.
        repaired: Kind of repair -> cells repaired.
        missing: Kind ("missing images", "unreadable images") -> rows whose image is not there.
    """

    rows: Rows
    names: list[str]
    places: list[str]
    columns: dict[str, str]
    encoding: str
    delimiter: str
    num_csv_rows: int
    blank_rows: int
    repeated_rows: int
    repaired: Counter[str]
    missing: Counter[str]


def read_rows(
    opened: OpenedCsv, find: Callable[[str], Location], problems: Problems, *, on_bad_image: str
) -> LabelFile:
    """Read the labels of a CSV and find its images.

    Args:
        opened: The CSV.
        find: Finds an image by its text.
        problems: Gets one line for each problem.
        on_bad_image: With `error`, a missing image is a problem; with `skip` it is counted.

    Returns:
        The rows that are in order.
    """
    found = [find(text) for text in opened.images()]
    return _Reader(opened.table, opened.columns, problems, skip=on_bad_image == "skip").read(found)


def rows_of_parquet(table: Table, found: list[Location], problems: Problems) -> LabelFile:
    """Read the labels of Parquet rows, whose first column says where each stands; see `read_rows`."""
    columns = {role: index for index, role in enumerate(table.header)}
    columns["image"] = columns.pop("row")
    return _Reader(table, columns, problems, skip=False).read(found, in_parquet=True)


class _Reader:
    """Turns one table into rows."""

    def __init__(self, table: Table, columns: dict[str, int], problems: Problems, *, skip: bool) -> None:
        self.table, self.columns, self.problems, self.skip = table, columns, problems, skip

    def read(self, found: list[Location], *, in_parquet: bool = False) -> LabelFile:
        table = self.table
        texts = [cell.strip() for cell in self._column("image")]
        ages = _each(self._column("age"), parse_age)
        genders = _each(self._column("gender"), parse_gender)
        races = _each(self._column("race"), lambda cell: " ".join(cell.split())) or [""] * len(table.rows)
        keep: list[int] = []
        first_at: dict[str, int] = {}
        missing: Counter[str] = Counter()
        repeated = 0
        if "image" not in self.columns:
            for row, (age, gender, race) in enumerate(zip(ages, genders, races, strict=True)):
                self._labels_are_sound(row, age, gender, race)
            found, ages, genders, races = [], [], [], []
        for row, (location, age, gender, race) in enumerate(zip(found, ages, genders, races, strict=True)):
            refusal = location.refusal
            if age is None or gender is None or refusal is not None or race.isdecimal():
                sound = self._labels_are_sound(row, age, gender, race)
                sound = self._may_lack_image(row, texts[row], refusal) and sound
                if not sound:
                    continue
            first = first_at.setdefault(location.place, row)
            if first == row:
                keep.append(row)
                if refusal is not None:
                    missing[refusal.kind] += 1
            elif _labels(ages, genders, races, first) == _labels(ages, genders, races, row):
                repeated += 1
            else:
                said = [_words(_labels(ages, genders, races, at)) for at in (first, row)]
                self._note_conflict(row, first, texts[row], said)
        repaired = Counter(
            cell.repair for column in (ages, genders) for cell in map(column.__getitem__, keep) if cell and cell.repair
        )
        repaired["path spelling"] = 0 if in_parquet else sum(found[row].name != texts[row] for row in keep)
        service = _each(self._column("service_test"), lambda cell: _TRUTH.get(cell.strip().casefold(), -1))
        rows = Rows(
            csv_name=table.name,
            line=np.array(table.lines, dtype=np.int64)[keep],
            file=_texts([texts[row] for row in keep]),
            path=_texts([found[row].path for row in keep]),
            age=np.array([_index(ages[row]) for row in keep], dtype=np.int64),
            gender=np.array([_index(genders[row]) for row in keep], dtype=np.int64),
            race=_texts([races[row] for row in keep]) if "race" in self.columns else None,
            service_test=np.array(service, dtype=np.int8)[keep] if "service_test" in self.columns else None,
            in_parquet=in_parquet,
        )
        return LabelFile(
            rows=rows,
            names=[found[row].name for row in keep],
            places=[found[row].place for row in keep],
            columns={role: table.header[i] for role, i in self.columns.items()},
            encoding=table.encoding,
            delimiter=table.delimiter,
            num_csv_rows=len(table.rows),
            blank_rows=table.blank_rows,
            repeated_rows=repeated,
            repaired=+repaired,
            missing=missing,
        )

    def _column(self, role: str) -> list[str]:
        """Return the cells of a column; none where the CSV has no such column."""
        index = self.columns.get(role)
        return [] if index is None else [cells[index] for cells in self.table.rows]

    def _add(self, kind: str, row: int, text: str, cause: object) -> None:
        row_name = self.table.row_name(row)
        self.problems.add(kind, f"{self.table.where(row)}: {text}", cause=(self.table.name, cause), row=row_name)

    def _may_lack_image(self, row: int, text: str, refusal: Refusal | None) -> bool:
        """Note why a row's image was refused; True where there is nothing to refuse, or the policy lets it pass."""
        if refusal is None or (self.skip and refusal.kind in FOLLOWS_POLICY):
            return True
        advice = "; add the file, correct the row, or use --on_bad_image skip" if refusal.kind in FOLLOWS_POLICY else ""
        column = self.table.header[self.columns["image"]]
        self._add(
            refusal.kind, row, f"{column} {shown(text, 200)} {refusal.text}{advice}", refusal.cause or refusal.text
        )
        return False

    def _labels_are_sound(self, row: int, age: Parsed | None, gender: Parsed | None, race: str) -> bool:
        for role, parsed, accepted in (("age", age, AGE_GROUPS), ("gender", gender, GENDERS)):
            if parsed is None:
                cell, column = self.table.rows[row][self.columns[role]], self.table.header[self.columns[role]]
                kind, said, cause = (
                    f"unknown {role} labels",
                    f"{column} {shown(cell)} is not one of the {role} labels",
                    cell,
                )
                advice = "correct or remove the row"
                if not cell.strip():
                    kind, said = f"empty {role} cells", f"{column} is empty"
                elif cell.strip().isdecimal():
                    said, cause = f"{column} {shown(cell)} is an integer without a name: {ORDERS[role]}", "integers"
                    advice = "write the names"
                elif role == "age" and any(map(str.isdigit, cell)) and any(map(str.isalpha, cell)):
                    advice += _DATE_ADVICE
                self._add(kind, row, f"{said}; accepted: {', '.join(accepted)}; {advice}", cause)
        if race.isdecimal():
            column = self.table.header[self.columns["race"]]
            said = f"{column} {shown(race)} is an integer without a name: {ORDERS['race']}"
            self._add("unknown race labels", row, f"{said}; write the names, or remove the column", "integers")
        return age is not None and gender is not None and not race.isdecimal()

    def _note_conflict(self, row: int, first: int, text: str, said: list[str]) -> None:
        self.problems.add(
            "images with two labels",
            f"{self.table.where(row)}: {shown(text, 200)} already stands on line {self.table.lines[first]} with another "
            f"label ({said[0]}; here {said[1]}); keep the right row",
        )


def _each(cells: list[str], function: Callable[[str], T]) -> list[T]:
    """Apply a function to each cell, once for each distinct text: label columns hold few."""
    known = {cell: function(cell) for cell in set(cells)}
    return [known[cell] for cell in cells]


def _index(parsed: Parsed | None) -> int:
    assert parsed is not None, "rows without a label are not kept"
    return parsed.index


def _labels(
    ages: list[Parsed | None], genders: list[Parsed | None], races: list[str], row: int
) -> tuple[int, int, str]:
    return _index(ages[row]), _index(genders[row]), races[row]


def _words(labels: tuple[int, int, str]) -> str:
    age, gender, race = labels
    return ", ".join(filter(None, [AGE_GROUPS[age], GENDERS[gender], shown(race, 40)[1:-1]]))


def _texts(values: list[str]) -> np.ndarray:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def note_unreadable(rows: Rows, reasons: Mapping[str, str], problems: Problems) -> None:
    """Note every row whose image cannot be decoded, with its line.

    Args:
        rows: Rows of one CSV.
        reasons: Path of each image that cannot be decoded -> why.
        problems: Gets one line for each row.
    """
    for index, path in enumerate(rows.path.tolist()):
        if path in reasons:
            problems.add(
                "unreadable images",
                f"{rows.where(index)}: {reasons[path]}; replace the file, remove the row, or use --on_bad_image skip",
                cause=(rows.csv_name, _NUMBER.sub("#", reasons[path])),
                row=rows.row_name(index),
            )


def digest_lines(labels: LabelFile) -> str:
    """Return the content that a clean CSV and its accepted variants share, one row a line."""
    races = [""] * len(labels.rows) if labels.rows.race is None else labels.rows.race.tolist()
    rows = zip(labels.names, labels.rows.age.tolist(), labels.rows.gender.tolist(), races, strict=True)
    return unicodedata.normalize(
        "NFC", "\n".join(f"{name!r} {age} {gender} {race!r}" for name, age, gender, race in rows)
    )
