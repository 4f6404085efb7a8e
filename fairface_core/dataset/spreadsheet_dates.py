"""The dates that spreadsheets make of a range: `3-9` becomes `9-Mar`, `3/9/2026`, `2026-03-09`, 46090, ...

A spreadsheet that is given `a-b` reads month-day, day-month, month-year or year-month, whichever its language puts
first and the calendar allows (`10-19` is 19 October in the US and October 2019 in Europe), and writes the date back
in its own format. The way back needs no guess about the language: a date names at most a few ranges, and the caller
keeps the one that is a label. This module knows the calendar and the month names, not the labels.

English month names are read, numbers, ISO dates and day numbers; dates in other languages are refused, and the message
says how to save them. Only March, September and October are listed: dates in other months stand for no age group.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from typing import NamedTuple


class Reading(NamedTuple):
    """One way to read a date; a part that the text does not hold is None. `year` has four digits."""

    year: int | None
    month: int
    day: int | None


_MONTH = {"mar": 3, "march": 3, "sep": 9, "sept": 9, "september": 9, "oct": 10, "october": 10}
_FILLERS = frozenset({"of", "the", "st", "nd", "rd", "th"})
_MIDNIGHT = re.compile(
    r"[t ]\s*(?:0?0:00(?::00(?:[.,]0+)?)?|12:00(?::00)?\s*am)\s*(?:z|utc|gmt|[+-]00:?00)?$", re.IGNORECASE
)
_NUMERIC = re.compile(r"([0-9]{1,4})\s*([-/.])\s*([0-9]{1,4})(?:\s*\2\s*([0-9]{1,4}))?(\.?)")
_TOKEN = re.compile(r"[0-9]+|[a-z]+")
_SERIAL = re.compile(r"([0-9]{5})(?:\.0+)?")
# Excel counts days so that 1 March 1900 is 61 (it believes in a 29 February 1900).
_SERIAL_EPOCH = datetime.date(1899, 12, 30)


def ranges_of_date(text: str) -> set[tuple[int, int]]:
    """Return every range `a-b` of which a spreadsheet may have made this date.

    Args:
        text: A cell, folded to lower case, such as `9-mar`, `2019-10-01 00:00:00` or `46090`.

    Returns:
        Pairs (a, b); empty where the text is no date.
    """
    found: set[tuple[int, int]] = set()
    for year, month, day in _readings(text):
        if day is not None:
            found |= {(month, day), (day, month)}
        # Month-year and year-month: the spreadsheet took the first of the month.
        if year is not None and day in (None, 1):
            found |= {(month, year % 100), (year % 100, month)}
    return found


def _readings(text: str) -> Iterator[Reading]:
    """Yield the ways to read a date that the calendar allows."""
    text = _MIDNIGHT.sub("", text).strip()
    if serial := _SERIAL.fullmatch(text):
        date = _SERIAL_EPOCH + datetime.timedelta(days=int(serial[1]))
        yield Reading(date.year, date.month, date.day)
        return
    for year, month, day in _numeric(text) or _with_month_name(text):
        if year is not None and year < 100:
            year += 2000 if year < 70 else 1900
        if _in_calendar(year, month, day):
            yield Reading(year, month, day)


def _in_calendar(year: int | None, month: int, day: int | None) -> bool:
    if year is not None and not 1900 <= year < 2200:
        return False
    try:
        # A leap year stands in for a year that the text does not hold.
        datetime.date(2000 if year is None else year, month, 1 if day is None else day)
    except ValueError:
        return False
    return True


_Parts = tuple[int | None, int, int | None]


def _numeric(text: str) -> list[_Parts]:
    """Read `3/9`, `09.03.`, `2026-03-09`, `10/19/26`, `10/2019`, ... in every order of the parts."""
    match = _NUMERIC.fullmatch(text)
    if match is None:
        return []
    first, separator, second, third, final_dot = match.groups()
    a, b = int(first), int(second)
    if third is None:
        if len(first) > 2:
            return [(a, b, None)]
        if len(second) > 2:
            return [(b, a, None)]
        # "9.3" is a decimal number; "9.3." is a date.
        if separator == "." and not final_dot:
            return []
        return [(None, a, b), (None, b, a), (b, a, None), (a, b, None)]
    c = int(third)
    if len(second) > 2 or (len(first) > 2 and len(third) > 2):
        return []
    if len(first) > 2:
        return [(a, b, c), (a, c, b)]
    if len(third) > 2:
        return [(c, b, a), (c, a, b)]
    return [(c, b, a), (c, a, b), (a, b, c)]


def _with_month_name(text: str) -> list[_Parts]:
    """Read `9-mar`, `oct 19`, `march 9th, 2026`, ... : one month name and one or two numbers."""
    month: int | None = None
    numbers = []
    for token in _TOKEN.findall(text):
        if token.isdigit():
            if len(token) > 4:  # neither day nor year; int() and datetime cannot take any length
                return []
            numbers.append(int(token))
            continue
        if token in _MONTH and month is None:
            month = _MONTH[token]
        elif token not in _FILLERS:
            return []
    leftover = _TOKEN.sub("", text).translate(str.maketrans("", "", " -/.,'’"))
    if month is None or leftover or not 1 <= len(numbers) <= 2:
        return []
    if len(numbers) == 1:
        return [(None, month, numbers[0]), (numbers[0], month, None)]
    # "10-Oct-19" is 10 October 2019; a year stands first only where it cannot be a day.
    return [(numbers[0], month, numbers[1]) if numbers[0] > 31 else (numbers[1], month, numbers[0])]
