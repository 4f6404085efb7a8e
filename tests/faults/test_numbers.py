"""Learning rates that explode, and surroundings that must change no bit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sweep.plan.expand import make_plan
from sweep.space.load import load_space
from tests.faults.sweeps import SPACE, Sweep, assert_equal, results

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.timeout(3600)]


def test_other_surroundings_and_a_neighbor_that_diverges_change_no_bit(undisturbed: Sweep, tmp_path: Path) -> None:
    """Faults 7 and 9: one at a time instead of two, another order, time zone, locale and umask, a path to be quoted."""
    sweep = Sweep(tmp_path / "ein Pfad mit # und ä", space={**SPACE["space"], "lr": {"grid": [3e-3, 1e6, 1e-3]}})
    old = os.umask(0o077)
    try:
        code, text = sweep.go("--max-concurrent", "1", TZ="Pacific/Chatham", LC_ALL="C", LANG="de_DE.UTF-8")
    finally:
        os.umask(old)
    assert code == 0, text
    (bad,) = sweep.named("diverged")
    status = sweep.statuses()[bad]
    assert status["epochs_trained"] == 0
    assert status["detail"] == {"kind": "diverged", "epoch": 1}
    assert "lr = 1e+06" in status["reason"]
    assert sorted(sweep.rows().status) == ["completed", "completed", "diverged"]
    assert_equal(sweep, undisturbed, beside=[bad])


def test_when_all_diverge_the_sweep_has_failed(tmp_path: Path) -> None:
    """Fault 7, told by the fake fit; the test before shows that a rate of 1e6 does diverge in the first epoch."""
    space = {"backbone": {"grid": ["resnet18"]}, "lr": {"grid": [1e5, 1e6]}, "seed": {"grid": [1]}}
    sweep = Sweep(tmp_path / "s", fake={}, space=space)
    plan = make_plan(load_space(sweep.space), auto_gpu=0.0)
    sweep.orders(faults={trial.trial_id: {"1": "diverge"} for trial in plan.trials})
    code, text = sweep.go()
    assert code == 1, text
    assert "2 trials without a result" in text
    for name in sweep.trial_ids():
        assert sweep.statuses()[name]["epochs_trained"] == 0
        assert [line for line in text.splitlines() if name in line and "the training loss is nan" in line]
    assert list(sweep.rows().status) == ["diverged", "diverged"]


@pytest.fixture
def many(runs: int | None) -> bool:
    return bool(runs and runs > 1)


def test_the_same_sweep_again_changes_no_bit(undisturbed: Sweep, tmp_path: Path, many: bool) -> None:
    """Fault 9; every other test that compares with the undisturbed sweep shows it too."""
    if not many:
        pytest.skip("10 s that other tests of this group spend on the same comparison; runs with --runs 2 or more")
    sweep = Sweep(tmp_path / "s")
    code, text = sweep.go()
    assert code == 0, text
    assert_equal(sweep, undisturbed)


def test_asha_trains_the_same_epochs_as_fifo(undisturbed: Sweep, tmp_path: Path, many: bool) -> None:
    """Fault 9: ASHA's stops depend on who arrives first; what was trained does not.

    In CI against the undisturbed FIFO sweep; with `--runs 2` also one at a time against two at a time.
    """
    asha = {"kind": "asha", "grace_epochs": 1, "reduction_factor": 2, "confirm": True}
    space = {**SPACE["space"], "lr": {"grid": [1e-3, 3e-3, 1e-2]}} if many else SPACE["space"]
    sweeps = []
    for most in ("1", "2") if many else ("2",):
        sweep = Sweep(tmp_path / most, scheduler=asha, space=space)
        code, text = sweep.go("--max-concurrent", most)
        assert code == 0, text
        sweeps.append(sweep)
    others = [undisturbed, *sweeps[1:]]
    trained = sweeps[0].epochs()
    assert max(trained.values()) == 4
    for other in others:
        theirs = other.epochs()
        compared = 0
        for name in trained.keys() & theirs.keys():
            both = min(trained[name], theirs[name])
            assert results(sweeps[0], epochs=both)[name] == results(other, epochs=both)[name]
            compared += both
            if trained[name] == theirs[name]:
                assert results(sweeps[0])[name]["best.pt"] == results(other)[name]["best.pt"]
        assert compared >= 5
