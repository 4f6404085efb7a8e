"""Tables as CSV files: typed, safe for a spreadsheet, written by one process at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from fairface_core.errors import StorageError
from fairface_core.files.folder import Folder
from fairface_core.files.locks import locked_file
from sweep.wording import plain

if TYPE_CHECKING:
    import pandas as pd


def typed_frame(rows: list[dict[str, Any]], names: list[str]) -> pd.DataFrame:
    """Return a table whose integers stay integers where cells are empty (pandas would make them floats)."""
    import pandas as pd

    columns = {}
    for name in names:
        cells = [row.get(name) for row in rows]
        kinds = {type(cell) for cell in cells if cell is not None}
        if int in kinds and any(isinstance(cell, int) and abs(cell) >= 2**63 for cell in cells):
            kinds = {object}
        dtype = {
            frozenset({bool}): "boolean",
            frozenset({int}): "Int64",
            frozenset({float}): "float64",
            frozenset({int, float}): "float64",
        }.get(frozenset(kinds), "object")
        columns[name] = pd.Series(cells, dtype=dtype)
    return pd.DataFrame(columns)


def csv_of(frame: pd.DataFrame) -> bytes:
    """Return a table as CSV text (UTF-8, LF) whose floats read back to the same bits.

    A plan from a stranger can hold any text: one that a spreadsheet would take for a formula begins with an
    apostrophe, and none can begin a line of its own.
    """
    texts = frame.select_dtypes(include="object")
    frame = frame.assign(**{str(name): texts[name].map(_cell) for name in texts})
    return frame.to_csv(index=False, lineterminator="\n").encode(errors="replace")


def _cell(cell: Any) -> Any:
    if not isinstance(cell, str):
        return cell
    text = plain(cell)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


@contextlib.contextmanager
def one_writer(folder: Folder, name: str) -> Iterator[None]:
    """Let one process at a time read the trials and write `name`, so that an older reading never lands last.

    The driver and `python -m sweep.report` on a running sweep write the same files. An object store has no lock:
    there a file is at worst one trial behind until it is written next.
    """
    path = folder.path()
    # Without a plan it is no run folder: the reader will say so, and no file is to appear in it.
    if path is None or not (path / "plan.json").is_file():
        yield
        return
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(locked_file(path / f".{name}.lock"))
        except OSError as error:
            raise StorageError(f"cannot write in {path}: {error.strerror or error}") from error
        yield
