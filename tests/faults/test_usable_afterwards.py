"""The last of the group: after all that was killed, filled and broken here, a person's first sweep still works."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.sweeps import SPACE, Sweep, leftovers

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.timeout(600)]


def test_a_small_quickstart_still_works_and_leaves_no_process(tmp_path: Path) -> None:
    """Drawn faces, ASHA with confirm, report: what search_spaces/quickstart.yaml does, in one trial of one epoch."""
    scheduler = {"kind": "asha", "grace_epochs": 1, "reduction_factor": 2, "confirm": True}
    sweep = Sweep(
        tmp_path / "s",
        scheduler=scheduler,
        space={"lr": {"grid": [1e-3]}, "seed": {"grid": [1]}},
        fixed={**SPACE["fixed"], "epochs": 1},
    )
    sweep.start()
    sweep.until(lambda: bool(sweep.workers()))
    family = sweep.family()
    code, text = sweep.finish()
    assert code == 0, text
    assert leftovers(family) == []
    assert {"leaderboard.csv", "report.html", "benchmark_results.csv"} <= {p.name for p in sweep.run.iterdir()}
