"""Starts a command as a shell does, with any streams and any environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.sweep.fake_sweeps import PROJECT

TIMEOUT_S = 240
# A run of seconds on drawn faces.
TINY = (
    "--backbone", "mobilenet_v3_small", "--image_size", "32", "--weights", "none", "--epochs", "1", "--batch_size", "16",
    "--limit_train", "40", "--limit_val", "40", "--num_workers", "0", "--device", "cpu",
)  # fmt: skip


def python(module: str, *words: str | bytes) -> list[str | bytes]:
    return [sys.executable, "-m", module, *words]


def train(root: Path, out: Path | bytes, *words: str) -> list[str | bytes]:
    where = ("--root", str(root), "--out_dir", out if isinstance(out, bytes) else str(out))
    return python("fairface_core.train", *where, "--results_csv", str(root.parent / "results.csv"), *TINY, *words)


def run(command: list[str | bytes], *, shell: str = '"$@"', **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command; `shell` says what becomes of its streams, such as `"$@" >&-`."""
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", shell, "bash", *command], capture_output=True, text=True, errors="replace",
        timeout=TIMEOUT_S, check=False, env={**os.environ, "PYTHONPATH": str(PROJECT), **environment},
    )  # fmt: skip
