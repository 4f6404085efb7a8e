"""Pictures to answer for, one by one: of a folder, a glob, an archive, a Parquet file, a CSV, a list, or a single file."""

from __future__ import annotations

import glob
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np

from fairface_core.dataset.columns import IMAGE_COLUMNS, image_columns
from fairface_core.dataset.sources.archives import finder_for
from fairface_core.dataset.table import read_table
from fairface_core.errors import DataError, Problems, shown
from fairface_core.files.regular import open_regular
from fairface_core.images.decode import ImageError
from fairface_core.images.places import batches, bytes_column, in_parquet, in_zip, members

STDIN = "-"
_TABLES = (".csv", ".tsv")
_ARCHIVE, _PARQUET = ".zip", ".parquet"
# Pictures of a Parquet file that are read at a time.
_ROWS_AT_A_TIME = 64
# What a folder's images end in; other files are passed over. A picture that is named itself may be called anything.
_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".gif", ".bmp", ".dib", ".ppm", ".pgm", ".pbm", ".pnm",
     ".webp", ".tif", ".tiff")
)  # fmt: skip


class Face(NamedTuple):
    """One face.

    Attributes:
        box: Left, top, right, bottom of the detector's box, pixels of the picture when it is upright.
        confidence: The detector's; about 1 for a clear face, 0 at its own threshold.
        pixels: uint8 [224, 224, 3], RGB: turned upright by the eyes, with the margin around it.
    """

    box: tuple[int, int, int, int]
    confidence: float
    pixels: np.ndarray


class Picture(NamedTuple):
    """One picture that was asked for.

    Attributes:
        file: What to call it: the path as it was given, or the cell of a CSV.
        path: Its place (`fairface_core.images.places`).
        error: Why it is not looked at; empty where it is.
        raw: Its bytes, where they were read on the way; None where they lie at `path`.
        face: The face in it to answer for; None for the whole picture.
    """

    file: str
    path: str
    error: str = ""
    raw: bytes | None = None
    face: Face | None = None


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
    if path.suffix.lower() in (_ARCHIVE, _PARQUET) and path.exists():
        return _container(text, problems)
    if path.exists():
        return Source(lambda: iter([Picture(text, text)]), lambda: 1, (path,))
    if glob.has_magic(text) and Path(text).suffix.lower() in (_ARCHIVE, _PARQUET):
        return _joined([_container(file, problems) for file in sorted(glob.iglob(text, recursive=True))])  # noqa: PTH207
    if glob.has_magic(text):
        return _counted(lambda: _glob(text))
    problems.add(
        "inputs",
        f"{shown(text, 300)}: no such file or folder; accepted: a folder, a glob, a zip archive, "
        "a Parquet file, a CSV, a picture or -",
    )
    return None


def _container(text: str, problems: Problems) -> Source | None:
    """Return the pictures of a zip archive or of a Parquet file."""
    try:
        if text.lower().endswith(_ARCHIVE):
            names = [name for name in members(text) if _is_image(name.rpartition("/")[2])]
            files = [Picture(f"{text}/{name}", in_zip(text, name)) for name in names]
            return Source(lambda: iter(files), lambda: len(files), (Path(text),))
        num_rows = _rows_of(text)
    # pyarrow's own errors are children of these two; zipfile's is none.
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        problems.add(
            "unreadable archives", f"{shown(text, 300)}: is no whole file of its kind ({reason}); download it again"
        )
        return None
    except DataError as error:
        problems.add("unreadable archives", f"{shown(text, 300)}: {error}")
        return None
    return Source(lambda: _of_parquet(text, num_rows), lambda: num_rows, (Path(text),))


def _rows_of(path: str) -> int:
    import pyarrow.parquet as pq

    with open_regular(path) as source, pq.ParquetFile(source) as file:
        if not bytes_column(file.schema_arrow):
            raise DataError("has no column image (or file) with the bytes of pictures")
        return int(file.metadata.num_rows)


def _of_parquet(path: str, num_rows: int) -> Iterator[Picture]:
    places = [in_parquet(path, row, "") for row in range(num_rows)]
    rows = iter(range(num_rows))
    for batch in batches(places, _ROWS_AT_A_TIME):
        for place, raw in batch:
            file = f"{path}:{next(rows)}"
            if isinstance(raw, ImageError):
                yield Picture(file, place, raw.reason)
            else:
                yield Picture(file, place, raw=raw)


def _joined(sources: Sequence[Source | None]) -> Source:
    whole = [source for source in sources if source is not None]

    def pictures() -> Iterator[Picture]:
        for source in whole:
            yield from source.pictures()

    return Source(
        pictures,
        lambda: sum(source.count() or 0 for source in whole),
        tuple(file for one in whole for file in one.files),
    )


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
    cells = [row[columns[0]].strip() for row in table.rows]
    if not root.is_dir():
        problems.add("missing folders", f"--root {shown(str(root), 300)}: no such folder; images of a CSV lie there")
        return []
    finder = finder_for(root, (), None, [cells], problems)
    if finder is None:
        return []
    found = [(file, finder.find(file)) for file in cells]
    return [Picture(file, place.path, "" if place.refusal is None else place.refusal.text) for file, place in found]
