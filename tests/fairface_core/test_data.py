"""`python -m fairface_core.data check | prune`, as a person and as a machine use it."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fairface_core.data import main
from fairface_core.dataset.check import check_data
from fairface_core.dataset.manifest import load_manifest
from fairface_core.dataset.prepare import prepare_data
from fairface_core.errors import DataError
from fairface_core.images.cache import open_cache
from tests.fairface_core.small_data import DataRoot

MAX_MEMORY_MB = 400


def flags(root: DataRoot, *more: str) -> list[str]:
    return [
        "check",
        "--root",
        str(root.path),
        "--cache_dir",
        str(root.path.parent / "cache"),
        "--num_workers",
        "2",
        *more,
    ]


def run_json(root: DataRoot, capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, Any]:
    main(flags(root, "--json", *more))
    return json.loads(capsys.readouterr().out)


def test_a_sound_data_set(data_root: DataRoot, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(path for path in data_root.path.parent.rglob("*"))
    assert main(flags(data_root)) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for line in ("0-2 5 5", "more than 70 5 5", "White 45 0", "East Asian 0 45", "all 18 18 45 45"):
        cells = line.split(" ")
        assert re.search(r"│\s+".join([r"\s*".join(cells[:-4] or cells[:-2])]), out), line
    assert "train 36, val 72, test 18 (protocol seed, split_seed 42)" in out
    assert "126 checked, 0 unreadable" in out
    assert "8 x 8: 126" in out
    assert "JPEG RGB: 126" in out
    assert sorted(path for path in data_root.path.parent.rglob("*")) == before


def test_json_holds_every_fact(data_root: DataRoot, capsys: pytest.CaptureFixture[str]) -> None:
    data_root.set_cell(3, 1, "9-Mar")
    data_root.edit_val(lambda lines: [*lines, lines[1], ""])
    found = run_json(data_root, capsys)
    assert found["schema_version"] == 1
    assert found["problems"] == []
    assert found["csvs"]["val"] == {
        "file": "fairface_label_val.csv", "rows": 91, "rows_accepted": 90, "encoding": "utf-8", "delimiter": ",",
        "columns": {"image": "file", "age": "age", "gender": "gender", "race": "race", "service_test": "service_test"},
        "repaired": {"spreadsheet date": 1}, "repeated_rows": 1, "blank_rows": 1, "missing": {}, "absent": [],
    }  # fmt: skip
    assert found["classes"] == {"train": [[2, 2]] * 9, "val": [[5, 5]] * 9}
    assert found["races"]["val"] == {"East Asian": [0, 45], "White": [45, 0]}
    assert found["counts"]["digest"] == load_manifest(data_root.config()).digest
    assert found["images"]["checked"] == 126
    assert found["images"]["identical_groups"] == 0


def test_identical_images_are_counted_and_named(data_root: DataRoot, capsys: pytest.CaptureFixture[str]) -> None:
    copies = {
        "train/36.jpg": "train/18.jpg",  # one cell, one CSV
        "val/3.jpg": "train/3.jpg",  # across, labels agree
        "val/22.jpg": "train/5.jpg",  # across, another age and gender
        "val/1.jpg": "val/2.jpg",  # within val, another gender
    }
    for source, target in copies.items():
        shutil.copy(data_root.path / source, data_root.path / target)
    assert main(flags(data_root)) == 0
    out = capsys.readouterr().out
    images = run_json(data_root, capsys)["images"]
    found = {key.removeprefix("identical_"): images[key] for key in images if key.startswith("identical")}
    assert found == {
        "groups": 4, "rows": 8, "within_train": 1, "within_val": 1, "across": 2,
        "with_other_age": 1, "with_other_gender": 2,
    }  # fmt: skip
    assert images["examples"][0] == [
        "fairface_label_train.csv line 6: train/5.jpg (10-19, Male)",
        "fairface_label_val.csv line 23: val/22.jpg (3-9, Female)",
    ]
    assert len(images["examples"]) == 4
    assert "note: identical images are in both CSVs (groups: 2): --drop_duplicates cross_split" in out
    assert "note: some identical images carry different labels" in out


def test_links_to_one_file_are_identical_images(data_root: DataRoot) -> None:
    (data_root.path / "val/4.jpg").unlink()
    (data_root.path / "val/4.jpg").symlink_to("../train/4.jpg")
    images = check_data(data_root.config()).images
    assert images is not None
    assert (images.identical_across, images.checked) == (1, 126)


def test_problems_end_with_code_2_after_the_table(data_root: DataRoot, capsys: pytest.CaptureFixture[str]) -> None:
    data_root.set_cell(1, 1, "30-93")
    (data_root.path / "val/5.jpg").write_bytes(b"no image")
    (data_root.path / "val/6.jpg").unlink()
    assert main(flags(data_root)) == 2
    out, err = capsys.readouterr()
    assert "124 checked, 1 unreadable" in out
    lines = err.splitlines()
    assert [line.split(": ")[:2] for line in lines] == [
        ["error", "fairface_label_val.csv line 2"], ["error", "fairface_label_val.csv line 7"],
        ["error", "fairface_label_val.csv line 6"],
    ]  # fmt: skip
    assert main(flags(data_root, "--json")) == 2
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["problem_counts"] == {"unknown age labels": 1, "missing images": 1, "unreadable images": 1}
    assert len(found["problems"]) == 3
    assert found["counts"] == {}


def test_skipping_is_counted(data_root: DataRoot, capsys: pytest.CaptureFixture[str]) -> None:
    (data_root.path / "val/5.jpg").write_bytes(b"no image")
    (data_root.path / "val/6.jpg").unlink()
    found = run_json(data_root, capsys, "--on_bad_image", "skip")
    assert found["problems"] == []
    assert found["csvs"]["val"]["missing"] == {"missing images": 1}
    assert found["images"]["unreadable"] == 1
    assert found["counts"]["missing_images_skipped"] == 1


@pytest.mark.parametrize("policy", ["error", "skip"])
def test_a_run_says_the_same_as_the_check(data_root: DataRoot, policy: str) -> None:
    (data_root.path / "val/5.jpg").write_bytes(b"no image")
    config = data_root.config(on_bad_image=policy, backbone="resnet18", image_size=32)
    if policy == "error":
        with pytest.raises(DataError) as caught:
            prepare_data(config)
        assert caught.value.problems == check_data(config).problems
    else:
        data = prepare_data(config)
        assert data.counts["unreadable_images_skipped"] == 1
        assert len(data.val) + len(data.test) == 89
        assert data.digest != data.manifest.digest


def test_labels_only_opens_no_image(data_root: DataRoot, capsys: pytest.CaptureFixture[str]) -> None:
    (data_root.path / "val/5.jpg").write_bytes(b"no image")
    assert main(flags(data_root, "--labels_only")) == 0
    assert "images" not in capsys.readouterr().out
    assert check_data(data_root.config(), images=False).images is None


def test_absent_classes_are_noted(data_root: DataRoot, capsys: pytest.CaptureFixture[str]) -> None:
    data_root.edit_val(lambda lines: [line for line in lines if ",0-2," not in line])
    assert main(flags(data_root)) == 0
    assert "note: test: no row of 0-2; their F1 counts as 0" in capsys.readouterr().out


def test_an_empty_split_is_a_problem(data_root: DataRoot, capsys: pytest.CaptureFixture[str]) -> None:
    data_root.edit_val(lambda lines: lines[:2])
    assert main(flags(data_root)) == 2
    assert "no test row is left of 36 train and 1 val rows" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--root", "/no/such/folder"], "error: --root '/no/such/folder' does not exist"),
        (["--val_csv", "absent.csv"], "error: absent.csv: there is no such file"),
        (["--split_seed", "-1"], "error: "),
        (["--limit_val", "3"], "error: "),
    ],
)
def test_wrong_flags(data_root: DataRoot, capsys: pytest.CaptureFixture[str], more: list[str], expected: str) -> None:
    assert main([*flags(data_root), *more]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith(expected)


def test_debug_shows_the_traceback(data_root: DataRoot) -> None:
    with pytest.raises(DataError):
        main([*flags(data_root), "--root", "/no/such/folder", "--debug"])


@pytest.mark.parametrize("text", ["[/x]", "[red]hi", "\x1b[2J\x1b]0;owned\x07", "\u202e"])
def test_text_of_a_data_set_is_no_command(data_root: DataRoot, capsys: pytest.CaptureFixture[str], text: str) -> None:
    """Neither for rich, which reads [markup], nor for the terminal."""
    data_root.set_cell(1, 3, text)
    moved = data_root.path.rename(data_root.path.with_name("root [b]"))
    shutil.copy(moved / "val/1.jpg", moved / f"val/{text.replace('/', '')}.jpg")
    with (moved / "fairface_label_val.csv").open("a") as csv:
        csv.write(f"val/{text.replace('/', '')}.jpg,0-2,Male,{text},True\n")
    assert main(flags(DataRoot(moved))) == 0
    out = capsys.readouterr().out
    assert not set(out) & set("\x1b\x07\u202e")
    assert "root[b]" in "".join(out.split())
    assert text.encode("unicode_escape").decode()[:4] in out


def test_progress_reaches_the_end(data_root: DataRoot) -> None:
    seen: list[tuple[int, int]] = []
    check_data(data_root.config(), progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (126, 126)
    assert seen == sorted(seen)


def test_a_terminal_sees_a_progress_bar(data_root: DataRoot) -> None:
    ours, theirs = pty.openpty()
    shown = bytearray()

    def read() -> None:
        try:
            while chunk := os.read(ours, 4096):
                shown.extend(chunk)
        except OSError:
            return

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    command = [sys.executable, "-m", "fairface_core.data", *flags(data_root)]
    run = subprocess.run(command, stderr=theirs, stdout=subprocess.PIPE, timeout=100, check=True)
    os.close(theirs)
    reader.join(5)
    assert b"checking images" in shown
    assert b"checking images" not in run.stdout


def small_cache(root: DataRoot) -> Path:
    paths = load_manifest(root.config()).train.path
    return open_cache(paths, 8, cache_dir=root.path.parent / "cache", num_workers=1).directory


# prune


def test_prune_deletes_what_no_run_can_open_any_more(data_root: DataRoot, capsys: pytest.CaptureFixture[str]) -> None:
    train = list(load_manifest(data_root.config()).train.path)
    cache_dir = data_root.path.parent / "cache"
    usable = open_cache(train[:5], 8, cache_dir=cache_dir, num_workers=1)
    stale = open_cache(train[5:9], 8, cache_dir=cache_dir, num_workers=1)
    damaged = open_cache(train[9:12], 8, cache_dir=cache_dir, num_workers=1).directory
    (damaged / "meta.json").unlink()
    Path(train[6]).write_bytes(Path(train[0]).read_bytes())
    (cache_dir / "8px-of-mine").mkdir()
    elsewhere = data_root.path.parent / "elsewhere"
    elsewhere.mkdir()
    (cache_dir / f"8px-{'0' * 24}").symlink_to(elsewhere)
    before = sorted(path.name for path in cache_dir.iterdir())
    prune = ["prune", "--cache_dir", str(cache_dir)]
    assert main([*prune, "--dry_run"]) == 0
    out = capsys.readouterr().out
    assert f"{stale.directory.name}: " in out and "would be deleted: its images changed, moved or are gone" in out
    assert f"{damaged.name}: " in out and "would be deleted: it is damaged" in out
    assert "kept: its images are as they were" in out
    assert f"{cache_dir}: caches 3, would be deleted 2, " in out
    assert sorted(path.name for path in cache_dir.iterdir()) == before
    assert main([*prune, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {cache["name"] for cache in told["caches"] if cache["chosen"]} == {stale.directory.name, damaged.name}
    assert usable.directory.is_dir() and not stale.directory.exists() and not damaged.exists()
    assert stale.images.sum() > 0, "whoever has it open keeps it"
    assert main([*prune, "--all"]) == 0
    assert "caches 1, deleted 1, " in capsys.readouterr().out
    assert not usable.directory.exists() and elsewhere.is_dir() and (cache_dir / "8px-of-mine").is_dir()
    assert main([*prune, "--all"]) == 0
    assert "caches 0, deleted 0" in capsys.readouterr().out


# The real sample.


@pytest.mark.real_data
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
def test_the_real_sample(real_data: Path, tmp_path: Path) -> None:
    """The facts of the real sample, within 400 MB."""
    measured = (
        "import sys; from pathlib import Path; from fairface_core.data import main; code = main(sys.argv[1:]); "
        "print(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0], file=sys.stderr); sys.exit(code)"
    )
    command = [
        "check",
        "--root",
        str(real_data / "fairface_sample"),
        "--json",
        "--cache_dir",
        str(tmp_path),
        "--num_workers",
        "8",
    ]
    run = subprocess.run(
        [sys.executable, "-c", measured, *command], capture_output=True, text=True, timeout=250, check=True
    )  # fmt: skip
    found = json.loads(run.stdout)
    assert int(run.stderr) / 1024 < MAX_MEMORY_MB
    assert found["problems"] == []
    assert found["counts"]["rows"] == {"train": 8000, "val": 2000, "test": 500}
    assert min(n for csv in ("val",) for row in found["classes"][csv] for n in row) == 9
    images = found["images"]
    assert (images["checked"], images["unreadable"]) == (10_500, 0)
    assert images["sizes"] == {"224 x 224": 10_500}
    assert images["modes"] == {"JPEG RGB": 10_500}
    assert images["gray_stored_as_rgb"] == 226
    assert (images["identical_groups"], images["identical_across"], images["identical_within_train"]) == (4, 1, 3)
    assert images["identical_with_other_age"] == images["identical_with_other_gender"] == 0
    named = [re.findall(r": (\S+) ", told)[0] for told in images["examples"][0]]
    assert named == ["train/6629.jpg", "val/2236.jpg"]


@pytest.mark.real_data
def test_gray_is_told_by_looking_at_every_pixel(real_data: Path) -> None:
    from fairface_core.dataset.check import _is_gray

    pixels = np.asarray(Image.open(real_data / "fairface_sample/train/1.jpg").convert("L").convert("RGB")).copy()
    assert _is_gray(Image.fromarray(pixels))
    pixels[5, 7, 2] ^= 1
    assert not _is_gray(Image.fromarray(pixels))
