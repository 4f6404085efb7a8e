"""Runs sweeps with the fake fit on a Ray that a test module holds, without the command line."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fairface_core.files.folder import Folder, open_folder, read_json
from sweep.cluster import connect as cluster
from sweep.cluster.signals import StopSignals
from sweep.driving.ledger import Ledger
from sweep.driving.trials import Leg
from sweep.driving.worker import Ending, Task
from sweep.plan.expand import make_plan
from sweep.run_folder.records import read_run
from sweep.run_folder.request import write_new
from sweep.space.load import load_space

PROJECT = Path(__file__).resolve().parents[2]
FAKE = "tests.sweep.fake_fit:fit"

SPACE: dict[str, Any] = {
    "name": "run",
    "data": {"root": "/"},
    "space": {
        "backbone": {"grid": ["resnet18", "mobilenet_v3_small"]},
        "lr": {"grid": [1e-4, 3e-4, 1e-3]},
        "seed": {"grid": [41, 42]},
    },
    "fixed": {"epochs": 4, "batch_size": 64, "weights": "none"},
    "scheduler": {"kind": "fifo"},
    "resources": {"cpu": 1, "gpu": 0},
}


def changed(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a nested dict with some leaves replaced; what a key of a space takes its values from is one leaf."""
    out = dict(base)
    for key, value in changes.items():
        nested = isinstance(value, Mapping) and isinstance(out.get(key), dict) and "grid" not in out[key]
        out[key] = changed(out[key], value) if nested else value
    return out


def write_space(folder: Path, **changes: Any) -> Path:
    """Write SPACE, changed, as a YAML file."""
    path = folder / "space.yaml"
    path.write_text(yaml.safe_dump(changed(SPACE, changes)))
    return path


@contextlib.contextmanager
def held_ray(num_cpus: float = 2, num_gpus: float = 0) -> Iterator[cluster.Cluster]:
    """Hold a Ray whose workers can import the fake fit."""
    import os

    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(PROJECT), *([before] if before else [])])
    cluster.prepare(None)
    try:
        with cluster.connected(None, num_cpus=num_cpus, num_gpus=num_gpus) as held:
            yield held
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
    assert "ray" in sys.modules


@dataclass
class Seen:
    """What a driver told, in order."""

    began: list[tuple[str, str]] = field(default_factory=list)
    epochs: list[tuple[str, int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    endings: list[tuple[str, Ending | None, bool]] = field(default_factory=list)
    processes: set[int] = field(default_factory=set)
    running: int = 0
    most_running: int = 0

    def on_began(self, leg: Leg) -> None:
        self.began.append((leg.trial.trial_id, leg.phase))
        self.running += 1
        self.most_running = max(self.most_running, self.running)

    def on_epoch(self, leg: Leg, figures: Mapping[str, Any]) -> None:
        self.epochs.append((leg.trial.trial_id, figures["epoch"]))
        self.processes.add(figures["pid"])
        self.notes += figures.get("notes", [])

    def on_ended(self, leg: Leg, ending: Ending | None, again: bool) -> None:
        self.endings.append((leg.trial.trial_id, ending, again))
        self.running -= leg.started


def run_sweep(
    storage: Path,
    *,
    fake: Mapping[str, Any] | None = None,
    resume: bool = False,
    max_legs: int | None = None,
    stall_timeout_s: float | None = None,
    max_retries: int = 2,
    tick: Callable[[], None] = lambda: None,
    fit: str = FAKE,
    root: str = "/",
    **changes: Any,
) -> tuple[Ledger, Seen]:
    """Run SPACE, changed, in `storage/run`, and return what it left and what was seen."""
    from sweep.driving.driver import Watcher, run_trials

    storage.mkdir(exist_ok=True)
    (storage / "fake.json").write_text(json.dumps(fake or {}))
    spec = load_space(write_space(storage, **changes))
    plan = make_plan(spec, auto_gpu=0.0)
    run = open_folder(storage / "run")
    record = read_run(run) if resume else None
    if record is None:
        write_new(run, spec, plan)
    ledger = Ledger(
        run, plan, confirm=plan.scheduler.kind != "fifo" and plan.scheduler.confirm is not False, max_retries=max_retries,
        record=record,
    )  # fmt: skip
    ledger.open_for_resume()
    tasks = {}
    for trial in plan.trials:
        own = {"out_dir": run.sub("trials", trial.trial_id).uri, "root": root, "results_csv": None, "resume": True}
        tasks[trial.trial_id] = Task(trial.trial_id, {**trial.config, **own}, gpu=trial.gpu, fit=fit)
    seen = Seen()
    with StopSignals() as signals:
        run_trials(
            ledger, tasks, Watcher(seen.on_began, seen.on_epoch, seen.on_ended, seen.notes.append, tick), signals,
            ray_dir=storage, max_legs=max_legs, stall_timeout_s=stall_timeout_s,
        )  # fmt: skip
    return ledger, seen


def status_of(run: Folder, trial_id: str) -> dict[str, Any]:
    """Return a trial's status.json."""
    return read_json(run.sub("trials", trial_id), "status.json")
