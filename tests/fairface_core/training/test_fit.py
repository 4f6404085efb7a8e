"""fit(): complete folders, resume that equals the undisturbed run bit for bit, divergence, isolation of runs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from filelock import FileLock

from fairface_core import EpochReport, FairfaceError, fit, prepare_data
from fairface_core.errors import CheckpointError, TrainingDiverged
from fairface_core.files.folder import open_folder
from fairface_core.scoring.metrics import constant_mean_f1
from fairface_core.training import fit as trainer
from fairface_core.trial.epoch_writer import EpochWriter
from fairface_core.trial.reading import read_status
from fairface_core.trial.recorder import Recorder
from fairface_core.trial.writing import write_status
from tests.fairface_core.small_data import training_config as config

BACKBONE = "mobilenet_v3_small"
FILES = {
    "best.pt", f"best_{BACKBONE}_seed1.pt", "config.json", "confusion_matrix_age.csv", "confusion_matrix_gender.csv",
    "history.csv", "predictions.parquet", "report.json", "state.pt", "status.json",
}  # fmt: skip
TIMES = {"train_s", "eval_s", "images_per_s", "peak_memory_gib", "write_wait_s"}


def results(out: Path) -> dict[str, Any]:
    """Everything a folder says, without the clock."""
    report = json.loads((out / "report.json").read_text())
    del report["timing"]
    history = pd.read_csv(out / "history.csv").drop(columns=list(TIMES))
    best = torch.load(out / "best.pt", weights_only=True)
    return {
        "report": report,
        "history": history.to_dict("list"),
        "weights": (out / "best.pt").read_bytes(),
        "model": {key: value.numpy().tobytes() for key, value in best["model"].items()},
        "confusion": [(out / f"confusion_matrix_{task}.csv").read_text() for task in ("age", "gender")],
        "predictions": pd.read_parquet(out / "predictions.parquet").to_dict("list"),
        "status": json.loads((out / "status.json").read_text()),
    }


class Stop(BaseException):
    """Raised from on_epoch, as Ray's SystemExit is."""


def stop_after(epoch: int) -> Any:
    def on_epoch(report: EpochReport) -> None:
        if report.epoch == epoch:
            raise Stop

    return on_epoch


@pytest.fixture(scope="module")
def undisturbed(demo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAIRFACE_CACHE_DIR", str(out / "cache"))
        fit(config(demo_root, out / "run"))
    return out / "run"


def test_the_folder_is_complete_and_consistent(undisturbed: Path) -> None:
    names = {p.name for p in undisturbed.iterdir()} - {".lock"}
    assert names == FILES | {"state.prev.pt"}
    report = json.loads((undisturbed / "report.json").read_text())
    assert report["age_labels"][0] == "0-2"
    assert report["gender_labels"] == ["Male", "Female"]
    assert {"loss", "age_acc", "age_f1m", "gen_acc", "gen_f1m"} <= report["test_metrics"].keys()
    assert report["epochs_trained"] == 3
    status = json.loads((undisturbed / "status.json").read_text())
    assert (status["status"], status["epochs_trained"]) == ("completed", 3)
    age = np.loadtxt(undisturbed / "confusion_matrix_age.csv", delimiter=",", dtype=int)
    gender = np.loadtxt(undisturbed / "confusion_matrix_gender.csv", delimiter=",", dtype=int)
    assert (age.shape, gender.shape) == ((9, 9), (2, 2))
    assert age.sum() == gender.sum() == report["data"]["rows"]["test"]
    assert np.trace(age) / age.sum() == pytest.approx(report["test_metrics"]["age_acc"])
    assert (undisturbed / "best.pt").read_bytes() == (undisturbed / f"best_{BACKBONE}_seed1.pt").read_bytes()
    # As text: pandas 2 reads the last digit of a number wrong.
    history = pd.read_csv(undisturbed / "history.csv", dtype=str).astype(float)
    assert list(history.epoch) == [1, 2, 3]
    assert history.mean_f1.max() == report["mean_f1"] == report["val_metrics"]["mean_f1"]
    assert history.epoch[history.mean_f1.idxmax()] == report["best_epoch"]
    np.testing.assert_allclose(history.mean_f1, (history.val_age_f1m + history.val_gen_f1m) / 2)
    np.testing.assert_allclose(history.lr, [2e-3, 1.5e-3, 0.5e-3])
    truth = pd.read_parquet(undisturbed / "predictions.parquet").query("split == 'val'")
    assert set(history.constant_mean_f1) == {constant_mean_f1(truth.age_true.to_numpy(), truth.gender_true.to_numpy())}
    assert set(history.val_images) == {len(truth)}


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_run_resumed_after_an_epoch_equals_the_undisturbed_one(
    undisturbed: Path, demo_root: Path, tmp_path: Path, epoch: int
) -> None:
    with pytest.raises(Stop):
        fit(config(demo_root, tmp_path), on_epoch=stop_after(epoch))
    # Stopped right where it was reported, the folder is that of a run that ended there.
    assert {p.name for p in tmp_path.iterdir()} - {".lock", "state.prev.pt"} == FILES
    assert json.loads((tmp_path / "status.json").read_text())["epochs_trained"] == epoch
    seen: list[int] = []
    report = fit(config(demo_root, tmp_path, resume=True), on_epoch=lambda e: seen.append(e.epoch))
    assert seen == list(range(epoch + 1, 4))
    assert results(tmp_path) == results(undisturbed)
    assert report.epochs_trained == 3


@pytest.mark.parametrize("amp_dtype", ["bf16", "fp16"])
def test_a_run_in_bfloat16_resumes_and_one_in_float16_is_float32_on_a_cpu(
    undisturbed: Path, demo_root: Path, tmp_path: Path, amp_dtype: str
) -> None:
    """float16 needs a GPU; bfloat16 is what a CPU with AMX or avx512_bf16 trains in."""
    fit(config(demo_root, tmp_path / "whole", amp_dtype=amp_dtype))
    with pytest.raises(Stop):
        fit(config(demo_root, tmp_path / "parts", amp_dtype=amp_dtype), on_epoch=stop_after(1))
    fit(config(demo_root, tmp_path / "parts", amp_dtype=amp_dtype, resume=True))
    whole, parts = results(tmp_path / "whole"), results(tmp_path / "parts")
    assert whole == parts
    is_float32 = whole["model"] == results(undisturbed)["model"]
    expected = {"bf16": ("bfloat16", False), "fp16": ("float32", True)}[amp_dtype]
    assert (whole["report"]["provenance"]["amp_dtype"], is_float32) == expected


def test_a_state_without_a_scaler_resumes_with_one(undisturbed: Path, demo_root: Path, tmp_path: Path) -> None:
    """Written in bfloat16, gone on from in float16 on a GPU that has no bfloat16."""
    shutil.copytree(undisturbed, tmp_path / "run")
    run = config(demo_root, tmp_path / "run", resume=True)
    data = prepare_data(run)
    recorder = Recorder(run, open_folder(run.out_dir), data)
    state = recorder.start()
    assert state is not None and state["scaler"] == {}
    one = trainer.Run(run, recorder, EpochWriter(), torch.device("cpu"), data)
    one.updates.scaler = torch.amp.GradScaler("cpu", enabled=True)
    one.restore(state)
    assert one.updates.scaler.get_scale() == 65_536


def test_a_second_run_in_one_process_equals_a_first_one(undisturbed: Path, demo_root: Path, tmp_path: Path) -> None:
    """What a reused actor does: other trials ran here before, with other settings."""
    fit(config(demo_root, tmp_path / "other", seed=9, epochs=1, backbone="resnet18", determinism="off"))
    torch.rand(7)
    fit(config(demo_root, tmp_path / "run"))
    assert results(tmp_path / "run") == results(undisturbed)


def test_data_that_is_there_is_not_prepared_again(
    undisturbed: Path, demo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = prepare_data(config(demo_root, tmp_path))
    monkeypatch.setattr(trainer, "prepare_data", lambda _: pytest.fail("prepared again"))
    fit(config(demo_root, tmp_path), data=data)
    assert results(tmp_path) == results(undisturbed)


@pytest.mark.parametrize("level", ["strict", "off"])
def test_on_the_cpu_every_determinism_level_gives_the_same_bits(
    undisturbed: Path, demo_root: Path, tmp_path: Path, level: str
) -> None:
    fit(config(demo_root, tmp_path, determinism=level))
    assert results(tmp_path)["model"] == results(undisturbed)["model"]


def test_another_seed_is_another_run_on_the_same_split(undisturbed: Path, demo_root: Path, tmp_path: Path) -> None:
    fit(config(demo_root, tmp_path, seed=2, epochs=1))
    mine, other = (pd.read_parquet(folder / "predictions.parquet") for folder in (tmp_path, undisturbed))
    assert mine[["split", "file"]].equals(other[["split", "file"]])
    assert not np.allclose(mine.age_prob_0, other.age_prob_0)


POINTS = [
    f"{name}:{stage}:{count}"
    for name, count in (("state.pt", 2), ("best.pt", 1), ("report.json", 2), ("history.csv", 3), ("status.json", 3))
    for stage in ("before_write", "after_write", "after_fsync", "after_rename")
]


# In the first epoch there is no state to fall back on.
POINTS += [
    "best.pt:after_rename:1", "report.json:after_rename:1", "history.csv:after_rename:2", "status.json:after_rename:2",
    "state.pt:before_write:1", "state.pt:after_fsync:1", "state.pt:after_rename:1",
]  # fmt: skip


# Reads a config and a fail point, trains in a child and tells how the child ended. What training imports on its way is
# imported once, here.
NURSERY = """
import json, os, sys
import filelock, pandas, pyarrow.parquet, torch._dynamo, torchvision
from fairface_core import fit, make_config
import fairface_core.training.fit
for line in sys.stdin:
    values, point = json.loads(line)
    child = os.fork()
    if not child:
        os.environ["FAIRFACE_FAIL_POINT"] = point
        fit(make_config(values))
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def nursery() -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    with subprocess.Popen(
        [sys.executable, "-c", NURSERY], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process


@pytest.mark.parametrize("point", dict.fromkeys(POINTS))
@pytest.mark.filterwarnings(r"ignore:.*epoch 1 left no state\.pt and is trained again:UserWarning")
@pytest.mark.faults
def test_a_kill_at_every_write_changes_nothing(
    undisturbed: Path, demo_root: Path, tmp_path: Path, nursery: subprocess.Popen[str], point: str
) -> None:
    assert nursery.stdin is not None and nursery.stdout is not None
    values = config(demo_root, tmp_path).model_dump(mode="json")
    print(json.dumps([values, point]), file=nursery.stdin, flush=True)
    assert int(nursery.stdout.readline()) == -signal.SIGKILL
    fit(config(demo_root, tmp_path, resume=True))
    assert results(tmp_path) == results(undisturbed)


def test_resuming_a_completed_run_trains_nothing(undisturbed: Path, demo_root: Path) -> None:
    before = results(undisturbed)
    seen: list[EpochReport] = []
    report = fit(config(demo_root, undisturbed, resume=True), on_epoch=seen.append)
    assert seen == []
    assert report.mean_f1 == before["report"]["mean_f1"]
    assert results(undisturbed) == before


def test_resume_refuses_another_config_and_other_data(undisturbed: Path, demo_root: Path) -> None:
    before = results(undisturbed)
    with pytest.raises(CheckpointError, match="another configuration"):
        fit(config(demo_root, undisturbed, resume=True, lr=1e-3))
    with pytest.raises(CheckpointError, match=r"another (configuration|data set)"):
        fit(config(demo_root, undisturbed, resume=True, split_seed=3))
    assert results(undisturbed) == before


def test_a_lost_state_is_an_error_and_never_a_new_start(demo_root: Path, tmp_path: Path) -> None:
    with pytest.raises(Stop):
        fit(config(demo_root, tmp_path), on_epoch=stop_after(2))
    for name in ("state.pt", "state.prev.pt"):
        (tmp_path / name).unlink()
    with pytest.raises(CheckpointError, match=r"state\.pt is gone"):
        fit(config(demo_root, tmp_path, resume=True))


def test_a_first_epoch_without_its_state_is_named_and_trained_again(
    undisturbed: Path, demo_root: Path, tmp_path: Path
) -> None:
    """What a kill between the first history and the first state leaves; no other epoch can be repeated so."""
    with pytest.raises(Stop):
        fit(config(demo_root, tmp_path), on_epoch=stop_after(1))
    (tmp_path / "state.pt").unlink()
    with pytest.warns(UserWarning, match=r"epoch 1 left no state\.pt and is trained again"):
        fit(config(demo_root, tmp_path, resume=True))
    assert results(tmp_path) == results(undisturbed)


@pytest.mark.parametrize("lr", [1e6, 1e30])
def test_a_learning_rate_far_too_high_diverges_in_the_first_epoch(demo_root: Path, tmp_path: Path, lr: float) -> None:
    with pytest.raises(TrainingDiverged, match=r"epoch 1: .* use a smaller learning rate"):
        fit(config(demo_root, tmp_path, lr=lr))
    status = json.loads((tmp_path / "status.json").read_text())
    assert (status["status"], status["epochs_trained"]) == ("diverged", 0)
    assert status["detail"] == {"kind": "diverged", "epoch": 1}


def test_micro_batches_give_the_gradients_of_the_batch(demo_root: Path, tmp_path: Path) -> None:
    """A ViT has no batch statistics: accumulated gradients must then be those of the whole batch."""
    losses, weights = [], []
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(8, 3, 32, 32, generator=generator)
    age, gender = torch.arange(8) % 9, torch.arange(8) % 2
    for part in (None, 3):
        settings = config(demo_root, tmp_path, backbone="vit_b_16", dropout=0.0, micro_batch_size=part, no_amp=True)
        data = prepare_data(settings)
        recorder = Recorder(settings, open_folder(tmp_path), data)
        run = trainer.Run(settings, recorder, EpochWriter(), torch.device("cpu"), data)
        losses.append(run._step(images, age, gender).item())
        weights.append(run.model.head_age[3].weight.detach().clone())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    # AdamW's first step is lr * sign(gradient): almost all signs must agree.
    assert torch.isclose(weights[0], weights[1], atol=1e-5).float().mean() > 0.99


def test_the_one_off_row_is_upserted(demo_root: Path, tmp_path: Path) -> None:
    for _ in range(2):
        fit(config(demo_root, tmp_path / "run", epochs=1, results_csv=str(tmp_path / "b.csv")))
    rows = pd.read_csv(tmp_path / "b.csv")
    assert len(rows) == 1
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert rows.val_best_score[0] == report["mean_f1"]
    assert rows.out_dir[0] == str(tmp_path / "run")


def test_a_second_process_in_the_folder_is_refused(
    demo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "LOCK_TIMEOUT_S", 0.2)
    with FileLock(tmp_path / ".lock"), pytest.raises(FairfaceError, match="another process"):
        fit(config(demo_root, tmp_path))


def test_what_a_sweep_says_of_a_trial_is_kept_while_it_runs(demo_root: Path, tmp_path: Path) -> None:
    folder = open_folder(tmp_path)
    write_status(folder, "running", epochs_trained=0, attempts=2, detail={"images_at_once": 8})
    with pytest.raises(Stop):
        fit(config(demo_root, tmp_path, resume=True), on_epoch=stop_after(1))
    status = read_status(folder)[0]
    assert (status.status, status.attempts, status.detail) == ("running", 2, {"images_at_once": 8})


def test_training_learns(demo_root: Path, tmp_path: Path) -> None:
    report = fit(config(demo_root, tmp_path, backbone="resnet18", epochs=6, limit_train=None, lr=5e-4))
    losses = [epoch.train_loss for epoch in report.history]
    assert losses[-1] < 0.88 * losses[0]
