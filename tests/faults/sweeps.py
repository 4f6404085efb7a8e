"""Starts whole sweeps as a person does, in a process of their own, and compares what two of them left."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import yaml

from tests.sweep.test_run import SWEEP as FAKE_SWEEP

PROJECT = Path(__file__).resolve().parents[2]
# For drivers and workers: this copy of the program, and the fake fit.
PATH = str(PROJECT)
REAL_SWEEP = "import sys; from sweep.run import main; sys.exit(main())"
# What the clock decides. Everything else of a trial must be equal, byte for byte.
CLOCK_COLUMNS = ["train_s", "eval_s", "images_per_s", "peak_memory_gib", "write_wait_s"]
# Ray 2.60's two agents look for the GCS of a driver that was killed for up to a minute. They hold no trial.
AGENTS = "Agent"

SPACE: dict[str, Any] = {
    "name": "run",
    "data": {"demo": {"num_train": 90, "num_val": 90, "image_px": 32}},
    "space": {"lr": {"grid": [1e-3, 3e-3]}, "seed": {"grid": [1]}},
    "fixed": {"backbone": "mobilenet_v3_small", "epochs": 4, "batch_size": 16, "image_size": 32, "weights": "none"},
    "scheduler": {"kind": "fifo"},
    "resources": {"cpu": 1, "gpu": 0},
}
FAKE_SPACE: dict[str, Any] = {
    "name": "run",
    "data": {"root": "/"},
    "space": {"backbone": {"grid": ["resnet18", "mobilenet_v3_small"]}, "lr": {"grid": [1e-4, 3e-4, 1e-3]},
              "seed": {"grid": [1, 2]}},
    "fixed": {"epochs": 4, "weights": "none"},
    "scheduler": {"kind": "fifo"},
    "resources": {"cpu": 1, "gpu": 0},
}  # fmt: skip


class Sweep:
    """A sweep in a folder of its own.

    Attributes:
        storage: Holds the run folder `run`.
        texts: Where the output of the drivers is kept; beside the storage unless that is a disk to be filled.
        process: The driver, once started.
        fewest_rows: The shortest benchmark CSV that was seen since it first stood there; each was read whole.
    """

    def __init__(
        self, storage: Path, *, fake: Mapping[str, Any] | None = None, output: Path | None = None, **changes: Any
    ) -> None:
        storage.mkdir(parents=True, exist_ok=True)
        self.storage = storage
        self.texts = output or storage.parent
        self.space = storage / "space.yaml"
        self.space.write_text(yaml.safe_dump({**(SPACE if fake is None else FAKE_SPACE), **changes}))
        self.code = REAL_SWEEP if fake is None else FAKE_SWEEP
        self.orders(**(fake or {}))
        self.process: subprocess.Popen[bytes] | None = None
        self.fewest_rows: int | None = None

    def orders(self, **orders: Any) -> None:
        """Tell the fake fit what to do from now on."""
        (self.storage / "fake.json").write_text(json.dumps(orders))

    @property
    def run(self) -> Path:
        return self.storage / "run"

    def start(self, *words: str, output: str = "output", **environment: str) -> psutil.Process:
        command = [sys.executable, "-c", self.code, "--space", str(self.space), "--storage", str(self.storage), "--yes"]
        self._output = self.texts / f"{self.storage.name}.{output}.txt"
        with self._output.open("wb") as file:
            self.process = subprocess.Popen(
                [*command, *words], cwd=PROJECT, stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
                env={**os.environ, **environment, "PYTHONPATH": PATH},
            )  # fmt: skip
        return psutil.Process(self.process.pid)

    def output(self) -> str:
        """What it has printed so far."""
        return self._output.read_text()

    def finish(self, timeout_s: float = 240) -> tuple[int, str]:
        """Wait for the end, reading the benchmark CSV all the while; return exit code and output."""
        assert self.process is not None
        end = time.monotonic() + timeout_s
        while self.process.poll() is None:
            assert time.monotonic() < end, "the sweep does not end:\n" + self._output.read_text()
            self._look_at_rows()
            time.sleep(0.05)
        self._look_at_rows()
        return self.process.returncode, self._output.read_text()

    def _look_at_rows(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            raw = (self.run / "benchmark_results.csv").read_bytes()
            assert raw.endswith(b"\n"), "a torn CSV"
            rows = len(pd.read_csv(io.BytesIO(raw)))
            self.fewest_rows = min(rows, self.fewest_rows or rows)

    def go(self, *words: str, output: str = "output", **environment: str) -> tuple[int, str]:
        self.start(*words, output=output, **environment)
        with ended(self):
            return self.finish()

    def until(self, condition: Callable[[], bool], timeout_s: float = 120) -> bool:
        """Wait for a condition; return False if the driver ended before."""
        assert self.process is not None
        end = time.monotonic() + timeout_s
        while not condition():
            if self.process.poll() is not None:
                return False
            assert time.monotonic() < end, "the sweep did not get there:\n" + self._output.read_text()
            time.sleep(0.01)
        return True

    def until_trained(self, epochs: int) -> bool:
        """Wait until so many epochs of all trials are on disk, and a worker trains (0: or not yet)."""
        return self.until(lambda: self.num_epochs() >= epochs and (epochs == 0 or bool(self.workers())))

    def until_each_has(self, epochs: int) -> bool:
        """Wait until every trial has that many epochs."""
        return self.until(lambda: self.started() and min(self.epochs().get(n, 0) for n in self.trial_ids()) >= epochs)

    def kill(self) -> None:
        """Kill the driver, as the kernel does when memory is short."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def started(self) -> bool:
        """Whether there is something to resume."""
        return (self.run / "plan.json").exists()

    def trial_ids(self) -> list[str]:
        return [trial["trial_id"] for trial in json.loads((self.run / "plan.json").read_text())["trials"]]

    def trial(self, name: str) -> Path:
        return self.run / "trials" / name

    def epochs(self) -> dict[str, int]:
        """Epochs on disk, by trial."""
        return {
            path.parent.name: len(path.read_bytes().splitlines()) - 1 for path in self.run.glob("trials/*/history.csv")
        }

    def num_epochs(self) -> int:
        return sum(self.epochs().values())

    def statuses(self) -> dict[str, dict[str, Any]]:
        return {path.parent.name: json.loads(path.read_text()) for path in self.run.glob("trials/*/status.json")}

    def named(self, status: str) -> list[str]:
        """Trials of a status."""
        return [name for name, content in self.statuses().items() if content["status"] == status]

    def rows(self) -> pd.DataFrame:
        return pd.read_csv(self.run / "benchmark_results.csv")

    def journal(self, name: str) -> list[list[str]]:
        """Lines of a file that the fake fit appends to, split into words."""
        path = self.storage / name
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def family(self) -> list[psutil.Process]:
        """The driver and everything that it started."""
        assert self.process is not None
        with contextlib.suppress(psutil.NoSuchProcess):
            driver = psutil.Process(self.process.pid)
            return [driver, *driver.children(recursive=True)]
        return []

    def workers(self) -> list[psutil.Process]:
        """Processes that train now; they carry the names of their trials."""
        if not self.started():
            return []
        ids, found = self.trial_ids(), []
        for process in self.family()[1:]:
            with contextlib.suppress(psutil.Error):
                if any(trial in " ".join(process.cmdline()) for trial in ids):
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


def leftovers(family: list[psutil.Process], *, within_s: float = 15, agents: bool = True) -> list[str]:
    """Return the processes that are still there after a while, Ray's agents among them or not."""
    _, alive = psutil.wait_procs([one for one in family if agents or AGENTS not in words(one)], timeout=within_s)
    return [words(one) for one in alive if one.is_running()]


def words(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline()) or process.name()
    return ""


def results(sweep: Sweep, *, epochs: int | None = None, without: Sequence[str] = ()) -> dict[str, Any]:
    """Everything that the trials say, without the clock, the attempts and what names the machine's state.

    Args:
        sweep: Whose.
        epochs: Compare the histories up to this epoch alone.
        without: Trials to leave out.
    """
    found: dict[str, Any] = {}
    for folder in sorted(path for path in (sweep.run / "trials").iterdir() if path.name not in without):
        history = pd.read_csv(folder / "history.csv").drop(columns=CLOCK_COLUMNS)
        if epochs is not None:
            found[folder.name] = history[history.epoch <= epochs].to_dict("list")
            continue
        report = json.loads((folder / "report.json").read_text())
        del report["timing"]
        files = [f"confusion_matrix_{task}.csv" for task in ("age", "gender")]
        found[folder.name] = {
            "history": history.to_dict("list"),
            "report": report,
            "status": json.loads((folder / "status.json").read_text())["status"],
            # The fake fit writes no predictions.
            **{name: (folder / name).read_bytes() for name in ("best.pt", *files)},
            "predictions": [path.read_bytes() for path in folder.glob("predictions.parquet")],
        }
    return found


def rows_without_clock(sweep: Sweep) -> list[dict[str, str]]:
    """The benchmark CSV's rows as they are written, in order of trial, without the clock, paths and attempts."""
    rows = pd.read_csv(sweep.run / "benchmark_results.csv", dtype=str, keep_default_na=False)
    keep = [c for c in rows if not c.endswith("_s") and c not in ("out_dir", "ckpt_path", "attempts", "gpu_hours")
            and "memory" not in c]  # fmt: skip
    return rows.sort_values("trial_id")[keep].to_dict("records")


def assert_equal(sweep: Sweep, undisturbed: Sweep, *, beside: Sequence[str] = ()) -> None:
    """Hold a disturbed sweep against one that was left alone: weights, reports, histories, CSV rows.

    Args:
        sweep: The disturbed one.
        undisturbed: The other.
        beside: Trials that only the disturbed one has.
    """
    mine, theirs = results(sweep, without=beside), results(undisturbed)
    assert mine.keys() == theirs.keys()
    for name, trial in theirs.items():
        different = [part for part in trial if mine[name][part] != trial[part]]
        assert not different, f"{name}: {different}"
    assert [row for row in rows_without_clock(sweep) if row["trial_id"] not in beside] == rows_without_clock(
        undisturbed
    )
    assert sweep.fewest_rows == len(theirs) + len(beside), "the CSV was shorter than the plan at some moment"
