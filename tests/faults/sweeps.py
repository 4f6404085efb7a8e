"""Starts real sweeps as a person does, in a process of their own, and compares what two of them left."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import yaml

PROJECT = Path(__file__).resolve().parents[2]
# What the clock decides. Everything else of a trial must be equal, byte for byte.
CLOCK_COLUMNS = ["train_s", "eval_s", "images_per_s", "peak_memory_gib"]

SPACE: dict[str, Any] = {
    "name": "run",
    "data": {"demo": {"num_train": 90, "num_val": 90, "image_px": 32}},
    "space": {"lr": {"grid": [1e-3, 3e-3]}, "seed": {"grid": [1]}},
    "fixed": {"backbone": "mobilenet_v3_small", "epochs": 4, "batch_size": 16, "image_size": 32, "weights": "none"},
    "scheduler": {"kind": "fifo"},
    "resources": {"cpu": 1, "gpu": 0},
}


class Sweep:
    """A sweep in a folder of its own.

    Attributes:
        storage: Holds the run folder `run`.
        process: The driver, once started.
    """

    def __init__(self, storage: Path, **changes: Any) -> None:
        storage.mkdir(parents=True, exist_ok=True)
        self.storage = storage
        self.space = storage / "space.yaml"
        self.space.write_text(yaml.safe_dump({**SPACE, **changes}))
        self.process: subprocess.Popen[str] | None = None

    @property
    def run(self) -> Path:
        return self.storage / "run"

    def start(self, *words: str, **environment: str) -> subprocess.Popen[str]:
        command = [
            sys.executable,
            "-m",
            "sweep.run",
            "--space",
            str(self.space),
            "--storage",
            str(self.storage),
            "--yes",
        ]
        self.process = subprocess.Popen(
            [*command, *words], cwd=PROJECT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={**os.environ, **environment}, start_new_session=True,
        )  # fmt: skip
        return self.process

    def finish(self, timeout_s: float = 240) -> tuple[int, str]:
        assert self.process is not None
        text, _ = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, text

    def go(self, *words: str, **environment: str) -> tuple[int, str]:
        self.start(*words, **environment)
        return self.finish()

    def until(self, condition: Callable[[], bool], timeout_s: float = 120) -> None:
        """Wait for a condition while the driver lives."""
        assert self.process is not None
        end = time.monotonic() + timeout_s
        while not condition():
            assert self.process.poll() is None, self.process.communicate()[0]
            assert time.monotonic() < end, "the sweep did not get there"
            time.sleep(0.02)

    def until_training(self) -> None:
        """Wait for a worker that trains."""
        self.until(lambda: bool(self.workers()))

    def epochs(self) -> dict[str, int]:
        """Epochs on disk, by trial."""
        found = {}
        for path in self.run.glob("trials/*/history.csv"):
            with contextlib.suppress(FileNotFoundError):
                found[path.parent.name] = len(path.read_bytes().splitlines()) - 1
        return found

    def statuses(self) -> dict[str, dict[str, Any]]:
        return {path.parent.name: json.loads(path.read_text()) for path in self.run.glob("trials/*/status.json")}

    def rows(self) -> pd.DataFrame:
        return pd.read_csv(self.run / "benchmark_results.csv")

    def family(self) -> list[psutil.Process]:
        """The driver and everything that it started."""
        assert self.process is not None
        with contextlib.suppress(psutil.NoSuchProcess):
            driver = psutil.Process(self.process.pid)
            return [driver, *driver.children(recursive=True)]
        return []

    def workers(self) -> list[psutil.Process]:
        """Processes that train now; they carry the names of their trials."""
        ids = set(self.epochs())
        found = []
        for process in self.family():
            with contextlib.suppress(psutil.Error):
                if any(trial in " ".join(process.cmdline()) for trial in ids if process.pid != self.process.pid):  # type: ignore[union-attr]
                    found.append(process)
        return found


@contextlib.contextmanager
def ended(sweep: Sweep) -> Iterator[None]:
    """Leave no process behind, whatever happens in the test."""
    try:
        yield
    finally:
        for process in sweep.family():
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGKILL)


def leftovers(family: list[psutil.Process], within_s: float = 10) -> list[str]:
    """Names of processes that are still there after a while."""
    _, alive = psutil.wait_procs(family, timeout=within_s)
    names = []
    for process in alive:
        with contextlib.suppress(psutil.Error):
            names.append(" ".join(process.cmdline()) or process.name())
    return names


def results(sweep: Sweep, *, epochs: int | None = None) -> dict[str, Any]:
    """Everything that the trials say, without the clock, the attempts and what names the machine's state.

    Args:
        sweep: Whose.
        epochs: Compare the histories up to this epoch alone.
    """
    found: dict[str, Any] = {}
    for folder in sorted((sweep.run / "trials").iterdir()):
        history = pd.read_csv(folder / "history.csv").drop(columns=CLOCK_COLUMNS)
        if epochs is not None:
            found[folder.name] = history[history.epoch <= epochs].to_dict("list")
            continue
        report = json.loads((folder / "report.json").read_text())
        del report["timing"]
        found[folder.name] = {
            "history": history.to_dict("list"),
            "report": report,
            "weights": (folder / "best.pt").read_bytes(),
            "confusion": [(folder / f"confusion_matrix_{task}.csv").read_bytes() for task in ("age", "gender")],
            "predictions": (folder / "predictions.parquet").read_bytes(),
            "status": json.loads((folder / "status.json").read_text())["status"],
        }
    return found


def rows_without_clock(sweep: Sweep) -> list[dict[str, Any]]:
    """The benchmark CSV's rows, in order of trial, without the clock, paths and attempts."""
    rows = sweep.rows().sort_values("trial_id")
    keep = [c for c in rows if not c.endswith("_s") and c not in ("out_dir", "ckpt_path", "attempts", "gpu_hours")
            and "memory" not in c]  # fmt: skip
    return rows[keep].astype(str).to_dict("records")
