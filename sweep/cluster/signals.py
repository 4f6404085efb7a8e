"""Whatever asks a process to end: stop at once where nothing runs yet, in order where trials run; a second SIGINT, at once.

Ctrl-C is SIGINT; batch systems send SIGTERM, SIGUSR1, SIGUSR2 or SIGXCPU before their limit, a terminal that is closed
sends SIGHUP, Ctrl and backslash SIGQUIT. Each would end this process and leave Ray's behind.

Stopping in order needs no word to the trials: whatever they have reported is complete on disk. So their processes are
simply ended, which takes seconds whatever an epoch takes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType

import psutil

_ALWAYS = (signal.SIGINT, signal.SIGTERM)
# Left alone where they are ignored: nohup does that, so that a run outlives its terminal.
_UNLESS_IGNORED = (signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
# Everything has ended 30 s after a signal.
_LAST_RESORT_S = 25.0


class Interrupted(BaseException):
    """A signal asks this process to stop. Not an Exception: Ray's loops must not handle it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
        self.told = False  # whether a person has heard how to go on

    @property
    def exit_code(self) -> int:
        """130 for SIGINT, 143 for SIGTERM, 129 for SIGHUP."""
        return 128 + self.number

    @property
    def name(self) -> str:
        """`SIGINT`, `SIGTERM`, ..."""
        return signal.Signals(self.number).name


class StopSignals:
    """Takes these signals for as long as it is entered.

    Inside `deferred()` the first signal is only noted.
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
        for number in (*_ALWAYS, *_UNLESS_IGNORED):
            if number in _UNLESS_IGNORED and signal.getsignal(number) is signal.SIG_IGN:
                continue
            before = signal.signal(number, self._handle)
            self._before.setdefault(number, before)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Note the first signal instead of raising it, for `check` to raise where it is safe."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def check(self) -> None:
        """Raise Interrupted if a signal was noted."""
        # Ray Tune 2.60 takes SIGUSR1 for itself when it begins, and then ends as if nothing were left to do.
        if self._before:
            self.install()
        if self._noted is not None:
            raise Interrupted(self._noted)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._noted is not None:
            if number == signal.SIGINT:
                end_now(128 + number)
            return
        self._noted = number
        # Whatever the main thread waits for, such as a storage that hangs, must not keep the promise from being held.
        last_resort = threading.Timer(_LAST_RESORT_S, _give_up, [number])
        last_resort.daemon = True
        last_resort.start()
        if not self._deferred:
            raise Interrupted(number)


def _give_up(number: int) -> None:
    name = signal.Signals(number).name
    with contextlib.suppress(OSError, ValueError):
        print(f"stopped by {name}: Ray or the storage did not answer for {_LAST_RESORT_S:.0f} s; go on with --resume",
              file=sys.stderr, flush=True)  # fmt: skip
    end_now(128 + number)


def end_now(exit_code: int) -> None:
    """End this process and all that it started, without another word. May be called in any thread."""
    children = psutil.Process().children(recursive=True)
    for child in children:
        with contextlib.suppress(psutil.Error):
            child.kill()
    os._exit(exit_code)
