"""A process beside a sweep that reads its folder each minute, as `sweep.report` does: for the live table and the page.

Another process, and of the lowest priority, so that neither a worker nor the driver waits for it.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import IO

import psutil
from rich.console import Console

from fairface_core.files.folder import Folder
from sweep.console.words import print_words
from sweep.page.show import REPORT_HTML

_LEAST = getattr(psutil, "IDLE_PRIORITY_CLASS", 19)


def accompanied(
    console: Console, run: Folder, hear: Callable[[str], None], *, page: bool
) -> contextlib.AbstractContextManager[None]:
    """Keep the verdict of the live table and the page fresh, where somebody looks at either; see `companion`."""
    if page:
        print_words(console, ("page       ", "dim"), f"{run.uri_of(REPORT_HTML)}, written each minute", indent=11)
    return companion(run, hear, page=page) if page or console.is_interactive else contextlib.nullcontext()


@contextlib.contextmanager
def companion(run: Folder, hear: Callable[[str], None], *, page: bool) -> Iterator[None]:
    """Let `sweep.report --follow` run beside a sweep.

    Args:
        run: The run folder, whose lock this process holds.
        hear: Told the verdict as it stands, from another thread.
        page: Write the page too, and open it.
    """
    command = [sys.executable, "-m", "sweep.report", run.uri, "--follow", "--json"]
    process = subprocess.Popen(
        [*command, "--open" if page else "--leaderboard"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        # Ctrl-C is for the sweep. One thread: the processors are for the trials.
        start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    with contextlib.suppress(psutil.Error):
        psutil.Process(process.pid).nice(_LEAST)
    assert process.stdout is not None
    threading.Thread(target=_read, args=(process.stdout, hear), daemon=True).start()
    ended_well = False
    try:
        yield
        ended_well = True
    finally:
        # Of a sweep that was stopped it writes a last page, which no longer reloads itself, and ends by itself.
        if ended_well or not page:
            process.terminate()
            process.wait()


def _read(lines: IO[str], hear: Callable[[str], None]) -> None:
    for line in lines:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            verdict = json.loads(line)["verdict"]
            hear(f"{verdict['headline']}. {verdict['sentence']}")
