"""One label CSV as checked rows: columns found, labels repaired, images located, every problem with its line."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from fairface_core.dataset.image_finder import ImageFinder, Refusal
from fairface_core.dataset.spelling import Parsed, parse_age, parse_gender
from fairface_core.dataset.table import Table, read_table
from fairface_core.errors import Problems, shown
from fairface_core.labels import AGE_GROUPS, GENDERS

IMAGE_COLUMNS = ("file", "image_path", "img", "path", "filename", "filepath")
AGE_COLUMNS = ("age", "age_group", "agegroup")
GENDER_COLUMNS = ("gender",)
FOLLOWS_POLICY = frozenset({"missing images", "unreadable images"})
# 3-9 and 10-19 are saved as dates in the language of the spreadsheet, of which English alone is read.
_DATE_ADVICE = "; if a spreadsheet made a date of it, save that column as text or as ISO dates such as 2026-03-09"
T = TypeVar("T")
_TRUTH = {"true": 1, "1": 1, "false": 0, "0": 0}


@dataclass(frozen=True)
class Rows:
    """Rows of one CSV, or a part of them; aligned arrays of length N.

    Attributes:
        csv_name: File name of the CSV, such as `fairface_label_val.csv`.
        line: int64 [N], 1-based physical line in that CSV.
        file: object (str) [N], the text of the image column.
        path: object (str) [N], absolute path of the image with all links resolved.
        age: int64 [N], 0..8.
        gender: int64 [N], 0..1.
        race: object (str) [N], "" where the cell is empty; None where the CSV has no such column.
        service_test: int8 [N], 1 true, 0 false, -1 not said; None where the CSV has no such column.
    """

    csv_name: str
    line: np.ndarray
    file: np.ndarray
    path: np.ndarray
    age: np.ndarray
    gender: np.ndarray
    race: np.ndarray | None
    service_test: np.ndarray | None = None

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
        encoding: Text encoding of the CSV.
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


def read_label_file(
    path: Path, finder: ImageFinder, problems: Problems, *, img_col: str, on_bad_image: str
) -> LabelFile | None:
    """Read a label CSV, with all the rules of docs/architecture.md, "The contract with the original script".

    Args:
        path: The CSV.
        finder: Finds its images.
        problems: Gets one line for each problem.
        img_col: Image column; where the CSV has none of that name, its usual other names are tried.
        on_bad_image: With `error`, a missing image is a problem; with `skip` it is counted.

    Returns:
        The rows that are in order, or None where the CSV has no readable header.
    """
    table = read_table(path, problems, name=path.name)
    columns = None if table is None else _columns(table, img_col, problems)
    if table is None or columns is None:
        return None
    if not table.rows:
        problems.add("CSVs without rows", f"{table.name}: has a header but no rows; one row per image is needed")
    return _Reader(table, columns, problems, skip=on_bad_image == "skip").read(finder)


def _columns(table: Table, img_col: str, problems: Problems) -> dict[str, int] | None:
    """Return role -> column index; None where a needed role is played by no column, or by two."""
    folded = [name.strip().casefold() for name in table.header]
    exact = [i for i, name in enumerate(table.header) if name == img_col]
    image = exact or [i for i, name in enumerate(folded) if name == img_col.strip().casefold()]
    matches = {
        "image": image or [i for i, name in enumerate(folded) if name in IMAGE_COLUMNS],
        "age": [i for i, name in enumerate(folded) if name in AGE_COLUMNS],
        "gender": [i for i, name in enumerate(folded) if name in GENDER_COLUMNS],
        "race": [i for i, name in enumerate(folded) if name == "race"],
        "service_test": [i for i, name in enumerate(folded) if name == "service_test"],
    }
    accepted = {"image": (img_col, *IMAGE_COLUMNS), "age": AGE_COLUMNS, "gender": GENDER_COLUMNS}
    where = f"{table.name} line {table.header_line}"
    sound = True
    for role, found in matches.items():
        if len(found) > 1:
            names = ", ".join(shown(table.header[i]) for i in found)
            problems.add("doubled columns", f"{where}: {len(found)} columns hold the {role}: {names}; keep one of them")
            sound = False
        elif not found and role in accepted:
            names = ", ".join(dict.fromkeys(accepted[role]))
            header = ", ".join(shown(name, 30) for name in table.header[:12])
            problems.add(
                "missing columns",
                f"{where}: no column holds the {role}; accepted names: {names}; the header has {header}",
            )
            sound = False
    return {role: found[0] for role, found in matches.items() if found} if sound else None


class _Reader:
    """Turns one table into rows."""

    def __init__(self, table: Table, columns: dict[str, int], problems: Problems, *, skip: bool) -> None:
        self.table, self.columns, self.problems, self.skip = table, columns, problems, skip

    def read(self, finder: ImageFinder) -> LabelFile:
        table = self.table
        texts = [cell.strip() for cell in self._column("image")]
        found = [finder.find(text) for text in texts]
        ages = _each(self._column("age"), parse_age)
        genders = _each(self._column("gender"), parse_gender)
        races = _each(self._column("race"), lambda cell: " ".join(cell.split())) or [""] * len(texts)
        keep: list[int] = []
        first_at: dict[str, int] = {}
        missing: Counter[str] = Counter()
        repeated = 0
        for row, (location, age, gender) in enumerate(zip(found, ages, genders, strict=True)):
            refusal = location.refusal
            if age is None or gender is None or refusal is not None:
                sound = self._labels_are_sound(row, age, gender)
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
        repaired["path spelling"] = sum(found[row].name != texts[row] for row in keep)
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

    def _where(self, row: int) -> str:
        return f"{self.table.name} line {self.table.lines[row]}"

    def _may_lack_image(self, row: int, text: str, refusal: Refusal | None) -> bool:
        """Note why a row's image was refused; True where there is nothing to refuse, or the policy lets it pass."""
        if refusal is None or (self.skip and refusal.kind in FOLLOWS_POLICY):
            return True
        advice = "; add the file, correct the row, or use --on_bad_image skip" if refusal.kind in FOLLOWS_POLICY else ""
        column = self.table.header[self.columns["image"]]
        self.problems.add(refusal.kind, f"{self._where(row)}: {column} {shown(text, 200)} {refusal.text}{advice}")
        return False

    def _labels_are_sound(self, row: int, age: Parsed | None, gender: Parsed | None) -> bool:
        for role, parsed, accepted in (("age", age, AGE_GROUPS), ("gender", gender, GENDERS)):
            if parsed is None:
                cell, column = self.table.rows[row][self.columns[role]], self.table.header[self.columns[role]]
                kind, said = f"unknown {role} labels", f"{column} {shown(cell)} is not one of the {role} labels"
                if not cell.strip():
                    kind, said = f"empty {role} cells", f"{column} is empty"
                advice = f"accepted: {', '.join(accepted)}; correct or remove the row"
                if role == "age" and any(map(str.isdigit, cell)) and any(map(str.isalpha, cell)):
                    advice += _DATE_ADVICE
                self.problems.add(kind, f"{self._where(row)}: {said}; {advice}")
        return age is not None and gender is not None

    def _note_conflict(self, row: int, first: int, text: str, said: list[str]) -> None:
        self.problems.add(
            "images with two labels",
            f"{self._where(row)}: {shown(text, 200)} already stands on line {self.table.lines[first]} with another "
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
    for path, line, file in zip(rows.path.tolist(), rows.line.tolist(), rows.file.tolist(), strict=True):
        if path in reasons:
            problems.add(
                "unreadable images",
                f"{rows.csv_name} line {line}: {shown(file, 200)}: {reasons[path]}; "
                "replace the file, remove the row, or use --on_bad_image skip",
            )


def digest_lines(labels: LabelFile) -> str:
    """Return the content that a clean CSV and its accepted variants share, one row a line."""
    races = [""] * len(labels.rows) if labels.rows.race is None else labels.rows.race.tolist()
    rows = zip(labels.names, labels.rows.age.tolist(), labels.rows.gender.tolist(), races, strict=True)
    return unicodedata.normalize(
        "NFC", "\n".join(f"{name!r} {age} {gender} {race!r}" for name, age, gender, race in rows)
    )
