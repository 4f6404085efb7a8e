"""Drivers of a search that are killed: with one trial at a time, the same configurations are proposed and the same weights trained."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest

from tests.faults.sweeps import Sweep, ended, results

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.timeout(3600)]

SEARCH: dict[str, Any] = {
    "space": {"lr": {"loguniform": [1e-4, 1e-2]}, "dropout": {"uniform": [0, 0.9]}, "seed": {"grid": [1]}},
    "fixed": {"backbone": "mobilenet_v3_small", "epochs": 2, "batch_size": 16, "image_size": 32, "weights": "none"},
    "num_samples": 4,
    "search": {"kind": "tpe", "startup": 2},
    "resources": {"cpu": 1, "gpu": 0, "max_concurrent": 1},
}


def test_killed_drivers_of_a_search_propose_what_the_one_left_alone_does(tmp_path: Path, runs: int | None) -> None:
    alone = Sweep(tmp_path / "alone", **SEARCH)
    alone.start()
    run_to_the_end(alone)
    expected, plan = results(alone), json.loads((alone.run / "plan.json").read_text())
    assert (len(expected), plan["to_come"]) == (4, {"mobilenet_v3_small": 0})
    chance, kills = random.Random(5), 0
    for number in range(runs or 1):
        sweep = Sweep(tmp_path / str(number), **SEARCH)
        for moment in sorted(chance.sample(range(1, 8), 2)):
            sweep.start(*(["--resume"] if sweep.started() else []))
            with ended(sweep):
                if sweep.until_trained(moment):
                    time.sleep(chance.uniform(0.0, 1.5))
                    sweep.kill()
                    kills += 1
        sweep.start("--resume")
        run_to_the_end(sweep)
        assert json.loads((sweep.run / "plan.json").read_text()) == plan
        assert results(sweep) == expected
        print(f"\nfault 2 (search): {number + 1} sweeps, {kills} drivers killed, 0 differences")
    assert kills > 0


def run_to_the_end(sweep: Sweep) -> None:
    with ended(sweep):
        code, text = sweep.finish(timeout_s=900)  # a process a trial, for none waits while one runs
        assert code == 0, text
