"""Reads a label CSV as people really have them: any delimiter, encoding and line end, with true line numbers.

What can be read in one way only is read; anything else is refused with the line. Nothing here knows the columns.
"""

from __future__ import annotations

import csv
import io
import os
import stat
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from fairface_core.errors import DataError, Problems, one_line, shown

# FairFace's own training CSV has 4 MB. A file past this is no label CSV (a device, a video, a mistake).
MAX_BYTES = 256 * 2**20
# Twenty times FairFace; and a header that is all delimiters. Both fit into a few MB and would fill the memory.
MAX_ROWS = 2_000_000
MAX_COLUMNS = 1_000
_HEADER_CHARS = 2**20
_DELIMITERS = (",", ";", "\t", "|")
_FOREIGN = (
    (b"PK\x03\x04", "a zip file or an Excel workbook; save it as CSV"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook; save it as CSV"),
    (b"\x1f\x8b", "gzip-compressed; unpack it first"),
    (b"PAR1", "a Parquet file; give its folder as --root, without --train_csv and --val_csv"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x89PNG", "a PNG image"),
    (b"version https://git-lfs", "a Git LFS pointer; fetch the real file with `git lfs pull`"),
    (b"<", "an HTML or XML page, probably a download that failed"),
)


@dataclass(frozen=True)
class Table:
    """The rows of a CSV.

    Attributes:
        name: What to call the file in messages.
        header: Column names, stripped.
        header_line: 1-based physical line of the header.
        rows: Fields of each row that is not blank, as many as `header` has.
        lines: 1-based physical line on which each row starts.
        blank_rows: Rows without any text, left out.
        encoding: "utf-8", "utf-16" or "cp1252".
        delimiter: The character between fields.
    """

    name: str
    header: tuple[str, ...]
    header_line: int
    rows: list[tuple[str, ...]]
    lines: list[int]
    blank_rows: int
    encoding: str
    delimiter: str

    def where(self, row: int) -> str:
        """Return where a row stands, such as `fairface_label_val.csv line 7`."""
        return f"{self.name} {self.row_name(row)}"

    def row_name(self, row: int) -> str:
        """Return the short name of a row, such as `line 7`."""
        return f"line {self.lines[row]}"


def read_table(path: Path, problems: Problems, *, name: str) -> Table | None:
    """Read a CSV: UTF-8 (with or without a BOM), UTF-16 with a BOM or Windows-1252; `,` `;` tab or `|`; any line end.

    Args:
        path: A regular file; a FIFO or a device is refused, not waited for.
        problems: Gets one line for each row that cannot be accepted.
        name: What to call the file in messages.

    Returns:
        The table, or None where nothing of it can be trusted (`problems` says why).
    """
    try:
        text, encoding = _decode(_read_bytes(path, name), name)
        return _parse(text, encoding, problems, name)
    except DataError as error:
        for line in error.problems:
            problems.add("unreadable CSVs", line)
        return None


def _read_bytes(path: Path, name: str) -> bytes:
    try:
        # O_NONBLOCK: opening a FIFO that nobody writes to would wait for ever.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except FileNotFoundError:
        raise DataError(f"{name}: there is no such file: {shown(str(path), 300)}; {_others(path)}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"{name}: cannot be opened ({reason}): {shown(str(path), 300)}") from None
    facts = os.fstat(handle)
    if not stat.S_ISREG(facts.st_mode) or facts.st_size > MAX_BYTES:
        os.close(handle)
        if stat.S_ISREG(facts.st_mode):
            raise DataError(f"{name}: is larger than {MAX_BYTES // 2**20} MiB; that is no label CSV")
        raise DataError(f"{name}: is not a regular file: {shown(str(path), 300)}; name a CSV file")
    with os.fdopen(handle, "rb") as file:
        return file.read(MAX_BYTES)


def _others(path: Path) -> str:
    """Say which CSVs lie in the folder where one was not found."""
    advice = "check --root, --train_csv, --val_csv"
    try:
        there = sorted(entry.name for entry in path.parent.iterdir() if entry.suffix.lower() in (".csv", ".tsv"))
    except OSError:
        return advice
    close = get_close_matches(path.name.casefold(), [name.casefold() for name in there], n=1, cutoff=0.75)
    if close:
        found = next(name for name in there if name.casefold() == close[0])
        flag = "--val_csv" if "val" in found.casefold() else "--train_csv"
        return f"did you mean {shown(found)}? Rename it, or name it with {flag}"
    return f"{advice}; CSVs in that folder: {', '.join(map(shown, there[:6]))}" if there else advice


def _decode(content: bytes, name: str) -> tuple[str, str]:
    """Return the text and its encoding."""
    for magic, what in _FOREIGN:
        if content.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(magic):
            raise DataError(f"{name}: is not a CSV but {what}")
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding == "utf-16":
            raise DataError(
                f"{name}: starts as UTF-16 but is damaged at byte {error.start}; save it as UTF-8"
            ) from None
        encoding = "cp1252"
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            raise DataError(
                f"{name} line {line}: byte 0x{content[error.start]:02x} is neither UTF-8 nor Windows-1252; "
                "save it as UTF-8"
            ) from None
    if (nul := text.find("\0")) >= 0:
        line = text.count("\n", 0, nul) + 1
        raise DataError(
            f"{name} line {line}: holds a NUL character: not a text file, or UTF-16 without its mark; save it as UTF-8"
        )
    if not text.strip():
        raise DataError(f"{name}: is empty; a header line and rows are needed")
    return text, {"utf-8-sig": "utf-8"}.get(encoding, encoding)


def _parse(text: str, encoding: str, problems: Problems, name: str) -> Table:
    offset = 0
    if text[:4].lower() == "sep=" and text[5:6] in ("\r", "\n"):  # Excel's own hint, not a row
        delimiters: tuple[str, ...] = (text[4],)
        rest = text[5:]
        text, offset = (rest[2:] if rest.startswith("\r\n") else rest[1:]), 1
    else:
        delimiters = _DELIMITERS
    delimiter = max(delimiters, key=lambda candidate: len(_first_row(text, candidate)))
    if (width := len(_first_row(text, delimiter))) > MAX_COLUMNS:
        raise DataError(
            f"{name} line {1 + offset}: has {width:,} columns, accepted are {MAX_COLUMNS:,}; that is no label CSV"
        )
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: tuple[str, ...] = ()
    rows: list[tuple[str, ...]] = []
    lines: list[int] = []
    header_line = blank_rows = 0
    start = 1 + offset
    try:
        for row in reader:
            line, start = start, reader.line_num + 1 + offset
            if not any(map(str.strip, row)):
                blank_rows += bool(header)
            elif not header:
                header, header_line = _header(row), line
            else:
                if len(row) != len(header):
                    row = _fit(row, header, line, problems, name)
                    if not row:
                        continue
                if len(rows) == MAX_ROWS:
                    raise DataError(f"{name} line {line}: more than {MAX_ROWS:,} rows; that is no label CSV")
                rows.append(tuple(row))  # a tuple of texts costs the garbage collector nothing
                lines.append(line)
    except csv.Error as error:
        raise DataError(_csv_error(str(error), start, name)) from None
    return Table(name, header, header_line, rows, lines, blank_rows, encoding, delimiter)


def _first_row(text: str, delimiter: str) -> list[str]:
    try:
        start = io.StringIO(text[:_HEADER_CHARS], newline="")
        return next((row for row in csv.reader(start, delimiter=delimiter) if any(row)), [])
    except csv.Error:
        return []


def _header(row: list[str]) -> tuple[str, ...]:
    return tuple(name.strip().strip("\ufeff") for name in row)


def _fit(row: list[str], header: tuple[str, ...], line: int, problems: Problems, name: str) -> list[str]:
    """Cut the empty fields that spreadsheets append; refuse any other row that has not the header's width."""
    width = len(header)
    if not any(cell.strip() for cell in row[width:]) and not any(header[len(row) :]):
        return [*row[:width], *[""] * (width - len(row))]
    problems.add(
        "rows of a wrong width",
        f"{name} line {line}: has {len(row)} fields, the header has {width}; quote a field that holds the delimiter, "
        "or complete the row",
        cause=(name, len(row)),
        row=f"line {line}",
    )
    return []


def _csv_error(message: str, line: int, name: str) -> str:
    if "field larger" in message:
        message = (
            f'a field is longer than {csv.field_size_limit():,} characters, probably a quote (") that is never closed'
        )
    elif "unexpected end" in message:
        message = 'a quote (") that is opened here is never closed'
    elif "expected after" in message:
        message = 'text follows a closing quote ("); write "" for a quote inside a quoted field'
    return one_line(f"{name} line {line}: {message}")
