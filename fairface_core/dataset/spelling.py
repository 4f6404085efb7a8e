"""Every spelling of the age groups and genders that is repaired.

A spelling is repaired only where it can mean one of the labels and no other; what was done is named, so that it
can be counted. Everything else is `None`: the caller knows the file and the line, and refuses it.
"""

from __future__ import annotations

import contextlib
import re
import unicodedata
from functools import lru_cache
from typing import NamedTuple

from fairface_core.dataset.spreadsheet_dates import ranges_of_date
from fairface_core.labels import AGE_GROUPS, GENDERS

# Kinds of repair, as they appear in reports.
CASE_OR_SPACES = "case or spaces"
SPELLING = "spelling"
SPREADSHEET_DATE = "spreadsheet date"


class Parsed(NamedTuple):
    """A label that was understood.

    Attributes:
        index: Position in `AGE_GROUPS` or `GENDERS`.
        repair: Kind of repair, one of the constants above; None where the text was exact.
    """

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls on a label
    repair: str | None


_BOUNDS: dict[tuple[int, int], int] = {
    (int(low), int(high)): index for index, group in enumerate(AGE_GROUPS[:-1]) for low, high in [group.split("-")]
}
# "0-2" becomes no date anywhere: no calendar has a month or a day 0.
_DATABLE = {bounds: index for bounds, index in _BOUNDS.items() if bounds[0] > 0}

# What word processors put for "-"; the first is the soft hyphen of texts copied from a PDF.
_DASHES = re.compile("[\u00ad\u2010-\u2015\u2212\u2043\ufe58\ufe63\uff0d]")
_YEARS = r"(?:\s*(?:years?(?:\s*old)?|yrs?|y\.?o\.?))?\.?"
_RANGE = re.compile(rf"(?:ages?\s*)?(\d{{1,2}})\s*(?:-|_|to|\.\.|~)\s*(\d{{1,2}}){_YEARS}")
_OLDEST = re.compile(
    rf"(?:(?:more[\s_]*than|over|above|older[\s_]*than|>=|>|≥)[\s_]*70"
    rf"|70[\s_]*(?:\+|plus|(?:and|or|&)[\s_]*(?:more|over|older|above|up)|up(?:wards)?)){_YEARS}"
)
_GENDER_WORDS = {"m": 0, "male": 0, "man": 0, "f": 1, "female": 1, "woman": 1}


@lru_cache(maxsize=4096)
def _parse_age(text: str) -> Parsed | None:
    if text in AGE_GROUPS:
        return Parsed(AGE_GROUPS.index(text), None)
    for index, group in enumerate(AGE_GROUPS):
        if _only_case_or_spaces(text, group):
            return Parsed(index, CASE_OR_SPACES)
    plain = _fold(text)
    if _OLDEST.fullmatch(plain):
        return Parsed(len(AGE_GROUPS) - 1, SPELLING)
    bounds = _RANGE.fullmatch(plain)
    if bounds and (index := _BOUNDS.get((int(bounds[1]), int(bounds[2])), -1)) >= 0:
        return Parsed(index, SPELLING)
    dated = {_DATABLE[bounds] for bounds in ranges_of_date(plain) if bounds in _DATABLE}
    return Parsed(dated.pop(), SPREADSHEET_DATE) if len(dated) == 1 else None


@lru_cache(maxsize=1024)
def _parse_gender(text: str) -> Parsed | None:
    if text in GENDERS:
        return Parsed(GENDERS.index(text), None)
    for index, gender in enumerate(GENDERS):
        if _only_case_or_spaces(text, gender):
            return Parsed(index, CASE_OR_SPACES)
    found = _GENDER_WORDS.get(_fold(text).rstrip("."))
    return None if found is None else Parsed(found, SPELLING)


def parse_age(text: object) -> Parsed | None:
    """Read an age group.

    Accepts the nine names in any case and spacing; `70+`, `>=70`, `more_than_70` and the like; other dashes, `to`
    and leading zeros; and the dates that spreadsheets make of `3-9` and `10-19` (`spreadsheet_dates`). A bare number is refused: it may be an age in years or the index of a class.

    Args:
        text: The cell; anything but text is refused.

    Returns:
        The index 0..8 and the kind of repair, or None where the text cannot be exactly one of the groups.
    """
    return _parse_age(str(text)) if isinstance(text, str) else None


def parse_gender(text: object) -> Parsed | None:
    """Read a gender: `Male`, `Female`, `m`, `F`, `man`, `woman`, in any case and spacing.

    Args:
        text: The cell; anything but text is refused. `0`, `1`, `w` and the like are refused: they are codes whose
            meaning differs from file to file.

    Returns:
        The index 0..1 and the kind of repair, or None.
    """
    return _parse_gender(str(text)) if isinstance(text, str) else None


def _only_case_or_spaces(text: str, label: str) -> bool:
    return "".join(text.split()).casefold() == "".join(label.split()).casefold()


def _fold(text: str) -> str:
    """Return lower-case text with plain dashes, single spaces and no guards such as `'3-9` or `="3-9"`."""
    # UTF-8 that was once read as Windows-1252 ("3â€“9", "9. MÃ¤r"); any other text fails to decode and stays.
    with contextlib.suppress(UnicodeError):
        text = text.encode("cp1252").decode("utf-8")
    text = _DASHES.sub("-", text)
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    text = "".join(character for character in text if unicodedata.category(character) != "Cf")
    return " ".join(text.strip().removeprefix("=").strip(" \t\"'`\u2018\u2019\u201c\u201d").split())
