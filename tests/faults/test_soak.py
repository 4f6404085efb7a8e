"""Many short trials: what the driver and its worker hold must not grow with them."""

from __future__ import annotations

import contextlib
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.faults.sweeps import SPACE, Sweep, ended, leftovers

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.timeout(3600)]

MIB = 2**20
# Ray keeps each trial of a sweep: 0.15 MiB a trial were measured over 300. A leaked event file or handle would show in
# the descriptors. The worker's level rises by 140 MiB over the first 30 trials, while glibc's heaps fill, and then goes up
# and down by 50 MiB.
DRIVER_MIB, DRIVER_MIB_PER_TRIAL = 8, 0.2
WORKER_MIB, WARMING_WORKER_MIB, WORKER_MIB_PER_TRIAL = 96, 192, 0.2


@dataclass(frozen=True)
class Level:
    """What a running sweep holds."""

    trials: int
    driver_mib: float
    worker_mib: float
    driver_files: int
    worker_files: int
    shared_mib: float


def test_many_one_batch_trials_hold_level(tmp_path: Path, runs: int | None) -> None:
    """Fault 10: `--runs N` with N > 1 runs 300 trials, CI runs 30. Real training, one batch each."""
    number, warm, room = (300, 60, WORKER_MIB) if runs and runs > 1 else (30, 10, WARMING_WORKER_MIB)
    sweep = Sweep(
        tmp_path / "s",
        data={"demo": {**SPACE["data"]["demo"], "num_train": 18}},
        space={"lr": {"grid": [1e-3]}, "seed": {"grid": list(range(number))}},
        fixed={**SPACE["fixed"], "epochs": 1, "batch_size": 18},
    )
    process = sweep.start("--max-concurrent", "1")
    levels: dict[int, Level] = {}
    moments: dict[int, float] = {}
    with ended(sweep):
        assert sweep.until(lambda: bool(sweep.workers()))
        family = sweep.family()
        while sweep.process.poll() is None:  # type: ignore[union-attr]
            with contextlib.suppress(FileNotFoundError, psutil.Error):
                trials = len(list((sweep.run / "trials").iterdir()))
                moments.setdefault(trials, time.monotonic())
                for worker in sweep.workers() if trials not in levels else []:
                    levels[trials] = level(trials, process, worker)
            time.sleep(0.05)
        code, text = sweep.finish()
    assert code == 0, text
    assert leftovers(family) == []
    assert list(sweep.rows().status) == ["completed"] * number
    first, last = (levels[min(levels, key=lambda n: abs(n - wanted))] for wanted in (warm, number - 1))
    each_s = (moments[number] - moments[warm]) / (number - warm)
    trained_s = float(sweep.rows()["epoch_s"].median())
    print(f"\nfault 10: {number} one-batch trials: {each_s:.3f} s each, of which {trained_s:.3f} s train and score")
    for wanted in sorted({*range(0, number, number // 10), warm, number - 1} & levels.keys()):
        print(f"  {levels[wanted]}")
    grown = last.trials - first.trials
    assert grown >= (number - warm) * 0.8
    assert last.driver_mib - first.driver_mib <= DRIVER_MIB + DRIVER_MIB_PER_TRIAL * grown
    assert last.worker_mib - first.worker_mib <= room + WORKER_MIB_PER_TRIAL * grown
    assert last.driver_files <= first.driver_files + 4
    assert last.worker_files <= first.worker_files + 4
    assert last.shared_mib <= first.shared_mib + 1


def level(trials: int, driver: psutil.Process, worker: psutil.Process) -> Level:
    return Level(
        trials,
        driver.memory_info().rss / MIB,
        worker.memory_info().rss / MIB,
        driver.num_fds(),
        worker.num_fds(),
        shutil.disk_usage("/dev/shm").used / MIB if Path("/dev/shm").is_dir() else 0.0,
    )
