"""load_manifest: the parts of a run, the policies, and one digest for every accepted spelling of the same data."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fairface_core.config.train_config import TrainConfig, data_fields, make_config
from fairface_core.dataset.manifest import Manifest, load_manifest, read_labels
from fairface_core.dataset.rows import Rows, digest_lines
from fairface_core.dataset.split import strata, stratified_split
from fairface_core.errors import DataError, Problems
from fairface_core.labels import AGE_GROUPS, GENDERS
from tests.fairface_core.small_data import DataRoot


def files(rows: Rows) -> list[str]:
    return rows.file.tolist()


def refused(config: TrainConfig) -> list[str]:
    with pytest.raises(DataError) as caught:
        load_manifest(config)
    return list(caught.value.problems)


def test_rows_are_aligned_and_the_split_is_the_frozen_one(data_root: DataRoot) -> None:
    manifest = load_manifest(data_root.config())
    assert (len(manifest.train), len(manifest.val), len(manifest.test)) == (36, 72, 18)
    with data_root.val_csv.open(newline="") as file:
        table = list(csv.DictReader(file))
    age = np.array([AGE_GROUPS.index(row["age"]) for row in table])
    gender = np.array([GENDERS.index(row["gender"]) for row in table])
    first, second = stratified_split(strata(age, gender), 0.2, 42)
    for rows, index in ((manifest.val, first), (manifest.test, second)):
        assert rows.csv_name == "fairface_label_val.csv"
        assert rows.line.tolist() == [i + 2 for i in index]
        assert files(rows) == [table[i]["file"] for i in index]
        assert rows.path.tolist() == [str(data_root.path.resolve() / table[i]["file"]) for i in index]
        np.testing.assert_array_equal(rows.age, age[index])
        np.testing.assert_array_equal(rows.gender, gender[index])
        assert rows.race is not None
        assert rows.race.tolist() == [table[i]["race"] for i in index]
        assert rows.service_test is not None
        assert rows.service_test.tolist() == [int(table[i]["service_test"] == "True") for i in index]
    assert manifest.train.line.tolist() == list(range(2, 38))
    assert manifest.train.age.dtype == manifest.train.line.dtype == np.int64


def test_counts_are_json_and_say_what_was_done(data_root: DataRoot) -> None:
    data_root.set_cell(3, 1, "9-Mar" if "3-9" in data_root.val_csv.read_text().splitlines()[3] else "0-2")
    data_root.edit_val(lambda lines: [*lines, lines[1], "", lines[2]])
    counts = load_manifest(data_root.config()).counts
    assert json.loads(json.dumps(counts)) == counts
    assert counts["rows"] == {"train": 36, "val": 72, "test": 18}
    assert counts["csv_rows"] == {"train": 36, "val": 92}
    assert counts["repaired"] == {"spreadsheet date": 1}
    assert (counts["repeated_rows"], counts["blank_rows"], counts["missing_images_skipped"]) == (2, 1, 0)
    assert counts["protocol"] == "seed"
    assert counts["absent"] == {}
    assert counts["columns"]["val"]["image"] == "file"


def test_take_keeps_rows_together(data_root: DataRoot) -> None:
    rows = load_manifest(data_root.config()).train
    part = rows.take(np.array([5, 2]))
    assert len(part) == 2
    assert part.line.tolist() == [7, 4]
    assert files(part) == ["train/6.jpg", "train/3.jpg"]
    assert part.race is not None
    assert part.race.tolist() == ["East Asian", "White"]


@pytest.mark.parametrize("folder", ["", "train", "val", "images"])
def test_images_are_searched_in_the_four_folders(data_root: DataRoot, folder: str) -> None:
    (data_root.path / folder).mkdir(exist_ok=True)
    (data_root.path / "val/1.jpg").rename(data_root.path / folder / "face.jpg")
    data_root.set_cell(1, 0, "face.jpg")
    manifest = load_manifest(data_root.config(protocol="official"))
    assert manifest.test.path[0] == str(data_root.path.resolve() / folder / "face.jpg")


def test_the_first_searched_folder_wins(data_root: DataRoot) -> None:
    (data_root.path / "images").mkdir()
    for folder in ("images", "val", "train", "."):
        shutil.copy(data_root.path / "val/2.jpg", data_root.path / folder / "face.jpg")
        data_root.set_cell(1, 0, "face.jpg")
        found = load_manifest(data_root.config(protocol="official")).test.path[0]
        assert found == str((data_root.path / folder / "face.jpg").resolve())


def test_further_image_roots_are_searched_too(data_root: DataRoot, tmp_path: Path) -> None:
    shutil.move(data_root.path / "val", tmp_path / "elsewhere" / "val")
    manifest = load_manifest(data_root.config(image_root=(str(tmp_path / "elsewhere"),)))
    assert {Path(path).parent for path in manifest.test.path} == {(tmp_path / "elsewhere/val").resolve()}
    assert any("is in none of the searched folders" in line for line in refused(data_root.config()))


def test_official_protocol_tests_on_the_whole_val_csv(data_root: DataRoot) -> None:
    seed, official = load_manifest(data_root.config()), load_manifest(data_root.config(protocol="official"))
    assert official.test.line.tolist() == list(range(2, 92))
    assert len(official.train) + len(official.val) == 36
    assert len(official.val) == 4
    assert {rows.csv_name for rows in (official.train, official.val)} == {"fairface_label_train.csv"}
    assert not set(official.train.line.tolist()) & set(official.val.line.tolist())
    assert (official.protocol, seed.protocol) == ("official", "seed")
    assert official.digest != seed.digest


def test_split_seed_moves_the_split_and_seed_does_not(data_root: DataRoot) -> None:
    base = load_manifest(data_root.config())
    assert files(load_manifest(data_root.config(seed=7)).test) == files(base.test)
    assert load_manifest(data_root.config(seed=7)).digest == base.digest
    other = load_manifest(data_root.config(split_seed=7))
    assert set(files(other.test)) != set(files(base.test))
    assert other.digest != base.digest


def test_the_digest_hangs_on_these_fields_in_this_order() -> None:
    """Another set, or another order, would make every earlier run one on other data."""
    assert data_fields("which") == (
        "margin", "protocol", "split_seed", "on_bad_image", "drop_duplicates", "limit_train", "limit_val"
    )  # fmt: skip
    assert set(data_fields()) - set(data_fields("which")) == {
        "root", "train_csv", "val_csv", "img_col", "image_root", "cache_dir", "cache_px"
    }  # fmt: skip


def test_fields_that_came_later_leave_old_digests_alone(data_root: DataRoot) -> None:
    """The choices as they were written before there was a margin."""
    config = data_root.config()
    labels = read_labels(config, Problems())
    assert labels is not None
    choices = repr([config.protocol, config.split_seed, config.on_bad_image, config.drop_duplicates, None, None])
    text = "\x1e".join([choices, digest_lines(labels.train), digest_lines(labels.val)])
    assert load_manifest(config).digest == hashlib.sha256(text.encode()).hexdigest()
    assert config.digest() != config.replace(margin="0.25").digest() != config.replace(cache_px=64).digest()


def test_limits_are_stratified_parts_of_the_full_split(data_root: DataRoot) -> None:
    full = load_manifest(data_root.config())
    small = load_manifest(data_root.config(limit_train=20, limit_val=45))
    assert {name: len(getattr(small, name)) for name in ("train", "val", "test")} == {"train": 20, "val": 36, "test": 9}
    for name in ("train", "val", "test"):
        part, whole = files(getattr(small, name)), files(getattr(full, name))
        assert part == [file for file in whole if file in set(part)]
    assert len(set(strata(small.train.age, small.train.gender).tolist())) == 18
    assert small.digest != full.digest
    again = load_manifest(data_root.config(limit_train=20, limit_val=45))
    assert files(again.train) == files(small.train)
    assert load_manifest(data_root.config(limit_train=10**6, limit_val=10**6)).counts["rows"] == full.counts["rows"]


def test_an_absent_class_is_accepted_and_told(data_root: DataRoot) -> None:
    data_root.edit_val(lambda lines: [line for line in lines if ",0-2," not in line])
    manifest = load_manifest(data_root.config())
    assert manifest.counts["absent"] == {"val": ["0-2"], "test": ["0-2"]}


def test_a_stratum_of_one_goes_to_validation(data_root: DataRoot) -> None:
    lone = [i for i, line in enumerate(data_root.val_csv.read_text().splitlines()) if ",0-2,Male" in line]
    data_root.edit_val(lambda lines: [line for i, line in enumerate(lines) if i not in lone[1:]])
    manifest = load_manifest(data_root.config())
    assert "val/1.jpg" in files(manifest.val)
    assert not ((manifest.test.age == 0) & (manifest.test.gender == 0)).any()
    assert len(manifest.val) + len(manifest.test) == 86


def test_too_few_rows_to_split(data_root: DataRoot) -> None:
    data_root.edit_val(lambda lines: lines[:2])
    assert refused(data_root.config()) == [
        "no test row is left of 36 train and 1 val rows after the split; more rows are needed"
    ]


# Policies.


def test_missing_images_are_errors_or_skipped(data_root: DataRoot) -> None:
    full = load_manifest(data_root.config(on_bad_image="skip"))
    for name in ("train/4.jpg", "val/7.jpg"):
        (data_root.path / name).unlink()
    problems = refused(data_root.config())
    assert [line.partition(" is in none")[0] for line in problems] == [
        "fairface_label_train.csv line 5: file 'train/4.jpg'",
        "fairface_label_val.csv line 8: file 'val/7.jpg'",
    ]
    manifest = load_manifest(data_root.config(on_bad_image="skip"))
    assert manifest.counts["missing_images_skipped"] == 2
    for name in ("train", "val", "test"):
        # The others stay where they were: a hole in the data must not shuffle the split.
        expected = [file for file in files(getattr(full, name)) if file not in {"train/4.jpg", "val/7.jpg"}]
        assert files(getattr(manifest, name)) == expected
    assert manifest.digest != full.digest


def copy_image(root: DataRoot, source: str, target: str) -> None:
    shutil.copy(root.path / source, root.path / target)


def test_drop_duplicates(data_root: DataRoot) -> None:
    base = load_manifest(data_root.config())
    test, val = files(base.test), files(base.val)
    copy_image(data_root, test[0], "train/1.jpg")  # train and test
    copy_image(data_root, val[0], "train/2.jpg")  # train and validation
    copy_image(data_root, test[1], val[1])  # validation and test
    copy_image(data_root, "train/3.jpg", "train/4.jpg")  # within train
    copy_image(data_root, test[2], test[3])  # within test
    dropped: dict[str, dict[str, int]] = {}
    for policy in ("none", "cross_split", "all"):
        manifest = load_manifest(data_root.config(drop_duplicates=policy))
        dropped[policy] = manifest.counts["duplicates_dropped"]
        kept = {name: set(files(getattr(manifest, name))) for name in ("train", "val", "test")}
        if policy == "none":
            assert manifest.digest == base.digest  # the digest is of labels; it does not read images
        else:
            assert {"train/1.jpg", "train/2.jpg"}.isdisjoint(kept["train"])
            assert val[1] not in kept["val"]
            assert {val[0]} <= kept["val"]
            assert {test[0], test[1]} <= kept["test"]
    assert dropped == {
        "none": {},
        "cross_split": {"train": 2, "val": 1, "test": 0},
        "all": {"train": 3, "val": 1, "test": 1},
    }


def test_official_carves_no_copy_of_a_test_image_unless_told_so(data_root: DataRoot) -> None:
    copy_image(data_root, "val/7.jpg", "train/1.jpg")
    copy_image(data_root, "train/3.jpg", "train/4.jpg")
    manifest = load_manifest(data_root.config(protocol="official"))
    assert "train/1.jpg" not in files(manifest.train) + files(manifest.val)
    assert "val/7.jpg" in files(manifest.test) and len(manifest.test) == 90
    assert manifest.counts["drop_duplicates"] == "cross_split"
    assert sum(manifest.counts["duplicates_dropped"].values()) in (1, 2)  # 2 where the carve parts train/3 and its copy
    kept = load_manifest(data_root.config(protocol="official", drop_duplicates="none"))
    assert "train/1.jpg" in files(kept.train) + files(kept.val)
    assert make_config({"protocol": "official"}).replace(epochs=3).drop_duplicates == "cross_split"
    assert make_config({}).drop_duplicates == "none"


def test_remembered_digests_notice_a_changed_or_damaged_file(data_root: DataRoot) -> None:
    copy_image(data_root, "val/1.jpg", "train/1.jpg")
    config = data_root.config(drop_duplicates="cross_split")
    assert load_manifest(config).counts["duplicates_dropped"]["train"] == 1
    (kept,) = (data_root.path.parent / "cache").glob("sha256-*")
    content = bytearray(kept.read_bytes())
    content[5] ^= 1
    kept.write_bytes(content)
    assert load_manifest(config).counts["duplicates_dropped"]["train"] == 1
    (data_root.path / "train/1.jpg").write_bytes(b"another image")
    assert load_manifest(config).counts["duplicates_dropped"]["train"] == 0


def test_a_file_in_both_csvs_is_refused_or_dropped(data_root: DataRoot) -> None:
    data_root.edit_val(lambda lines: [*lines, lines[1].replace("val/1.jpg", "train/5.jpg")])
    (problem,) = refused(data_root.config())
    assert problem.startswith(
        "fairface_label_val.csv line 92: 'train/5.jpg' is also in fairface_label_train.csv line 6; remove one row"
    )
    manifest = load_manifest(data_root.config(drop_duplicates="cross_split"))
    assert "train/5.jpg" not in files(manifest.train)
    assert "train/5.jpg" in files(manifest.val) + files(manifest.test)


def test_bare_names_that_meet_in_one_folder_are_caught(data_root: DataRoot) -> None:
    """`1.jpg` of the val CSV is found in train/ first: the original script trained and tested on it."""
    data_root.edit_val(lambda lines: [line.removeprefix("val/") for line in lines])
    problems = refused(data_root.config())
    assert len(problems) == 1
    assert problems[0].startswith("fairface_label_val.csv line 2: '1.jpg' is also in fairface_label_train.csv line 2; ")
    assert problems[0].endswith("(the same for 35 more rows: line 3, line 4, line 5, line 6, line 7, ...)")
    # Where copies are dropped, as by `official`, rows that say the same are dropped; here two faces have one name.
    data_root.set_cell(1, 1, "30-39")
    (problem,) = refused(data_root.config(protocol="official"))
    assert problem.startswith(
        "fairface_label_val.csv line 2: '1.jpg' is also in fairface_label_train.csv line 2; the labels differ: "
    )


def test_every_problem_is_told_at_once(data_root: DataRoot) -> None:
    data_root.set_cell(1, 1, "30-93")
    data_root.set_cell(2, 2, "x")
    data_root.set_cell(3, 0, "../../etc/passwd")
    (data_root.path / "train/9.jpg").unlink()
    problems = refused(data_root.config())
    assert [line.split(": ")[0] for line in problems] == [
        "fairface_label_train.csv line 10", "fairface_label_val.csv line 2", "fairface_label_val.csv line 3",
        "fairface_label_val.csv line 4",
    ]  # fmt: skip
    assert "age '30-93' is not one of the age labels; accepted: 0-2, 3-9, 10-19" in problems[1]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"root": ""}, "no data folder is named; give --root DIR with the label CSVs and images"),
        ({"root": "/no/such/folder"}, "--root '/no/such/folder' does not exist; name a folder that is there"),
        ({"image_root": ("/no/such/folder",)}, "--image_root '/no/such/folder' does not exist; name a folder that is there"),
        (
            {"val_csv": "absent.csv"},
            "absent.csv: there is no such file: '{root}/absent.csv'; check --root, --train_csv, --val_csv; "
            "CSVs in that folder: 'fairface_label_train.csv', 'fairface_label_val.csv'",
        ),
        (
            {"val_csv": "fairface-label-val.csv"},
            "fairface-label-val.csv: there is no such file: '{root}/fairface-label-val.csv'; did you mean "
            "'fairface_label_val.csv'? Rename it, or name it with --val_csv",
        ),
        ({"val_csv": "val"}, "val: is not a regular file: '{root}/val'; name a CSV file"),
    ],
)  # fmt: skip
def test_what_is_not_there(data_root: DataRoot, changes: dict[str, Any], expected: str) -> None:
    assert refused(data_root.config(**changes)) == [expected.format(root=data_root.path)]


def test_the_root_must_be_a_folder(data_root: DataRoot) -> None:
    path = data_root.val_csv
    assert refused(data_root.config(root=str(path))) == [
        f"--root {str(path)!r} is not a folder; name a folder that is there"
    ]


def test_csvs_may_lie_elsewhere_when_the_user_names_them(data_root: DataRoot, tmp_path: Path) -> None:
    base = load_manifest(data_root.config())
    moved = tmp_path / "labels.csv"
    shutil.move(data_root.val_csv, moved)
    assert load_manifest(data_root.config(val_csv=str(moved))).digest == base.digest
    assert load_manifest(data_root.config(val_csv="../../labels.csv")).digest == base.digest


# Properties.


def spell(row: dict[str, str], draw: Callable[..., Any]) -> list[str]:
    """One row in an accepted spelling of its cells."""
    ages = {
        "3-9": ["9-Mar", "03-Sep", "3–9", "2026-03-09", "3 - 9"],
        "10-19": ["19-Oct", "Oct-19", "2019-10-01", " 10-19"],
        "more than 70": ["70+", "More_than_70", ">=70", "MORE THAN 70"],
    }
    age = draw(st.sampled_from([row["age"], f" {row['age']} ", *ages.get(row["age"], [])]))
    genders = {"Male": ["Male", "male", "M", " male"], "Female": ["Female", "FEMALE", "f", "female "]}
    file = draw(st.sampled_from([row["file"], f" {row['file']}", f"./{row['file']}", row["file"].replace("/", "\\")]))
    return [file, age, draw(st.sampled_from(genders[row["gender"]])), row["race"], row["service_test"].upper()]


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=40, deadline=None
)
@given(st.data())
def test_every_accepted_variant_is_the_same_data(data_root: DataRoot, data: st.DataObject) -> None:
    clean = load_manifest(data_root.config())
    with data_root.val_csv.open(newline="") as file:
        table = list(csv.DictReader(file))
    names = {
        "file": ["file", "File", "image_path", "IMG", "path", "filename", "filepath"],
        "age": ["age", "Age", "age_group", "AgeGroup"],
    }
    header = [data.draw(st.sampled_from(names["file"])), data.draw(st.sampled_from(names["age"])),
              data.draw(st.sampled_from(["gender", " Gender ", "GENDER"])), "race", "service_test"]  # fmt: skip
    rows = [spell(row, data.draw) for row in table[:6]] + [
        [row["file"], row["age"], row["gender"], row["race"], row["service_test"]] for row in table[6:]
    ]
    if data.draw(st.booleans()):
        header, rows = ["", *header], [[str(i), *row] for i, row in enumerate(rows)]
    order = data.draw(st.permutations(range(len(header))))
    out = io.StringIO()
    ends = data.draw(st.sampled_from(["\n", "\r\n", "\r"]))
    writer = csv.writer(
        out, delimiter=data.draw(st.sampled_from([",", ";", "\t", "|"])), lineterminator=ends,
        quoting=data.draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])),
    )  # fmt: skip
    blank_after = data.draw(st.sets(st.integers(0, len(rows)), max_size=4))
    for number, row in enumerate([header, *rows]):
        writer.writerow([row[i] for i in order])
        out.write(ends * (number in blank_after))
    encoding = data.draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
    (data_root.path / "variant.csv").write_bytes(out.getvalue().encode(encoding))
    variant = load_manifest(data_root.config(val_csv="variant.csv"))
    assert variant.digest == clean.digest
    for name in ("train", "val", "test"):
        ours, theirs = getattr(variant, name), getattr(clean, name)
        assert ours.path.tolist() == theirs.path.tolist()
        np.testing.assert_array_equal(ours.age, theirs.age)
        np.testing.assert_array_equal(ours.gender, theirs.gender)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.data())
def test_a_changed_label_is_another_digest_or_refused(data_root: DataRoot, data: st.DataObject) -> None:
    clean_text = data_root.val_csv.read_text()
    clean = load_manifest(data_root.config())
    row, column = data.draw(st.integers(1, 90)), data.draw(st.integers(0, 3))
    text = data.draw(
        st.text(st.characters(exclude_characters='\r\n",', codec="utf-8"), max_size=12)
        | st.sampled_from(AGE_GROUPS + GENDERS)
    )
    before = clean_text.splitlines()[row].split(",")[column]
    data_root.set_cell(row, column, text)
    try:
        changed = load_manifest(data_root.config())
        assert (changed.digest == clean.digest) == same_meaning(before, text, column)
    except DataError as error:
        assert not same_meaning(before, text, column)
        assert f"fairface_label_val.csv line {row + 1}" in error.problems[0]
    finally:
        data_root.val_csv.write_text(clean_text)


def same_meaning(before: str, after: str, column: int) -> bool:
    from fairface_core.dataset.spelling import parse_age, parse_gender

    if column == 0:
        return after.strip().replace("\\", "/") == before
    if column == 3:
        return " ".join(after.split()) == before
    parse = (parse_age, parse_gender)[column - 1]
    old, new = parse(before), parse(after)
    return new is not None and old is not None and new.index == old.index


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(
    st.binary(max_size=400)
    | st.text(max_size=300).map(lambda text: text.encode("utf-8", "replace"))
    | st.lists(st.text('",;\n\r\t abAB019-/_', max_size=30), max_size=20).map(
        lambda rows: ("file,age,gender\n" + "\n".join(rows)).encode()
    )
)
def test_any_bytes_are_refused_in_words(data_root: DataRoot, content: bytes) -> None:
    (data_root.path / "fuzz.csv").write_bytes(content)
    problems = refused(data_root.config(val_csv="fuzz.csv"))
    assert all(line.startswith(("fuzz.csv", "no ", "and ")) and line.isprintable() for line in problems)


# The real thing.


def plain_labels(path: Path) -> list[tuple[str, str]]:
    with path.open(newline="") as file:
        return [(row["age"], row["gender"]) for row in csv.DictReader(file)]


@pytest.mark.real_data
def test_the_full_csvs_parse_to_their_own_labels(real_data: Path) -> None:
    """86,744 + 10,954 rows, of which the sample holds the first 8,000 + 2,500 images."""
    labels = real_data / "labels"
    clean, damaged = (
        load_manifest(
            TrainConfig(
                root=str(real_data / "fairface_sample"), on_bad_image="skip", protocol="official",
                train_csv=str(labels / "fairface_label_train.csv"),
                val_csv=str(labels / folder / "fairface_label_val.csv"),
            )
        )
        for folder in ("", "spreadsheet_damaged")
    )  # fmt: skip
    assert clean.digest == damaged.digest
    assert damaged.counts["repaired"] == {"spreadsheet date": 1356 + 1181}
    assert clean.counts["repaired"] == {}
    for manifest in (clean, damaged):
        assert manifest.counts["csv_rows"] == {"train": 86_744, "val": 10_954}
        assert manifest.counts["missing_images_skipped"] == 97_698 - 10_500
        truth = plain_labels(labels / "fairface_label_val.csv")[: len(manifest.test)]
        found = [(AGE_GROUPS[a], GENDERS[g]) for a, g in zip(manifest.test.age, manifest.test.gender, strict=True)]
        assert found == truth


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["fairface_label_train.csv", "fairface_label_val.csv"])
def test_every_row_of_a_full_csv_is_read_as_it_is(real_data: Path, name: str) -> None:
    from fairface_core.dataset.columns import open_csv
    from fairface_core.dataset.image_finder import ImageFinder
    from fairface_core.dataset.rows import read_rows

    problems = Problems()
    for folder in ("", "spreadsheet_damaged") if "val" in name else ("",):
        finder = ImageFinder(real_data / "fairface_sample")
        opened = open_csv(real_data / "labels" / folder / name, problems, img_col="file")
        assert opened is not None
        read = read_rows(opened, finder.find, problems, on_bad_image="skip")
        found = [(AGE_GROUPS[a], GENDERS[g]) for a, g in zip(read.rows.age, read.rows.gender, strict=True)]
        assert found == plain_labels(real_data / "labels" / name)
        assert read.rows.line.tolist() == list(range(2, len(found) + 2))
    assert not problems


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("changes", "digest"),
    [
        ({}, "123fa9a5597b2a5b9c5e456686a1685ef12e10c090b7026e7a8984b29c38bb85"),
        (
            {"protocol": "official", "drop_duplicates": "none"},
            "4e8cd74f0e0a7ad7e993c5fbaa682896915cafdc7b3df0ca5f51be03dfd3dda7",
        ),
        ({"drop_duplicates": "cross_split"}, "9ed03094dc4af5966ffa1504d5f9346e97913e1cb8be807b81ba10a55df7b31e"),
    ],
)
def test_the_samples_digest_is_what_it_always_was(real_data: Path, changes: dict[str, Any], digest: str) -> None:
    """Written by the program as it was before Parquet, archives and margins: its runs go on."""
    assert load_manifest(TrainConfig(root=str(real_data / "fairface_sample"), **changes)).digest == digest


@pytest.mark.real_data
def test_the_sample_has_the_rows_that_the_original_script_would_test_on(real_data: Path) -> None:
    from sklearn.model_selection import StratifiedShuffleSplit

    manifest: Manifest = load_manifest(TrainConfig(root=str(real_data / "fairface_sample")))
    truth = plain_labels(real_data / "fairface_sample" / "fairface_label_val.csv")
    joint = np.array(["_".join(pair) for pair in truth])
    _, test = next(StratifiedShuffleSplit(n_splits=1, test_size=0.2, random_state=42).split(joint, joint))
    assert manifest.test.line.tolist() == [row + 2 for row in test]
    assert manifest.counts["rows"] == {"train": 8000, "val": 2000, "test": 500}
