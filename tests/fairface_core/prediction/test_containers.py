"""Pictures in zip archives and Parquet files, and faces within pictures: the answers are those of the files themselves."""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fairface_core.evaluate import main as evaluate
from fairface_core.predict import main
from tests.fairface_core import mirrors

GENDER_SHARES = ("gender_prob_Male", "gender_prob_Female", "age_prob_3-9", "age_prob_20-29")


def answers(capsys: pytest.CaptureFixture[str], *arguments: str | Path, code: int = 0) -> list[dict[str, Any]]:
    assert main([*map(str, arguments), "--json", "--device", "cpu"]) == code
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def plain(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: cell for name, cell in row.items() if name != "file"} for row in rows]


def test_archives_and_parquet_files_are_answered_as_their_files(
    demo_root: Path, trial: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [row["file"] for row in mirrors.rows(demo_root, "val")]
    listing = tmp_path / "val.csv"
    listing.write_text("file\n" + "".join(f"{name}\n" for name in names))
    expected = answers(capsys, listing, "--root", demo_root, "--model", trial)
    mirrors.archives(demo_root, tmp_path / "zips")
    inside = answers(capsys, listing, "--root", tmp_path / "zips", "--model", trial)
    assert inside == expected
    mirrors.hub(demo_root, tmp_path / "hub")
    shard = next((tmp_path / "hub").rglob("validation-*.parquet"))
    for given in (str(shard), str(shard.parent / "validation-*.parquet")):
        rows = answers(capsys, given, "--model", trial)
        assert plain(rows) == plain(expected)
        assert [row["file"] for row in rows] == [f"{shard}:{row}" for row in range(len(names))]
    (archive,) = (tmp_path / "zips").glob("*.zip")
    whole = answers(capsys, archive, "--model", trial)
    by_name = {row["file"].removeprefix(f"{archive}/"): plain([row])[0] for row in whole}
    assert len(by_name) == len(list(demo_root.glob("*/*.*")))
    for row in expected:  # in batches of other pictures the last bits may differ
        other = by_name[row["file"]]
        shares = {name: cell for name, cell in row.items() if name.endswith(GENDER_SHARES)}
        assert shares == pytest.approx({name: other[name] for name in shares}, abs=1e-6)


def test_a_damaged_container_and_a_damaged_member_are_told(
    demo_root: Path, trial: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mirrors.archives(demo_root, tmp_path / "zips")
    (archive,) = (tmp_path / "zips").glob("*.zip")
    raw = bytearray(archive.read_bytes())
    raw[200:400] = bytes(200)
    archive.write_bytes(bytes(raw))
    rows = answers(capsys, archive, "--model", trial)
    assert 1 <= sum(row["error"] is not None for row in rows) <= 3
    assert any("cannot be unpacked" in (row["error"] or "") for row in rows)
    (tmp_path / "half.zip").write_bytes(bytes(raw[: len(raw) // 2]))
    (tmp_path / "text.parquet").write_text("no")
    assert main([str(tmp_path / "half.zip"), str(tmp_path / "text.parquet"), "--model", str(trial)]) == 2
    said = capsys.readouterr().err
    assert said.count("is no whole file of its kind") == 2


def test_answers_for_parquet_rows_are_scored_by_row_and_by_the_name_that_a_row_gives_its_image(
    demo_root: Path, trial: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mirrors.ryanramos(demo_root, tmp_path / "hub")
    shard = next((tmp_path / "hub").rglob("val-*.parquet"))
    out = tmp_path / "answers.csv"
    assert main([str(shard), "--model", str(trial), "--out", str(out), "--device", "cpu"]) == 0
    renamed = tmp_path / "renamed.csv"
    with out.open() as source, renamed.open("w") as target:
        rows = list(csv.DictReader(source))
        for row, own in zip(rows, mirrors.rows(demo_root, "val"), strict=True):
            row["file"] = own["file"]
        writer = csv.DictWriter(target, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    capsys.readouterr()
    scored = []
    for path in (out, renamed):
        assert evaluate(["--predictions", str(path), "--root", str(tmp_path / "hub"), "--json"]) == 0
        scored.append(json.loads(capsys.readouterr().out))
    assert scored[0] == scored[1]
    assert scored[0]["num_images"] == 40


SAMPLE = Path(__file__).resolve().parents[4] / "shared" / "data" / "fairface_sample" / "val"


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.skipif(not SAMPLE.is_dir(), reason="needs ../shared/data (the FairFace sample)")
@pytest.mark.skipif(importlib.util.find_spec("dlib") is None, reason="needs the extra [faces]")
def test_faces_are_cut_out_as_fairface_cut_them(
    trial: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from fairface_core.prediction.faces import find_faces

    corners = [(17, 230), (390, 40)]
    scene = Image.fromarray(np.full((500, 640, 3), 110, np.uint8))
    for (x, y), name in zip(corners, ("101", "114"), strict=True):
        scene.paste(Image.open(SAMPLE / f"{name}.jpg"), (x, y))
    scene.save(tmp_path / "a.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    scene.rotate(90, expand=True).save(tmp_path / "b.jpg", quality=95, exif=turned)
    Image.fromarray(np.full((90, 120, 3), 110, np.uint8)).save(tmp_path / "c.png")
    faces = find_faces((tmp_path / "a.png").read_bytes(), "a", margin=0.25)
    assert len(faces) == 2
    for face in faces:
        left, top, right, bottom = face.box
        names = [
            name
            for (x, y), name in zip(corners, ("101", "114"), strict=True)
            if max(abs((left + right) / 2 - x - 112), abs((top + bottom) / 2 - y - 112)) < 60
        ]
        (name,) = names
        own = np.asarray(Image.open(SAMPLE / f"{name}.jpg").convert("L").resize((56, 56)), float)
        cut = np.asarray(Image.fromarray(face.pixels).convert("L").resize((56, 56)), float)
        assert np.corrcoef(own.ravel(), cut.ravel())[0, 1] > 0.8
    rows = answers(capsys, tmp_path, "--model", trial, "--faces", "all")
    assert [Path(row["file"]).name for row in rows] == ["a.png"] * 2 + ["b.jpg"] * 2 + ["c.png"]
    assert rows[4]["error"] == "no face was found" and rows[4]["face_left"] is None
    upright, exif = rows[0], rows[2]
    assert np.abs(np.array([upright[k] - exif[k] for k in ("face_left", "face_top", "face_right")])).max() < 12
    first = answers(capsys, tmp_path / "a.png", "--model", trial, "--faces", "biggest")
    assert first == rows[:1]
    assert main([str(tmp_path), "--model", str(trial), "--margin", "0.4"]) == 2
    assert "needs --faces" in capsys.readouterr().err
