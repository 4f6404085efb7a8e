"""Which column of a label CSV plays which role: its usual names, in any case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fairface_core.dataset.table import Table, read_table
from fairface_core.errors import Problems, shown

IMAGE_COLUMNS = ("file", "image_path", "img", "path", "filename", "filepath")
AGE_COLUMNS = ("age", "age_group", "agegroup")
GENDER_COLUMNS = ("gender",)


@dataclass(frozen=True)
class OpenedCsv:
    """A label CSV whose columns were found; its images were not looked for yet.

    Attributes:
        table: The texts.
        columns: Role -> index of the column that plays it. No `image` where no column does: that was told of.
    """

    table: Table
    columns: dict[str, int]

    def images(self) -> list[str]:
        """Return the cells of the image column; none without one."""
        index = self.columns.get("image")
        return [] if index is None else [cells[index].strip() for cells in self.table.rows]


def open_csv(path: Path, problems: Problems, *, img_col: str) -> OpenedCsv | None:
    """Read a label CSV and find its columns, with all the rules of docs/architecture.md.

    Args:
        path: The CSV.
        problems: Gets one line for each problem.
        img_col: Image column; where the CSV has none of that name, its usual other names are tried.

    Returns:
        The CSV, or None where it has no readable header.
    """
    table = read_table(path, problems, name=path.name)
    columns = None if table is None else _columns(table, img_col, problems)
    if table is None or columns is None:
        return None
    if not table.rows:
        problems.add("CSVs without rows", f"{table.name}: has a header but no rows; one row per image is needed")
    return OpenedCsv(table, columns)


def image_columns(header: Sequence[str], img_col: str) -> list[int]:
    """Return the columns that can hold the image: spelled as the user did, in any case, or by a usual name."""
    folded = [name.strip().casefold() for name in header]
    exact = [i for i, name in enumerate(header) if name == img_col]
    named = exact or [i for i, name in enumerate(folded) if name == img_col.strip().casefold()]
    return named or [i for i, name in enumerate(folded) if name in IMAGE_COLUMNS]


def _columns(table: Table, img_col: str, problems: Problems) -> dict[str, int] | None:
    """Return role -> column index; None where the age or gender is played by no column, or a role by two."""
    folded = [name.strip().casefold() for name in table.header]
    matches = {
        "image": image_columns(table.header, img_col),
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
            likely = next((name for name in table.header if "image" in name.casefold()), "NAME")
            advice = f"; name it with --img_col {shown(likely, 40)[1:-1]}" if role == "image" else ""
            problems.add(
                "missing columns",
                f"{where}: no column holds the {role}; accepted names: {names}; the header has {header}{advice}",
            )
            # Without images the labels can be looked at all the same: their problems are told in the same message.
            sound = sound and role == "image"
    return {role: found[0] for role, found in matches.items() if found} if sound else None
