"""How fast is it on a GPU? The loop against its own ceilings, the original's and the device's; memory; the disk; sharing."""

from __future__ import annotations

import csv
import gc
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import step
from benchmarks.gpu import Checks
from benchmarks.gpu_facts import arithmetic_peak, memory_peak, work_per_image
from benchmarks.inputs import data_root, full_size_root
from benchmarks.loops import Job, Loops
from benchmarks.measure import Row, interleave, rate_row, ratio_row, summary
from benchmarks.peer import Peer
from fairface_core.files.folder import open_folder
from fairface_core.training import augment as augmentation
from fairface_core.trial.checkpoint import save_state

# What each backbone is compared with; the default is what a user gets.
VARIANTS: dict[str, dict[str, Any]] = {
    "fp16": {"amp_dtype": "fp16"},
    "fp32": {"no_amp": True},
    "other_layout": {},
    "timed_kernels": {"determinism": "off"},
}


def run(checks: Checks) -> None:
    """Measure every backbone."""
    batch, steps = (128, 20) if checks.on_gpu else (6, 2)
    faces = data_root("demo", checks.work, num_train=256, num_val=90, image_px=224 if checks.on_gpu else 48)
    root = full_size_root(faces, checks.work / "rows", num_train=batch * steps, num_val=1280 if checks.on_gpu else 60)
    data = None
    for backbone in checks.backbones:
        job = Job(root, checks.work, backbone, steps, batch, None if checks.on_gpu else 48, changes={"limit_val": None})
        with checks.part(f"speed of {backbone}"):
            loop = Loops(job, data)
            data = loop.data
            _speed(checks, loop)
            del loop
            gc.collect()
        with checks.part(f"variants of {backbone}"):
            _variants(checks, job, data)
    with checks.part("two trials on one GPU"):
        _two_on_one(checks, root)
    for backbone in ("resnet50", "vit_b_16", "convnext_tiny", "efficientnet_v2_s"):
        if checks.on_gpu and backbone in checks.backbones and not checks.time_is_up:
            with checks.part(f"compile {backbone}"):
                _compiled(checks, Job(root, checks.work, backbone, steps, batch, changes={"limit_val": None}), data)


def _speed(checks: Checks, loop: Loops) -> None:
    device, name = loop.device, f"gpu.{loop.config.backbone}@{loop.run.image_size}.{loop.device.type}"
    rounds = 3 if checks.on_gpu else 1
    if checks.on_gpu:
        torch.cuda.reset_peak_memory_stats()
    checks.measured(step.measure(loop, rounds=rounds))
    facts: dict[str, Any] = {}
    if checks.on_gpu:
        facts = {
            "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
            "reserved_gib": torch.cuda.max_memory_reserved() / 2**30,
        }
        facts |= _augmentation_ms(loop)
    rate = summary([loop.real().rate for _ in range(rounds)])[0]
    dtype = loop.run.amp_dtype or torch.float32
    work, flops, traffic = work_per_image(loop), arithmetic_peak(device, dtype), memory_peak(device)
    shares = {"arithmetic": rate * work.flop / flops, "memory": rate * work.traffic / traffic}
    ceiling = {
        "gflop_per_image": work.flop / 1e9,
        "tflop_per_s": flops / 1e12,
        "mb_per_image": work.traffic / 1e6,
        "gb_per_s": traffic / 1e9,
    }
    checks.measured([
        Row(f"{name}.real/{what}_ceiling", share, None, rounds, facts={**ceiling, "images_per_s": rate, **(facts if what == "memory" else {})})
        for what, share in shares.items()
    ])  # fmt: skip
    peer = Peer(loop)
    taken = interleave({"ours": loop.evaluation, "original": peer.evaluation}, rounds=1)
    began = time.perf_counter()
    state = loop.run.state()
    copied = time.perf_counter()
    save_state(open_folder(checks.work / "state"), state)
    disk = {"state_copy_s": copied - began, "state_write_s": time.perf_counter() - copied}
    checks.measured([rate_row(f"{name}.evaluation/original", taken["ours"], taken["original"], **disk)])


def _augmentation_ms(loop: Loops) -> dict[str, float]:
    """Milliseconds of one batch, on the device and until the host is free, for the default and for eager torch."""
    params = augmentation.draw_params(len(loop.batch.age), loop.run.image_size, torch.Generator().manual_seed(0))
    images, size, layout = loop.batch.images, loop.run.image_size, loop.run.memory_format
    facts = {}
    for name, augment in (
        ("augment", lambda: augmentation.augment(images, params, size, layout)),
        ("augment_eager", lambda: augmentation.augment_eager(images, params, size)),
    ):
        augment()
        torch.cuda.synchronize()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began = time.perf_counter()
        start.record()
        for _ in range(20):
            augment()
        end.record()
        facts[f"{name}_host_ms"] = (time.perf_counter() - began) / 20 * 1e3
        torch.cuda.synchronize()
        facts[f"{name}_ms"] = start.elapsed_time(end) / 20
    return facts


def _variants(checks: Checks, job: Job, data: Any) -> None:
    """The model alone, with one switch changed at a time, against the default in turn."""
    base = Loops(job, data)
    for name, changes in VARIANTS.items() if checks.on_gpu else ():
        if name == "other_layout":
            changes = {"channels_last": "off" if base.run.memory_format is torch.channels_last else "on"}
        other = Loops(_changed(job, changes), data)
        taken = interleave({"other": other.model_only, "default": base.model_only}, rounds=2)
        row = rate_row(f"gpu.{job.backbone}.{name}/default", taken["other"], taken["default"], **changes)
        checks.measured([row], bound=False)
        del other
        gc.collect()
        torch.cuda.empty_cache()


def _compiled(checks: Checks, job: Job, data: Any) -> None:
    base, other = Loops(job, data), Loops(_changed(job, {"compile": True}), data)
    began = time.perf_counter()
    other.model_only()
    first_s = time.perf_counter() - began
    taken = interleave({"other": other.model_only, "default": base.model_only}, rounds=3)
    checks.measured(
        [rate_row(f"gpu.{job.backbone}.compile/default", taken["other"], taken["default"], first_epoch_s=first_s)]
    )


def _changed(job: Job, changes: dict[str, Any]) -> Job:
    return Job(
        job.root,
        job.work,
        job.backbone,
        job.steps,
        job.batch_size,
        job.image_size,
        job.device,
        {**job.changes, **changes},
    )


def _two_on_one(checks: Checks, root: Path) -> None:
    """The images/s of two trials that share the device over those of one alone: `fairface_core.train` side by side."""
    flags = {"root": root, "backbone": checks.backbones[0], "epochs": 3 if checks.on_gpu else 1, "weights": "none",
             "batch_size": 128 if checks.on_gpu else 6, "cache_dir": checks.work / "cache",
             "results_csv": checks.work / "shared.csv"}  # fmt: skip
    if not checks.on_gpu:
        flags |= {"image_size": 48}
    rates = []
    for count in (1, 2):
        outs = [checks.work / f"shared-{count}-{number}" for number in range(count)]
        started = []
        for out in outs:
            command = [sys.executable, "-m", "fairface_core.train"]
            command += [part for key, value in {**flags, "out_dir": out}.items() for part in (f"--{key}", str(value))]
            started.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
        assert all(process.wait() == 0 for process in started), outs
        rates.append(sum(_last_rate(out) for out in outs))
    checks.measured([ratio_row(f"gpu.{checks.backbones[0]}.two_trials/one", [rates[1] / rates[0]], images_per_s=rates)])


def _last_rate(out: Path) -> float:
    with (out / "history.csv").open(encoding="utf-8", newline="") as file:
        return float(list(csv.DictReader(file))[-1]["images_per_s"])
