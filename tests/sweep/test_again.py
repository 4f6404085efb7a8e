"""--rerun and --refit: the same bits again, and the winner on all the labels that chose it; trained for real."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from fairface_core import fit
from fairface_core.config.train_config import make_config
from fairface_core.evaluate import main as evaluate
from fairface_core.files.folder import open_folder
from fairface_core.predict import main as predict
from sweep.page.write import write_report
from sweep.plan.expand import make_plan
from sweep.run import main
from sweep.run_folder.request import write_new
from sweep.space.load import load_space

pytestmark = pytest.mark.slow

SPACE = """
space: {backbone: {grid: [mobilenet_v3_small]}, seed: {grid: [1, 2]}}
fixed: {epochs: 2, batch_size: 16, weights: none, image_size: 32, limit_train: 64, limit_val: 90, device: cpu,
  num_workers: 1, lr: 1e-3}
scheduler: {kind: fifo}
resources: {cpu: 1, gpu: 0}
"""


@pytest.fixture(scope="module")
def run(demo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of two seeds as its driver would leave it."""
    folder = tmp_path_factory.mktemp("again") / "small"
    space = folder.parent / "space.yaml"
    space.write_text(SPACE)
    spec = load_space(space, root=str(demo_root), name="small")
    plan = make_plan(spec)
    write_new(open_folder(folder), spec, plan)
    # As it was typed, in another folder than this one.
    (folder / "sweep.json").write_text(json.dumps({"command_line": [f"--root {demo_root.name}"]}))
    for trial in plan.trials:
        out = folder / "trials" / trial.trial_id
        fit(make_config({**trial.config, "root": str(demo_root), "out_dir": str(out), "results_csv": None}))
    write_report(open_folder(folder))
    return folder


def test_a_trial_is_trained_again_to_the_same_bits_by_as_many_threads(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trial = sorted((run / "trials").iterdir())[0]
    torch.set_num_threads(torch.get_num_threads() + 1)
    try:
        assert main(["--rerun", f"{run}/{trial.name}"]) == 0
    finally:
        torch.set_num_threads(json.loads((trial / "report.json").read_text())["provenance"]["num_threads"])
    assert "equal to the trial, bit for bit" in capsys.readouterr().out
    again = run / "reruns" / trial.name
    for name in ("best.pt", "predictions.parquet"):
        assert (again / name).read_bytes() == (trial / name).read_bytes()
    assert main(["--rerun", str(trial)]) == 2
    assert "go on with it by --resume" in capsys.readouterr().err
    assert main(["--rerun", str(trial), "--set", "lr=3e-3", "--set", "epochs=1", "--name", "faster"]) == 0
    report = json.loads((run / "reruns" / "faster" / "report.json").read_text())
    assert (report["config"]["lr"], report["epochs"], report["config"]["seed"]) == (3e-3, 1, 1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rerun", "RUN/nothing"], "plans no trial of this name; it has 2"),
        (["--rerun", "RUN/TRIAL", "--set", "out_dir=/tmp/x"], "cannot be set for one trial"),
        (["--rerun", "RUN/TRIAL", "--set", "lr=fast"], "lr = 'fast'"),
        (["--rerun", "RUN/TRIAL", "--name", "../x"], "accepted: a plain folder name"),
        (["--rerun", "RUN/TRIAL", "--dry-run"], "--dry-run: --rerun and --refit take"),
        (["--refit", "RUN", "--set", "lr=1"], "--refit takes no --set"),
    ],
)
def test_what_cannot_be_done_again_is_told_in_one_line(
    run: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    trial = sorted((run / "trials").iterdir())[0].name
    assert main([word.replace("RUN", str(run)).replace("TRIAL", trial) for word in words]) == 2
    assert said in capsys.readouterr().err


def test_the_winner_is_trained_on_validation_too_and_says_so(
    run: Path, demo_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--refit", str(run)]) == 0
    folder = run / "refit"
    report = json.loads((folder / "report.json").read_text())
    trials = [json.loads(p.read_text()) for p in run.glob("trials/*/report.json")]
    winner = max(trials, key=lambda one: one["mean_f1"])
    rows = winner["data"]["rows"]
    assert report["data"]["rows"] == {"train": rows["train"] + rows["val"], "val": 0, "test": rows["test"]}
    assert (report["mean_f1"], report["val_metrics"], "conformal" in report) == (None, None, False)
    assert report["epochs_trained"] == report["best_epoch"] == winner["best_epoch"]
    assert report["config"]["seed"] == winner["config"]["seed"]
    frame = pd.read_parquet(folder / "predictions.parquet")
    assert set(frame["split"]) == {"test"} and len(frame) == rows["test"]
    right = np.mean(frame["gender_pred"] == frame["gender_true"])
    assert report["test_metrics"]["gen_acc"] == pytest.approx(right)
    card = (folder / "model_card.md").read_text()
    assert "No selection is left in this model, and no validation score" in card
    capsys.readouterr()
    data = ["--root", str(demo_root)]
    assert evaluate(["--checkpoint", str(folder / "best.pt"), *data, "--limit_val", "90", "--json"]) == 0
    scored = json.loads(capsys.readouterr().out)["test_metrics"]
    # Its loss weighs classes as they are in training alone.
    assert {**scored, "loss": 0} == pytest.approx({**report["test_metrics"], "loss": 0})
    assert evaluate(["--checkpoint", str(folder / "best.pt"), *data, "--split", "val"]) == 2
    assert "was trained on the validation images too" in capsys.readouterr().err
    picture = next((demo_root / "val").glob("*"))
    assert predict([str(picture), "--model", str(folder), "--set", "0.9"]) == 2
    assert "nothing is left to calibrate --set on" in capsys.readouterr().err
    assert predict([str(picture), "--model", str(folder)]) == 0


def test_a_refit_that_was_killed_goes_on_to_the_same_weights(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from fairface_core.training import refit as module

    trial = json.loads(next(run.glob("trials/*/config.json")).read_text())["config"]

    class KilledError(Exception):
        pass

    def killed(epoch: int, loss: float) -> None:
        raise KilledError

    out = {}
    for name in ("whole", "killed"):
        config = make_config({**trial, "out_dir": str(run / name), "resume": True})
        if name == "killed":
            with pytest.raises(KilledError):
                module.refit(config, epochs=2, facts={}, on_epoch=killed)
        module.refit(config, epochs=2, facts={})
        out[name] = (run / name / "best.pt").read_bytes()
    assert out["whole"] == out["killed"]
