"""The built-in faces: FairFace's layout, the same pixels from the same seed, labels that can be learned."""

from __future__ import annotations

import csv
import hashlib
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fairface_core.config.train_config import TrainConfig
from fairface_core.dataset.check import check_data
from fairface_core.dataset.manifest import load_manifest
from fairface_core.dataset.rows import Rows
from fairface_core.demo.__main__ import main
from fairface_core.demo.faces import draw_face
from fairface_core.demo.folder import NUM_TRAIN, NUM_VAL, RACES, demo_root, draw_faces
from fairface_core.errors import CacheError, ConfigError, DataError, StorageError
from fairface_core.labels import AGE_GROUPS, GENDERS


def content(root: Path) -> dict[str, str]:
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(root.rglob("*"))
        if p.is_file()
    }


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_layout_is_fairfaces(tmp_path: Path) -> None:
    root = tmp_path / "new" / "faces"
    draw_faces(root, num_train=40, num_val=30, image_px=48, seed=3)
    assert sorted(p.name for p in root.iterdir()) == [
        "fairface_label_train.csv",
        "fairface_label_val.csv",
        "train",
        "val",
    ]
    for split, count in (("train", 40), ("val", 30)):
        text = (root / f"fairface_label_{split}.csv").read_text()
        assert text.startswith("file,age,gender,race,service_test\n")
        rows = table(root / f"fairface_label_{split}.csv")
        assert [row["file"] for row in rows] == [f"{split}/{n}.jpg" for n in range(1, count + 1)]
        assert {row["age"] for row in rows} == set(AGE_GROUPS)
        assert {row["gender"] for row in rows} == set(GENDERS)
        assert {row["race"] for row in rows} <= set(RACES)
        assert {row["service_test"] for row in rows} == {"True", "False"}
        for row in rows[:5]:
            with Image.open(root / row["file"]) as image:
                assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (48, 48))
    assert list(tmp_path.rglob(".*")) == []


def test_the_check_finds_nothing_wrong(demo_root: Path) -> None:
    summary = check_data(TrainConfig(root=str(demo_root), num_workers=2))
    assert summary.problems == summary.notes == ()
    assert summary.images is not None
    assert (summary.images.checked, summary.images.identical_groups, summary.images.gray_stored_as_rgb) == (440, 0, 0)
    assert all(min(row) >= 5 for row in summary.classes["val"])


def test_the_default_size_gives_every_part_every_class(tmp_path: Path) -> None:
    manifest = load_manifest(TrainConfig(root=str(demo_root(tmp_path))))
    assert manifest.counts["rows"] == {"train": NUM_TRAIN, "val": NUM_VAL * 4 // 5, "test": NUM_VAL // 5}
    assert manifest.counts["absent"] == {}


def test_one_seed_one_folder(tmp_path: Path) -> None:
    sizes = {"num_train": 20, "num_val": 18, "image_px": 16}
    draw_faces(tmp_path / "a", **sizes, seed=1)
    draw_faces(tmp_path / "b", **sizes, seed=1)
    draw_faces(tmp_path / "c", **sizes, seed=2)
    assert content(tmp_path / "a") == content(tmp_path / "b")
    assert not set(content(tmp_path / "a").values()) & set(content(tmp_path / "c").values())


def test_no_two_faces_are_alike(demo_root: Path) -> None:
    hashes = Counter(content(demo_root).values())
    assert hashes.most_common(1)[0][1] == 1


@pytest.mark.parametrize("count", [18, 19, 100, 1001])
def test_every_cell_has_a_row_and_ages_follow_the_shares(tmp_path: Path, count: int) -> None:
    draw_faces(tmp_path / "faces", num_train=18, num_val=count, image_px=16, seed=0)
    rows = table(tmp_path / "faces/fairface_label_val.csv")
    assert len(rows) == count
    cells = Counter((row["age"], row["gender"]) for row in rows)
    assert len(cells) == 18
    if count > 1000:
        ages = Counter(row["age"] for row in rows)
        assert ages["20-29"] > 2 * ages["more than 70"] > 80
        assert abs(sum(row["gender"] == "Male" for row in rows) - count / 2) < 10


def pixels(rows: Rows, side: int = 16) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path).resize((side, side))).ravel() for path in rows.path]) / 255.0


def test_age_and_gender_can_be_learned_and_race_cannot(tmp_path: Path) -> None:
    """A linear model on 16 px pixels; chance is 0.5, about 0.2 (the largest group) and 1/7."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    draw_faces(tmp_path / "faces", num_train=700, num_val=300, image_px=32, seed=11)
    manifest = load_manifest(TrainConfig(root=str(tmp_path / "faces"), protocol="official"))
    train, test = pixels(manifest.train), pixels(manifest.test)
    scores = {}
    for name, column in (("age", "age"), ("gender", "gender"), ("race", "race")):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.003, max_iter=300))
        model.fit(train, getattr(manifest.train, column))
        scores[name] = model.score(test, getattr(manifest.test, column))
    assert scores["gender"] > 0.8
    assert scores["age"] > 0.35
    assert scores["race"] < 0.25


def test_a_face_depends_on_its_labels_and_its_seed() -> None:
    def face(age: int, gender: int, seed: int) -> np.ndarray:
        image = draw_face(age, gender, 32, np.random.default_rng(seed))
        assert (image.size, image.mode) == ((32, 32), "RGB")
        return np.asarray(image)

    np.testing.assert_array_equal(face(4, 1, 0), face(4, 1, 0))
    for other in (face(8, 1, 0), face(4, 0, 0), face(4, 1, 1)):
        assert (face(4, 1, 0) != other).mean() > 0.1


# demo_root: drawn once, used by all.

DRAW = (
    "import sys; from pathlib import Path; from fairface_core.demo.folder import demo_root; "
    "print(demo_root(Path(sys.argv[1]), num_train=60, num_val=40, image_px=32))"
)


def test_many_processes_draw_one_folder(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", DRAW, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(6)
    ]
    roots = {process.communicate(timeout=100)[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0] * 6
    (root,) = roots
    assert len(content(Path(root))) == 102
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == [Path(root).name]


def test_the_folder_is_kept_and_named_by_what_it_holds(tmp_path: Path) -> None:
    first = demo_root(tmp_path, num_train=20, num_val=18, image_px=16)
    times = {path: path.stat().st_mtime_ns for path in first.rglob("*")}
    assert demo_root(tmp_path, num_train=20, num_val=18, image_px=16) == first
    assert {path: path.stat().st_mtime_ns for path in first.rglob("*")} == times
    for other in ({"num_train": 21}, {"num_val": 19}, {"image_px": 17}, {"seed": 1}):
        assert demo_root(tmp_path, **{"num_train": 20, "num_val": 18, "image_px": 16, **other}) != first


def test_a_killed_drawing_leaves_no_half_folder(tmp_path: Path) -> None:
    slow = DRAW.replace("num_train=60", "num_train=60_000")
    process = subprocess.Popen([sys.executable, "-c", slow, str(tmp_path)])
    unfinished: list[Path] = []
    while not unfinished:
        assert process.poll() is None
        unfinished = list(tmp_path.glob(".demo-*/train/50.jpg"))
    process.kill()
    process.wait()
    assert not list(tmp_path.glob("demo-*px-seed0"))
    left = unfinished[0].parents[1]
    name = left.name.removeprefix(".").partition(".drawing-")[0]
    left.rename(tmp_path / left.name.replace("60000x40-32px", "20x18-16px"))  # as if this size had been killed
    root = demo_root(tmp_path, num_train=20, num_val=18, image_px=16)
    assert len(content(root)) == 40
    assert not list(tmp_path.glob(".demo-*"))
    assert name.startswith("demo-v")


# What is refused.


def test_nothing_is_drawn_over(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("keep me")
    (tmp_path / "file").write_text("keep me too")
    for target in ("mine", "file"):
        with pytest.raises(DataError, match="exists and is not an empty folder; name another, nothing was changed"):
            draw_faces(tmp_path / target, num_train=18, num_val=18)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "letter.txt", "mine"]
    (tmp_path / "empty").mkdir()
    draw_faces(tmp_path / "empty", num_train=18, num_val=18, image_px=16)
    assert (tmp_path / "empty/val/18.jpg").is_file()


def test_sizes_out_of_range_are_told_together(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        draw_faces(tmp_path / "faces", num_train=17, num_val=0, image_px=9000, seed=-1)
    assert list(caught.value.problems) == [
        "num_train = 17: accepted are 18 to 1,000,000", "num_val = 0: accepted are 18 to 1,000,000",
        "image_px = 9000: accepted are 16 to 1,024", "seed = -1: accepted are 0 to 4,294,967,295",
    ]  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        draw_faces(tmp_path / "file" / "faces", num_train=18, num_val=18, image_px=16)
    with pytest.raises(CacheError, match=r"cannot be kept there .*FAIRFACE_CACHE_DIR"):
        demo_root(tmp_path / "file" / "cache")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [
        "--out",
        str(tmp_path / "faces"),
        "--num_train",
        "20",
        "--num_val",
        "18",
        "--image_px",
        "16",
        "--seed",
        "4",
    ]
    assert main(flags) == 0
    assert capsys.readouterr().out == f"20 train and 18 val faces of 16 px in {tmp_path / 'faces'}\n"
    draw_faces(tmp_path / "same", num_train=20, num_val=18, image_px=16, seed=4)
    assert content(tmp_path / "faces") == content(tmp_path / "same")
    assert main(flags) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'faces'} exists and is not an empty folder")
    with pytest.raises(DataError):
        main([*flags, "--debug"])
