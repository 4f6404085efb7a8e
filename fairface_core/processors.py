"""How many processors this process may use; it needs nothing but Python, so that the processes that decode start at once."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path


def local_cpus() -> int:
    """CPUs that this process may use: affinity and container limits count."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        usable = min(usable, max(1, math.floor(int(quota) / int(period))))
    return usable
