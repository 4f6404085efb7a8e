"""One driver at a time on a run folder; the lock of one that was killed is taken over.

On a disk the kernel holds the lock (`flock`) and lets go when the process ends, however it ends; where a file system has no
locks, `fairface_core.files.locks` says what takes its place. An object store has no locks: there a small file says who
drives, and is renewed; it counts as left behind when its process is gone, or when it was not renewed for `STALE_S`.

A shared disk may be either: NFS keeps flock for all machines, unless it is mounted with `nolock` or `local_lock`, and of
file systems in user space many keep it for each mount (tests/faults/test_shared_disk.py). There both must hold: who gets
the kernel's lock still looks whether the file of another machine is being renewed, by its own clock. And whoever renews
its file and finds another driver's there ends: of two that began at the same moment one stays.
"""

from __future__ import annotations

import contextlib
import os
import platform
import secrets
import sys
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
# Three renewals: a driver that missed them is gone, or finds out that it was taken over.
TAKEN_OVER_S = 60.0
# Whoever was not renewed for this long is gone, however far the clocks of two machines are apart.
LONG_GONE_S = 3600.0
_LOOK_S = 1.0
_LOCAL_DISKS = {"bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "jfs", "overlay", "ramfs", "tmpfs", "xfs", "zfs"}


class RunLock:
    """What a driver holds while it works on a run folder."""

    def __init__(self, run: Folder) -> None:
        self._run = run
        self._token = secrets.token_hex(8)
        self._renewed = time.monotonic()
        self._kernel_locks = _kernel_locks(run)

    def renew(self) -> None:
        """Say that this driver lives; call it now and then. Does nothing where the kernel's lock is enough.

        Raises:
            ConfigError: Another driver has taken the run over.
        """
        if self._kernel_locks or time.monotonic() - self._renewed < RENEW_S:
            return
        self._renewed = time.monotonic()
        owner = _read_owner(self._run)
        if owner.get("token", self._token) != self._token:
            raise _taken(self._run, owner)
        # The next renewal makes up for one that fails; a storage that stays away is told by what it holds back.
        with contextlib.suppress(StorageError):
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
            if not lock._kernel_locks:
                _look_for_others(run)
            write_json(run, OWNER_FILE, lock._owner())
            yield lock
        finally:
            _release(run, lock)


def driver_of(run: Folder) -> str:
    """Return who drives a run now, such as `process 17 on host1`; empty if nobody does."""
    owner = _read_owner(run)
    return f"process {owner['pid']} on {owner['host']}" if _alive(owner) else ""


def _kernel_locks(run: Folder) -> bool:
    """Whether the kernel's lock keeps out every other driver: the run folder lies on a disk of this machine alone."""
    path = run.path()
    if path is None:
        return False
    found = Path(path).resolve()
    mounts = {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}
    kind = next((mounts[place] for place in (found, *found.parents) if place in mounts), "")
    # Elsewhere than on Linux the names are others, and sweeps of several machines are none.
    return kind in _LOCAL_DISKS or not sys.platform.startswith("linux")


def _look_for_others(run: Folder) -> None:
    """Raise ConfigError if another driver lives, though the kernel gave us its lock; takes a while if one may.

    By our clock: another machine's may be minutes off.
    """
    first = owner = _read_owner(run)
    if _is_here(first):
        if _alive(first):
            raise _taken(run, first)
        return
    if _age_s(first) > LONG_GONE_S:
        return
    told = f"{run.uri}: {_who(first)} held it; waiting {TAKEN_OVER_S:.0f} s to see whether it still does"
    print(told, file=sys.stderr)
    end = time.monotonic() + TAKEN_OVER_S
    while owner and time.monotonic() < end:
        if owner.get("renewed") != first.get("renewed"):
            raise _taken(run, owner)
        time.sleep(_LOOK_S)
        owner = _read_owner(run)


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
        if _is_here(owner):
            process = psutil.Process(int(owner["pid"]))
            return abs(process.create_time() - float(owner["process_started"])) < 2
        return _age_s(owner) < STALE_S
    except (KeyError, TypeError, ValueError, psutil.Error):
        return False


def _age_s(owner: Mapping[str, Any]) -> float:
    """Return how long ago a file was renewed, by both machines' clocks; infinite where it does not say."""
    renewed = owner.get("renewed")
    return time.time() - renewed if isinstance(renewed, float) else float("inf")


def _is_here(owner: Mapping[str, Any]) -> bool:
    return owner.get("host") == platform.node() and owner.get("boot_id") == _boot_id()


def _who(owner: Mapping[str, Any]) -> str:
    if not owner.get("pid"):
        return "it"
    return f"process {owner['pid']} on {owner.get('host')}, started {owner.get('started')}"


def _taken(run: Folder, owner: Mapping[str, Any]) -> ConfigError:
    return ConfigError(
        f"{run.uri}: another driver is at work on this run ({_who(owner)}); wait for it, end it, or choose another --name"
    )


def _boot_id() -> str:
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return str(psutil.boot_time())
