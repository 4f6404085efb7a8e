"""`predict` against the trial's own stored predictions, Pillow and plain torch, for every kind of input and output."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from fairface_core import fit
from fairface_core.labels import AGE_GROUPS, GENDERS
from fairface_core.model.network import AgeGenderModel
from fairface_core.predict import main
from fairface_core.trial.checkpoint import load_checkpoint
from tests.fairface_core.images.test_bad_images import CASES, Accepted, Refused
from tests.fairface_core.small_data import training_config
from tests.fairface_core.test_evaluate import OriginalModel, write_original_checkpoint

AGE_SHARES = [f"age_prob_{label}" for label in AGE_GROUPS]
GENDER_SHARES = [f"gender_prob_{label}" for label in GENDERS]


def answers(capsys: pytest.CaptureFixture[str], *arguments: str | Path, code: int = 0) -> list[dict[str, Any]]:
    assert main([*map(str, arguments), "--json", "--device", "cpu"]) == code
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def stored(trial: Path, split: str) -> pd.DataFrame:
    frame = pd.read_parquet(trial / "predictions.parquet")
    return frame[frame.split == split].reset_index(drop=True)


def shares(rows: list[dict[str, Any]]) -> np.ndarray:
    return np.array([[row[name] for name in AGE_SHARES + GENDER_SHARES] for row in rows])


def stored_shares(frame: pd.DataFrame) -> np.ndarray:
    names = [f"age_prob_{k}" for k in range(9)] + [f"gender_prob_{k}" for k in range(2)]
    return frame[names].to_numpy()


def test_the_test_split_gets_the_answers_that_its_report_was_made_from(
    demo_root: Path, trial: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = stored(trial, "test")
    listing = tmp_path / "faces.csv"
    expected[["file"]].assign(note="x").to_csv(listing, index=False)
    rows = answers(capsys, listing, "--root", demo_root, "--model", trial / "best.pt")
    assert [row["file"] for row in rows] == list(expected.file)
    assert [row["age"] for row in rows] == [AGE_GROUPS[k] for k in expected.age_pred]
    assert [row["gender"] for row in rows] == [GENDERS[k] for k in expected.gender_pred]
    np.testing.assert_array_equal(shares(rows).astype(np.float32), stored_shares(expected))
    assert all(row["error"] is None for row in rows)
    assert [row["age_prob"] for row in rows] == list(shares(rows)[:, :9].max(axis=1))


def test_number_format_and_decoded_size_are_those_of_the_training(
    demo_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trial = tmp_path / "run"
    fit(training_config(demo_root, trial, epochs=1, cache_px=48, amp_dtype="bf16"))
    expected = stored(trial, "test")
    listing = tmp_path / "faces.csv"
    expected[["file"]].to_csv(listing, index=False)
    rows = answers(capsys, listing, "--root", demo_root, "--model", trial)
    np.testing.assert_array_equal(shares(rows).astype(np.float32), stored_shares(expected))


def test_every_odd_image_is_answered_as_pillow_shows_it_or_told_why_not(
    trial: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, (content, _) in CASES.items():
        (tmp_path / f"{name}.jpg").write_bytes(content)
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "fifo.jpg")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "._hidden.jpg").write_bytes(b"")
    (tmp_path / "notes.txt").write_bytes(b"")
    rows = {Path(row["file"]).stem: row for row in answers(capsys, tmp_path, "--model", trial)}
    assert rows.keys() == {*CASES, "fifo", "loop"}
    content = load_checkpoint(trial / "best.pt")
    model = AgeGenderModel("mobilenet_v3_small", 32, 0.0).eval()
    model.load_state_dict(content.model)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    num_answered = 0
    for name, (_, expected) in CASES.items():
        row = rows[name]
        if isinstance(expected, Refused):
            assert expected.reason in row["error"]
            assert row["age"] is row["gender"] is row["age_prob_0-2"] is None
            continue
        assert isinstance(expected, Accepted)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # broken EXIF
            with Image.open(tmp_path / f"{name}.jpg") as image:
                image.info.pop("transparency", None)
                small = np.asarray(image.convert("RGB").resize((32, 32), Image.Resampling.BILINEAR))
        pixels = ((torch.from_numpy(small.copy()) / 255 - mean) / std).permute(2, 0, 1)[None]
        with torch.no_grad():
            age, gender = (logits.softmax(1)[0].numpy() for logits in model(pixels))
        np.testing.assert_allclose(shares([row])[0], [*age, *gender], atol=2e-6, err_msg=name)
        num_answered += 1
    assert num_answered > 15
    assert "FIFO" in rows["fifo"]["error"]
    assert "loop" in rows["loop"]["error"]


def test_all_formats_hold_the_same(
    trial: Path, demo_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "faces" / 'bad, "quoted".png'
    shutil.copytree(demo_root / "val", tmp_path / "faces")
    bad.write_bytes(b"no image")
    arguments = [str(tmp_path / "faces"), "--model", str(trial), "--set", "0.8", "--device", "cpu"]
    for name in ("a.csv", "a.parquet", "a.jsonl"):
        assert main([*arguments, "--out", str(tmp_path / name)]) == 0
    assert "1 of 201 pictures could not be read" in capsys.readouterr().err
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    table = pq.read_table(tmp_path / "a.parquet").to_pylist()
    with (tmp_path / "a.csv").open(newline="") as file:
        cells = list(csv.DictReader(file))
    assert len(lines) == len(table) == len(cells) == 201
    for line, row, cell in zip(lines, table, cells, strict=True):
        assert list(line) == list(row) == list(cell)
        for name, value in line.items():
            if isinstance(value, float):
                assert np.float32(value) == np.float32(row[name]) == np.float32(cell[name])
            else:
                assert value == row[name]
                assert cell[name] == ("|".join(value) if isinstance(value, list) else value or "")
    assert [path.name for path in tmp_path.iterdir() if ".part" in path.name] == []
    assert main([*arguments]) == 0
    assert capsys.readouterr().out == (tmp_path / "a.csv").read_text()
    out = tmp_path / "a.csv"
    assert main([*arguments, "--out", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [found[key] for key in ("schema_version", "out", "pictures", "unreadable", "level")] == [
        1,
        str(out),
        201,
        1,
        0.8,
    ]
    assert [model["where"] for model in found["models"]] == [str(trial / "best.pt")]


def test_pictures_globs_and_standard_input(
    trial: Path, demo_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = sorted((demo_root / "val").iterdir())[:2]
    plain = tmp_path / "picture without suffix"
    shutil.copy(first, plain)
    alone = answers(capsys, plain, second, "--model", trial)
    assert [row["file"] for row in alone] == [str(plain), str(second)]
    globbed = answers(capsys, f"{demo_root}/**/*.jpg", "--model", trial)
    assert [row["file"] for row in globbed] == sorted(map(str, demo_root.rglob("*.jpg")))
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{first}\r\n\n{second}\nnot there.jpg\n"))
    listed = answers(capsys, "-", "--model", trial)
    assert [row["file"] for row in listed] == [str(first), str(second), "not there.jpg"]
    assert listed[2]["error"] == "no such file"
    np.testing.assert_allclose(shares(listed[:2]), shares(alone), atol=1e-6)
    monkeypatch.setattr(sys, "stdin", io.StringIO("gone.jpg\n"))
    assert answers(capsys, "-", "--model", trial, code=1)[0]["error"] == "no such file"


def test_a_reader_that_ends_early_ends_it_quietly(trial: Path, demo_root: Path) -> None:
    command = (
        f"{sys.executable} -m fairface_core.predict {demo_root}/train {demo_root}/val --model {trial} --batch_size 8"
    )
    run = subprocess.run(
        f"set -o pipefail; {command} | head -2", shell=True, executable="/bin/bash", capture_output=True, text=True
    )
    assert len(run.stdout.splitlines()) == 2
    assert "Traceback" not in run.stderr


def test_an_original_checkpoint_answers(demo_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "best.pt"
    write_original_checkpoint(path, "resnet18", 3)
    model = OriginalModel("resnet18").eval()
    model.load_state_dict(torch.load(path, weights_only=True)["model"])
    picture = next((demo_root / "val").iterdir())
    with Image.open(picture) as image:
        small = np.asarray(image.convert("RGB").resize((224, 224), Image.Resampling.BILINEAR))
    pixels = (torch.from_numpy(small.copy()) / 255 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor(
        [0.229, 0.224, 0.225]
    )
    with torch.no_grad():
        age, gender = (logits.softmax(1)[0].numpy() for logits in model(pixels.permute(2, 0, 1)[None]))
    np.testing.assert_allclose(shares(answers(capsys, picture, "--model", path))[0], [*age, *gender], atol=2e-6)


def test_sets_are_those_of_the_report_and_of_a_mean_those_of_its_validation(
    trial: Path, other_trial: Path, demo_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    val = stored(trial, "val")
    prob = stored_shares(val)[:, :9]
    rank = -(-(len(val) + 1) * 9 // 10)
    least = np.sort(prob[np.arange(len(val)), val.age_true])[::-1][rank - 1]
    assert json.loads((trial / "report.json").read_text())["conformal"]["age"]["0.90"] == least
    listing = tmp_path / "faces.csv"
    stored(trial, "test")[["file"]].to_csv(listing, index=False)
    for row in answers(capsys, listing, "--root", demo_root, "--model", trial, "--set", "0.9"):
        inside = [label for label in AGE_GROUPS if row[f"age_prob_{label}"] >= least or label == row["age"]]
        assert row["age_set"] == (["abstain"] if len(inside) == 9 else inside)

    both = ["--model", trial, "--model", other_trial]
    mean = (stored_shares(val).astype(np.float64) + stored_shares(stored(other_trial, "val"))).astype(np.float64) / 2
    least = np.sort(mean.astype(np.float32)[np.arange(len(val)), val.age_true])[::-1][rank - 1]
    rows = answers(capsys, listing, "--root", demo_root, *both, "--set", "0.9")
    test_mean = (stored_shares(stored(trial, "test")) + stored_shares(stored(other_trial, "test"))) / 2
    np.testing.assert_allclose(shares(rows), test_mean, atol=1e-6)
    assert [row["age"] for row in rows] == [AGE_GROUPS[k] for k in test_mean[:, :9].argmax(axis=1)]
    for row in rows:
        inside = [label for label in AGE_GROUPS if row[f"age_prob_{label}"] >= least or label == row["age"]]
        assert row["age_set"] == (["abstain"] if len(inside) == 9 else inside)


def test_a_run_folder_stands_for_the_best_run_of_its_winner(
    trial: Path, other_trial: Path, demo_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    for name, source in (("a-seed1", trial), ("a-seed2", other_trial), ("b-seed1", trial)):
        shutil.copytree(source, run / "trials" / name)
    trials = [{"trial_id": f"{c}-seed{s}", "config_id": c} for c, s in (("a", 1), ("a", 2), ("b", 1))]
    (run / "plan.json").write_text(json.dumps({"schema_version": 1, "trials": trials}))
    picture = next((demo_root / "val").iterdir())

    def chosen() -> str:
        assert main([str(picture), "--model", str(run), "--device", "cpu"]) == 0
        return capsys.readouterr().err

    assert main([str(picture), "--model", str(run)]) == 2
    assert f"write it with: python -m sweep.report {run}" in capsys.readouterr().err
    (run / "leaderboard.csv").write_text("rank,config_id\n2,b\n1,a\n,c\n")
    scores = {
        name: json.loads((run / "trials" / name / "report.json").read_text())["mean_f1"]
        for name in ("a-seed1", "a-seed2")
    }
    assert len(set(scores.values())) == 2
    assert f"trials/{max(scores, key=scores.__getitem__)}/best.pt" in chosen()
    (run / "leaderboard.csv").write_text("rank,config_id\n1,b\n2,a\n")
    assert "trials/b-seed1/best.pt" in chosen()
    (run / "leaderboard.csv").write_text("rank,config_id\n,b\n")
    assert main([str(picture), "--model", str(run)]) == 2
    assert "no trial in its leaderboard has had its full budget" in capsys.readouterr().err
    (run / "plan.json").write_text('{"trials": [{"trial_id": "../../etc", "config_id": "b"}]}')
    (run / "leaderboard.csv").write_text("rank,config_id\n1,b\n")
    assert main([str(picture), "--model", str(run)]) == 2
    assert "no trial in its leaderboard" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["gone.jpg"], "'gone.jpg': no such file or folder; accepted: a folder, a glob, a zip archive, a Parquet file, a CSV, a picture or -"),
        (["{tmp}/no_image.csv"], "line 1: no columns hold the image; accepted names: file, image_path"),
        (["{tmp}/*.jpg"], "no image is there"),
        (["{tmp}"], "no image is there"),
        (["-", "-"], "standard input can be read once"),
        (["-", "--out", "{tmp}/x.csv"], "standard input named no picture"),
        (["{tmp}/one.png", "--out", "{tmp}/x.xlsx"], "its name must end in .csv, .parquet, .jsonl"),
        (["{tmp}/faces.csv", "--out", "{tmp}/faces.csv"], "it is an input of the same command"),
        (["{tmp}/one.png", "--set", "0.905"], "accepted are 0.50 to 0.99 in hundredths"),
        (["{tmp}/one.png", "--num_workers", "0"], "at least one thread must decode"),
        (["{tmp}/one.png", "--model", "{tmp}"], "accepted: a best.pt, the folder of a trial, or the folder of a sweep"),
        (["{tmp}/one.png", "--model", "{tmp}/one.png"], "give a best.pt that this project"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_told_in_a_line(
    trial: Path, tmp_path: Path, arguments: list[str], told: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    given = tmp_path / "given"
    given.mkdir()
    (given / "no_image.csv").write_text("a,b\n1,2\n")
    (given / "faces.csv").write_text("img\nx.jpg\n")
    if "one.png" in " ".join(arguments):
        Image.new("RGB", (9, 9)).save(given / "one.png")
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    before = {path: path.read_bytes() for path in given.iterdir()}
    filled = [argument.format(tmp=given) for argument in arguments]
    assert main([*filled, "--model", str(trial), "--device", "cpu"]) == 2
    out, err = capsys.readouterr()
    assert told in err
    assert out == ""
    assert {path: path.read_bytes() for path in given.iterdir()} == before


def test_sets_need_figures_of_the_same_weights_and_images(
    trial: Path, demo_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = str(next((demo_root / "val").iterdir()))

    def told(*models: Path) -> str:
        flags = [part for model in models for part in ("--model", str(model))]
        assert main([picture, *flags, "--set", "0.9", "--device", "cpu"]) == 2
        return capsys.readouterr().err

    shutil.copy(trial / "best.pt", tmp_path / "best.pt")
    assert "no report.json of the same epoch beside it; --set needs" in told(tmp_path / "best.pt")
    copy = tmp_path / "copy"
    shutil.copytree(trial, copy)
    table = pd.read_parquet(copy / "predictions.parquet")
    table[table.index != 3].to_parquet(copy / "predictions.parquet", index=False)
    assert "was validated on other images" in told(trial, copy)
    report = json.loads((copy / "report.json").read_text())
    for change, words in (
        ({"best_epoch": 99}, "no report.json of the same epoch"),
        ({"conformal": {"age": 1}}, "damaged"),
    ):
        (copy / "report.json").write_text(json.dumps({**report, **change}))
        assert words in told(copy)
    del report["conformal"]
    (copy / "report.json").write_text(json.dumps(report))
    shutil.copy(trial / "predictions.parquet", copy / "predictions.parquet")
    assert main([picture, "--model", str(copy), "--set", "0.9", "--device", "cpu"]) == 0, (
        "an older trial's follow from its predictions"
    )
    (copy / "predictions.parquet").write_bytes(b"PAR1")
    assert "predictions.parquet: damaged" in told(copy)
    (copy / "predictions.parquet").unlink()
    assert "predictions.parquet: missing" in told(copy)


def test_a_diverged_model_leaves_no_file(
    trial: Path, demo_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = torch.load(trial / "best.pt", weights_only=True)
    content["model"]["head_age.3.bias"][0] = float("nan")
    torch.save(content, tmp_path / "best.pt")
    for name in ("a.csv", "a.parquet"):
        assert (
            main(
                [str(demo_root), "--model", str(tmp_path / "best.pt"), "--out", str(tmp_path / name), "--device", "cpu"]
            )
            == 2
        )
        assert "outputs that are not finite" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["best.pt"]
