"""A disk that fills up, one that turns read-only, states that were damaged, and Ray's folder gone."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fairface_core.files.folder import open_folder, read_json
from fairface_core.trial.checkpoint import load_state
from tests.faults.sweeps import Sweep, assert_equal, ended, leftovers

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.timeout(3600)]


@pytest.fixture
def small_disk(undisturbed: Sweep, tmp_path: Path) -> Iterator[Path]:
    """A file system that holds one trial's first epoch and not its second one."""
    place = tmp_path / "disk"
    place.mkdir()
    best = (next((undisturbed.run / "trials").iterdir()) / "best.pt").stat().st_size
    # Weights and AdamW's two moments of each; those of finished trials are removed.
    state = 3 * best
    # The second epoch's state is written beside the first one's.
    size = (state + best) + state - best
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    mount = subprocess.run(command, capture_output=True, text=True)
    if mount.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mount.stderr.strip()}")
    try:
        yield place
    finally:
        while place.is_mount():
            subprocess.run(["umount", "-l", str(place)], check=True)


def mount(*words: object) -> None:
    subprocess.run(["mount", *map(str, words)], check=True)


def test_a_full_disk_and_a_read_only_one_fail_trials_by_name_and_resume(
    undisturbed: Sweep, small_disk: Path, tmp_path: Path
) -> None:
    """Fault 5: one sweep meets a full disk, is resumed, meets a read-only one, and is resumed again."""
    sweep = Sweep(small_disk / "s", output=tmp_path)
    # One at a time: of two, one may be over and its states removed before the other needs the room.
    code, text = sweep.go("--max-concurrent", "1")
    assert code == 1, text
    assert "Traceback" not in text
    failed = sweep.named("failed")
    assert failed, text
    for name in failed:
        assert sweep.statuses()[name]["reason"].startswith("storage: cannot write"), sweep.statuses()[name]
        assert "ENOSPC" in sweep.statuses()[name]["reason"]
        assert "free some space" in sweep.statuses()[name]["reason"]
        assert name in text
        check_state(sweep, name)
    assert any(sweep.epochs()[name] for name in failed), "the disk was full before the first epoch"
    assert len(sweep.rows()) == 2

    mount("-o", "remount,size=400m", small_disk)
    before = sweep.epochs()
    sweep.start("--resume")
    with ended(sweep):
        assert sweep.until(lambda: sweep.num_epochs() > sum(before.values()))
        turn_read_only(small_disk)
        code, text = sweep.finish()
    assert code == 1, text
    assert "EROFS" in text
    assert "Traceback" not in text
    assert len(text.splitlines()) < 60, text
    # The epoch whose state the full disk refused is trained again.
    assert all(sweep.epochs()[name] >= epochs - 1 for name, epochs in before.items())
    for name in sweep.trial_ids():
        check_state(sweep, name)
    assert len(sweep.rows()) == 2

    subprocess.run(["umount", "-l", str(small_disk)], check=True)
    code, text = sweep.go("--resume")
    assert code == 0, text
    assert_equal(sweep, undisturbed)


def turn_read_only(place: Path) -> None:
    """Lay a read-only view of a file system over it: the kernel refuses to turn one that is being written."""
    view = place.with_name("view")
    view.mkdir()
    mount("--bind", place, view)
    mount("-o", "remount,bind,ro", view)
    mount("--bind", view, place)
    subprocess.run(["umount", "-l", str(view)], check=True)


def check_state(sweep: Sweep, name: str) -> None:
    """The newest state is whole and is that of the last epoch that was written."""
    folder = open_folder(sweep.trial(name))
    if not folder.exists("state.pt"):
        # None was written yet, or the trial was over before the disk turned and its state was pruned.
        assert sweep.epochs().get(name, 0) <= 1 or sweep.statuses()[name]["status"] == "completed"
        return
    digests = read_json(folder, "report.json")["provenance"]
    state = load_state(folder, config_digest=digests["config_digest"], data_digest=digests["data_digest"])
    assert state is not None
    assert sweep.epochs()[name] - 1 <= state["epoch"] <= sweep.epochs()[name]


def cut(tenth: int) -> Callable[[bytes], bytes]:
    return lambda raw: raw[: len(raw) * tenth // 10]


def flip(raw: bytes) -> bytes:
    place = random.Random(len(raw)).randrange(len(raw))
    return raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :]


# Every kind once in ten sweeps; in CI one of each.
DAMAGES = [cut(5), flip, *(cut(tenth) for tenth in (0, 1, 2, 3, 4, 6, 7, 8, 9)), lambda raw: bytes(len(raw))]


def test_sigterm_mid_epoch_then_damaged_states_and_no_state_of_rays(
    undisturbed: Sweep, tmp_path: Path, runs: int | None
) -> None:
    """Faults 4 and 6. Each sweep is stopped mid-epoch, the newest states of its trials are damaged, and it is resumed.

    tests/fairface_core/trial/test_checkpoint.py damages one state in 17 ways, and both.
    """
    damages = DAMAGES if runs and runs > 1 else DAMAGES[:2]
    named = 0
    # On a busy machine the first trial may be over, and its states removed, before the other one has two: once more then.
    for number in range(0, max(len(damages), 6), 2):
        if number >= len(damages) and named:
            break
        sweep = Sweep(tmp_path / str(number))
        process = sweep.start()
        with ended(sweep):
            assert sweep.until_each_has(2)
            family = sweep.family()
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            code, text = sweep.finish(timeout_s=60)
            assert code == 143, text
            assert time.monotonic() - began < 30
            assert leftovers(family) == []
        assert "go on with --resume" in text
        assert len(sweep.rows()) == 2
        damaged = []
        for name, damage in zip(sorted(sweep.epochs()), damages[number % len(damages) :][:2], strict=False):
            state = sweep.trial(name) / "state.pt"
            if (sweep.trial(name) / "state.prev.pt").exists():
                # A new file: the signal may have come while both names were those of one.
                raw = state.read_bytes()
                state.unlink()
                state.write_bytes(damage(raw))
                damaged.append(name)
        # Ray's own state lies elsewhere; where an older version left some, it is not looked at.
        assert not (sweep.run / ".ray").exists()
        if number % 4 == 0:
            (sweep.run / ".ray").mkdir()
            (sweep.run / ".ray" / "tuner.pkl").write_bytes(b"not a pickle")
        code, text = sweep.go("--resume")
        assert code == 0, text
        for name in damaged:
            assert f"{sweep.trial(name)}/state.pt: damaged" in text
            assert "going on from state.prev.pt, epoch" in text
        named += len(damaged)
        assert_equal(sweep, undisturbed)
    print(f"\nfault 6: {named} damaged states, each named, 0 differences")
    assert named > 0
