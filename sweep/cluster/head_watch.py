"""Notices that the head of a joined cluster is gone, or silent, while Ray still waits for it.

Trap of Ray 2.60 (tests/faults/test_clusters.py): a call to a head that is gone blocks the driver's thread for a minute,
whatever timeout it was given; then the process is aborted from C++, with no `finally` run and no word to the user. So a
thread of our own knocks at the head's port and ends the driver in order, without another call into Ray.

A head that hangs (stopped, swapped out, a machine that freezes) is worse: its kernel still takes connections, some
hundred of them, and Ray waits without end. So a knock is only answered by bytes: gRPC greets whoever connects.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType

EVERY_S = 2.0
# Nothing listens there: its process is gone. Longer than a head that is restarted on the spot may need.
REFUSED_S = 10.0
# No answer at all: the machine or the network is gone, or the head hangs. Far longer than a head at work needs.
SILENT_S = 30.0
# RFC 9113, 3.4 and 6.5: both sides begin with a frame of settings, the client's after a preface; 4 is the frame's type.
_SETTINGS = b"\x04"
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0" + _SETTINGS + bytes(5)


def knock(address: str, *, timeout_s: float) -> None:
    """Raise OSError if nothing answers at HOST:PORT, ValueError or OverflowError if it is no address.

    Any answer will do, also a connection that is closed: under TLS the preface is none.
    """
    host, _, port = address.rpartition(":")
    there = socket.create_connection((host.strip("[]"), int(port)), timeout=timeout_s)
    with there, contextlib.suppress(ConnectionResetError, BrokenPipeError):
        there.sendall(_PREFACE)
        there.recv(1)


def greets(address: str, *, timeout_s: float) -> bool:
    """Say whether what answers at HOST:PORT speaks HTTP/2, as the GCS of a head does; Ray waits for it for minutes.

    Raises:
        OSError: As `knock`, like ValueError and OverflowError.
    """
    host, _, port = address.rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=timeout_s) as connection:
        connection.sendall(_PREFACE)
        try:
            return connection.recv(4, socket.MSG_WAITALL)[3:] == _SETTINGS
        except TimeoutError:
            return False


class HeadWatch:
    """Knocks at an address for as long as it is entered.

    Args:
        address: HOST:PORT of the cluster's GCS.
        lost: Called once, in the watch's thread, with why the head counts as gone.
        every_s: Seconds between two knocks.
        refused_s: Seconds of refusals after which it is gone.
        silent_s: Seconds without any answer after which it is gone.
    """

    def __init__(
        self,
        address: str,
        lost: Callable[[str], None],
        *,
        every_s: float = EVERY_S,
        refused_s: float = REFUSED_S,
        silent_s: float = SILENT_S,
    ) -> None:
        self._address = address
        self._lost, self._every_s, self._refused_s, self._silent_s = lost, every_s, refused_s, silent_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="head-watch", daemon=True)

    def __enter__(self) -> HeadWatch:
        """Begin to knock."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop knocking; a call of `lost` that is under way is waited for."""
        self._over.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _watch(self) -> None:
        answered = time.monotonic()
        while not self._over.wait(self._every_s):
            began = time.monotonic()
            refused = False
            try:
                knock(self._address, timeout_s=min(5.0, self._silent_s))
            except OSError as error:
                refused = error.errno == errno.ECONNREFUSED
                reason = error.strerror or str(error)
            else:
                answered = began
                continue
            if time.monotonic() - answered > (self._refused_s if refused else self._silent_s):
                if not self._over.is_set():
                    self._lost(reason)
                return
