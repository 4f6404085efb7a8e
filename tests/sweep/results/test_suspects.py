"""Suspect labels, floors and photographs: on drawn runs whose wrong labels are known."""

from __future__ import annotations

import io
from base64 import b64decode
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image as Picture

from fairface_core.errors import ConfigError
from fairface_core.files.folder import open_folder
from fairface_core.labels import AGE_GROUPS, GENDERS
from fairface_core.scoring.audit import wilson
from sweep.page.write import write_report
from sweep.report import main
from sweep.results.beside.candidates import Candidate, read_candidates
from sweep.results.beside.floors import answer_floor, parse_floor
from sweep.results.beside.suspects import find_suspects
from sweep.results.leaderboard import build_board
from sweep.run_folder.records import read_run
from tests.sweep.run_folders import Shape, make_run
from tests.sweep.test_report import Page

SHAPE = Shape(
    spaces={"resnet50": (3e-4,), "convnext_tiny": (3e-4,)},
    seeds=(41, 42),
    epochs=2,
    num_val=600,
    num_test=300,
    asha=False,
)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("suspects") / "run", SHAPE)


@pytest.fixture(scope="module")
def candidates(drawn: Path) -> tuple[Candidate, ...]:
    return read_candidates(build_board(read_run(open_folder(drawn))))


def expected(frames: dict[str, list[pd.DataFrame]], task: str, num: int) -> dict[int, tuple[int, int]]:
    """Line -> label and answer of the suspects, worked out image by image."""
    names = [f"{task}_prob_{k}" for k in range(num)]
    groups = [np.mean([f[names].to_numpy(np.float32) for f in members], axis=0) for members in frames.values()]
    trials = [f for members in frames.values() for f in members]
    mean = np.mean(groups, axis=0)
    truth = trials[0][f"{task}_true"].to_numpy()
    own = [f[names].to_numpy(np.float32).argmax(1) for f in trials]
    usual = [mean[truth == k, k].mean() for k in range(num)]
    found = {}
    for i, line in enumerate(trials[0]["line"]):
        answer = int(mean[i].argmax())
        votes = sum(int(answers[i]) == answer for answers in own)
        in_groups = sum(int(group[i].argmax()) == answer for group in groups)
        if answer != truth[i] and votes > 2 and in_groups == 2 and mean[i, answer] >= usual[answer]:
            found[int(line)] = (int(truth[i]), answer)
    return found


def test_suspects_are_what_the_rule_says_image_by_image(drawn: Path, candidates: tuple[Candidate, ...]) -> None:
    frames: dict[str, list[pd.DataFrame]] = {}
    for one in candidates:
        frames.setdefault(one.record.group, []).append(
            pd.read_parquet(drawn / "trials" / one.record.trial_id / "predictions.parquet")
        )
    found = find_suspects(candidates)
    for task, labels in (("age", AGE_GROUPS), ("gender", GENDERS)):
        got = {s.image.line: (labels.index(s.label), labels.index(s.answer)) for s in found if s.task == task}
        assert got == expected(frames, task, len(labels))
        assert len(got) > 20 or task == "gender"
    margins = [one.answer_prob - one.label_prob for one in found]
    assert margins == sorted(margins, reverse=True)
    write_report(open_folder(drawn))
    csv = pd.read_csv(drawn / "suspect_labels.csv")
    assert csv["line"].tolist() == [one.image.line for one in found]
    assert csv["checked_label"].isna().all()


def test_a_floor_is_kept_by_every_group_of_every_seed_on_validation(drawn: Path) -> None:
    board = build_board(read_run(open_folder(drawn)))
    candidates = read_candidates(board)
    lowest: dict[str, float] = {}
    for one in candidates:
        frame = pd.read_parquet(drawn / "trials" / one.record.trial_id / "predictions.parquet").query("split == 'val'")
        right = (frame.gender_pred == frame.gender_true).to_numpy()
        race, age, gender = frame["race"].astype(str), frame["age_true"].astype(str), frame["gender_true"].astype(str)
        for keys in (race, age, gender, race + gender):
            for _, members in pd.Series(right).groupby(keys.to_numpy()):
                if len(members) >= 30:
                    low = wilson(int(members.sum()), len(members))[0]
                    lowest[one.record.config_id] = min(lowest.get(one.record.config_id, 1.0), low)
    first, second = board.ranked
    for value in (0.3, lowest[first.config_id] - 1e-6, lowest[first.config_id] + 1e-6, 0.99):
        answer = answer_floor(board, candidates, parse_floor(f"gen_acc_worst_group={value}"))
        keeping = [one.config_id for one in (first, second) if lowest[one.config_id] >= value]
        assert (answer.kept_by.config_id if answer.kept_by else None) == (keeping[0] if keeping else None)
        assert answer.val.low == pytest.approx(lowest[answer.nearest.config_id])
    assert answer.nearest.config_id == max(lowest, key=lowest.__getitem__)
    assert "kept by no configuration" in answer.sentence


@pytest.mark.parametrize(
    "text", ["gen_acc=0.8", "gen_acc_worst_group", "gen_acc_worst_group=85", "loss_worst_group=0.5"]
)
def test_a_floor_that_says_something_else_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="accepted are gen_acc_worst_group=X"):
        parse_floor(text)


def test_photographs_are_put_into_the_page_when_asked_for_alone(
    drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = pd.read_parquet(next((drawn / "trials").iterdir()) / "predictions.parquet").sort_values("line")
    for name in ("train", "val"):
        (tmp_path / name).mkdir()
    for line in frame["line"]:
        Picture.new("RGB", (8, 8), (int(line) % 256, int(line) // 256, 9)).save(tmp_path / "val" / f"{line - 1}.jpg")
    Picture.new("RGB", (8, 8)).save(tmp_path / "train" / "1.jpg")
    (tmp_path / "fairface_label_train.csv").write_text("file,age,gender\ntrain/1.jpg,0-2,Male\n")
    rows = [f"val/{n - 1}.jpg,{AGE_GROUPS[a]},{GENDERS[g]}"
            for n, a, g in zip(frame["line"], frame["age_true"], frame["gender_true"], strict=True)]  # fmt: skip
    label_csv = tmp_path / "fairface_label_val.csv"
    label_csv.write_text("file,age,gender\n" + "\n".join(rows) + "\n")
    assert main([str(drawn), "--floor", "gen_acc_worst_group=0.5"]) == 0
    assert "floor gen_acc_worst_group=0.5: kept by " in capsys.readouterr().out
    assert "data:image/jpeg" not in (drawn / "report.html").read_text()
    assert main([str(drawn), "--faces", "5", "--root", str(tmp_path)]) == 0
    text = (drawn / "report.html").read_text()
    uris = text.split('src="data:image/jpeg;base64,')[1:]
    assert len(uris) == 15
    worst = Picture.open(io.BytesIO(b64decode(uris[0].partition('"')[0]))).getpixel((50, 50))
    assert len(Page(text).tables["suspects"]) == 21
    record = build_board(read_run(open_folder(drawn))).ranked[0].best
    assert record is not None
    own = pd.read_parquet(drawn / "trials" / record.trial_id / "predictions.parquet").query("split == 'test'")
    shares = [a[t] * g[s] for a, t, g, s in zip(own.filter(like="age_prob").to_numpy(), own.age_true,
              own.filter(like="gender_prob").to_numpy(), own.gender_true, strict=True)]  # fmt: skip
    line = int(own["line"].to_numpy()[int(np.argmin(shares))])
    assert np.abs(np.array(worst) - (line % 256, line // 256, 9)).max() <= 4, "the picture of another image"
    label_csv.write_text("file,age,gender\n" + "\n".join(reversed(rows)) + "\n")
    assert main([str(drawn), "--faces", "5", "--root", str(tmp_path)]) == 2
    assert "give the data folder of this sweep" in capsys.readouterr().err
    assert main([str(drawn), "--faces", "5"]) == 2
