"""The errors that a user can cause, and the one base class that a command line catches.

Broken invariants are `assert`; everything that comes from a file, a flag or a machine is one of these.
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

MAX_LISTED = 20
# Rows that one cause refuses: so many are told in full; beyond them one is, and some of the others are named.
_FEW_ROWS = 3
_MAX_ROWS_NAMED = 6
# What every command can do; that of a sweep has no flag for it, and the built-in faces follow the variable alone.
CACHE_ADVICE = "name another folder by FAIRFACE_CACHE_DIR (or by cache_dir, if that was given)"
# The last two are cuBLAS's and cuDNN's words; those of torch's CUDA allocator have a type of their own.
_OOM_WORDS = (
    "out of memory", "can't allocate memory", "not enough memory", "cannot allocate memory", "status_alloc_failed",
    "allocation_failed",
)  # fmt: skip


class FairfaceError(Exception):
    """A problem that its message explains: what, where, the value, what is accepted, what to do.

    Args:
        problems: One line of text per problem. Checks collect every problem before they raise.
    """

    exit_code = 2

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        assert self.problems, "an error without a message explains nothing"
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type[FairfaceError], tuple[tuple[str, ...]]]:
        """Keep `problems` whole when the error crosses a process border (Ray pickles it)."""
        return type(self), (self.problems,)


class ConfigError(FairfaceError):
    """A flag, a config field or a search space that cannot be accepted."""


class DataError(FairfaceError):
    """A CSV, a label or an image that cannot be accepted, or a data folder that is not there."""


class CacheError(FairfaceError):
    """A decoded-image cache that is damaged or cannot be built."""


class CheckpointError(FairfaceError):
    """A weights or state file that is damaged, foreign or of another configuration."""


class WeightsError(FairfaceError):
    """Pretrained weights that are absent and cannot be downloaded, or do not fit."""


class ExportError(FairfaceError):
    """An exported file that does not answer as the model does, or costs more than is allowed; it is not kept."""

    exit_code = 1


class StorageError(FairfaceError):
    """A folder or object store that refuses a read or a write."""

    exit_code = 1


class TrainingDiverged(FairfaceError):
    """A loss or a metric that is not finite. Carries the epoch, counted from 1."""

    exit_code = 1


def ran_out_of_memory(error: BaseException) -> bool:
    """Say whether memory, of the machine or of its GPU, is what was lacking."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _OOM_WORDS)


@dataclass
class _Cause:
    """Problems of one cause: the first ones in full, the rows of some more, the count of all."""

    kind: str
    texts: list[str] = field(default_factory=list)
    rows: list[str] = field(default_factory=list)
    count: int = 0

    def lines(self) -> list[str]:
        if self.count <= _FEW_ROWS:
            return self.texts
        named = ", ".join(filter(None, self.rows[1:]))
        more = ", ..." if self.count > len(self.rows) else ""
        others = f": {named}{more}" if named else ""
        return [f"{self.texts[0]} (the same for {self.count - 1:,} more rows{others})"]


@dataclass
class Problems:
    """What is wrong with an input, in the order it was found. What one cause does to many rows is told once.

    Attributes:
        counts: Kind of problem (a plural noun, such as "missing images") -> how many were found in all.
    """

    counts: Counter[str] = field(default_factory=Counter)
    _causes: dict[object, _Cause] = field(default_factory=dict)
    _unlisted: Counter[str] = field(default_factory=Counter)

    def add(self, kind: str, text: str, *, cause: object = None, row: str = "") -> None:
        """Note one problem.

        Args:
            kind: A plural noun to count it under.
            text: One line: what, where, the value, what is accepted, what to do.
            cause: What it has in common with others of its kind; None where it stands alone.
            row: Short name of the row, such as `line 7`, for the others with this cause.
        """
        self.counts[kind] += 1
        key = (kind, len(self._causes)) if cause is None else (kind, cause)
        known = self._causes.get(key)
        if known is None and len(self._causes) >= MAX_LISTED:
            self._unlisted[kind] += 1
            return
        if known is None:
            known = self._causes[key] = _Cause(kind)
        known.count += 1
        if known.count <= _FEW_ROWS:
            known.texts.append(one_line(text))
        if known.count <= _MAX_ROWS_NAMED:
            known.rows.append(one_line(row))

    def __bool__(self) -> bool:
        """Whether anything was found."""
        return bool(self.counts)

    def lines(self) -> list[str]:
        """Return at most `MAX_LISTED` lines, and one that counts the problems not told in them by kind."""
        lines: list[str] = []
        untold = Counter(self._unlisted)
        for cause in self._causes.values():
            told = cause.lines()
            if len(lines) + len(told) <= MAX_LISTED:
                lines += told
            else:
                untold[cause.kind] += cause.count
        if untold:
            kinds = ", ".join(f"{kind} ({count:,})" for kind, count in untold.most_common())
            lines.append(f"and {untold.total():,} more: {kinds}")
        return lines

    def raise_if_any(self) -> None:
        """Raise them as one DataError.

        Raises:
            DataError: If there is any problem.
        """
        if self:
            raise DataError(self.lines())


def one_line(text: str) -> str:
    """Return the text with line breaks and control characters made visible: a hostile cell cannot forge a line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def is_text(value: str) -> bool:
    """Whether a text is UTF-8; a file name of other bytes comes from the system as text that cannot be encoded."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def not_utf8(what: str) -> str:
    """Word the refusal of a name that the files of a run cannot be written with."""
    return f"{what} is not UTF-8, which a run's files are written in; rename it, or make a link to it whose name is"


def shown(value: object, limit: int = 80) -> str:
    """Return a value from a file or a flag for use in a message: one short printable line, whatever it is.

    Text is quoted; null, true and false are spelled as in YAML and JSON; of a list that is long or holds lists (itself
    a million times, perhaps) only the kind is told.
    """
    if isinstance(value, str):
        return repr(value if len(value) <= limit else f"{value[: limit - 3]}...")
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return (
            repr(value) if isinstance(value, float) or value.bit_length() < 256 else "a number of more than 70 digits"
        )
    if isinstance(value, list) and len(value) <= 4 and not any(isinstance(item, list | dict) for item in value):
        return f"[{', '.join(shown(item, limit // 4) for item in value)}]"
    if isinstance(value, dict):
        return "a mapping" if value else "{}"
    return f"a {type(value).__name__}"
