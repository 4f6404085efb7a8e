"""The dates that spreadsheets make of a range: `3-9` becomes `9-Mar`, `03. Sep`, `3月9日`, `2026-03-09`, 46090, ...

A spreadsheet that is given `a-b` reads month-day, day-month, month-year or year-month, whichever its language puts
first and the calendar allows (`10-19` is 19 October in the US and October 2019 in Europe), and writes the date back
in its own format. The way back needs no guess about the language: a date names at most a few ranges, and the caller
keeps the one that is a label. This module knows the calendar and the month names, not the labels.

Only March, September and October are listed, in the languages that Excel, LibreOffice and Google Sheets offer
(names from the Unicode CLDR, with Excel's own older abbreviations, such as `Mrz`, `mrt` and Roman numerals): dates in
other months stand for no age group and are refused without a name being understood.
"""

from __future__ import annotations

import datetime
import re
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple


class Reading(NamedTuple):
    """One way to read a date; a part that the text does not hold is None. `year` has four digits."""

    year: int | None
    month: int
    day: int | None


_MONTH_NAMES = {
    3: """
        mar march mart mars marts marz marzo martie març março marec marca maret maart mrt mrz märz
        mär maerz märts mac machi márc március márt márta mära maaliskuu maaliskuuta maalis bře břez
        březen března ožu ožujak ožujka marzec kov kovas kovo martxoa maw mawrth marso márciusa iii
        мар март марта бер берез березень березня сак сакавік сакавіка нау наурыз μαρ μάρ μάρτ
        μάρτιος μαρτίου մրտ մարտ մարտի მარ მარტი מרץ מרס مارس مار مارچ آذار मार्च মার্চ ਮਾਰਚ માર્ચ
        மார் மார்ச் మార్చి ಮಾರ್ಚ್ മാർച്ച് มี.ค มีนาคม 三月 marzu
        """,
    9: """
        sep sept september septembre septiembre setiembre septembrie septembris septembra septembar
        septemba septembrī set setembre setembro settembre szept szeptember syys syyskuu syyskuuta
        září zář ruj rujan rujna wrz wrzesień września rugs rugsėjis rugsėjo rgs eyl eylül sht
        shtator ira iraila medi mfómh sentyabr sentabr sen setyembre ix сен сент сентябрь сентября
        сеп септ септември септембар вер верес вересень вересня верасень верасня қыр қыркүйек σεπ
        σεπτ σεπτέμβριος σεπτεμβρίου սեպ սեպտեմբեր սեպտեմբերի სექ სექტემბერი ספט ספטמבר سبتمبر
        سپتامبر ستمبر أيلول ايلول सितं सितंबर सित॰ सितम्बर सप्टें सप्टेंबर সেপ সেপ্টেম্বর ਸਤੰ ਸਤੰਬਰ
        સપ્ટે સપ્ટેમ્બર செப் செப்டம்பர் సెప్టెం సెప్టెంబర్ ಸೆಪ್ಟೆಂ ಸೆಪ್ಟೆಂಬರ್ സെപ്റ്റം സെപ്റ്റംബർ
        ก.ย กันยายน 九月 верасьня сентябр settembru سپت سپتمبر شتنبر
        """,
    10: """
        oct october octobre octubre octombrie d’octubre d’oct okt oktober oktobar október októbra
        oktobris oktoober oktoba oktobri outubro out ottobre ott ottob loka lokakuu lokakuuta říj
        říjen října lis listop listopad listopada paź październik października spa spal spalis
        spalio eki ekim tet tetor urr urria hyd hydref dfómh oktyabr oktabr oktubre x окт октябрь
        октября октомври октобар жов жовт жовтень жовтня кас кастр кастрычнік кастрычніка қаз қазан
        οκτ οκτώβριος οκτωβρίου հոկ հոկտեմբեր հոկտեմբերի ოქტ ოქტომბერი אוק אוקטובר أكتوبر اكتوبر
        اکتبر اکتوبر अक्टू अक्टू॰ अक्टूबर अक्तूबर ऑक्टो ऑक्टोबर অক্টো অক্টোবর ਅਕਤੂ ਅਕਤੂਬਰ ઑક્ટો
        ઑક્ટોબર அக் அக்டோபர் అక్టో అక్టోబర్ ಅಕ್ಟೋ ಅಕ್ಟೋಬರ್ ഒക്ടോ ഒക്ടോബർ ต.ค ตุลาคม 十月 октябр ottubru اکت
        """,
}
# Croatian "listopad" is October, Czech and Polish "listopad" is November. 19 November stands for no age group, so
# reading it as October cannot take one label for another.

_FILLERS = frozenset({"de", "del", "di", "da", "of", "the", "den", "le", "el", "st", "nd", "rd", "th", "er", "г"})
_MIDNIGHT = re.compile(
    r"[t ]\s*(?:0?0:00(?::00(?:[.,]0+)?)?|12:00(?::00)?\s*am)\s*(?:z|utc|gmt|[+-]00:?00)?$", re.IGNORECASE
)
_EAST_ASIAN = str.maketrans(dict.fromkeys("年月년월", "-") | dict.fromkeys("日일", ""))
_VIETNAMESE = re.compile(r"(?:thg|tháng)\.?\s*(\d{1,2})")
_NUMERIC = re.compile(r"(\d{1,4})\s*([-/.])\s*(\d{1,4})(?:\s*\2\s*(\d{1,4}))?(\.?)")
_TOKEN = re.compile(r"\d+|[^\W\d_][^\s\d/,-]*")
_SERIAL = re.compile(r"(\d{5})(?:\.0+)?")
# Excel counts days so that 1 March 1900 is 61 (it believes in a 29 February 1900).
_SERIAL_EPOCH = datetime.date(1899, 12, 30)


def _fold(word: str) -> str:
    word = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", word).casefold())
    return word.strip(".'׳’")


_MONTH = {_fold(name): month for month, names in _MONTH_NAMES.items() for name in names.split()}


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
    text = "".join(str(unicodedata.digit(c)) if c.isdigit() and not c.isascii() else c for c in text)
    text = _MIDNIGHT.sub("", text).strip()
    if serial := _SERIAL.fullmatch(text):
        date = _SERIAL_EPOCH + datetime.timedelta(days=int(serial[1]))
        yield Reading(date.year, date.month, date.day)
        return
    for year, month, day in _numeric(_plain_east_asian(text)) or _with_month_name(text):
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


def _plain_east_asian(text: str) -> str:
    """Return `2026-3-9` for `2026年3月9日`; other text as it is."""
    plain = text.translate(_EAST_ASIAN)
    return text if plain == text else plain.strip(" -")


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
    """Read `9-mar`, `oct 19`, `3. září 2026`, `9 de marzo`, `09-thg 3`, ... : one month name and one or two numbers."""
    if re.search(r"\dx|x\d", text):  # 19x and 3x9 are no dates; 19.X (Czech) is
        return []
    month: int | None = None
    if vietnamese := _VIETNAMESE.search(text):
        month = int(vietnamese[1])
        text = text[: vietnamese.start()] + " " + text[vietnamese.end() :]
    numbers = []
    for token in _TOKEN.findall(text):
        if token.isdigit():
            if len(token) > 4:  # neither day nor year; int() and datetime cannot take any length
                return []
            numbers.append(int(token))
            continue
        word = _fold(token)
        named = _MONTH.get(word)
        if named is not None and month is None:
            month = named
        elif word not in _FILLERS:
            return []
    leftover = _TOKEN.sub("", text).translate(str.maketrans("", "", " -/.,'’"))
    if month is None or leftover or not 1 <= len(numbers) <= 2:
        return []
    if len(numbers) == 1:
        return [(None, month, numbers[0]), (numbers[0], month, None)]
    # "10-Oct-19" is 10 October 2019; a year stands first only where it cannot be a day.
    return [(numbers[0], month, numbers[1]) if numbers[0] > 31 else (numbers[1], month, numbers[0])]
