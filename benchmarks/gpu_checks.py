"""Is it right on a GPU? Pixels, batches, waits, memory, numbers; whole fits against each other and against `evaluate`."""

from __future__ import annotations

import gc
import hashlib
import json
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from benchmarks.gpu import Checks
from benchmarks.inputs import data_root
from benchmarks.loops import Job, Loops
from fairface_core.images.cache import ImageCache
from fairface_core.machine.device import choose_amp_dtype
from fairface_core.training import augment as augmentation
from fairface_core.training.batches import eval_batches, train_batches

_FIT_S = 240


def run(checks: Checks) -> None:
    """Run all of it."""
    for name, part in (
        ("augmentation", _augmentation), ("loader", _loader), ("waits", _waits), ("float32", _float32),
        ("logits", _logits), ("out of memory", _out_of_memory), ("whole fits", _whole_fits),
    ):  # fmt: skip
        with checks.part(name):
            part(checks)


def in_memory(num_rows: int, size_px: int, *, num_val: int = 1024) -> Any:
    """Return data of noise, without files: gathering and copying are real, nothing is decoded."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (num_rows, size_px, size_px, 3), dtype=np.uint8)
    images.flags.writeable = False

    class Split(SimpleNamespace):
        def __len__(self) -> int:
            return len(self.cache_rows)

    def split(count: int) -> Split:
        rows = SimpleNamespace(age=rng.integers(0, 9, count), gender=rng.integers(0, 2, count))
        return Split(rows=rows, cache_rows=rng.integers(0, num_rows, count))

    cache = ImageCache(images, size_px, {}, Path())
    return SimpleNamespace(
        cache=cache, train=split(num_rows), val=split(num_val), test=split(256), digest="", counts={}
    )


def loops(
    checks: Checks, backbone: str, data: Any, *, batch_size: int, image_size: int | None = None, **changes: Any
) -> Loops:
    """Return the trainer's loop on data in memory."""
    out = checks.work / f"run-{backbone}-{len(changes)}"
    device = changes.pop("device", checks.device.type)
    return Loops(Job(Path("/"), out, backbone, 1, batch_size, image_size, device, changes), data)


def _augmentation(checks: Checks) -> None:
    std = torch.tensor(augmentation.STD).view(3, 1, 1) * 255
    kernel = augmentation.color_kernel(checks.device)
    checks.check("augment: kernels are compiled", kernel is not None or not checks.on_gpu, kernel=kernel is not None)
    for source_px, out_px in ((224, 224), (224, 384), (64, 64)) if checks.on_gpu else ((64, 64), (64, 80)):
        generator = torch.Generator().manual_seed(1)
        noise = torch.randint(0, 256, (32, 3, source_px, source_px), generator=generator).float()
        images = torch.nn.functional.avg_pool2d(noise, 5, 1, 2).byte()
        params = augmentation.draw_params(32, out_px, generator)
        eager_here = augmentation.augment_eager(images, params, out_px)
        eager_there = augmentation.augment_eager(images.to(checks.device), params, out_px).cpu()
        there = augmentation.augment(images.to(checks.device), params, out_px, torch.channels_last).cpu()
        chunked = augmentation.augment(images, params, out_px)
        eager = float(((eager_here - eager_there).abs() * std).max())
        default = ((eager_here - there).abs() * std if checks.on_gpu else torch.zeros(1)).float()
        rounded = ((chunked - there).abs() * std).float()
        evaluated = augmentation.prepare_eval(images.to(checks.device), out_px).cpu()
        off = float(((augmentation.prepare_eval(images, out_px) - evaluated).abs() * std).max())
        checks.check(
            f"augment {source_px}->{out_px}",
            eager < 0.05 and float(default.max()) < 0.5 and float(rounded.max()) < 5.5 and off < 1.01,
            eager_levels=eager, default_levels=float(default.max()), default_mean=float(default.mean()),
            to_cpus_rounded=float(rounded.max()), eval_levels=off,
        )  # fmt: skip


def _loader(checks: Checks) -> None:
    """Batches under a device that lags, so that a pinned buffer that is used too early would show."""
    size = 224 if checks.on_gpu else 32
    data = in_memory(4096 if checks.on_gpu else 64, size)
    data.train.cache_rows = np.arange(len(data.train))
    wanted = torch.from_numpy(data.cache.images.reshape(len(data.train), -1).sum(1, dtype=np.int64))
    load = torch.randn(4096 if checks.on_gpu else 64, 4096 if checks.on_gpu else 64, device=checks.device)
    seen = []
    for epoch in range(3):
        for batch in train_batches(data.cache, data.train, batch_size=128, seed=1, epoch=epoch, device=checks.device):
            for _ in range(6):
                load @ load
            # Read at the end only: the host must run ahead.
            seen.append((batch.images.sum((1, 2, 3), dtype=torch.int64), batch.index))
    wrong = sum(int((sums.cpu() != wanted[index.cpu()]).sum()) for sums, index in seen)
    checks.check("loader: every image is whole", wrong == 0, wrong=wrong)
    if checks.on_gpu:
        torch.cuda.empty_cache()
        before = torch.cuda.memory_reserved()
        for _ in range(40):
            for batch in eval_batches(data.cache, data.val, batch_size=512, device=checks.device):
                batch.images.float().mean()
        torch.cuda.synchronize()
        grown = (torch.cuda.memory_reserved() - before) / 2**30
        checks.check("loader: reserved memory does not grow with epochs", grown < 1.0, gib_after_40_passes=grown)


def _waits(checks: Checks) -> None:
    if not checks.on_gpu:
        return
    for backbone in checks.backbones:
        loop = loops(checks, backbone, in_memory(768, 224), batch_size=128)
        loop.real()
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                loop.run.train(9, 1e-6)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        lines = [f"{Path(w.filename).name}:{w.lineno}" for w in seen if "synchroniz" in str(w.message)]
        # Beginning and end of an epoch wait: labels go over, the loss is read. A step of six does not.
        counts = {line: lines.count(line) for line in sorted(set(lines))}
        checks.check(f"no step waits: {backbone}", all(count <= 2 for count in counts.values()), lines=counts)
        del loop
        gc.collect()


def _float32(checks: Checks) -> None:
    losses = {}
    for device in {"cpu", checks.device.type}:
        loop = loops(
            checks, "resnet18", in_memory(64, 64), batch_size=32, image_size=64, no_amp=True, dropout=0.0, device=device
        )
        losses[device] = [loop.run.train(epoch, 1e-4) for epoch in (1, 2)]
    here, there = losses["cpu"], losses[checks.device.type]
    checks.check("float32 epochs are the CPU's", bool(np.allclose(here, there, rtol=3e-3)), cpu=here, device=there)


def _logits(checks: Checks) -> None:
    loop = loops(
        checks,
        "resnet18",
        in_memory(2048 if checks.on_gpu else 64, 64, num_val=4096 if checks.on_gpu else 64),
        batch_size=64,
        image_size=64,
    )
    loop.run.train(1, 1e-3)
    mixed = loop.run.predict(loop.data.val)
    top = np.sort(mixed.age, axis=1)
    ties = float((top[:, -1] == top[:, -2]).mean())
    loop.run.scoring_dtype = None
    full = loop.run.predict(loop.data.val)
    moved = float((mixed.age.argmax(1) != full.age.argmax(1)).mean())
    checks.check("logits are not rounded", ties < 1e-4, ties=ties, argmax_moved_by_amp=moved)


def _out_of_memory(checks: Checks) -> None:
    if not checks.on_gpu:
        return
    from sweep.driving.worker import classify

    torch.cuda.set_per_process_memory_fraction(0.06)
    kind = "none"
    try:
        loops(checks, "vit_b_16", in_memory(512, 224), batch_size=512).run.train(1, 1e-6)
    except RuntimeError as error:
        kind = classify(error).kind
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    gc.collect()
    torch.cuda.empty_cache()
    loops(checks, "resnet18", in_memory(256, 64), batch_size=128, image_size=64).run.train(1, 1e-6)
    reserved = torch.cuda.memory_reserved() / 2**30
    checks.check(
        "out of memory is told as such, and the process goes on", kind == "oom", kind=kind, reserved_gib=reserved
    )


def _fit(checks: Checks, root: Path, name: str, **changes: Any) -> dict[str, Any]:
    out = checks.work / "fits" / name
    flags = {
        "root": root, "backbone": "resnet18", "image_size": 64, "weights": "none", "epochs": 2, "batch_size": 32, "lr": 1e-3,
        "out_dir": out, "results_csv": checks.work / "fits.csv", "cache_dir": checks.work / "cache", **changes,
    }  # fmt: skip
    if not checks.on_gpu:
        flags |= {"image_size": 32, "limit_train": 54, "limit_val": 36, "epochs": 1}
    command = [sys.executable, "-m", "fairface_core.train"]
    for key, value in flags.items():
        command += [f"--{key}"] if value is True else [f"--{key}", str(value)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=_FIT_S)
    assert run.returncode == 0, run.stderr[-400:]
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    return {**report, "best": hashlib.sha256((out / "best.pt").read_bytes()).hexdigest(), "out": out}


def _whole_fits(checks: Checks) -> None:
    """Many processes at once: each checks numbers, none is timed."""
    faces = data_root("demo", checks.work, num_train=540, num_val=270, image_px=64)
    first = _fit(checks, faces, "first")
    checks.check(
        "fit trains on the device", first["provenance"]["device"] == checks.device.type, **first["test_metrics"]
    )
    command = [sys.executable, "-m", "fairface_core.evaluate", "--checkpoint", str(first["out"] / "best.pt"), "--root", str(faces),
               "--cache_dir", str(checks.work / "cache"), "--json"]  # fmt: skip
    scored = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)["test_metrics"]
    off = {key: abs(scored[key] - value) for key, value in first["test_metrics"].items()}
    checks.check("evaluate repeats report.json", off["loss"] < 1e-6 and off["mean_f1"] == 0, **off)
    seeds, epochs = ((41, 42, 43), 8) if checks.on_gpu else ((41, 42), 1)
    with ThreadPoolExecutor(8 if checks.on_gpu else 2) as pool:
        strict = [pool.submit(_fit, checks, faces, name, determinism="strict") for name in ("strict-1", "strict-2")]
        mixed, full = ([
            pool.submit(_fit, checks, faces, f"{amp}-{seed}", epochs=epochs, seed=seed, **changes) for seed in seeds
        ] for amp, changes in (("mixed", {}), ("full", {"no_amp": True})) )  # fmt: skip
        steps = {backbone: pool.submit(_strict_step, backbone, checks.on_gpu) for backbone in checks.backbones}
        one, two = (future.result() for future in strict)
        checks.check("strict: equal bytes", one["best"] == two["best"], best=one["best"][:12])
        for backbone, future in steps.items():
            problem = future.result()
            checks.check(f"strict: {backbone} has deterministic kernels", not problem, problem=problem or "none")
        scores = [np.array([future.result()["mean_f1"] for future in futures]) for futures in (mixed, full)]
    difference, noise = float(scores[0].mean() - scores[1].mean()), float(np.concatenate(scores).std(ddof=2))
    # Two standard errors of a difference of two means.
    dtype = str(
        choose_amp_dtype(
            loops(checks, "resnet18", in_memory(64, 64), batch_size=32, image_size=64).config, checks.device
        )
    )
    checks.check(
        "mixed precision scores as float32", abs(difference) <= 2 * (2 / len(seeds)) ** 0.5 * max(noise, 1e-3) or not checks.on_gpu, difference=difference,
        sd_of_seeds=noise, dtype=dtype, mixed=scores[0].round(4).tolist(), full=scores[1].round(4).tolist(), epochs=epochs,
    )  # fmt: skip


def _strict_step(backbone: str, on_gpu: bool) -> str:
    code = (
        "import pathlib, tempfile, sys; from benchmarks import gpu, gpu_checks as g\n"
        "checks = gpu.Checks(pathlib.Path(tempfile.mkdtemp()), [], 0)\n"
        f"g.loops(checks, {backbone!r}, g.in_memory(64, {224 if on_gpu else 64}), batch_size=32,"
        f" image_size={None if on_gpu else 64}, determinism='strict').run.train(1, 1e-5)\n"
    )
    run = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code], capture_output=True, text=True, timeout=_FIT_S
    )
    return "" if run.returncode == 0 else (run.stderr.strip().splitlines() or ["?"])[-1]
