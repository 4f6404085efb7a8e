"""File systems that have no locks: Lustre without `-o flock`, NFS without its lock service, some FUSE and 9p mounts.

The rule: where the kernel refuses a lock (ENOSYS, ENOLCK, EOPNOTSUPP) everything works as it does with one: a second process is
kept out, and what a killed one left is taken over. Nobody is told: there is nothing to do. A lock that is refused for another
reason (a read-only folder) is that error.
"""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from fairface_core.files.locks import locked_file
from tests.hosts.commands import python, run, train

KINDS = [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP]
# As a kernel refuses it; filelock and we take it from here.
REFUSE = "import errno, fcntl, os, sys\ndef no(*_):\n raise OSError({0}, os.strerror({0}))\nfcntl.flock = no\n"
IMPORTS = """
import time
from fairface_core.errors import ConfigError
from fairface_core.files.folder import open_folder
from fairface_core.files.locks import locked_file
from sweep.cluster import owner_only
from sweep.run_folder.lock import locked
place = sys.argv[1]
"""
HOLD = """
with locked_file(place + ".lock"), locked(open_folder(place)):
    print("held", flush=True)
    time.sleep(60)
"""
ASK = """
for lock in (lambda: locked_file(place + ".lock", timeout_s=float(sys.argv[2])), lambda: locked(open_folder(place))):
    try:
        with lock():
            print("free")
    except (TimeoutError, ConfigError) as error:
        print("taken", error)
"""
RAYS = """
owner_only._MAKING_S = -1.0
with owner_only.private_folder() as one, owner_only.private_folder() as other:
    print(one.parent.is_dir(), other.parent.is_dir())
print(one.parent.exists(), other.parent.exists())
"""


def without_locks(number: int, code: str, *words: str) -> list[str]:
    return [sys.executable, "-W", "error", "-c", REFUSE.format(number) + IMPORTS + code, *words]


@pytest.mark.parametrize("number", KINDS)
def test_a_second_process_is_kept_out_and_a_dead_one_is_not_waited_for(number: int, tmp_path: Path) -> None:
    place = str(tmp_path / "run")
    hold, ask = without_locks(number, HOLD, place), without_locks(number, ASK, place)
    with subprocess.Popen(hold, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stderr is not None
        assert holder.stdout.readline() == "held\n", holder.stderr.read()
        first, second = run([*ask, "0"]).stdout.splitlines()
        assert first.startswith("taken ")
        assert f"another driver is at work on this run (process {holder.pid} on " in second
        holder.kill()
        assert holder.stderr.read() == ""
    assert run([*ask, "30"]).stdout == "free\nfree\n"


def test_rays_folder_is_nobodys_to_remove() -> None:
    done = run(without_locks(errno.ENOLCK, RAYS, ""), TMPDIR="/dev/shm")
    assert (done.stdout, done.stderr) == ("True True\nFalse False\n", "")


def test_another_refusal_is_told(tmp_path: Path) -> None:
    (tmp_path / "x.lock").mkdir()
    with pytest.raises(OSError, match=r"x\.lock"), locked_file(tmp_path / "x.lock", timeout_s=0):
        pass


@pytest.mark.slow
def test_a_run_needs_no_locks(demo_root: Path, tmp_path: Path) -> None:
    words = train(demo_root, tmp_path / "out")[3:]
    code = REFUSE.format(errno.ENOLCK) + "from fairface_core.train import main; sys.exit(main(sys.argv[1:]))"
    cache = str(tmp_path / "cache")
    done = run([sys.executable, "-c", code, *words], FAIRFACE_CACHE_DIR=cache)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    assert (tmp_path / "out" / "report.json").is_file()
    assert run(python("fairface_core.data", "prune", "--dry-run"), FAIRFACE_CACHE_DIR=cache).returncode == 0
