"""Workers, drivers and their clocks are killed at random; the sweep ends equal to one that was left alone."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import psutil
import pytest
from sweeps import Sweep, ended, leftovers, results, rows_without_clock

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.timeout(1800)]


def test_killed_workers_change_nothing(undisturbed: Sweep, tmp_path: Path, runs: int | None) -> None:
    """Fault 1. `--runs N` sweeps; in each, two workers are killed at random times."""
    chance = random.Random(1)
    for number in range(runs or 2):
        sweep = Sweep(tmp_path / str(number))
        sweep.start()
        with ended(sweep):
            for _ in range(2):
                sweep.until_training()
                time.sleep(chance.uniform(0.0, 3.0))
                for worker in sweep.workers()[:1]:
                    worker.send_signal(signal.SIGKILL)
                    psutil.wait_procs([worker], timeout=10)
            code, text = sweep.finish()
        assert code == 0, text
        assert results(sweep) == results(undisturbed)
        assert rows_without_clock(sweep) == rows_without_clock(undisturbed)


def test_killed_drivers_change_nothing(undisturbed: Sweep, tmp_path: Path, runs: int | None) -> None:
    """Fault 2. `--runs N` sweeps; in each, the driver is killed at random times until the sweep is done."""
    chance = random.Random(2)
    for number in range(runs or 1):
        sweep = Sweep(tmp_path / str(number))
        done: dict[str, int] = {}
        for attempt in range(20):
            before = sweep.epochs()
            for trial in done:
                assert (sweep.run / "trials" / trial / "state.pt").exists() or before[trial] == 4
            sweep.start(*(["--resume"] if sweep.run.exists() else []))
            with ended(sweep):
                try:
                    # Only the first two drivers are killed early; CI's time is bounded.
                    sweep.until_training()
                    if attempt < 2:
                        time.sleep(chance.uniform(0.5, 5.0))
                        family = sweep.family()
                        sweep.process.kill()
                        sweep.process.communicate()
                        assert leftovers(family, within_s=30) == [], "orphans of a killed driver end by themselves"
                        statuses = sweep.statuses().items()
                        completed = {t: s["epochs_trained"] for t, s in statuses if s["status"] == "completed"}
                        # What was on disk never shrinks by more than the epoch that was under way.
                        assert all(sweep.epochs()[trial] >= count for trial, count in before.items())
                        done |= completed
                        stamps = {t: (sweep.run / "trials" / t / "best.pt").stat().st_mtime_ns for t in done}
                        continue
                except AssertionError:
                    if sweep.process.poll() != 0:
                        raise
                code, text = sweep.finish()
            assert code == 0, text
            assert all((sweep.run / "trials" / t / "best.pt").stat().st_mtime_ns == s for t, s in stamps.items())
            break
        assert results(sweep) == results(undisturbed)
        assert rows_without_clock(sweep) == rows_without_clock(undisturbed)


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_stop_in_time_and_everything_resumes(
    undisturbed: Sweep, tmp_path: Path, sent: signal.Signals, code: int
) -> None:
    """Fault 4."""
    sweep = Sweep(tmp_path)
    sweep.start()
    with ended(sweep):
        sweep.until(lambda: any(sweep.epochs().values()))
        family = sweep.family()
        began = time.monotonic()
        sweep.process.send_signal(sent)
        got, text = sweep.finish(timeout_s=60)
        took = time.monotonic() - began
        assert got == code, text
        assert took < 30
        assert leftovers(family) == []
        assert "--resume" in text
        assert len(sweep.rows()) == 2
        code, text = sweep.go("--resume")
    assert code == 0, text
    assert results(sweep) == results(undisturbed)


def test_a_second_sigint_stops_at_once(tmp_path: Path) -> None:
    """Fault 4."""
    sweep = Sweep(tmp_path)
    sweep.start()
    with ended(sweep):
        sweep.until_training()
        family = sweep.family()
        sweep.process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        began = time.monotonic()
        if sweep.process.poll() is None:
            sweep.process.send_signal(signal.SIGINT)
        code, _ = sweep.finish(timeout_s=30)
        assert code == 130
        assert time.monotonic() - began < 10
        assert leftovers(family) == []


def test_two_drivers_and_a_stale_lock(undisturbed: Sweep, tmp_path: Path) -> None:
    """Fault 8."""
    sweep, second = Sweep(tmp_path), Sweep(tmp_path)
    sweep.start()
    with ended(sweep):
        sweep.until_training()
        for words in ([], ["--resume"]):
            code, text = second.go(*words)
            assert code == 2, text
            assert "Traceback" not in text
            assert text.count("error:") >= 1
        family = sweep.family()
        sweep.process.kill()
        sweep.process.communicate()
        assert leftovers(family, within_s=30) == []
        code, text = second.go("--resume")
    assert code == 0, text
    assert results(second) == results(undisturbed)
