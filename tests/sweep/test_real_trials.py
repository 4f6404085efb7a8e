"""Real training through the driver: a reused actor, a fresh process and a one-off run give the same bits on the CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fairface_core.files.folder import Folder, read_json
from sweep.driving.worker import FIT
from tests.sweep import fake_sweeps

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module", autouse=True)
def ray_here() -> Iterator[None]:
    with fake_sweeps.held_ray(num_cpus=1):
        yield


FIXED = {
    "epochs": 2, "batch_size": 16, "weights": "none", "image_size": 32, "limit_train": 64, "limit_val": 60,
    "device": "cpu", "num_workers": 1,
}  # fmt: skip


def without_times(folder: Folder) -> dict[str, object]:
    """What a trial left, without what differs between any two runs."""
    report = read_json(folder, "report.json")
    del report["timing"]
    history = [
        [cell for name, cell in zip(names, line.split(","), strict=True) if name not in TIMES]
        for names in [folder.read("history.csv").decode().splitlines()[0].split(",")]
        for line in folder.read("history.csv").decode().splitlines()
    ]
    files = ("best.pt", "confusion_matrix_age.csv", "confusion_matrix_gender.csv", "predictions.parquet")
    return {"report": report, "history": history} | {name: folder.read(name) for name in files}


TIMES = ("train_s", "eval_s", "images_per_s", "peak_memory_gib", "write_wait_s")


@pytest.mark.slow
def test_a_reused_actor_a_fresh_process_and_a_one_off_run_are_equal(demo_root: Path, tmp_path: Path) -> None:
    ledger, seen = fake_sweeps.run_sweep(
        tmp_path / "s", fit=FIT, root=str(demo_root), fixed=FIXED, max_legs=1,
        space={"backbone": {"grid": ["mobilenet_v3_small"]}, "lr": {"grid": [1e-3]}, "seed": {"grid": [1, 2, 3]}},
    )  # fmt: skip
    assert [trial.status for trial in ledger.trials.values()] == ["completed"] * 3
    assert len(seen.processes) == 1, "one actor ran them all, so the last two were in a used one"
    for trial in list(ledger.trials.values())[1:]:
        out = tmp_path / f"alone-{trial.planned.seed}"
        flags = {**FIXED, "backbone": "mobilenet_v3_small", "lr": 1e-3, "seed": trial.planned.seed, "root": demo_root}
        words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
        subprocess.run(
            [sys.executable, "-m", "fairface_core.train", *words, "--out_dir", str(out), "--results_csv", str(out) + ".csv"],
            check=True, capture_output=True, timeout=200, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        from fairface_core.files.folder import open_folder

        assert without_times(open_folder(out)) == without_times(trial.folder)
