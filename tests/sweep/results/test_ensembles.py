"""Ensembles from stored predictions, against averaging the files by hand; and other models beside the leaderboard."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score

from fairface_core.files.folder import open_folder
from fairface_core.labels import AGE_GROUPS, GENDERS
from sweep.report import main
from sweep.results.beside.candidates import read_candidates
from sweep.results.beside.ensembles import Ensemble, ensembles_of
from sweep.results.bootstrap import Predictions
from sweep.results.leaderboard import build_board
from sweep.results.stats import compare
from sweep.run_folder.records import read_run
from tests.sweep.run_folders import BACKBONES, Shape, make_run
from tests.sweep.test_report import Page

SHAPE = Shape(
    spaces=dict.fromkeys(("resnet50", "convnext_tiny"), (0.0003,)), epochs=4, num_val=400, num_test=300, asha=False
)
COLUMNS = ("age_true", "gender_true", "age_pred", "gender_pred")
AGES, GENDER = [f"age_prob_{k}" for k in range(9)], [f"gender_prob_{k}" for k in range(2)]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    assert "convnext_tiny" in BACKBONES
    return make_run(tmp_path / "run", SHAPE)


def mean_f1(frames: list[pd.DataFrame], split: str) -> float:
    parts = [frame[frame.split == split] for frame in frames]
    age = np.mean([part[AGES].to_numpy(np.float64) for part in parts], axis=0).astype(np.float32).argmax(1)
    gender = np.mean([part[GENDER].to_numpy(np.float64) for part in parts], axis=0).astype(np.float32).argmax(1)
    scores = [
        f1_score(parts[0].age_true, age, average="macro", labels=range(9), zero_division=0),
        f1_score(parts[0].gender_true, gender, average="macro", labels=range(2), zero_division=0),
    ]
    return float(np.mean(scores))


def frames_of(run: Path, ids: list[str]) -> list[pd.DataFrame]:
    return [pd.read_parquet(run / "trials" / trial_id / "predictions.parquet") for trial_id in ids]


def ensembles_in(run: Path) -> tuple[Ensemble, ...]:
    board = build_board(read_run(open_folder(run)))
    return ensembles_of(board, read_candidates(board))


def test_every_ensemble_scores_as_its_members_files_say(run: Path) -> None:
    board = build_board(read_run(open_folder(run)))
    found = ensembles_of(board, read_candidates(board))
    assert [one.name for one in found[:3]] == ["best single trial", *(f"{g}, 3 seeds" for g in board.best_of_group)]
    trials = sorted(path.name for path in (run / "trials").iterdir())
    single = {trial_id: mean_f1(frames_of(run, [trial_id]), "val") for trial_id in trials}
    best = max(single, key=single.__getitem__)
    assert [record.trial_id for record in found[0].members] == [best]
    for one in found:
        frames = frames_of(run, [record.trial_id for record in one.members])
        assert one.val == pytest.approx(mean_f1(frames, "val"), abs=1e-12)
        assert one.test[0] == pytest.approx(mean_f1(frames, "test"), abs=1e-12)
        assert one.gain[0] == pytest.approx(one.test[0] - found[0].test[0], abs=1e-12)
        assert one.test[1] < one.test[0] < one.test[2]
    assert found[1].gain[0] > 0, "three seeds whose errors are partly their own must gain here"


def test_the_greedy_one_is_the_best_that_one_more_trial_could_make(run: Path) -> None:
    found = {one.name: one for one in ensembles_in(run)}
    greedy = [record.trial_id for record in found["greedy"].members]
    trials = sorted(path.name for path in (run / "trials").iterdir())
    for size in range(1, len(greedy)):
        scores = {t: mean_f1(frames_of(run, [*greedy[:size], t]), "val") for t in trials}
        assert scores[greedy[size]] == pytest.approx(max(scores.values()), abs=1e-12)
        assert scores[greedy[size]] > mean_f1(frames_of(run, greedy[:size]), "val")
    assert max(mean_f1(frames_of(run, [*greedy, t]), "val") for t in trials) <= found["greedy"].val + 1e-12


def test_trials_without_usable_predictions_take_no_part(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in sorted((run / "trials").iterdir())[:5]:
        (folder / "predictions.parquet").write_bytes(b"PAR1")
    assert ensembles_in(run) == ()
    assert main([str(run)]) == 0
    assert "together" not in Page((run / "report.html").read_text()).tables


def answers(run: Path, path: Path) -> pd.DataFrame:
    """Those of one of the trials, as a file of a stranger's model."""
    frame = frames_of(run, [sorted(p.name for p in (run / "trials").iterdir())[0]])[0]
    test = frame[frame.split == "test"]
    given = pd.DataFrame({
        "img": "/data/" + test.file.astype(str), "age": [AGE_GROUPS[k] for k in test.age_pred],
        "gender": [GENDERS[k] for k in test.gender_pred],
    })  # fmt: skip
    given.to_csv(path, index=False)
    return given


def test_another_model_stands_beside_the_leader(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = answers(run, tmp_path / "theirs.csv")
    assert main([str(run), "--with", str(tmp_path / "theirs.csv")]) == 0
    page = Page((run / "report.html").read_text())
    (row,) = page.tables["others"][1:]
    trial = frames_of(run, [sorted(p.name for p in (run / "trials").iterdir())[0]])
    board = build_board(read_run(open_folder(run)))
    leader = board.ranked[0]
    assert row[0][0] == "theirs"
    assert float(row[1][1]) == pytest.approx(mean_f1(trial, "test"), abs=1e-9)
    assert float(row[5][1]) == pytest.approx(mean_f1(trial, "test") - np.mean(leader.test_scores()), abs=1e-9)
    others = board.lenders(leader)
    assert others, "the other backbone knows how seeds vary too"
    stranger = Predictions(*(trial[0][trial[0].split == "test"][name].to_numpy() for name in COLUMNS))
    fair = compare([stranger], [one.test for one in leader.scored], lenders=[one.test_scores() for one in others])
    assert float(row[6][1]) == pytest.approx(fair.low, abs=1e-9)
    assert f"theirs: test mean_f1 0.{row[1][0][2:]}" in capsys.readouterr().out
    assert len(page.tables["together"]) >= 4
    assert "published-results" not in page.tables, "the protocol of this run is not the official one"
    given[1:].to_csv(tmp_path / "theirs.csv", index=False)
    assert main([str(run), "--with", str(tmp_path / "theirs.csv")]) == 2
    assert "1 of 300 images have no answer" in capsys.readouterr().err


def test_published_results_stand_on_the_page_of_an_official_run_alone(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for report in run.glob("trials/*/report.json"):
        report.write_text(report.read_text().replace('"protocol": "seed"', '"protocol": "official"'))
    assert main([str(run)]) == 0
    rows = Page((run / "report.html").read_text()).tables["published-results"][1:]
    assert rows[0][0][0] == "CLIP ViT-L/14, linear probe"
    assert "others" not in Page((run / "report.html").read_text()).tables
