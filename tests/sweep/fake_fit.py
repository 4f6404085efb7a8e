"""A fake at the `fit` seam: known learning curves, the real trial folder, no training.

What it does beyond that is told by `fake.json` beside the run folder (`<storage>/fake.json`):
`epoch_s`: seconds an epoch takes, or those by backbone; `until`: backbone -> how many epochs of any trial stand in `order`
before one of that backbone ends (or a minute has passed); `curves`: trial id -> scores; `faults`: trial id -> epoch -> what happens in that
epoch before anything of it is written: kill, hang, stop, oom, device, diverge, bug, transient, disk, warn. A fault happens
in the first attempt alone, unless it ends in `!`. `linger_s`: how long a trial that is stopped takes to leave.
`order`: name of a file beside it that gets a line `trial_id epoch pid start end` for each epoch; `begins`: one that gets
a line `trial_id epoch` before anything of an epoch is done. The fault `late_kill` strikes when an epoch is written and not reported yet.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fairface_core.config.train_config import TrainConfig
from fairface_core.errors import CheckpointError, DataError, StorageError, TrainingDiverged
from fairface_core.files.folder import Folder, open_folder, read_json, write_json
from fairface_core.machine import pulse
from fairface_core.trial.reading import read_history
from fairface_core.trial.reports import EpochReport, TrialReport
from fairface_core.trial.writing import build_report, config_facts, write_history, write_status

METRICS = {"loss": 1.0, "age_acc": 0.5, "age_f1m": 0.5, "gen_acc": 0.5, "gen_f1m": 0.5}


def curve(config: TrainConfig) -> list[float]:
    """Scores of a config that nobody gave a curve: the better the nearer lr is to 3e-4, a little noise by seed."""
    import math

    distance = abs(math.log10(config.lr / 3e-4))
    noise = int(hashlib.sha256(f"{config.backbone}{config.lr}{config.seed}".encode()).hexdigest()[:4], 16) / 0xFFFF
    top = 0.75 - 0.1 * distance + 0.01 * noise
    return [round(top * (1 - math.exp(-epoch / 5)), 6) for epoch in range(1, config.epochs + 1)]


def check_config(config: TrainConfig) -> None:
    """Accept everything."""


def prepare_data(config: TrainConfig, *, progress: Callable[[int, int], None] | None = None) -> Any:
    """There is no data; `--root missing` is a folder that is not there."""
    if Path(config.root).name == "missing":
        raise DataError(f"--root {config.root}: no such folder")


def data_key(config: TrainConfig) -> str:
    return config.root


def fit(config: TrainConfig, *, on_epoch: Callable[[EpochReport], None] | None = None) -> TrialReport:
    folder = open_folder(config.out_dir)
    trial_id = config.out_dir.rstrip("/").rpartition("/")[2]
    orders = _orders(config)
    status = read_json(folder, "status.json") if folder.exists("status.json") else {}
    attempt = int(status.get("attempts", 1))
    history = _history(folder)
    if not history:
        write_json(folder, "config.json", {"schema_version": 1, "config": config.model_dump(mode="json")})
    write_history(folder, history)
    write_status(folder, "running", epochs_trained=len(history), attempts=attempt)
    epoch_s = orders.get("epoch_s", 0.0)
    if isinstance(epoch_s, dict):
        epoch_s = epoch_s.get(config.backbone, 0.0)
    scores = orders.get("curves", {}).get(trial_id) or curve(config)
    for epoch in range(len(history) + 1, config.epochs + 1):
        began = time.time()
        _note(config, orders.get("begins"), f"{trial_id} {epoch}")
        fault = orders.get("faults", {}).get(trial_id, {}).get(str(epoch), "")
        if fault != "late_kill":
            _fault(fault, attempt, folder, epoch, config)
        for _ in range(10 if epoch_s else 1):
            time.sleep(epoch_s / 10)
            pulse.beat()
        _wait(config, orders.get("order"), orders.get("until", {}).get(config.backbone, 0))
        report = _epoch(config, epoch, scores[epoch - 1], history)
        history.append(report)
        _commit(config, folder, history, attempt)
        _note(config, orders.get("order"), f"{trial_id} {epoch} {os.getpid()} {began} {time.time()}")
        if fault == "late_kill":
            _fault("kill", attempt, folder, epoch, config)
        if on_epoch:
            try:
                on_epoch(report)
            except SystemExit:
                time.sleep(orders.get("linger_s", 0.0))
                raise
    best = max(history, key=lambda e: e.mean_f1)
    return TrialReport("completed", best.epoch, best.mean_f1, len(history), tuple(history), {})


def _note(config: TrainConfig, name: str | None, line: str) -> None:
    if name:
        with (_storage(config) / name).open("a") as file:
            file.write(line + "\n")


def _wait(config: TrainConfig, name: str | None, num_epochs: int) -> None:
    end = time.monotonic() + 60
    while num_epochs and time.monotonic() < end:
        path = _storage(config) / str(name)
        if path.exists() and len(path.read_text().splitlines()) >= num_epochs:
            return
        time.sleep(0.05)
        pulse.beat()


def _storage(config: TrainConfig) -> Path:
    return Path(config.out_dir).parents[2]


def _orders(config: TrainConfig) -> dict[str, Any]:
    path = _storage(config) / "fake.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def _history(folder: Folder) -> list[EpochReport]:
    if not folder.exists("state.pt"):
        if len(read_history(folder)[0]) > 1:
            raise CheckpointError(f"{folder.uri}: epochs were trained here but their state.pt is gone")
        return []
    return [EpochReport(**values) for values in json.loads(folder.read("state.pt"))["history"]]


def _epoch(config: TrainConfig, epoch: int, score: float, history: list[EpochReport]) -> EpochReport:
    best = max([*((e.mean_f1, -e.epoch) for e in history), (score, -epoch)])
    return EpochReport(
        epoch=epoch, lr=config.lr, train_loss=2.0 / epoch, val_loss=2.1 / epoch, val_age_acc=score, val_age_f1m=score,
        val_gen_acc=score, val_gen_f1m=score, mean_f1=score, best_epoch=-best[1], best_mean_f1=best[0], train_s=0.1,
        eval_s=0.01, images_per_s=1000.0, peak_memory_gib=0.5,
    )  # fmt: skip


def _commit(config: TrainConfig, folder: Folder, history: list[EpochReport], attempt: int) -> None:
    last = history[-1]
    metrics = {**METRICS, "mean_f1": last.best_mean_f1}
    report = build_report(
        config, best_epoch=last.best_epoch, val_metrics=metrics, test_metrics=metrics,
        sections={"data": {"digest": "fake"}, "model": {"backbone": config.backbone, "num_params": 1000},
                  "provenance": {"device": "cpu"}},
    )  # fmt: skip
    report |= {
        "epochs_trained": last.epoch,
        "timing": {"images_per_s": 1000.0, "epoch_s": 0.11, "gpu_hours": 0.0},
    }
    assert config_facts(config) == report["config"]
    if last.best_epoch == last.epoch:
        folder.write("best.pt", json.dumps({"epoch": last.epoch, "seed": config.seed}).encode())
        folder.link("best.pt", f"best_{config.backbone}_seed{config.seed}.pt")
        folder.write("confusion_matrix_age.csv", b"1\n")
        folder.write("confusion_matrix_gender.csv", b"1\n")
    write_json(folder, "report.json", report)
    write_history(folder, history)
    done = last.epoch >= config.epochs
    write_status(folder, "completed" if done else "running", epochs_trained=last.epoch, attempts=attempt)
    if folder.exists("state.pt"):
        folder.link("state.pt", "state.prev.pt")
    folder.write("state.pt", json.dumps({"history": [dataclasses.asdict(e) for e in history]}).encode())


def _fault(what: str, attempt: int, folder: Folder, epoch: int, config: TrainConfig) -> None:
    if not what or (attempt > 1 and not what.endswith("!")):
        return
    kind = what.rstrip("!")
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif kind == "hang":
        time.sleep(3600)
    elif kind == "oom":
        micro = config.micro_batch_size or config.batch_size
        folder.write("oom.txt", f"{micro}".encode())
        if what.endswith("!") or micro == config.batch_size:
            raise MemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
    elif kind == "device":
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    elif kind == "diverge":
        reason = f"epoch {epoch}: the training loss is nan"
        detail = {"kind": "diverged", "epoch": epoch}
        write_status(folder, "diverged", reason=reason, detail=detail, epochs_trained=epoch - 1, attempts=attempt)
        raise TrainingDiverged(reason)
    elif kind == "bug":
        raise ValueError("a bug in the model")
    elif kind == "transient":
        raise StorageError("cannot write s3://x: connection reset") from ConnectionResetError(errno.ECONNRESET, "reset")
    elif kind == "disk":
        raise StorageError("cannot write state.pt: ENOSPC: no space left") from OSError(errno.ENOSPC, "no space left")
    elif kind == "warn":
        warnings.warn("state.pt: damaged; going on from state.prev.pt", stacklevel=1)
