"""What this machine can give to a process: processors, GPUs, and memory within a container's limit."""

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


def local_gpus() -> int:
    """GPUs that torch can use here."""
    drivers = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
    if not any(Path(device).exists() for device in drivers):
        return 0  # Without asking torch, whose import takes a second.
    import torch

    return torch.cuda.device_count()


def free_memory_bytes() -> float:
    """Return the memory that new processes may take here: what is free, within the container's limit."""
    import psutil

    free = float(psutil.virtual_memory().available)
    with contextlib.suppress(OSError, ValueError, KeyError):
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text(encoding="ascii"))
        stat = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
        # Cached files are given back when memory is asked for.
        used = int((group / "memory.current").read_text(encoding="ascii")) - int(stat["file"])
        free = min(free, float(limit - used))
    return free
