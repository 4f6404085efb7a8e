"""Workers and drivers are killed at random moments, or asked to stop; the sweep ends equal to one that was left alone."""

from __future__ import annotations

import collections
import copy
import json
import random
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from sweep.policy.states import RungDecision, decisions_from_json
from tests.faults.sweeps import Sweep, assert_equal, ended, leftovers

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.timeout(3600)]

TRIALS, EPOCHS = 2, 4


def test_killed_workers_change_nothing(undisturbed: Sweep, tmp_path: Path, runs: int | None) -> None:
    """Fault 1. `--runs N` sweeps; in each, two workers are killed at random moments.

    tests/fairface_core/training/test_fit.py kills a run at each of 20 write points: before and after the write, the fsync and the
    rename of state, weights, report, history and status.
    """
    chance = random.Random(1)
    kills = 0
    for number in range(runs or 1):
        sweep = Sweep(tmp_path / str(number))
        sweep.start()
        killed = 0
        with ended(sweep):
            for moment in sorted(chance.sample(range(TRIALS * EPOCHS - 1), 2)):
                # The moment is counted in epochs, so that it lies within the training on a machine of any speed.
                if not sweep.until_trained(moment):
                    break
                time.sleep(chance.uniform(0.0, 0.4))
                training = sweep.workers()  # none between two trials
                for worker in chance.sample(training, min(1, len(training))):
                    worker.send_signal(signal.SIGKILL)
                    psutil.wait_procs([worker], timeout=10)
                    killed += 1
            code, text = sweep.finish()
        assert code == 0, text
        assert_equal(sweep, undisturbed)
        # A worker may have finished its trial and be idle when the kill arrives: no attempt is then lost.
        attempts = sum(status["attempts"] - 1 for status in sweep.statuses().values())
        assert attempts <= killed
        kills += attempts
        print(f"\nfault 1: {number + 1} sweeps, {kills} workers killed while they had a trial, 0 differences")
    assert kills > 0, "no kill struck a trial"


def test_killed_drivers_change_no_weight(undisturbed: Sweep, tmp_path: Path, runs: int | None) -> None:
    """Fault 2, with real training. `--runs N` sweeps; each driver is killed until the sweep is done."""
    chance = random.Random(2)
    kills = 0
    for number in range(runs or 1):
        sweep = Sweep(tmp_path / str(number))
        kills += kill_until_done(sweep, chance, most=1 if runs is None else 4)
        assert_equal(sweep, undisturbed)
        print(f"\nfault 2 (training): {number + 1} sweeps, {kills} drivers killed, 0 differences")
    assert kills > 0


ASHA = {"kind": "asha", "grace_epochs": 1, "reduction_factor": 2, "confirm": True}


def test_killed_drivers_of_an_asha_sweep_decide_once_and_train_once(tmp_path: Path, runs: int | None) -> None:
    """Faults 2 and 8, with known curves: 12 trials in two groups, explored by ASHA and confirmed."""
    chance = random.Random(3)
    kills = 0
    for number in range(runs or 1):
        sweep = Sweep(
            tmp_path / str(number), scheduler=ASHA, fake={"epoch_s": 0.2, "begins": "begins", "order": "order"}
        )
        killed = kill_until_done(sweep, chance, most=2 if runs is None else 6, epochs=30)
        check_decisions(sweep)
        check_journals(sweep, killed)
        assert len(sweep.rows()) == 12
        assert set(sweep.rows().status) <= {"completed", "stopped"}
        assert sorted(sweep.rows().trial_id) == sorted(sweep.trial_ids())
        kills += killed
        print(f"\nfault 2 (ASHA): {number + 1} sweeps, {kills} drivers killed, {check_decisions(sweep)} decisions kept")
    assert kills > 0


def kill_until_done(sweep: Sweep, chance: random.Random, *, most: int, epochs: int = TRIALS * EPOCHS) -> int:
    """Kill each driver of a sweep at a random moment, resume, and return how many were killed.

    Between any two drivers nothing that was done may change: epochs, finished trials, decisions.
    """
    kills = 0
    kept: dict[str, Any] = {}
    for attempt in range(most + 1):
        before = sweep.num_epochs()
        sweep.start(*(["--resume"] if sweep.started() else []))
        with ended(sweep):
            # Some are killed before they have begun, one at once while it imports.
            moment = before + chance.randint(0, max(1, (epochs - before) // 2))
            if attempt < most and sweep.until_trained(moment):
                time.sleep(chance.uniform(0.0, 1.5 if moment == before else 0.4))
                if attempt == 0 and sweep.until(lambda: bool(sweep.workers())):
                    refuse_a_second_driver(sweep)
                family = sweep.family()
                if sweep.process.poll() is None:  # type: ignore[union-attr]
                    sweep.kill()
                    kills += 1
                    # The next driver starts while the orphans of this one may still be at work.
                    orphans = family[1:]
                    kept = check_kept(sweep, kept)
                    continue
            code, text = sweep.finish()
        assert code == 0, text
        check_kept(sweep, kept)
        break
    if kills:
        assert leftovers(orphans, within_s=60, agents=False) == []
    assert sweep.fewest_rows == len(sweep.trial_ids())
    return kills


def refuse_a_second_driver(sweep: Sweep) -> None:
    """Fault 8: while a driver is at work, a second one changes nothing."""
    second = copy.copy(sweep)
    code, text = second.go("--resume", output="second")
    assert sweep.process is not None
    if sweep.process.poll() is not None:
        return  # It was over before the second one asked.
    assert code == 2, text
    assert text.startswith("error: ")
    assert f"another driver is at work on this run (process {sweep.process.pid} " in text
    assert len(text.splitlines()) == 1


def check_kept(sweep: Sweep, before: dict[str, Any]) -> dict[str, Any]:
    """Check that what a driver had done still stands, and return what stands now."""
    now: dict[str, Any] = {"epochs": sweep.epochs(), "decisions": decisions(sweep), "done": {}}
    for name in sweep.named("completed"):
        now["done"][name] = (sweep.trial(name) / "best.pt").stat().st_mtime_ns
    if before:
        for name, epochs in before["epochs"].items():
            # The epoch whose state was not written yet is trained again.
            assert now["epochs"][name] >= epochs - 1, f"{name} lost more than the epoch it was in"
        for name, decided in before["decisions"].items():
            assert now["decisions"][name][: len(decided)] == decided, f"{name}: a decision was changed"
        assert before["done"].items() <= now["done"].items(), "a finished trial was trained again"
    return now


def decisions(sweep: Sweep) -> dict[str, list[RungDecision]]:
    return {
        path.parent.name: list(decisions_from_json(json.loads(path.read_text())))
        for path in sweep.run.glob("trials/*/decisions.json")
    }


def check_decisions(sweep: Sweep) -> int:
    """Work every decision out again from those before it, in the order in which they were made; return their number."""
    every = sorted((one for some in decisions(sweep).values() for one in some), key=lambda one: one.order)
    assert every
    assert [one.order for one in every] == list(range(len(every)))
    assert max(collections.Counter((one.trial_id, one.rung) for one in every).values()) == 1
    rungs: dict[tuple[str, float], list[float]] = {}
    for one in every:
        scores = rungs.setdefault((one.group, one.rung), [])
        cutoff = float(np.percentile(scores, 100 * (1 - 1 / ASHA["reduction_factor"]))) if scores else None
        assert one.cutoff == cutoff, one
        assert one.stop == (cutoff is not None and one.score < cutoff), one
        scores.append(one.score)
    stops = {one.trial_id: one for one in every if one.stop}
    for name in sweep.named("stopped"):
        status = sweep.statuses()[name]
        assert status["detail"] == stops[name].detail()
        assert status["epochs_trained"] == stops[name].epoch
    return len(every)


def check_journals(sweep: Sweep, kills: int) -> None:
    """Check by what the trials wrote down themselves that no more than the killed epochs were begun twice."""
    begun = collections.Counter((trial, int(epoch)) for trial, epoch in sweep.journal("begins"))
    for trial in sweep.trial_ids():
        again = sum(count - 1 for (name, _), count in begun.items() if name == trial)
        assert again <= kills, f"{trial}: {again} epochs were begun again after {kills} kills"
    written = [(line[0], int(line[1])) for line in sweep.journal("order")]
    assert len(set(written)) == sum(sweep.epochs().values())
    assert len(written) - len(set(written)) <= 2 * kills


def test_two_sigints_stop_at_once_and_all_is_resumed(tmp_path: Path) -> None:
    """Fault 4; SIGINT and SIGTERM alone are in tests/sweep/test_run.py and, mid-epoch, in test_states.py."""
    sweep = Sweep(tmp_path / "s", fake={"epoch_s": 20.0, "order": "order"}, fixed={"epochs": 1, "weights": "none"})
    process = sweep.start()
    with ended(sweep):
        assert sweep.until(lambda: len(sweep.workers()) == 2)
        family = sweep.family()
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        if sweep.process.poll() is None:  # type: ignore[union-attr]
            process.send_signal(signal.SIGINT)
        code, text = sweep.finish(timeout_s=30)
        assert code == 130, text
        assert time.monotonic() - began < 15
        assert leftovers(family) == []
        sweep.orders(order="order")
        code, text = sweep.go("--resume")
    assert code == 0, text
    assert set(sweep.rows().status) == {"completed"}
    assert len(sweep.journal("order")) == 12
