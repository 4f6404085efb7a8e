"""Images that are nearly the same: what a copy may have gone through, and how pairs are told."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from fairface_core.data import main
from fairface_core.dataset import near
from fairface_core.dataset.near import BITS, MAX_DISTANCE, image_hash, near_pairs
from tests.fairface_core.small_data import DataRoot


def picture(seed: int, size: int = 64) -> Image.Image:
    """Soft shapes, as a photograph has: noise of 12 x 12, enlarged."""
    noise = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((size, size), Image.Resampling.BICUBIC)


def again(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(io.BytesIO(file.getvalue())).convert("RGB")


def distance(one: bytes, other: bytes) -> int:
    return sum((a ^ b).bit_count() for a, b in zip(one, other, strict=True))


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "compressed again": lambda image: again(image, 60),
    "half the size": lambda image: again(image.resize((image.width // 2, image.height // 2)), 90),
    "brighter": lambda image: again(ImageEnhance.Brightness(image).enhance(1.1), 90),
    "gray": lambda image: again(image.convert("L").convert("RGB"), 90),
}


@pytest.mark.real_data
@pytest.mark.parametrize("copy", COPIES)
def test_copies_of_real_faces_are_near_and_others_are_not(real_data: Path, copy: str) -> None:
    paths = sorted((real_data / "fairface_sample/val").iterdir())[:60]
    faces = [Image.open(path).convert("RGB") for path in paths]
    hashes = [image_hash(face) for face in faces]
    assert all(
        distance(image_hash(COPIES[copy](face)), known) <= MAX_DISTANCE
        for face, known in zip(faces, hashes, strict=True)
    )
    assert near_pairs([(known, [(0, row)]) for row, known in enumerate(hashes)]) == []


@pytest.mark.parametrize("block", [7, 2048])
def test_every_pair_within_the_distance_is_found(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(near, "_BLOCK", block)
    rng = np.random.default_rng(5)
    bits = rng.integers(0, 2, (40, BITS), dtype=np.uint8)
    for row in range(20, 40):  # each a copy of another, more and more bits away
        bits[row] = bits[row - 20]
        bits[row, rng.choice(BITS, row, replace=False)] ^= 1
    expected = {
        (row, other): int((bits[row] != bits[other]).sum())
        for row in range(40)
        for other in range(row + 1, 40)
        if (bits[row] != bits[other]).sum() <= MAX_DISTANCE
    }
    assert len(expected) == 5  # 20 to 24 bits
    found = near_pairs([(np.packbits(row).tobytes(), [(at % 2, at)]) for at, row in enumerate(bits)])
    assert {tuple(sorted((pair.first[1], pair.second[1]))): pair.distance for pair in found} == expected
    assert [pair.distance for pair in found] == sorted(expected.values())


def test_a_set_of_nothing_but_copies_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near, "MAX_PAIRS", 1000)
    assert len(near_pairs([(bytes(32), [(0, row)]) for row in range(500)])) == 1000


@pytest.fixture
def pictures(data_root: DataRoot) -> DataRoot:
    """A picture of its own in each row: flat ones have no shapes to tell them by."""
    for path in sorted(data_root.path.glob("*/*.jpg")):
        picture(int(path.stem) + 1000 * (path.parent.name == "val")).save(path, quality=95)
    return data_root


def test_pairs_across_train_and_val_are_told_with_their_labels(
    pictures: DataRoot, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = pictures.path
    again(Image.open(root / "train/1.jpg").convert("RGB"), 60).save(root / "val/4.jpg")
    again(Image.open(root / "val/1.jpg").convert("RGB"), 60).save(root / "val/19.jpg")
    flags = [
        "check",
        "--root",
        str(root),
        "--cache_dir",
        str(tmp_path / "cache"),
        "--pairs_csv",
        str(tmp_path / "p.csv"),
    ]
    assert main([*flags, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["images"]["near"]
    assert {key: found[key] for key in found if key != "examples"} == {
        "pairs": 2, "within_train": 0, "within_val": 1, "across": 1, "with_other_age": 1, "with_other_gender": 1,
    }  # fmt: skip
    assert found["examples"][0].startswith(
        "fairface_label_train.csv line 2: train/1.jpg (0-2, Male); fairface_label_val.csv line 5: val/4.jpg (3-9, Female); "
    )
    with (tmp_path / "p.csv").open() as file:
        across, within = csv.DictReader(file)
    assert [across[key] for key in ("split_1", "row_1", "file_1", "age_1", "split_2", "file_2", "gender_2")] == [
        "train", "line 2", "train/1.jpg", "0-2", "val", "val/4.jpg", "Female",
    ]  # fmt: skip
    assert (within["file_1"], within["file_2"]) == ("val/1.jpg", "val/19.jpg")
    assert main(flags) == 0
    out = capsys.readouterr().out
    assert "nearly the same" in out
    assert "are in both CSVs (pairs: 1): look at them with --pairs_csv FILE" in out


def test_identical_images_are_no_pair(pictures: DataRoot, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (pictures.path / "val/4.jpg").write_bytes((pictures.path / "train/1.jpg").read_bytes())
    assert main(["check", "--root", str(pictures.path), "--cache_dir", str(tmp_path), "--json"]) == 0
    images = json.loads(capsys.readouterr().out)["images"]
    assert (images["identical_across"], images["near"]["pairs"]) == (1, 0)


def test_a_pairs_csv_that_cannot_be_written(
    pictures: DataRoot, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    flags = ["check", "--root", str(pictures.path), "--cache_dir", str(tmp_path)]
    assert main([*flags, "--pairs_csv", str(tmp_path / "no/such/pairs.csv")]) == 2
    assert "error: --pairs_csv" in capsys.readouterr().err
