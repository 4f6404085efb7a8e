"""A lock among processes by a file beside what it guards, on a file system with locks or without.

Lustre without `-o flock`, NFS without its lock service and some FUSE and 9p mounts have none: there the file itself is the
lock, and one that a killed process left is taken over once its process is gone.
"""

from __future__ import annotations

import contextlib
import errno
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from filelock import BaseFileLock

_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)


@contextlib.contextmanager
def locked_file(path: str | Path, *, timeout_s: float = -1) -> Iterator[None]:
    """Hold a lock file; its folder is there.

    Args:
        path: The lock file, which stays when the lock is let go.
        timeout_s: Longest wait, seconds; -1 for ever.

    Raises:
        TimeoutError: Another process holds it. (filelock's `Timeout` is one.)
        OSError: The file cannot be written.
    """
    from filelock import FileLock, SoftFileLock

    lock: FileLock | SoftFileLock = FileLock(path, timeout=timeout_s)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="flock not supported")
        try:
            _take(lock)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            # Not the same file: the one that has no lock may lie there.
            lock = SoftFileLock(f"{path}.held", timeout=timeout_s)
            _take(lock)
    try:
        yield
    finally:
        lock.release()


def _take(lock: BaseFileLock) -> None:
    try:
        lock.acquire(timeout=0)
    except TimeoutError:
        lock.acquire()  # the first look may have removed what a killed process left
