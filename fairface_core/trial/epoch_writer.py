"""Writes an epoch's files while the next epoch trains, and tells of the epoch once they are on disk.

A state of 0.1 to 1 GB takes seconds to write and fsync, in which the device would wait. The order of things stays:
first an epoch's files, then the word of it, then the next epoch's files. What overlaps is training alone, and an epoch
that is cut off by a stop is one that nobody has heard of.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from fairface_core.trial.reports import EpochReport


class EpochWriter:
    """One thread that writes; a context manager, which waits for it at the end.

    Every method is called by the thread that trains, and so is `on_epoch`.

    Attributes:
        told_s: Seconds that `on_epoch` has taken so far: a scheduler thinks meanwhile.
    """

    def __init__(self, on_epoch: Callable[[EpochReport], None] | None = None) -> None:
        self.told_s = 0.0
        self._on_epoch = on_epoch
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="epoch-writer")
        self._pending: tuple[EpochReport, Future[None]] | None = None

    def submit(self, report: EpochReport, write: Callable[[], None]) -> None:
        """Begin to write an epoch; the one before it must have been finished.

        Args:
            report: The epoch's figures.
            write: Writes all its files, from tensors that training does not touch.
        """
        assert self._pending is None
        self._pending = report, self._pool.submit(write)

    def poll(self) -> None:
        """Tell of the epoch if it is on disk by now. See `finish`."""
        if self._pending is not None and self._pending[1].done():
            self.finish()

    def finish(self) -> None:
        """Wait until the pending epoch, if there is one, is on disk, and tell of it.

        Raises:
            StorageError: Or whatever else writing it raised; or what `on_epoch` raises to end the run.
        """
        if self._pending is None:
            return
        report, written = self._pending
        self._pending = None
        written.result()
        began = time.perf_counter()
        try:
            if self._on_epoch is not None:
                self._on_epoch(report)
        finally:
            self.told_s += time.perf_counter() - began

    def __enter__(self) -> EpochWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # An error of the next epoch loses nothing of this one; the next attempt finds it on disk.
        self._pool.shutdown(wait=True)
        lost = self._pending[1].exception() if self._pending else None
        if error is not None and error.__context__ is None:
            # Both failed: the traceback shows the writing too.
            error.__context__ = lost
