"""Full and read-only disks, damaged states, learning rates that explode, other surroundings."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sweeps import SPACE, Sweep, ended, results

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.timeout(900)]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 60 MB: about one trial's files."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=60m", "tmpfs", str(place)]
    mount = subprocess.run(command, capture_output=True, text=True)
    if mount.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mount.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_fails_the_trial_by_name_and_resumes_when_freed(undisturbed: Sweep, small_disk: Path) -> None:
    """Fault 5."""
    sweep = Sweep(small_disk)
    code, text = sweep.go()
    assert code == 1, text
    assert "ENOSPC" in text
    failed = [s for s in sweep.statuses().values() if s["status"] == "failed"]
    assert failed
    assert all("ENOSPC" in s["reason"] for s in failed)
    assert len(sweep.rows()) == 2
    subprocess.run(["mount", "-o", "remount,size=400m", str(small_disk)], check=True)
    code, text = sweep.go("--resume")
    assert code == 0, text
    assert results(sweep) == results(undisturbed)


def test_a_disk_that_turns_read_only_is_named_and_resumes(undisturbed: Sweep, small_disk: Path) -> None:
    """Fault 5."""
    subprocess.run(["mount", "-o", "remount,size=400m", str(small_disk)], check=True)
    sweep = Sweep(small_disk)
    sweep.start()
    with ended(sweep):
        sweep.until(lambda: any(sweep.epochs().values()))
        # A busy file system cannot be remounted read-only; forcing it is what a failing disk does.
        turned = subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], capture_output=True, text=True)
        if turned.returncode:
            sweep.finish()
            pytest.skip(f"this kernel does not turn a busy tmpfs read-only: {turned.stderr.strip()}")
        code, text = sweep.finish()
    assert code == 1, text
    assert "EROFS" in text
    assert "Traceback" not in text
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    code, text = sweep.go("--resume")
    assert code == 0, text
    assert results(sweep) == results(undisturbed)


def test_a_damaged_newest_state_and_ray_folder_do_not_matter(undisturbed: Sweep, tmp_path: Path) -> None:
    """Fault 6; tests/core/test_checkpoint.py has the ten truncations and the flips."""
    sweep = Sweep(tmp_path)
    sweep.start()
    with ended(sweep):
        sweep.until(lambda: max(sweep.epochs().values(), default=0) >= 2)
        sweep.process.terminate()
        assert sweep.finish()[0] == 143
    begun = [sweep.run / "trials" / name for name, epochs in sweep.epochs().items() if epochs >= 2]
    for folder in begun:
        raw = (folder / "state.pt").read_bytes()
        (folder / "state.pt").write_bytes(raw[: len(raw) // 2])
    shutil.rmtree(sweep.run / ".ray", ignore_errors=True)
    (sweep.run / ".ray").mkdir()
    (sweep.run / ".ray" / "tuner.pkl").write_bytes(b"not a pickle")
    code, text = sweep.go("--resume")
    assert code == 0, text
    assert "state.pt: damaged" in text
    assert "state.prev.pt" in text
    assert results(sweep) == results(undisturbed)


def test_a_rate_that_explodes_is_diverged_and_others_are_untouched(undisturbed: Sweep, tmp_path: Path) -> None:
    """Fault 7."""
    sweep = Sweep(tmp_path, space={**SPACE["space"], "lr": {"grid": [1e-3, 3e-3, 1e6]}})
    code, text = sweep.go()
    assert code == 0, text
    statuses = sweep.statuses()
    bad = [name for name, status in statuses.items() if status["status"] == "diverged"]
    assert len(bad) == 1
    assert statuses[bad[0]]["epochs_trained"] == 0
    assert len(sweep.rows()) == 3
    shutil.rmtree(sweep.run / "trials" / bad[0])
    assert results(sweep) == results(undisturbed)


def test_when_all_diverge_the_sweep_has_failed(tmp_path: Path) -> None:
    """Fault 7."""
    sweep = Sweep(tmp_path, space={**SPACE["space"], "lr": {"grid": [1e6, 1e7]}})
    code, text = sweep.go()
    assert code == 1, text
    assert text.count("diverged") >= 2
    assert set(sweep.rows().status) == {"diverged"}


def test_surroundings_change_no_bit(undisturbed: Sweep, tmp_path: Path) -> None:
    """Fault 9: two at a time, another order, time zone, locale, umask, and a path that needs quoting."""
    sweep = Sweep(tmp_path / "ein Pfad mit # und ä", space={**SPACE["space"], "lr": {"grid": [3e-3, 1e-3]}})
    old = os.umask(0o077)
    try:
        code, text = sweep.go("--max-concurrent", "2", TZ="Pacific/Chatham", LC_ALL="C", LANG="de_DE.UTF-8")
    finally:
        os.umask(old)
    assert code == 0, text
    assert results(sweep) == results(undisturbed)


def test_one_at_a_time_changes_no_bit(undisturbed: Sweep, tmp_path: Path) -> None:
    """Fault 9."""
    sweep = Sweep(tmp_path)
    code, text = sweep.go("--max-concurrent", "1")
    assert code == 0, text
    assert results(sweep) == results(undisturbed)


def test_asha_runs_agree_over_the_epochs_that_both_ran(tmp_path: Path) -> None:
    """Fault 9: ASHA's stops depend on who arrives first; what was trained does not."""
    asha = {"kind": "asha", "grace_epochs": 1, "reduction_factor": 2, "confirm": True}
    space = {**SPACE["space"], "lr": {"grid": [1e-3, 3e-3, 1e-2]}}
    sweeps = [Sweep(tmp_path / str(k), scheduler=asha, space=space) for k in (1, 2)]
    for sweep, most in zip(sweeps, ("1", "2"), strict=True):
        code, text = sweep.go("--max-concurrent", most)
        assert code == 0, text
    first, second = (sweep.epochs() for sweep in sweeps)
    assert first.keys() == second.keys()
    common = {name: min(first[name], second[name]) for name in first}
    assert max(common.values()) == 4
    for name, epochs in common.items():
        if epochs:
            assert results(sweeps[0], epochs=epochs)[name] == results(sweeps[1], epochs=epochs)[name]


def test_the_module_runs_from_anywhere(tmp_path: Path) -> None:
    run = subprocess.run([sys.executable, "-m", "sweep.run", "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0
