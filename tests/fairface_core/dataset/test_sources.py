"""What a data folder may hold: each known copy of FairFace loads with identical labels, or is refused by name."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fairface_core.config.train_config import TrainConfig
from fairface_core.dataset.manifest import Manifest, load_manifest
from fairface_core.dataset.prepare import Data, prepare_data
from fairface_core.dataset.sources.pack import pack_data
from fairface_core.errors import DataError
from fairface_core.labels import AGE_GROUPS, GENDERS
from fairface_core.training.fit import fit
from tests.fairface_core.mirrors import (
    ALPHABETICAL,
    HUB,
    Kind,
    archives,
    card,
    converted,
    hub,
    rows,
    ryanramos,
    write_shard,
)
from tests.fairface_core.small_data import DataRoot, training_config

ORDERS = "two orders are in circulation, 0 = Male and 0 = Female (nateraw/fairface)"


def config(root: Path, **changes: Any) -> TrainConfig:
    return TrainConfig(root=str(root), cache_dir=str(root.parent / "cache"), num_workers=2, **changes)


def refused(root: Path, **changes: Any) -> list[str]:
    with pytest.raises(DataError) as caught:
        load_manifest(config(root, **changes))
    return list(caught.value.problems)


def labels_of(manifest: Manifest) -> dict[str, list[tuple[str, str, str]]]:
    return {
        name: [
            (AGE_GROUPS[age], GENDERS[gender], race)
            for age, gender, race in zip(part.age, part.gender, part.race, strict=True)
        ]
        for name, part in (("train", manifest.train), ("val", manifest.val), ("test", manifest.test))
    }


def pixels(data: Data) -> bytes:
    splits = (data.train, data.val, data.test)
    return b"".join(data.cache.images[split.cache_rows].tobytes() for split in splits)


def with_card(root: Path, out: Path, configs: dict[str, Any], classes: dict[str, Any] | None = None) -> Path:
    """Integers whose names only the data card has."""
    hub(root, out, kind=Kind(classes=classes or configs["0.25"], named=False))
    (out / "README.md").write_text(card(configs))
    return out


def pickles(root: Path, out: Path) -> Path:
    out.mkdir()
    for name in ("train.pt", "val.pt"):
        (out / name).write_bytes(b"\x80")
    return out


def in_the_hubs_cache(root: Path, out: Path) -> Path:
    """`datasets--OWNER--NAME` of huggingface_hub: a snapshot of links into blobs without a suffix."""
    hub(root, out / "work")
    (out / "blobs").mkdir()
    snapshot = out / "snapshots/d9c2/0.25"
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted((out / "work/0.25").iterdir())):
        path.rename(out / f"blobs/{number:064d}")
        (snapshot / path.name).symlink_to(f"../../../blobs/{number:064d}")
    shutil.rmtree(out / "work")
    (out / "refs").mkdir()
    (out / "refs/main").write_text("d9c2")
    return out


def two_revisions(root: Path, out: Path) -> Path:
    in_the_hubs_cache(root, out)
    hub(root, out / "snapshots/0001", kind=Kind(classes=ALPHABETICAL))
    return out


def kaggle(root: Path, out: Path) -> Path:
    return Path(shutil.copytree(root, out))


def margin_folder(root: Path, out: Path) -> Path:
    """The authors' archive unpacked into a folder of its own name."""
    kaggle(root, out)
    for split in ("train", "val"):
        (out / "fairface-img-margin025-trainval").mkdir(exist_ok=True)
        (out / split).rename(out / "fairface-img-margin025-trainval" / split)
    return out


COPIES: dict[str, Callable[[Path, Path], Path]] = {
    "HuggingFaceM4": hub,
    "HuggingFaceM4, in data/": lambda root, out: hub(root, out, "data"),
    "HuggingFaceM4, the files alone": lambda root, out: hub(root, out, ""),
    "HuggingFaceM4, plain bytes": lambda root, out: hub(root, out, kind=Kind(classes=HUB, plain=True)),
    "HuggingFaceM4, names in the card": lambda root, out: with_card(root, out, {"0.25": HUB, "1.25": HUB}),
    "HuggingFaceM4, converted branch": converted,
    "HuggingFaceM4, in the hub's cache": in_the_hubs_cache,
    "HuggingFaceM4, two revisions in the hub's cache": two_revisions,
    "nateraw's orders, named": lambda root, out: hub(root, out, kind=Kind(classes=ALPHABETICAL)),
    "nateraw's orders, named in the card": lambda root, out: with_card(root, out, {"0.25": ALPHABETICAL, "1.25": HUB}),
    "ryanramos": ryanramos,
    "authors' archive": archives,
    "authors' archive, in a folder of its own": lambda root, out: archives(root, out, top="fairface-img-margin025/"),
    "authors' archive, unpacked into its folder": margin_folder,
    "Kaggle": kaggle,
}  # fmt: skip


@pytest.mark.parametrize("copy", COPIES)
def test_every_known_copy_has_the_same_labels_and_pixels(data_root: DataRoot, tmp_path: Path, copy: str) -> None:
    clean = prepare_data(data_root.config(image_size=32))
    data = prepare_data(config(COPIES[copy](data_root.path, tmp_path / "copy"), image_size=32))
    assert labels_of(data.manifest) == labels_of(clean.manifest)
    assert pixels(data) == pixels(clean)
    assert np.array_equal(data.train.rows.service_test, clean.train.rows.service_test)
    # Copies without names of their images cannot know that they are the same data set.
    named = copy.startswith(("ryanramos", "authors", "Kaggle"))
    assert (data.digest == clean.digest) == named


def test_rows_are_told_by_file_and_row(data_root: DataRoot, tmp_path: Path) -> None:
    root = hub(data_root.path, tmp_path / "copy")
    manifest = load_manifest(config(root))
    names = manifest.train.file.tolist()
    assert names[0] == "0.25/train-00000-of-00002-d405faba4f4b9b85.parquet:0"
    assert names[18] == "0.25/train-00001-of-00002-dd3cb68164727418.parquet:0"
    assert len(set(names)) == 36
    assert (manifest.train.csv_name, manifest.train.line.tolist()) == ("train", list(range(36)))


def damaged(root: Path, out: Path, spoil: Callable[[Path], None]) -> Path:
    hub(root, out)
    spoil(out / "0.25")
    return out


def cut(folder: Path) -> None:
    path = folder / "train-00001-of-00002-dd3cb68164727418.parquet"
    path.write_bytes(path.read_bytes()[:-100])


def pointer(folder: Path) -> None:
    for path in folder.iterdir():
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 250000000\n")


def second_set(folder: Path) -> None:
    source = folder / "train-00000-of-00002-d405faba4f4b9b85.parquet"
    shutil.copy(source, folder / "train-00000-of-00004-847c279691a19548.parquet")


def other_names(folder: Path) -> None:
    path = folder / "train-00001-of-00002-dd3cb68164727418.parquet"
    table = pq.read_table(path)
    metadata = table.schema.metadata[b"huggingface"].replace(b'["Male", "Female"]', b'["Female", "Male"]')
    pq.write_table(table.replace_schema_metadata({"huggingface": metadata}), path)


def without(column: str) -> Callable[[Path], None]:
    def drop(folder: Path) -> None:
        for path in folder.iterdir():
            pq.write_table(pq.read_table(path).drop_columns([column]), path)

    return drop


REFUSED: dict[str, tuple[Callable[[Path, Path], Path], str, int]] = {
    # layout, part of the first message, number of messages
    "bare integers": (
        lambda root, out: hub(root, out, kind=Kind(classes=HUB, named=False)),
        "integers without names are no labels: column 'age' (an integer may be an age in years or the number of a class), "
        f"'gender' ({ORDERS}), 'race' (three orders", 1,
    ),
    "bare gender": (
        lambda root, out: with_card(root, out, {"0.25": {"age": HUB["age"]}}, HUB),
        f"integers without names are no labels: column 'gender' ({ORDERS}), 'race' (three", 1,
    ),
    "a card that contradicts itself": (
        lambda root, out: with_card(root, out, {"a": HUB, "b": ALPHABETICAL}, HUB),
        "its configurations name the classes differently, and none is '0.25'; keep the one of these files", 1,
    ),
    "both margins": (
        lambda root, out: hub(root, hub(root, out), "1.25"),
        "holds images with more than one margin: 0.25 (0.25), 1.25 (1.25); choose one: --margin 0.25 or --margin 1.25", 1,
    ),
    "a margin and a folder that says none": (
        lambda root, out: hub(root, hub(root, out), "data"), "data (margin not said); choose one", 1,
    ),
    "pickles": (pickles, "train.pt: is a pickle, which can run any program when it is opened", 1),
    "half a download": (
        lambda root, out: damaged(root, out, lambda folder: (folder / "train-00001-of-00002-dd3cb68164727418.parquet").unlink()),
        "has 1 of 2 files of train; missing: number 1; complete the download", 1,
    ),
    "no validation": (
        lambda root, out: damaged(root, out, lambda folder: next(folder.glob("val*")).unlink()),
        "has no Parquet file of the validation split", 1,
    ),
    "two sets in a folder": (lambda root, out: damaged(root, out, second_set), "holds files of more than one set", 1),
    "a file cut short": (lambda root, out: damaged(root, out, cut), "dd3cb68164727418.parquet: is no whole Parquet file (", 1),
    "pointers": (lambda root, out: damaged(root, out, pointer), "is a Git LFS pointer, not the file; fetch it with `git lfs pull` (the same for 2 more files)", 1),
    "shards that disagree": (lambda root, out: damaged(root, out, other_names), "parquet: gender is ['Female', 'Male'], in 0.25/train-00000", 1),
    "no gender": (lambda root, out: damaged(root, out, without("gender")), "no column holds gender; needed are images, age and gender, the file has 'image: struct<", 1),
    "no image": (lambda root, out: damaged(root, out, without("image")), "no column holds images (image or file: bytes, or", 1),
    "an archive alone": (
        lambda root, out: archives(root, out) and [path.unlink() for path in out.glob("*.csv")] and out,
        "has neither label CSVs (fairface_label_train.csv, fairface_label_val.csv) nor Parquet files (train-*.parquet and "
        "validation-*.parquet); it holds 'fairface-img-margin025-trainval.zip'; `data get --from hub --out DIR` downloads", 1,
    ),
    "both margins as archives": (
        lambda root, out: archives(root, archives(root, out), margin="125"),
        "fairface-img-margin025-trainval.zip (0.25), fairface-img-margin125-trainval.zip (1.25); choose one", 1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_clear_is_refused_by_name(data_root: DataRoot, tmp_path: Path, case: str) -> None:
    layout, expected, count = REFUSED[case]
    problems = refused(layout(data_root.path, tmp_path / "copy"))
    assert expected in problems[0]
    assert len(problems) == count, problems


@pytest.mark.parametrize("make", [hub, converted])
def test_the_margin_that_is_named_is_used(data_root: DataRoot, tmp_path: Path, make: Callable[..., Path]) -> None:
    root = make(data_root.path, make(data_root.path, tmp_path / "copy"), "1.25")
    for margin in ("0.25", "1.25"):
        manifest = load_manifest(config(root, margin=margin))
        assert len(manifest.train) == 36
        assert all(name.startswith(f"{margin}/") for name in manifest.train.file)
    digests = {load_manifest(config(root, margin=margin)).digest for margin in ("0.25", "1.25")}
    assert len(digests) == 2
    shutil.rmtree(root / "1.25")
    assert (
        "--margin 1.25: nothing there says that it has this margin; found: 0.25 (0.25)"
        in refused(root, margin="1.25")[0]
    )


def test_the_margin_of_an_archive(data_root: DataRoot, tmp_path: Path) -> None:
    root = archives(data_root.path, archives(data_root.path, tmp_path / "copy"), margin="125")
    assert "margin125" in load_manifest(config(root, margin="1.25")).train.path[0]
    # Unpacked images of no known margin lie there too: a margin that is named is never taken for theirs.
    shutil.copytree(data_root.path / "train", root / "train")
    shutil.copytree(data_root.path / "val", root / "val")
    assert "margin025" in load_manifest(config(root, margin="0.25")).train.path[0]
    assert load_manifest(config(root)).train.path[0] == str(root.resolve() / "train/1.jpg")


def test_half_of_an_archive_unpacked_is_never_filled_up_from_it(data_root: DataRoot, tmp_path: Path) -> None:
    root = archives(data_root.path, tmp_path / "copy")
    shutil.copytree(data_root.path / "train", root / "train")
    problems = refused(root)
    assert len(problems) == 1
    assert "line 2: file 'val/1.jpg' is in none of the searched folders" in problems[0]


def test_damaged_archives_and_members(data_root: DataRoot, tmp_path: Path) -> None:
    root = archives(data_root.path, tmp_path / "copy")
    archive = root / "fairface-img-margin025-trainval.zip"
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    assert "is no whole zip archive (File is not a zip file); download it again" in refused(root)[0]
    with zipfile.ZipFile(archive, "w") as opened:
        for path in sorted(data_root.path.glob("*/*.jpg")):
            opened.write(path, f"{path.parent.name}/{path.name}")
    raw = bytearray(archive.read_bytes())
    at = raw.index(b"train/11.jpg") + 300
    raw[at] ^= 255
    archive.write_bytes(raw)
    with pytest.raises(
        DataError, match=r"train/11.jpg': cannot be unpacked \(Bad CRC-32 .*; download the archive again"
    ):
        prepare_data(config(root, image_size=32))
    assert prepare_data(config(root, image_size=32, on_bad_image="skip")).counts["rows"]["train"] == 35


def test_an_image_that_an_archive_lacks(data_root: DataRoot, tmp_path: Path) -> None:
    root = archives(data_root.path, tmp_path / "copy")
    (root / "fairface_label_val.csv").write_text("file,age,gender\nval/1.jpg,0-2,Male\nval/999.jpg,3-9,Male\n")
    assert refused(root)[0].startswith(
        "fairface_label_val.csv line 3: file 'val/999.jpg' is neither in fairface-img-margin025-trainval.zip nor in the "
        "searched folders; add the file"
    )


def test_labels_that_no_class_names(data_root: DataRoot, tmp_path: Path) -> None:
    """-1 is how the hub's tools write a label that is not known."""
    root = hub(data_root.path, tmp_path / "copy")
    path = next((root / "0.25").glob("val*"))
    table = pq.read_table(path)
    ages = [-1, *table["age"].to_pylist()[1:]]
    table = table.set_column(1, "age", pa.array(ages)).replace_schema_metadata(table.schema.metadata)
    pq.write_table(table, path)
    (problem,) = refused(root)
    assert problem.startswith(
        "0.25/validation-00000-of-00001-951dbd63c8724ee1.parquet:0: age 'class -1, which has no name'"
    )


def test_rows_without_bytes_follow_the_policy(data_root: DataRoot, tmp_path: Path) -> None:
    root = hub(data_root.path, tmp_path / "copy")
    path = root / "0.25/train-00000-of-00002-d405faba4f4b9b85.parquet"
    table = pq.read_table(path)
    images = table["image"].to_pylist()
    images[3] = {"bytes": None, "path": "4.jpg"}
    images[5] = {"bytes": b"<html>", "path": None}
    table = table.set_column(0, "image", pa.array(images, table["image"].type)).replace_schema_metadata(
        table.schema.metadata
    )
    pq.write_table(table, path)
    with pytest.raises(DataError) as caught:
        prepare_data(config(root, image_size=32))
    assert [problem.partition(" (begins")[0] for problem in caught.value.problems] == [
        f"'0.25/{path.name}:3': the row holds no bytes; replace the file, remove the row, or use --on_bad_image skip",
        f"'0.25/{path.name}:5': not an image of a known format",
    ]
    data = prepare_data(config(root, image_size=32, on_bad_image="skip"))
    assert data.counts["unreadable_images_skipped"] == 2


POLICIES: list[dict[str, Any]] = [
    {},
    {"protocol": "official", "drop_duplicates": "all"},
    {"limit_train": 20, "limit_val": 40, "split_seed": 3},
    {"on_bad_image": "skip", "drop_duplicates": "cross_split"},
]


@pytest.mark.parametrize("policies", POLICIES)
@pytest.mark.parametrize("form", ["parquet", "zip"])
def test_one_data_set_in_three_forms(data_root: DataRoot, tmp_path: Path, form: str, policies: dict[str, Any]) -> None:
    """The same digest, the same rows, the same bytes of the cache: also where rows are dropped or skipped."""
    for copied in ("val/7.jpg", "train/9.jpg"):
        (data_root.path / copied).write_bytes((data_root.path / "train/5.jpg").read_bytes())
    if policies.get("on_bad_image") == "skip":
        (data_root.path / "val/3.jpg").write_bytes(b"no image")
    root = tmp_path / "faces.parquet"
    if form == "parquet":
        assert pack_data(data_root.config(), root) == {"train": 36, "val": 90}
    else:
        archives(data_root.path, root)
    clean, other = (
        prepare_data(one)
        for one in (data_root.config(image_size=32, **policies), config(root, image_size=32, **policies))
    )
    assert other.digest == clean.digest
    assert (other.cache.directory / "images.bin").read_bytes() == (clean.cache.directory / "images.bin").read_bytes()
    for mine, theirs in ((clean.train, other.train), (clean.val, other.val), (clean.test, other.test)):
        assert np.array_equal(mine.cache_rows, theirs.cache_rows)
        assert np.array_equal(mine.rows.age, theirs.rows.age)


@pytest.mark.parametrize("cache_px", [None, 40])
def test_training_is_bit_equal(demo_root: Path, tmp_path: Path, cache_px: int | None) -> None:
    pack_data(config(demo_root), tmp_path / "faces.parquet")
    archives(demo_root, tmp_path / "zipped")
    written = []
    for root in (demo_root, tmp_path / "zipped", tmp_path / "faces.parquet"):
        out = tmp_path / f"out-{root.name}"
        report = fit(training_config(root, out, epochs=2, cache_px=cache_px))
        losses = [line.split(",")[1:3] for line in (out / "history.csv").read_text().splitlines()]
        written.append((report.test_metrics, report.best_epoch, losses, (out / "best.pt").read_bytes()))
    assert written[0] == written[1] == written[2]


@pytest.mark.real_data
def test_real_faces_in_three_forms(real_data: Path, tmp_path: Path) -> None:
    """300 train and 300 val rows of FairFace: one digest, one cache at 224 px, the same weights after an epoch."""
    sample, root = real_data / "fairface_sample", tmp_path / "folder"
    for split in ("train", "val"):
        (root / split).mkdir(parents=True)
        name = f"fairface_label_{split}.csv"
        (root / name).write_text("".join((sample / name).read_text().splitlines(keepends=True)[:301]))
        for row in rows(root, split):
            shutil.copy(sample / row["file"], root / row["file"])
    pack_data(config(root), tmp_path / "faces.parquet")
    archives(root, tmp_path / "zipped")
    seen = []
    for form in (root, tmp_path / "zipped", tmp_path / "faces.parquet"):
        changes = {"limit_train": None, "limit_val": None, "epochs": 1, "image_size": 64, "cache_px": 224}
        run = training_config(
            form, tmp_path / f"out-{form.name}", cache_dir=str(tmp_path / f"cache-{form.name}"), **changes
        )
        data = prepare_data(run)
        report = fit(run, data=data)
        images = (data.cache.directory / "images.bin").read_bytes()
        weights = (Path(run.out_dir) / "best.pt").read_bytes()
        seen.append((data.digest, images, report.test_metrics, weights))
    assert seen[0] == seen[1] == seen[2]


def test_a_changed_file_has_another_cache(data_root: DataRoot, tmp_path: Path) -> None:
    """An image is replaced by writing the Parquet file, or the archive, anew."""
    root = hub(data_root.path, tmp_path / "copy")
    before = prepare_data(config(root, image_size=32))
    shutil.copy(data_root.path / "val/50.jpg", data_root.path / "train/1.jpg")
    hub(data_root.path, root)
    after = prepare_data(config(root, image_size=32))
    assert after.cache.directory != before.cache.directory
    assert pixels(after) != pixels(before)


def test_names_in_the_file_make_names_in_the_digest(data_root: DataRoot, tmp_path: Path) -> None:
    clean = load_manifest(data_root.config()).digest
    for paths in ("full", "bare"):
        root = hub(data_root.path, tmp_path / paths, kind=Kind(classes=HUB, paths=paths))
        assert load_manifest(config(root)).digest == clean
    train, val = rows(data_root.path, "train"), rows(data_root.path, "val")
    kind = Kind(classes=HUB, paths="bare")
    write_shard(tmp_path / "twice/train.parquet", data_root.path, [*train, train[0]], kind)
    write_shard(tmp_path / "twice/val.parquet", data_root.path, val, kind)
    assert len(load_manifest(config(tmp_path / "twice")).train) == 37  # names that repeat say nothing: row numbers do
