"""Two drivers on a shared disk that keeps locks for each mount alone, as NFS with `nolock` does: two mounts of bindfs."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fairface_core.errors import ConfigError
from fairface_core.files.folder import open_folder
from fairface_core.files.locks import locked_file
from sweep.run_folder import lock
from sweep.run_folder.lock import OWNER_FILE, locked
from tests.faults.sweeps import PATH, Sweep, assert_equal, ended

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

RENEW_S = 0.3
HOLD = f"""
import sys, time
from fairface_core.files.folder import open_folder
from sweep.run_folder import lock
lock.RENEW_S = {RENEW_S}
with lock.locked(open_folder(sys.argv[1])) as held:
    print("held", flush=True)
    while True:
        time.sleep(0.1)
        held.renew()
"""
ELSEWHERE = ["unshare", "--uts", "sh", "-c", 'hostname elsewhere && exec "$@"', "sh"]


@pytest.fixture
def mounts(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """Two mounts of one folder; each has locks of its own."""
    if shutil.which("bindfs") is None:
        pytest.skip("bindfs is not installed (apt-get install bindfs)")
    both = tmp_path / "a", tmp_path / "b"
    (tmp_path / "disk").mkdir()
    with contextlib.ExitStack() as stack:
        for place in both:
            place.mkdir()
            done = subprocess.run(
                ["bindfs", str(tmp_path / "disk"), str(place)], capture_output=True, text=True, check=False
            )
            if done.returncode:
                pytest.skip(f"bindfs cannot mount here: {done.stderr.strip()[:100]}")
            stack.callback(subprocess.run, ["umount", "-l", str(place)], check=True)
        yield both


@contextlib.contextmanager
def holder(run: Path, *, elsewhere: bool) -> Iterator[subprocess.Popen[str]]:
    """A process that holds a run folder and renews its file, on this machine or on one of another name."""
    words = [*(ELSEWHERE if elsewhere else []), sys.executable, "-c", HOLD, str(run)]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": PATH, "PATH": "/usr/bin:/bin"}
    ) as one:
        try:
            assert one.stdout is not None
            assert one.stdout.readline() == "held\n"
            yield one
        finally:
            one.kill()


def test_the_kernel_gives_both_its_lock(mounts: tuple[Path, Path]) -> None:
    """What this file is about: without the owner's file two drivers would write one run."""
    with holder(mounts[0] / "run", elsewhere=False), locked_file(mounts[1] / "run" / lock.LOCK_FILE, timeout_s=0):
        assert (mounts[1] / "run" / OWNER_FILE).exists()


def test_a_second_driver_of_the_same_machine_is_refused_at_once(mounts: tuple[Path, Path]) -> None:
    with holder(mounts[0] / "run", elsewhere=False) as first:
        refusal = f"another driver is at work on this run \\(process {first.pid} on "
        with pytest.raises(ConfigError, match=refusal), locked(open_folder(mounts[1] / "run")):
            pass
        first.kill()
        first.wait()
        with locked(open_folder(mounts[1] / "run")):
            assert json.loads((mounts[0] / "run" / OWNER_FILE).read_text())["pid"] != first.pid


def test_a_driver_of_another_machine_is_seen_to_live_and_seen_to_be_gone(
    mounts: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lock, "TAKEN_OVER_S", 10 * RENEW_S)
    monkeypatch.setattr(lock, "_LOOK_S", RENEW_S / 3)
    with holder(mounts[0] / "run", elsewhere=True) as first:
        with pytest.raises(ConfigError, match="on elsewhere"), locked(open_folder(mounts[1] / "run")):
            pass
        first.kill()
        first.wait()
        began = time.monotonic()
        with locked(open_folder(mounts[1] / "run")):
            assert time.monotonic() - began >= 10 * RENEW_S
    assert "on elsewhere" in capsys.readouterr().err


def test_one_that_was_taken_over_while_it_hung_ends(mounts: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "TAKEN_OVER_S", 5 * RENEW_S)
    monkeypatch.setattr(lock, "_LOOK_S", RENEW_S / 3)
    with holder(mounts[0] / "run", elsewhere=True) as first:
        first.send_signal(19)  # SIGSTOP
        with locked(open_folder(mounts[1] / "run")):
            first.send_signal(18)  # SIGCONT
            assert first.wait(timeout=60) == 1


@pytest.mark.ray
def test_a_second_sweep_on_the_other_mount_changes_nothing(mounts: tuple[Path, Path]) -> None:
    """Fault 13: the first one's trials end as undisturbed ones do."""
    space = {"space": {"backbone": {"grid": ["resnet18"]}, "lr": {"grid": [1e-4, 3e-4]}, "seed": {"grid": [1]}}}
    undisturbed = Sweep(mounts[0] / "undisturbed", fake={}, **space)
    assert undisturbed.go()[0] == 0
    first = Sweep(mounts[0] / "s", fake={"epoch_s": 1.5}, **space)
    second = Sweep(mounts[1] / "s", fake={"epoch_s": 1.5}, output=mounts[1], **space)
    with ended(first), ended(second):
        first.start()
        assert first.until(lambda: first.num_epochs() >= 1)
        code, text = second.go("--resume", output="second")
        assert code == 2, text
        assert "another driver is at work on this run" in text
        code, text = first.finish()
    assert code == 0, text
    assert_equal(first, undisturbed)
