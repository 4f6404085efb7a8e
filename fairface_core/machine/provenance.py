"""What made a result: versions, code, device, inputs. No user name, host name or path."""

from __future__ import annotations

import functools
import hashlib
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

# Those that the packages import and that a number of a result passes through; pillow decodes the images.
PACKAGES = ("torch", "torchvision", "numpy", "scipy", "pandas", "pillow", "pyarrow", "ray", "timm")


def provenance(device: Any, **facts: Any) -> dict[str, Any]:
    """Return the facts for `report.json`.

    Args:
        device: The torch.device that was trained on.
        **facts: Digests and seeds to record with them.
    """
    import torch

    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "code_digest": code_digest(),
        "git_commit": git_commit(),
        "python": platform.python_version(),
        "platform": f"{sys.platform}-{platform.machine()}",
        "versions": versions(),
        "device": device.type,
        "device_name": gpu or cpu_name(),
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "cpu_features": list(cpu_features()),
        "num_threads": torch.get_num_threads(),
        **facts,
    }


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions of the packages that results depend on, those installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@functools.cache
def code_digest() -> str:
    """Return 12 hex digits of this project's Python sources: another value means another program."""
    core = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for folder in (core, core.parent / "sweep"):
        for path in sorted(folder.rglob("*.py")):
            name = path.relative_to(folder.parent).as_posix()
            digest.update(f"{name}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


@functools.cache
def git_commit() -> str | None:
    """Return the commit of the checkout that this code runs from, with `+` when files differ; None outside one."""
    here = Path(__file__).resolve().parent
    try:
        run = subprocess.run(
            [
                "git",
                "-C",
                str(here),
                "describe",
                "--always",
                "--abbrev=12",
                "--dirty=+",
                "--match=",
                "--exclude=*",
            ],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return run.stdout.strip() or None


@functools.cache
def _cpu_lines(key: str) -> list[str]:
    """Return what Linux tells of each processor under a key; nothing elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    return [line.partition(":")[2].strip() for line in lines if line.startswith(key)]


# What decides which number formats a CPU is fast in.
_CPU_FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_fp16")
# Either makes bf16 faster than float32: AMX tiles, or AVX-512's dot product of bf16 pairs (AMD from Zen 4, Intel from
# Cooper Lake). Other processors convert to float32 and back, and lose.
BF16_FEATURES = frozenset({"avx512_bf16", "amx_bf16"})


def cpu_features() -> tuple[str, ...]:
    """Return which of the features that decide between number formats all processors have, as Linux names them."""
    flags = [set(line.split()) for line in _cpu_lines("flags")]
    return tuple(name for name in _CPU_FEATURES if flags and all(name in one for one in flags))


def cpu_name() -> str:
    """Return the processor's name as Linux tells it, or the platform's."""
    names = _cpu_lines("model name")
    return f"{names[0]} ({len(names)} cores)" if names else platform.processor() or platform.machine()
