"""Does a sweep hold on a GPU? Eight trials at a quarter of it, and two that must halve their batch, one after the other."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.gpu import Checks

_SPACE = """
name: accept
data: {demo: {num_train: 540, num_val: 270, image_px: 64}}
space: {backbone: {grid: [resnet18, mobilenet_v3_small]}, lr: {grid: [3e-4, 1e-3]}, seed: {grid: [1, 2]}}
fixed: {epochs: 3, batch_size: 32, image_size: 64, weights: none}
scheduler: {kind: asha, group_by: backbone, grace_epochs: 1, reduction_factor: 2, confirm: true}
resources: {cpu: %d, gpu: %g}
"""
_TINY = ("--set", "space.seed.grid=[1]", "--set", "fixed.epochs=1", "--set", "space.lr.grid=[1e-3]")
_TIMEOUT_S = 300


def run(checks: Checks) -> None:
    """Run both sweeps."""
    space = checks.work / "space.yaml"
    space.write_text(_SPACE % ((2, 0.25) if checks.on_gpu else (1, 0)), encoding="utf-8")
    with checks.part("a sweep of eight"):
        _eight(checks, space)
    if checks.on_gpu:
        with checks.part("too small a share"):
            _halved(checks, space)


def _eight(checks: Checks, space: Path) -> None:
    before = _used_mib(checks)
    began = time.monotonic()
    with (checks.work / "sweep.log").open("w+", encoding="utf-8") as log:
        sweep = subprocess.Popen(
            _command(checks, space, *(() if checks.on_gpu else _TINY)), env=_environment(checks), stdout=log, stderr=log
        )
        top = host = 0.0
        while sweep.poll() is None and time.monotonic() - began < _TIMEOUT_S:
            top, host = max(top, _used_mib(checks)), max(host, _worker_gib())
            time.sleep(1)
        sweep.kill()
        log.seek(0)
        tail = log.read()[-400:] if sweep.wait() else ""
    checks.check("sweep ends with 0", sweep.returncode == 0, seconds=time.monotonic() - began, tail=tail)
    reports, states = _read(checks, "accept", "report"), _read(checks, "accept", "status")
    devices = {report["provenance"]["device"] for report in reports}
    checks.check(
        "every trial trained on the device",
        len(reports) == (8 if checks.on_gpu else 2) and devices == {checks.device.type},
        statuses=sorted(state["status"] for state in states), attempts=max((state["attempts"] for state in states), default=0),
        number_formats=sorted({report["provenance"]["amp_dtype"] for report in reports}), largest_worker_gib=host,
    )  # fmt: skip
    after = _used_mib(checks)
    checks.check("device memory is given back", after < before + 300, mib=[before, top, after])


def _halved(checks: Checks, space: Path) -> None:
    flags = ("--name", "oom", "--gpus-per-trial", "0.04", "--max-concurrent", "1", "--set", "space.backbone.grid=[vit_b_16]",
             "--set", "space.lr.grid=[1e-4]", "--set", "fixed.image_size=224", "--set", "fixed.batch_size=64",
             "--set", "fixed.epochs=1")  # fmt: skip
    sweep = subprocess.run(
        _command(checks, space, *flags), env=_environment(checks), capture_output=True, text=True, timeout=_TIMEOUT_S
    )
    states = sorted(_read(checks, "oom", "status"), key=lambda state: -state["attempts"])
    told = "images at a time" in sweep.stdout and "batch norm saw the parts" in sweep.stdout
    checks.check(
        "too small a share: halved, told, and known to the sibling",
        [state["status"] for state in states] == ["completed"] * 2 and states[0]["attempts"] > 1 == states[1]["attempts"] and told,
        exit=sweep.returncode, attempts=[state["attempts"] for state in states], told=told,
        images=[report["provenance"]["micro_batch_size"] for report in _read(checks, "oom", "report")],
    )  # fmt: skip


def _command(checks: Checks, space: Path, *flags: str) -> list[str]:
    return [sys.executable, "-m", "sweep.run", "--space", str(space), "--storage", str(checks.work / "runs"), *flags]


def _environment(checks: Checks) -> dict[str, str]:
    path = os.pathsep.join([str(Path.cwd()), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {
        **os.environ,
        "FAIRFACE_CACHE_DIR": str(checks.work / "cache"),
        "FAIRFACE_DASHBOARD": "0",
        "PYTHONPATH": path,
    }


def _read(checks: Checks, run: str, name: str) -> list[dict[str, Any]]:
    paths = sorted((checks.work / "runs" / run / "trials").glob(f"*/{name}.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def _used_mib(checks: Checks) -> float:
    """Memory of the GPU that anybody holds, MiB."""
    if not checks.on_gpu:
        return 0.0
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return float(subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0])


def _worker_gib() -> float:
    """Resident memory of the largest trial on this machine, without what it shares, GiB."""
    largest = 0
    for process in psutil.process_iter(["name", "cmdline"]):
        if "ray::" in " ".join(process.info["cmdline"] or ()):
            with contextlib.suppress(psutil.Error):
                largest = max(largest, process.memory_full_info().uss)
    return largest / 2**30
