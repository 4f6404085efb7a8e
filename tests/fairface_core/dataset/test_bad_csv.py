"""Odd and broken label CSVs: each is the same data set as the clean file, or refused in these very words."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fairface_core.dataset import table as csvfile
from fairface_core.dataset.manifest import load_manifest
from fairface_core.errors import DataError
from tests.fairface_core.small_data import DataRoot

VAL = "fairface_label_val.csv"
AGES = "0-2, 3-9, 10-19, 20-29, 30-39, 40-49, 50-59, 60-69, more than 70"
IMAGE_NAMES = "file, image_path, img, path, filename, filepath"
HEADER = "'file', 'age', 'gender', 'race', 'service_test'"


NEEDED = (("image", IMAGE_NAMES), ("age", "age, age_group, agegroup"), ("gender", "gender"))


def bad_age(line: int, value: str) -> str:
    return f"{VAL} line {line}: age {value!r} is not one of the age labels; accepted: {AGES}; correct or remove the row"


def bad_date(line: int, value: str) -> str:
    cure = "if a spreadsheet made a date of it, save that column as text or as ISO dates such as 2026-03-09"
    return f"{bad_age(line, value)}; {cure}"


def integer_age(line: int, value: str) -> str:
    why = "an integer may be an age in years or the number of a class"
    return f"{VAL} line {line}: age {value!r} is an integer without a name: {why}; accepted: {AGES}; write the names"


def bad_gender(line: int, value: str) -> str:
    accepted = "accepted: Male, Female; correct or remove the row"
    return f"{VAL} line {line}: gender {value!r} is not one of the gender labels; {accepted}"


def bad_width(line: int, fields: int) -> str:
    return (
        f"{VAL} line {line}: has {fields} fields, the header has 5; "
        "quote a field that holds the delimiter, or complete the row"
    )


def no_column(role: str, names: str, header: str) -> str:
    advice = "; name it with --img_col NAME" if role == "image" else ""
    return f"{VAL} line 1: no column holds the {role}; accepted names: {names}; the header has {header}{advice}"


@dataclass(frozen=True)
class Same:
    """Accepted: the digest is the clean file's."""

    counts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Refused:
    """Refused with exactly these lines."""

    problems: tuple[str, ...]

    def __init__(self, *problems: str) -> None:
        object.__setattr__(self, "problems", problems)


def text(change: Callable[[str], str], encoding: str = "utf-8") -> Callable[[bytes], bytes]:
    return lambda clean: change(clean.decode()).encode(encoding)


def row(number: int, new: str) -> Callable[[bytes], bytes]:
    """Replace row `number`, which stands on line `number + 1`."""

    def change(clean: bytes) -> bytes:
        lines = clean.decode().split("\n")
        lines[number] = new
        return "\n".join(lines).encode()

    return change


def cell(number: int, column: int, new: str) -> Callable[[bytes], bytes]:
    def change(clean: bytes) -> bytes:
        lines = clean.decode().split("\n")
        cells = lines[number].split(",")
        cells[column] = new
        lines[number] = ",".join(cells)
        return "\n".join(lines).encode()

    return change


def insert(at: int, *new: str) -> Callable[[bytes], bytes]:
    """Put lines before line `at + 1`."""

    def change(clean: bytes) -> bytes:
        lines = clean.decode().split("\n")
        return "\n".join([*lines[:at], *new, *lines[at:]]).encode()

    return change


def every_row(change: Callable[[str], str]) -> Callable[[bytes], bytes]:
    return text(lambda clean: "\n".join(change(line) for line in clean.rstrip("\n").split("\n")) + "\n")


def header(new: str) -> Callable[[bytes], bytes]:
    return row(0, new)


def delimiter(new: str) -> Callable[[bytes], bytes]:
    return text(lambda clean: clean.replace(",", new))


def chain(*changes: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    def change(clean: bytes) -> bytes:
        for one in changes:
            clean = one(clean)
        return clean

    return change


# Row 1 is "val/1.jpg,0-2,Male,White,False", row 2 "val/2.jpg,0-2,Female,...", row 3 "val/3.jpg,3-9,Male,...".
CASES: dict[str, tuple[Callable[[bytes], bytes], Same | Refused]] = {
    # Files that are another spelling of the same table.
    "untouched": (lambda clean: clean, Same({"repaired": {}, "repeated_rows": 0, "blank_rows": 0})),
    "utf8_bom": (lambda clean: b"\xef\xbb\xbf" + clean, Same()),
    "utf16_little_endian": (text(str, "utf-16"), Same()),
    "utf16_big_endian": (lambda clean: b"\xfe\xff" + clean.decode().encode("utf-16-be"), Same()),
    "crlf": (text(lambda clean: clean.replace("\n", "\r\n")), Same()),
    "old_mac_line_ends": (text(lambda clean: clean.replace("\n", "\r")), Same()),
    "mixed_line_ends": (text(lambda clean: clean.replace("\n", "\r\n", 40)), Same()),
    "no_final_line_end": (text(str.rstrip), Same()),
    "semicolon": (delimiter(";"), Same()),
    "tab": (delimiter("\t"), Same()),
    "pipe": (delimiter("|"), Same()),
    "excel_hint": (chain(delimiter(";"), lambda clean: b"sep=;\r\n" + clean), Same()),
    "spreadsheet_unicode_text": (chain(delimiter("\t"), text(str, "utf-16")), Same()),
    "everything_quoted": (every_row(lambda line: '"' + line.replace(",", '","') + '"'), Same()),
    "blank_lines": (insert(3, "", "  ", ",,,,"), Same({"blank_rows": 3})),
    "blank_lines_first": (insert(0, "", ",,,,"), Same({"blank_rows": 0})),
    "blank_lines_last": (text(lambda clean: clean + "\n,,,,\n;\n".replace(";\n", "")), Same({"blank_rows": 2})),
    "delimiter_at_every_line_end": (every_row(lambda line: line + ","), Same()),
    "empty_cells_at_some_line_ends": (chain(cell(4, 4, "True,,"), cell(9, 4, "False, ")), Same()),
    "delimiter_at_the_end_of_the_header": (header("file,age,gender,race,service_test,,"), Same()),
    "index_column": (every_row(lambda line: "0," + line if line[0] == "v" else "," + line), Same()),
    "other_columns": (every_row(lambda line: line + (",note" if line[0] == "f" else ",x")), Same()),
    "quoted_line_end_in_another_column": (
        chain(
            every_row(lambda line: line + (",note" if line[0] == "f" else ",x")),
            row(2, 'val/2.jpg,0-2,Female,East Asian,False,"a\nb\n"'),
        ),
        Same(),
    ),
    "other_column_names": (header("Image_Path,Age_Group,GENDER,Race,Service_Test"), Same()),
    "spaces_around_everything": (every_row(lambda line: " " + line.replace(",", " , ") + " "), Same()),
    "all_upper_case_labels": (
        every_row(
            lambda line: line.replace("Male", "MALE").replace("Female", "FEMALE").replace("more than", "MORE THAN")
        ),
        Same({"repaired": {"case or spaces": 100}}),
    ),
    "short_genders": (
        every_row(lambda line: line.replace(",Male", ",m").replace(",Female", ",F")),
        Same({"repaired": {"spelling": 90}}),
    ),
    "excel_dates": (
        every_row(lambda line: line.replace(",3-9,", ",9-Mar,").replace(",10-19,", ",19-Oct,")),
        Same({"repaired": {"spreadsheet date": 20}}),
    ),
    "excel_dates_day_first": (
        every_row(lambda line: line.replace(",3-9,", ",03-Sep,").replace(",10-19,", ",Oct-19,")),
        Same({"repaired": {"spreadsheet date": 20}}),
    ),
    "dates_with_time": (
        every_row(
            lambda line: line.replace(",3-9,", ",2026-03-09 00:00:00,").replace(",10-19,", ",2019-10-01 00:00:00,")
        ),
        Same({"repaired": {"spreadsheet date": 20}}),
    ),
    "day_numbers": (
        every_row(lambda line: line.replace(",3-9,", ",46090,").replace(",10-19,", ",46314,")),
        Same({"repaired": {"spreadsheet date": 20}}),
    ),
    "seventy_plus": (every_row(lambda line: line.replace("more than 70", "70+")), Same({"repaired": {"spelling": 10}})),
    "en_dashes": (every_row(lambda line: line.replace("-", "–")), Same({"repaired": {"spelling": 80}})),
    "en_dashes_in_windows_1252": (
        text(lambda clean: "\n".join(line.replace("-", "–") for line in clean.split("\n")), "cp1252"),
        Same({"repaired": {"spelling": 80}}),
    ),
    "backslashes": (every_row(lambda line: line.replace("val/", "val\\")), Same({"repaired": {"path spelling": 90}})),
    "dot_slash": (every_row(lambda line: line.replace("val/", "./val//")), Same({"repaired": {"path spelling": 90}})),
    "repeated_rows": (text(lambda clean: clean + "\n".join(clean.split("\n")[1:4])), Same({"repeated_rows": 3})),
    "repeated_row_in_another_spelling": (insert(91, "./val/1.jpg,0-2 ,m,White,0"), Same({"repeated_rows": 1})),
    # One cell is wrong.
    "unknown_age": (cell(7, 1, "30-93"), Refused(bad_age(8, "30-93"))),
    "age_in_years": (cell(1, 1, "2"), Refused(integer_age(2, "2"))),
    "a_date_of_no_group": (cell(1, 1, "2-Feb"), Refused(bad_date(2, "2-Feb"))),
    "a_date_in_german": (cell(1, 1, "9. Mrz"), Refused(bad_date(2, "9. Mrz"))),
    "nan_age": (cell(2, 1, "nan"), Refused(bad_age(3, "nan"))),
    "empty_age": (cell(2, 1, " "), Refused(f"{VAL} line 3: age is empty; accepted: {AGES}; correct or remove the row")),
    "unknown_gender": (cell(3, 2, "x"), Refused(bad_gender(4, "x"))),
    "gender_code": (
        cell(3, 2, "1"),
        Refused(
            f"{VAL} line 4: gender '1' is an integer without a name: two orders are in circulation, 0 = Male and 0 = Female "
            "(nateraw/fairface); accepted: Male, Female; write the names"
        ),
    ),
    "race_code": (
        cell(3, 3, "6"),
        Refused(
            f"{VAL} line 4: race '6' is an integer without a name: three orders are in circulation (the hub's from East "
            "Asian, the alphabetical one, the authors' own); write the names, or remove the column"
        ),
    ),
    "empty_gender": (
        cell(3, 2, ""),
        Refused(f"{VAL} line 4: gender is empty; accepted: Male, Female; correct or remove the row"),
    ),
    "age_and_gender_swapped": (
        row(5, "val/5.jpg,Male,10-19,White,False"),
        Refused(
            bad_age(6, "Male"),
            bad_gender(6, "10-19"),
        ),
    ),
    "no_image_named": (
        cell(1, 0, ""),
        Refused(f"{VAL} line 2: file '' is empty; each row needs the path of its image, relative to the root"),
    ),
    "long_label": (cell(1, 1, "9" * 500), Refused(integer_age(2, "9" * 77 + "..."))),
    "control_characters": (cell(1, 1, "\x1b[31m3-9\x07"), Refused(bad_date(2, "\x1b[31m3-9\x07"))),
    "one_file_two_labels": (
        insert(91, "val/1.jpg,3-9,Male,White,False"),
        Refused(
            f"{VAL} line 92: 'val/1.jpg' already stands on line 2 with another label (0-2, Male, White; here 3-9, Male, White); keep the right row"
        ),
    ),
    "line_number_after_quoted_line_ends": (
        chain(
            every_row(lambda line: line + (",note" if line[0] == "f" else ",x")),
            row(2, 'val/2.jpg,0-2,Female,East Asian,False,"a\nb\n"'),
            text(lambda clean: clean.replace("val/3.jpg,3-9", "val/3.jpg,x")),
        ),
        Refused(bad_age(6, "x")),
    ),
    # Rows of a wrong shape.
    "short_row": (row(4, "val/4.jpg,3-9"), Refused(bad_width(5, 2))),
    "long_row": (cell(4, 3, "East,Asian"), Refused(bad_width(5, 6))),
    "cut_off_in_the_last_row": (
        text(lambda clean: clean[:-20]),
        Refused(bad_width(91, 3)),
    ),
    "quote_never_closed": (
        row(4, 'val/4.jpg,"3-9,Female,White,False'),
        Refused(f'{VAL} line 5: a quote (") that is opened here is never closed'),
    ),
    "text_after_a_quote": (
        row(4, '"val/4.jpg"x,3-9,Female,White,False'),
        Refused(f'{VAL} line 5: text follows a closing quote ("); write "" for a quote inside a quoted field'),
    ),
    "huge_field": (
        row(4, f'val/4.jpg,"{"x" * 140_000}",Female,White,False'),
        Refused(f'{VAL} line 5: a field is longer than 131,072 characters, probably a quote (") that is never closed'),
    ),
    # Columns.
    "no_age_column": (
        header("file,alter,gender,race,service_test"),
        Refused(no_column("age", "age, age_group, agegroup", "'file', 'alter', 'gender', 'race', 'service_test'")),
    ),
    "no_image_column": (
        header("foto,age,gender,race,service_test"),
        Refused(no_column("image", IMAGE_NAMES, "'foto', 'age', 'gender', 'race', 'service_test'")),
    ),
    "no_header": (
        text(lambda clean: clean.partition("\n")[2]),
        Refused(*(no_column(*role, "'val/1.jpg', '0-2', 'Male', 'White', 'False'") for role in NEEDED)),
    ),
    "doubled_age": (
        header("file,age,gender,race,age_group"),
        Refused(f"{VAL} line 1: 2 columns hold the age: 'age', 'age_group'; keep one of them"),
    ),
    "doubled_name": (
        header("file,age,gender,race,Gender"),
        Refused(f"{VAL} line 1: 2 columns hold the gender: 'gender', 'Gender'; keep one of them"),
    ),
    "doubled_image": (
        header("path,age,gender,race,filename"),
        Refused(f"{VAL} line 1: 2 columns hold the image: 'path', 'filename'; keep one of them"),
    ),
    "wrong_delimiter": (
        delimiter("^"),
        Refused(*(no_column(*role, "'file^age^gender^race^servic...'") for role in NEEDED)),
    ),
    # Not a CSV at all.
    "empty_file": (lambda clean: b"", Refused(f"{VAL}: is empty; a header line and rows are needed")),
    "only_blank_lines": (lambda clean: b" \r\n\n", Refused(f"{VAL}: is empty; a header line and rows are needed")),
    "header_only": (
        text(lambda clean: clean.partition("\n")[0]),
        Refused(f"{VAL}: has a header but no rows; one row per image is needed"),
    ),
    "a_jpeg": (lambda clean: b"\xff\xd8\xff\xe0" + bytes(99), Refused(f"{VAL}: is not a CSV but a JPEG image")),
    "an_excel_workbook": (
        lambda clean: b"PK\x03\x04" + bytes(99),
        Refused(f"{VAL}: is not a CSV but a zip file or an Excel workbook; save it as CSV"),
    ),
    "a_web_page": (
        lambda clean: b"\n<!DOCTYPE html><html>404</html>",
        Refused(f"{VAL}: is not a CSV but an HTML or XML page, probably a download that failed"),
    ),
    "gzip": (
        lambda clean: b"\x1f\x8b\x08\x00" + clean,
        Refused(f"{VAL}: is not a CSV but gzip-compressed; unpack it first"),
    ),
    "git_lfs_pointer": (
        lambda clean: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        Refused(f"{VAL}: is not a CSV but a Git LFS pointer; fetch the real file with `git lfs pull`"),
    ),
    "a_thousand_columns": (
        text(lambda clean: clean.replace("\n", "," * 1_000 + "\n")),
        Refused(f"{VAL} line 1: has 1,005 columns, accepted are 1,000; that is no label CSV"),
    ),
    "only_delimiters": (
        lambda clean: clean + b"," * 3_000_000,
        Same({"blank_rows": 1}),
    ),
    "nul_bytes": (
        cell(6, 1, "3\x009"),
        Refused(f"{VAL} line 7: holds a NUL character: not a text file, or UTF-16 without its mark; save it as UTF-8"),
    ),
    "utf16_without_mark": (
        text(str, "utf-16-le"),
        Refused(f"{VAL} line 1: holds a NUL character: not a text file, or UTF-16 without its mark; save it as UTF-8"),
    ),
    "cut_utf16": (
        lambda clean: clean.decode().encode("utf-16")[:-1],
        Refused(f"{VAL}: starts as UTF-16 but is damaged at byte {{size}}; save it as UTF-8"),
    ),
    "no_encoding": (
        lambda clean: clean.replace(b"White", b"Wh\x81te", 1),
        Refused(f"{VAL} line 2: byte 0x81 is neither UTF-8 nor Windows-1252; save it as UTF-8"),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_outcome(data_root: DataRoot, name: str) -> None:
    change, expected = CASES[name]
    clean = load_manifest(data_root.config())
    data_root.val_csv.write_bytes(change(data_root.val_csv.read_bytes()))
    before = sorted((path, path.stat().st_mtime_ns) for path in data_root.path.rglob("*"))
    if isinstance(expected, Same):
        manifest = load_manifest(data_root.config())
        assert manifest.digest == clean.digest
        assert manifest.test.path.tolist() == clean.test.path.tolist()
        assert {key: manifest.counts[key] for key in expected.counts} == expected.counts
    else:
        with pytest.raises(DataError) as caught:
            load_manifest(data_root.config())
        size = data_root.val_csv.stat().st_size - 1
        assert list(caught.value.problems) == [line.replace("{size}", str(size)) for line in expected.problems]
        assert caught.value.exit_code == 2
    assert sorted((path, path.stat().st_mtime_ns) for path in data_root.path.rglob("*")) == before


def test_more_rows_than_any_label_csv_has(data_root: DataRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csvfile, "MAX_ROWS", 90)
    assert load_manifest(data_root.config()).counts["csv_rows"]["val"] == 90
    data_root.edit_val(lambda lines: [*lines, "val/1.jpg,0-2,Male,White,True"])
    with pytest.raises(DataError, match=f"^{VAL} line 92: more than 90 rows; that is no label CSV"):
        load_manifest(data_root.config())


def test_both_csvs_are_told_of_in_one_message(data_root: DataRoot) -> None:
    data_root.train_csv.write_bytes(cell(1, 1, "?")(data_root.train_csv.read_bytes()))
    data_root.val_csv.write_bytes(cell(2, 2, "?")(data_root.val_csv.read_bytes()))
    with pytest.raises(DataError) as caught:
        load_manifest(data_root.config())
    assert [line.split(":")[0] for line in caught.value.problems] == [
        "fairface_label_train.csv line 2",
        f"{VAL} line 3",
    ]


def test_one_cause_is_told_once_and_twenty_in_all(data_root: DataRoot) -> None:
    data_root.val_csv.write_bytes(
        every_row(lambda line: line.replace("Female", "?").replace("val/9", "x/9"))(data_root.val_csv.read_bytes())
    )
    with pytest.raises(DataError) as caught:
        load_manifest(data_root.config())
    said, *missing = caught.value.problems
    assert said == (
        f"{VAL} line 3: gender '?' is not one of the gender labels; accepted: Male, Female; correct or remove the row "
        "(the same for 44 more rows: line 5, line 7, line 9, line 11, line 13, ...)"
    )
    assert len(missing) == 2  # val/9.jpg and val/90.jpg: so few are told in full
    data_root.edit_val(lambda lines: [line.replace("?,", f"?{row},") for row, line in enumerate(lines)])
    with pytest.raises(DataError) as caught:
        load_manifest(data_root.config())
    assert len(caught.value.problems) == 21
    assert caught.value.problems[-1] == "and 27 more: unknown gender labels (27)"


def test_a_hub_export_is_refused_with_both_remedies(data_root: DataRoot) -> None:
    for path in (data_root.train_csv, data_root.val_csv):
        lines = ["image,age,gender", *(f"{n}.jpg,{n % 9},{n % 2}" for n in range(40))]
        path.write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError) as caught:
        load_manifest(data_root.config())
    column, other_column, age, gender, *others = caught.value.problems
    assert column.removeprefix("fairface_label_train.csv") == other_column.removeprefix("fairface_label_val.csv")
    assert column.endswith("the header has 'image', 'age', 'gender'; name it with --img_col image")
    more = "(the same for 39 more rows: line 3, line 4, line 5, line 6, line 7, ...)"
    assert "line 2: age '0' is an integer without a name: an integer may be" in age
    assert age.endswith(f"write the names {more}")
    assert "two orders are in circulation, 0 = Male and 0 = Female (nateraw/fairface)" in gender
    assert gender.endswith(f"write the names {more}")
    assert len(others) == 2


def test_a_conflict_between_races_counts_as_two_labels(data_root: DataRoot) -> None:
    data_root.val_csv.write_bytes(insert(91, "val/1.jpg,0-2,Male,Black,False")(data_root.val_csv.read_bytes()))
    with pytest.raises(DataError, match=r"line 92: 'val/1.jpg' already stands on line 2 with another label"):
        load_manifest(data_root.config())


def test_labels_are_checked_even_where_images_may_be_skipped(data_root: DataRoot) -> None:
    data_root.set_cell(1, 1, "?")
    with pytest.raises(DataError, match="line 2: age"):
        load_manifest(data_root.config(on_bad_image="skip"))


@pytest.mark.parametrize("column", ["file", "photo", "Photo"])
def test_the_image_column_may_have_any_name(data_root: DataRoot, column: str) -> None:
    clean = load_manifest(data_root.config())
    data_root.val_csv.write_bytes(header(f"{column},age,gender,race,path")(data_root.val_csv.read_bytes()))
    assert load_manifest(data_root.config(img_col=column)).digest == clean.digest
    assert load_manifest(data_root.config(img_col=column.upper())).digest == clean.digest


def test_csvs_without_race_and_service_test(data_root: DataRoot) -> None:
    with_race = load_manifest(data_root.config())
    data_root.val_csv.write_bytes(every_row(lambda line: ",".join(line.split(",")[:3]))(data_root.val_csv.read_bytes()))
    manifest = load_manifest(data_root.config())
    assert manifest.test.race is None
    assert manifest.test.service_test is None
    assert manifest.train.race is not None
    assert manifest.test.line.tolist() == with_race.test.line.tolist()
    assert manifest.digest != with_race.digest


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "~nobody-has-this-name/x.csv", "a/b/c.csv", f"{VAL}/x"])
def test_csv_names_that_no_file_has(data_root: DataRoot, name: str) -> None:
    with pytest.raises(DataError) as caught:
        load_manifest(data_root.config(val_csv=name))
    (problem,) = caught.value.problems
    assert "there is no such file" in problem or "cannot be opened" in problem


@pytest.mark.parametrize("root", ["x" * 5000, "a\0b", "~nobody-has-this-name"])
def test_roots_that_no_folder_has(data_root: DataRoot, root: str) -> None:
    for config in (data_root.config(root=root), data_root.config(image_root=(root,))):
        with pytest.raises(DataError, match="does not exist"):
            load_manifest(config)


@pytest.mark.parametrize("kind", ["fifo", "socket", "device", "loop", "unreadable", "huge"])
def test_a_csv_that_is_no_file(data_root: DataRoot, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """None of these hangs or fills the memory."""
    data_root.val_csv.unlink()
    path = f"'{data_root.val_csv}'"
    if kind == "fifo":
        os.mkfifo(data_root.val_csv)
        expected = f"{VAL}: is not a regular file: {path}; name a CSV file"
    elif kind == "socket":
        import socket

        server = socket.socket(socket.AF_UNIX)
        monkeypatch.chdir(data_root.path)
        server.bind(VAL)
        server.close()
        expected = f"{VAL}: cannot be opened (No such device or address): {path}"
    elif kind == "device":
        config = data_root.config(val_csv="/dev/zero")
        with pytest.raises(DataError, match="zero: is not a regular file: '/dev/zero'; name a CSV file"):
            load_manifest(config)
        return
    elif kind == "loop":
        data_root.val_csv.symlink_to(data_root.val_csv)
        expected = f"{VAL}: cannot be opened (Too many levels of symbolic links): {path}"
    elif kind == "unreadable":
        data_root.val_csv.write_text("file,age,gender\n")
        data_root.val_csv.chmod(0)
        if os.access(data_root.val_csv, os.R_OK):
            pytest.skip("root may read everything")
        expected = f"{VAL}: cannot be opened (Permission denied): {path}"
    else:
        with data_root.val_csv.open("wb") as file:
            file.truncate(257 * 2**20)
        expected = f"{VAL}: is larger than 256 MiB; that is no label CSV"
    found: list[str] = []

    def load() -> None:
        try:
            load_manifest(data_root.config())
        except DataError as error:
            found.extend(error.problems)

    thread = threading.Thread(target=load, daemon=True)
    thread.start()
    thread.join(20)
    assert found == [expected]


def test_a_csv_that_is_a_link_is_followed(data_root: DataRoot, tmp_path: Path) -> None:
    """The root's owner made it, as the hub's cache does; `evaluate` lets no checkpoint name a CSV elsewhere."""
    clean = load_manifest(data_root.config()).digest
    outside = tmp_path / "labels.csv"
    data_root.val_csv.rename(outside)
    data_root.val_csv.symlink_to(outside)
    assert load_manifest(data_root.config()).digest == clean
    assert load_manifest(data_root.config(val_csv=str(outside))).digest == clean
