"""Drivers of a race that are killed: what was decided, trained and left ends as in the sweep that was left alone."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from tests.faults.sweeps import Sweep
from tests.faults.test_kills import check_journals, decisions, kill_until_done

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.timeout(3600)]

RACE = {"kind": "race", "grace_epochs": 1, "reduction_factor": 2, "confirm": "settle", "seeds": {"up_to": 4}}


def end_of(sweep: Sweep) -> dict[str, Any]:
    """What must not depend on when a driver dies: statuses, epochs, decisions of rungs and looks but for their order."""
    decided = {
        name: sorted((d.kind, d.rung, d.epoch, d.score, d.value, d.cutoff, d.stop) for d in some)
        for name, some in decisions(sweep).items()
    }
    return {
        name: (status["status"], sweep.epochs().get(name, 0), decided.get(name))
        for name, status in sweep.statuses().items()
    }


def test_killed_drivers_of_a_race_that_settles_end_as_the_one_left_alone(tmp_path: Path, runs: int | None) -> None:
    """Fault 2, with known curves: 24 trials in two groups, raced to one winner each, whose seeds come in rounds."""
    alone = Sweep(tmp_path / "alone", scheduler=RACE, fake={"order": "order"})
    code, text = alone.go()
    assert code == 0, text
    expected = end_of(alone)
    kinds = {kind for _, _, some in expected.values() for kind, *_ in some or ()}
    assert kinds == {"race", "settle"}
    chance, kills = random.Random(4), 0
    for number in range(runs or 1):
        orders = {"epoch_s": 0.2, "begins": "begins", "order": "order"}
        sweep = Sweep(tmp_path / str(number), scheduler=RACE, fake=orders)
        killed = kill_until_done(sweep, chance, most=2 if runs is None else 6, epochs=sum(alone.epochs().values()))
        assert end_of(sweep) == expected
        check_journals(sweep, killed)
        kills += killed
        print(f"\nfault 2 (race): {number + 1} sweeps, {kills} drivers killed, 0 differences")
    assert kills > 0
