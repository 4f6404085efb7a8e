"""The spelling table: what is repaired, as what, and what is refused."""

from __future__ import annotations

import calendar
import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairface_core.dataset.spelling import CASE_OR_SPACES, SPELLING, SPREADSHEET_DATE, Parsed, parse_age, parse_gender
from fairface_core.labels import AGE_GROUPS, GENDERS

SPELLED = {
    CASE_OR_SPACES: {
        " 0-2": "0-2", "20-29 ": "20-29", "3 - 9": "3-9", "\t30-39\t": "30-39", "60-\u00a069": "60-69",
        "MORE THAN 70": "more than 70", "More than 70 ": "more than 70", "more  than\t70": "more than 70",
        "morethan70": "more than 70",
    },
    SPELLING: {
        "70+": "more than 70", "70 +": "more than 70", "more_than_70": "more than 70", "more_than70": "more than 70",
        "70plus": "more than 70", "70 plus": "more than 70", ">=70": "more than 70", ">= 70": "more than 70",
        "≥70": "more than 70", ">70": "more than 70", "70 and over": "more than 70", "70 or older": "more than 70",
        "70 & up": "more than 70", "over 70": "more than 70", "older than 70": "more than 70",
        "70+ years": "more than 70",
        "３-９": "3-9", "3–9": "3-9", "10—19": "10-19", "20\u221229": "20-29", "3\u00ad9": "3-9", "3â€“9": "3-9",
        "3 to 9": "3-9", "10 TO 19": "10-19", "20_29": "20-29", "0..2": "0-2", "00-02": "0-2", "03-09": "3-9",
        "'3-9": "3-9", '="3-9"': "3-9", "\u200b3-9": "3-9", "3-9 years": "3-9", "age 20-29": "20-29", "0-2 yrs.": "0-2",
        "20-29 years old": "20-29",
    },
    SPREADSHEET_DATE: {
        # As English spreadsheets show 3-9 and 10-19, in either order of day and month.
        "9-Mar": "3-9", "09-Mar": "3-9", "Mar-9": "3-9", "Mar-09": "3-9", "Mar 9": "3-9", "9-MAR": "3-9",
        "March 9": "3-9",
        "3-Sep": "3-9", "03-Sep": "3-9", "Sep-3": "3-9", "Sep-03": "3-9", "3-Sept": "3-9", "19-Oct": "10-19",
        "Oct-19": "10-19",
        "October 19": "10-19", "9th March": "3-9", "March 9th, 2026": "3-9", "9-Mar-26": "3-9", "19-Oct-2026": "10-19",
        # 10-19 is October 2019 where the day comes first.
        "Oct 2019": "10-19", "1-Oct-19": "10-19", "01-Oct-2019": "10-19", "2019-10": "10-19", "10/2019": "10-19",
        "2019-10-01": "10-19", "01/10/2019": "10-19", "10/01/2019": "10-19", "2019-10-01 00:00:00": "10-19",
        # 3-9 is September 2003 or March 2009 where a year is read.
        "2003-09-01": "3-9", "2009-03-01": "3-9", "Sep-2003": "3-9", "2003-09": "3-9",
        # Numbers only.
        "3/9": "3-9", "9/3": "3-9", "03/09": "3-9", "9-3": "3-9", "09-03": "3-9", "19-10": "10-19",
        "10/19": "10-19", "19/10": "10-19",
        "03/09/2026": "3-9", "9/3/26": "3-9", "10/19/26": "10-19", "26/03/09": "3-9", "26-03-09": "3-9",
        "2026/9/3": "3-9",
        "09.03.": "3-9", "9.3.2026": "3-9", "9. 3. 2026": "3-9", "19.10.": "10-19", "2026. 03. 09.": "3-9",
        "2026-03-09": "3-9", "2026-10-19": "10-19", "2026-03-09 00:00:00": "3-9", "2026-09-03T00:00:00Z": "3-9",
        "2026-03-09T00:00:00.000+00:00": "3-9", "3/9/2026 0:00": "3-9", "3/9/2026 12:00:00 AM": "3-9",
        # Day numbers, as a column of format General is saved (3-9 and 9-3 in 2026, 10-19 in 2026, 2019-10-01).
        "46090": "3-9", "46268": "3-9", "46314": "10-19", "43739": "10-19", "46090.0": "3-9",
    },
}  # fmt: skip

REFUSED_AGES = (
    # Not one of the nine groups.
    "", " ", "nan", "None", "NA", "?", "-", "adult", "20-30", "0-3", "15-20", "3-9-", "70-79", "80+", "(0, 2)",
    "10-19, 20-29",
    # A number may be years, an index or a code.
    "0", "3", "25", "70", "3.5", "9.3", "3.9", "19.10", "1e3", "²",
    # Dates that none of the nine groups turns into.
    "10-Oct", "10-Oct-19", "3-Mar", "9-Sep", "Sep-9", "2-Jan", "2-Feb", "6-Apr", "13-Aug", "2000-02-01", "29-Sep",
    "3-9-10-19",
    "1990-03-10", "10/03/1990", "2019-11-01", "46091", "12345", "99999", "3月", "10月", "thg 3", "March", "2019",
    "9-Foo", "31/9",
    # Dates in other languages: the message says how to save them.
    "9. Mrz", "19. Okt", "9 de marzo", "3-sept.-é", "19.X", "09-thg3", "3月9日", "٩/٣", "9.МАР", "2026年3月9日",
    "19-Nov", "19x", "3x9", "3 9", "Mar Sep 9", "9-Mar-Sep", "9-Mar 9-Mar", "2026-03-09 13:45",
)  # fmt: skip


@pytest.mark.parametrize("index", range(9))
def test_the_nine_names_are_exact(index: int) -> None:
    assert parse_age(AGE_GROUPS[index]) == Parsed(index, None)


@pytest.mark.parametrize(
    ("text", "label", "kind"), [(text, label, kind) for kind, texts in SPELLED.items() for text, label in texts.items()]
)
def test_spellings_of_ages(text: str, label: str, kind: str) -> None:
    assert parse_age(text) == Parsed(AGE_GROUPS.index(label), kind)


@pytest.mark.parametrize("text", REFUSED_AGES)
def test_refused_ages(text: str) -> None:
    assert parse_age(text) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Male", Parsed(0, None)), ("Female", Parsed(1, None)), ("male", Parsed(0, CASE_OR_SPACES)),
        (" FEMALE ", Parsed(1, CASE_OR_SPACES)), ("m", Parsed(0, SPELLING)), ("M", Parsed(0, SPELLING)),
        ("F", Parsed(1, SPELLING)), ("f.", Parsed(1, SPELLING)), ("man", Parsed(0, SPELLING)),
        ("Woman", Parsed(1, SPELLING)),
        ("", None), ("0", None), ("1", None), ("w", None), ("nan", None), ("malefemale", None), ("TRUE", None),
        ("Mär", None),
    ],
)  # fmt: skip
def test_genders(text: str, expected: Parsed | None) -> None:
    assert parse_gender(text) == expected


@pytest.mark.parametrize("value", [None, 3, 2.5, float("nan"), b"3-9", datetime.date(2026, 3, 9), ["3-9"]])
def test_only_text_is_read(value: Any) -> None:
    assert parse_age(value) is None
    assert parse_gender(value) is None


@given(st.text(max_size=40))
def test_any_text_is_a_label_or_none(text: str) -> None:
    for parse, labels in ((parse_age, AGE_GROUPS), (parse_gender, GENDERS)):
        parsed = parse(text)
        assert parsed is None or (0 <= parsed.index < len(labels) and (parsed.repair is None) == (text in labels))


@given(st.sampled_from(AGE_GROUPS + GENDERS), st.data())
def test_case_and_outer_spaces_never_change_a_label(label: str, data: st.DataObject) -> None:
    upper = data.draw(st.lists(st.booleans(), min_size=len(label), max_size=len(label)))
    text = "".join(c.upper() if up else c.lower() for c, up in zip(label, upper, strict=True))
    before, after = data.draw(st.text(" \t\u00a0", max_size=3)), data.draw(st.text(" \t\r\n", max_size=3))
    parse, labels = (parse_age, AGE_GROUPS) if label in AGE_GROUPS else (parse_gender, GENDERS)
    parsed = parse(before + text + after)
    assert parsed is not None
    assert labels[parsed.index] == label


def label_of_date(date: datetime.date) -> str | None:
    """Which group a spreadsheet made into this date, told the slow way: try every reading of every group."""
    for label, (a, b) in {"3-9": (3, 9), "10-19": (10, 19)}.items():
        if (date.month, date.day) in ((a, b), (b, a)):
            return label
        if date.day == 1 and ((date.month, date.year % 100) in ((a, b), (b, a))):
            return label
    return None


SPREADSHEET_FORMATS = (
    "{d}-{b}", "{b}-{d}", "{d:02} {b}", "{d}/{m}", "{m}/{d}", "{d}.{m}.", "{m}/{d}/{y}", "{d}/{m}/{y}",
    "{d}.{m}.{yy:02}",
)  # fmt: skip
UNAMBIGUOUS_FORMATS = ("%Y-%m-%d", "%d-%b-%Y", "%B %d, %Y", "%Y/%m/%d", "%Y-%m-%d 00:00:00", "%d. %b. %Y", "%Y%b%d")


@given(
    st.dates(datetime.date(1982, 1, 1), datetime.date(2099, 12, 31))
    | st.builds(datetime.date, st.integers(1982, 2099), st.sampled_from([3, 9, 10]), st.sampled_from([1, 3, 9, 19])),
    st.sampled_from(UNAMBIGUOUS_FORMATS),
)
def test_a_full_date_means_the_group_that_makes_it_and_no_other(date: datetime.date, form: str) -> None:
    parsed = parse_age(date.strftime(form))
    assert (None if parsed is None else AGE_GROUPS[parsed.index]) == label_of_date(date)
    serial = parse_age(str((date - datetime.date(1899, 12, 30)).days))
    assert (None if serial is None else AGE_GROUPS[serial.index]) == label_of_date(date)


@given(
    st.sampled_from([("3-9", 3, 9), ("3-9", 9, 3), ("10-19", 10, 19)]),
    st.integers(1990, 2099),
    st.sampled_from(SPREADSHEET_FORMATS),
)  # fmt: skip
def test_what_a_spreadsheet_does_is_undone(made: tuple[str, int, int], year: int, form: str) -> None:
    label, month, day = made
    text = form.format(d=day, m=month, b=calendar.month_abbr[month], y=year, yy=year % 100)
    parsed = parse_age(text)
    assert parsed is not None, text
    assert AGE_GROUPS[parsed.index] == label


@given(st.integers(1, 12), st.integers(1, 31))
def test_no_day_of_another_group_is_taken_for_a_label(month: int, day: int) -> None:
    for text in (
        f"{day}-{calendar.month_abbr[month]}",
        f"{calendar.month_abbr[month]} {day}",
        f"{day}/{month}",
        f"{month}/{day}",
    ):
        parsed = parse_age(text)
        if (month, day) in ((3, 9), (9, 3)):
            assert parsed == Parsed(1, SPREADSHEET_DATE)
        elif (month, day) == (10, 19):
            assert parsed == Parsed(2, SPREADSHEET_DATE)
        else:
            assert parsed is None, text
