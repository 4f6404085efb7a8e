"""Opens what may be anything: only a regular file, without waiting for a FIFO's writer or a device that never ends."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_regular(path: str | Path, *, follow_links: bool = True) -> BinaryIO:
    """Open a regular file for reading.

    Args:
        path: The file.
        follow_links: Whether the name itself may be a link; links among the folders before it are followed.

    Raises:
        OSError: As `open`; `ELOOP` for a link that is not followed, `EINVAL` for a FIFO, a socket or a device.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    if not follow_links:
        flags |= getattr(os, "O_NOFOLLOW", 0)
    try:
        handle = os.open(path, flags)
    except ValueError as error:
        # Each Python words it in its own way.
        raise OSError(errno.EINVAL, "a NUL is in its name") from error
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        raise OSError(errno.EINVAL, "not a regular file but a FIFO, a socket or a device")
    return os.fdopen(handle, "rb")


def read_regular(path: Path, *, limit: int | None = None, follow_links: bool = True) -> bytes:
    """Return the content of a regular file.

    Args:
        path: The file.
        limit: Most bytes that are read. A sparse file of a terabyte takes no room on a disk.
        follow_links: As for `open_regular`.

    Raises:
        OSError: As `open_regular`; `EFBIG` if the file has more than `limit` bytes.
    """
    with open_regular(path, follow_links=follow_links) as file:
        if limit is not None and os.fstat(file.fileno()).st_size > limit:
            raise too_large(limit)
        return file.read()


def too_large(limit: int) -> OSError:
    """Return the error for a file of more than `limit` bytes."""
    size = f"{limit / 2**20:,.0f} MiB" if limit >= 2**20 else f"{limit // 2**10} KiB"
    return OSError(errno.EFBIG, f"larger than {size}, the most that is read")
