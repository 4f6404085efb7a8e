"""A `fit` for the sweep's seam that notes how long the real one took: wall and processor seconds in `fit_times.txt`.

`FAIRFACE_TIMED_FIT` names the real one, as `module:function`; the trainer's own if it is not set.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from sweep.driving.worker import FIT, checks, seam

TIMED_ENV = "FAIRFACE_TIMED_FIT"
TIMES = "fit_times.txt"

_REAL = os.environ.get(TIMED_ENV, FIT)


def __getattr__(name: str) -> Any:
    # What is asked before `fit` (check_config, prepare_data, ...) is the real one's; that loads no torch either.
    return getattr(checks(_REAL), name)


def fit(config: Any, *, on_epoch: Any = None) -> Any:
    """Call the real fit, and note its seconds even when the scheduler ends it."""
    real = seam(_REAL)
    began, cpu = time.perf_counter(), time.process_time()
    try:
        return real(config, on_epoch=on_epoch)
    finally:
        with (Path(config.out_dir) / TIMES).open("a", encoding="utf-8") as file:
            file.write(f"{time.perf_counter() - began} {time.process_time() - cpu}\n")
