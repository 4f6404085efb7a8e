"""One driver at a time on a run folder; the lock of one that was killed is taken over.

On a disk (also a shared one) the kernel holds the lock (`flock`) and lets go when the process ends, however it ends; where
a file system has no locks, `fairface_core.files.locks` says what takes its place.
An object store has no locks: there a small file says who drives, and is renewed; it counts as left behind when its
process is gone, or when it was not renewed for `STALE_S`.
"""

from __future__ import annotations

import contextlib
import os
import platform
import secrets
import time
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import psutil

from fairface_core.errors import ConfigError, StorageError
from fairface_core.files.folder import Folder, read_json, write_json
from fairface_core.files.locks import locked_file

LOCK_FILE = ".driver.lock"
OWNER_FILE = ".driver.json"
RENEW_S = 20.0
STALE_S = 90.0


class RunLock:
    """What a driver holds while it works on a run folder."""

    def __init__(self, run: Folder) -> None:
        self._run = run
        self._token = secrets.token_hex(8)
        self._renewed = time.monotonic()

    def renew(self) -> None:
        """Say that this driver lives; call it now and then. Does nothing where the kernel holds the lock."""
        if self._run.path() is None and time.monotonic() - self._renewed > RENEW_S:
            self._renewed = time.monotonic()
            write_json(self._run, OWNER_FILE, self._owner())

    def _owner(self) -> dict[str, Any]:
        return {
            "token": self._token,
            "pid": os.getpid(),
            "process_started": psutil.Process().create_time(),
            "host": platform.node(),
            "boot_id": _boot_id(),
            "renewed": time.time(),
            "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }


@contextlib.contextmanager
def locked(run: Folder) -> Iterator[RunLock]:
    """Hold a run folder.

    Raises:
        ConfigError: Another driver holds it. Nothing was changed.
        StorageError: The folder cannot be written.
    """
    lock = RunLock(run)
    path = run.path()
    if path is None:
        owner = _read_owner(run)
        if _alive(owner):
            raise _taken(run, owner)
        write_json(run, OWNER_FILE, lock._owner())
        try:
            yield lock
        finally:
            _release(run, lock)
        return
    with contextlib.ExitStack() as held:
        try:
            path.mkdir(parents=True, exist_ok=True)
            held.enter_context(locked_file(path / LOCK_FILE, timeout_s=0))
        except TimeoutError as error:
            raise _taken(run, _read_owner(run)) from error
        except OSError as error:
            raise StorageError(f"{path}: cannot be written ({error.strerror or error})") from error
        try:
            write_json(run, OWNER_FILE, lock._owner())
            yield lock
        finally:
            _release(run, lock)


def driver_of(run: Folder) -> str:
    """Return who drives a run now, such as `process 17 on host1`; empty if nobody does."""
    owner = _read_owner(run)
    return f"process {owner['pid']} on {owner['host']}" if _alive(owner) else ""


def _release(run: Folder, lock: RunLock) -> None:
    # A folder that can no longer be written must not hide why.
    with contextlib.suppress(StorageError, FileNotFoundError):
        if _read_owner(run).get("token") == lock._token:
            run.remove(OWNER_FILE)


def _read_owner(run: Folder) -> Mapping[str, Any]:
    with contextlib.suppress(FileNotFoundError, StorageError):
        owner = read_json(run, OWNER_FILE)
        if isinstance(owner, dict):
            return owner
    return {}


def _alive(owner: Mapping[str, Any]) -> bool:
    """Whether the driver that wrote this may still be at work. Used where the kernel cannot tell."""
    try:
        if owner["host"] == platform.node() and owner["boot_id"] == _boot_id():
            process = psutil.Process(int(owner["pid"]))
            return abs(process.create_time() - float(owner["process_started"])) < 2
        return time.time() - float(owner["renewed"]) < STALE_S
    except (KeyError, TypeError, ValueError, psutil.Error):
        return False


def _taken(run: Folder, owner: Mapping[str, Any]) -> ConfigError:
    who = f"process {owner['pid']} on {owner['host']}, started {owner['started']}" if owner.get("pid") else "it"
    return ConfigError(
        f"{run.uri}: another driver is at work on this run ({who}); wait for it, end it, or choose another --name"
    )


def _boot_id() -> str:
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return str(psutil.boot_time())
