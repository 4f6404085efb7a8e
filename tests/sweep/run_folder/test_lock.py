"""One driver at a time; a lock that was left behind is taken over."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from fairface_core.errors import ConfigError, StorageError
from fairface_core.files.folder import Folder, open_folder
from sweep.run_folder import lock
from sweep.run_folder.lock import LOCK_FILE, OWNER_FILE, locked

HOLD = """
import sys, time
from fairface_core.files.folder import open_folder
from sweep.run_folder.lock import locked
with locked(open_folder(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_driver_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(run)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        refusal = f"another driver is at work on this run \\(process {holder.pid} on "
        with pytest.raises(ConfigError, match=refusal), locked(open_folder(run)):
            pass
        holder.kill()
        holder.wait()
    assert (run / OWNER_FILE).exists(), "a killed driver cleans nothing up"
    with locked(open_folder(run)):
        assert json.loads((run / OWNER_FILE).read_text())["pid"] == os.getpid()
    assert sorted(path.name for path in run.iterdir()) == [LOCK_FILE]


class Store(Folder):
    """A folder that has no kernel lock, as in an object store."""

    def path(self) -> Path | None:
        """As an object store's."""
        return None

    def write(self, name: str, payload: object) -> None:
        """Write to the disk below."""
        assert isinstance(payload, bytes)
        Path(self.uri).mkdir(exist_ok=True)
        (Path(self.uri) / name).write_bytes(payload)

    def read(self, name: str) -> bytes:
        """Read from the disk below."""
        return (Path(self.uri) / name).read_bytes()

    def remove(self, name: str) -> None:
        """Delete on the disk below."""
        (Path(self.uri) / name).unlink()


def owner(**changes: object) -> dict[str, object]:
    me = psutil.Process()
    return {
        "token": "x", "pid": me.pid, "process_started": me.create_time(), "host": platform.node(),
        "boot_id": lock._boot_id(), "renewed": time.time(), "started": "2026-11-24T00:00:00+00:00", **changes,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "free"),
    [
        ({}, False),
        ({"process_started": 1.0}, True),  # the number was given to another process
        ({"boot_id": "another"}, False),  # this machine was restarted, or another container: wait for the renewal
        ({"boot_id": "another", "renewed": 1.0}, True),
        ({"host": "another"}, False),
        ({"host": "another", "renewed": time.time() - 3600}, True),
        ({"pid": "not a number"}, True),
        ({"renewed": None, "host": "another"}, True),
    ],
)
def test_without_a_kernel_lock_the_owner_file_decides(tmp_path: Path, changes: dict[str, object], free: bool) -> None:
    store = Store(str(tmp_path / "run"))
    store.write(OWNER_FILE, json.dumps(owner(**changes)).encode())
    if not free:
        with pytest.raises(ConfigError, match="another driver"), locked(store):
            pass
        return
    with locked(store) as held:
        mine = json.loads(store.read(OWNER_FILE))
        assert mine["pid"] == os.getpid()
        held._renewed -= 2 * lock.RENEW_S
        held.renew()
        assert json.loads(store.read(OWNER_FILE))["renewed"] >= mine["renewed"]
    assert list((tmp_path / "run").iterdir()) == []


def test_a_damaged_owner_file_keeps_nobody_out(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "run"))
    store.write(OWNER_FILE, b'{"pid": ')
    with locked(store):
        assert json.loads(store.read(OWNER_FILE))["pid"] == os.getpid()


def test_a_driver_that_was_taken_over_ends(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "run"))
    with locked(store) as held:
        store.write(OWNER_FILE, json.dumps(owner(host="another", pid=77)).encode())
        held.renew()
        held._renewed -= 2 * lock.RENEW_S
        with pytest.raises(ConfigError, match="another driver is at work on this run \\(process 77 on another"):
            held.renew()
    assert json.loads(store.read(OWNER_FILE))["pid"] == 77, "the other's file stays"


def test_a_renewal_that_fails_is_made_up_for_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path / "run"))

    def fails(name: str, payload: object) -> None:
        raise StorageError("away")

    with locked(store) as held:
        before = json.loads(store.read(OWNER_FILE))["renewed"]
        for write in (fails, Store.write.__get__(store)):
            monkeypatch.setattr(store, "write", write)
            held._renewed -= 2 * lock.RENEW_S
            held.renew()
        assert json.loads(store.read(OWNER_FILE))["renewed"] > before
