"""SIGINT and SIGTERM: stop at once where nothing runs yet, in order where trials run; a second SIGINT, at once anywhere.

Stopping in order needs no word to the trials: whatever they have reported is complete on disk. So their processes are
simply ended, which takes seconds whatever an epoch takes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType

import psutil

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """A signal asks this process to stop. Not an Exception: Ray's loops must not handle it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    @property
    def exit_code(self) -> int:
        """130 for SIGINT, 143 for SIGTERM."""
        return 128 + self.number

    @property
    def name(self) -> str:
        """`SIGINT` or `SIGTERM`."""
        return signal.Signals(self.number).name


class StopSignals:
    """Takes both signals for as long as it is entered.

    `defer()` says that from now on the first signal is only noted, for `check()` to raise where it is safe.
    """

    def __init__(self) -> None:
        self._deferred = False
        self._noted: int | None = None
        self._before: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}

    def __enter__(self) -> StopSignals:
        """Install the handlers; only the main thread can."""
        self.install()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put the handlers back that were there."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def install(self) -> None:
        """Install the handlers, again after a library replaced them (`ray.init` replaces that of SIGTERM)."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in _SIGNALS:
            before = signal.signal(number, self._handle)
            self._before.setdefault(number, before)

    def defer(self) -> None:
        """From now on note the first signal instead of raising."""
        self._deferred = True

    def check(self) -> None:
        """Raise Interrupted if a signal was noted."""
        if self._noted is not None:
            raise Interrupted(self._noted)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._noted is not None:
            if number == signal.SIGINT:
                end_now(128 + number)
            return
        self._noted = number
        if not self._deferred:
            raise Interrupted(number)


def end_now(exit_code: int) -> None:
    """End this process and all that it started, without another word."""
    children = psutil.Process().children(recursive=True)
    for child in children:
        with contextlib.suppress(psutil.Error):
            child.kill()
    os._exit(exit_code)
