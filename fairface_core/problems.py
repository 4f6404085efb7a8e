"""Collects every problem of an input before one error reports them: the first ones in full, the rest as counts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from fairface_core.errors import DataError

MAX_LISTED = 20


@dataclass
class Problems:
    """What is wrong with an input, in the order it was found.

    Attributes:
        listed: The first `MAX_LISTED` problems, one line of text each.
        counts: Kind of problem (a plural noun, such as "missing images") -> how many were found in all.
    """

    listed: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    _unlisted: Counter[str] = field(default_factory=Counter)

    def add(self, kind: str, text: str) -> None:
        """Note one problem.

        Args:
            kind: A plural noun to count it under.
            text: One line: what, where, the value, what is accepted, what to do.
        """
        self.counts[kind] += 1
        if len(self.listed) < MAX_LISTED:
            self.listed.append(one_line(text))
        else:
            self._unlisted[kind] += 1

    def __bool__(self) -> bool:
        """Whether anything was found."""
        return bool(self.counts)

    def lines(self) -> list[str]:
        """Return the listed problems, and one closing line that counts the others by kind."""
        if not self._unlisted:
            return list(self.listed)
        kinds = ", ".join(f"{kind} ({count:,})" for kind, count in self._unlisted.most_common())
        return [*self.listed, f"and {self._unlisted.total():,} more: {kinds}"]

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


def shown(value: str, limit: int = 80) -> str:
    """Return a value from a file, quoted, for use in a message; long ones are cut."""
    return repr(value if len(value) <= limit else f"{value[: limit - 3]}...")
