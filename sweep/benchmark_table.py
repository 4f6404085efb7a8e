"""Keeps benchmark_results.csv up to date while trials run, beside the driver's thread."""

from __future__ import annotations

import contextlib
import threading
import time

from fairface_core.errors import FairfaceError
from fairface_core.storage import Folder

# It is rewritten whole, for at most this share of the time.
_SHARE = 0.1
_PAUSE_S = 2.0


class BenchmarkTable:
    """The writer of one run's benchmark_results.csv."""

    def __init__(self, run: Folder) -> None:
        self._run = run
        self._dirty = False
        self._thread: threading.Thread | None = None
        self._next = 0.0

    def changed(self) -> None:
        """A row is new."""
        self._dirty = True

    def tick(self) -> None:
        """Write, if something changed and enough time has passed."""
        if not self._dirty or time.monotonic() < self._next or (self._thread and self._thread.is_alive()):
            return
        self._dirty = False
        self._thread = threading.Thread(target=self._write_quietly, name="benchmark-csv", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Wait for a writing that is under way."""
        if self._thread is not None:
            self._thread.join()

    def write(self) -> None:
        """Write now."""
        from sweep.aggregate import write_benchmark

        write_benchmark(self._run)

    def _write_quietly(self) -> None:
        began = time.monotonic()
        # It is written again at the end, where a refusal is told.
        with contextlib.suppress(FairfaceError):
            self.write()
        spent = time.monotonic() - began
        self._next = time.monotonic() + max(_PAUSE_S, spent / _SHARE)
