"""Pictures to answer for, one by one: of a folder, a glob, a CSV, a list on standard input, or a single file."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TextIO

from fairface_core.dataset.columns import IMAGE_COLUMNS, image_columns
from fairface_core.dataset.image_finder import ImageFinder
from fairface_core.dataset.table import read_table
from fairface_core.errors import Problems, shown

STDIN = "-"
_TABLES = (".csv", ".tsv")
# What a folder's images end in; other files are passed over. A picture that is named itself may be called anything.
_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".gif", ".bmp", ".dib", ".ppm", ".pgm", ".pbm", ".pnm",
     ".webp", ".tif", ".tiff")
)  # fmt: skip


class Picture(NamedTuple):
    """One picture that was asked for.

    Attributes:
        file: What to call it: the path as it was given, or the cell of a CSV.
        path: Where it lies.
        error: Why it is not looked at; empty where it is.
    """

    file: str
    path: str
    error: str = ""


@dataclass(frozen=True)
class Source:
    """One input of the command.

    Attributes:
        pictures: Gives its pictures, from the first one, in a fixed order.
        count: Gives their number; None where nobody knows it yet.
        files: The files that are read as they stand: none of them may be the output.
    """

    pictures: Callable[[], Iterator[Picture]]
    count: Callable[[], int | None]
    files: tuple[Path, ...] = ()


def open_sources(
    inputs: Sequence[str], *, stdin: TextIO, root: Path | None = None, img_col: str = IMAGE_COLUMNS[0]
) -> list[Source]:
    """Say where the pictures of a command line come from. Folders are listed while they are read.

    Args:
        inputs: Folders, globs, CSVs, pictures, or `-` for a list on standard input, a path a line.
        stdin: Standard input.
        root: Where the images of a CSV lie; None for the folder of the CSV.
        img_col: Image column of a CSV; where it has none of that name, its usual other names are tried.

    Raises:
        DataError: With one line for each input that is nothing of all that, and for each bad line of a CSV.
    """
    problems = Problems()
    opened = [_open(text, stdin, root, img_col, problems) for text in inputs]
    problems.raise_if_any()
    return [source for source in opened if source is not None]


def _open(text: str, stdin: TextIO, root: Path | None, img_col: str, problems: Problems) -> Source | None:
    path = Path(text)
    if text == STDIN:
        return Source(lambda: _listed(stdin), lambda: None)
    if path.is_dir():
        return _counted(lambda: _walk(text))
    if path.suffix.lower() in _TABLES and path.exists():
        pictures = _of_table(path, root or path.absolute().parent, img_col, problems)
        return Source(lambda: iter(pictures), lambda: len(pictures), (path,))
    if path.exists():
        return Source(lambda: iter([Picture(text, text)]), lambda: 1, (path,))
    if glob.has_magic(text):
        return _counted(lambda: _glob(text))
    problems.add(
        "inputs", f"{shown(text, 300)}: no such file or folder; accepted: a folder, a glob, a CSV, a picture or -"
    )
    return None


def _counted(pictures: Callable[[], Iterator[Picture]]) -> Source:
    return Source(pictures, lambda: sum(1 for _ in pictures()))


def _walk(folder: str) -> Iterator[Picture]:
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if _is_image(name):
                file = os.path.join(place, name)  # noqa: PTH118 - pathlib takes ten times as long for each
                yield Picture(file, file)


def _glob(pattern: str) -> Iterator[Picture]:
    for file in sorted(glob.iglob(pattern, recursive=True)):  # noqa: PTH207 - the pattern may be absolute
        if _is_image(file.rpartition("/")[2]):
            yield Picture(file, file)


def _is_image(name: str) -> bool:
    # macOS leaves a hidden `._name.jpg` beside each image that it copies to a foreign disk.
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in _SUFFIXES  # noqa: PTH122


def _listed(lines: TextIO) -> Iterator[Picture]:
    for line in lines:
        file = line.rstrip("\r\n")
        if file.strip():
            yield Picture(file, file)


def _of_table(path: Path, root: Path, img_col: str, problems: Problems) -> list[Picture]:
    table = read_table(path, problems, name=str(path))
    if table is None:
        return []
    columns = image_columns(table.header, img_col)
    if len(columns) != 1:
        names = ", ".join(dict.fromkeys((img_col, *IMAGE_COLUMNS)))
        problems.add(
            "image columns",
            f"{path} line {table.header_line}: {len(columns) or 'no'} columns hold the image; accepted names: {names}; "
            "name it with --img_col",
        )
        return []
    finder = ImageFinder(root)
    pictures = []
    for cells in table.rows:
        file = cells[columns[0]].strip()
        place = finder.find(file)
        pictures.append(Picture(file, place.path, "" if place.refusal is None else place.refusal.text))
    return pictures
