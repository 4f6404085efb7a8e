"""What a device could do, what a model asks of it, and how much of the time it is busy."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.loops import Loops


@dataclass(frozen=True)
class Work:
    """What one optimizer step asks of the device, per image.

    Attributes:
        flop: Floating-point operations, forward and backward (torch's own counter: matrix products and convolutions).
        traffic: Bytes that eager kernels read and write, each operation reading its inputs and writing its outputs
            once. Fusion and caches need less, so the memory ceiling that follows from it can be passed.
    """

    flop: float
    traffic: float


class _Traffic(TorchDispatchMode):
    """Adds up the bytes of the inputs and outputs of every operation that is not a view."""

    num_bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        is_view = any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)
        if not is_view:
            leaves = tree_leaves((args, kwargs, result))
            self.num_bytes += sum(leaf.numel() * leaf.element_size() for leaf in leaves if isinstance(leaf, Tensor))
        return result


def work_per_image(loops: Loops) -> Work:
    """Count one eager step at the batch size of `loops`."""
    batch = loops.batch
    run, network = loops.run, loops.run.network
    run.network = run.model
    try:
        with FlopCounterMode(display=False) as flops, _Traffic() as traffic:
            run._step(loops.pixels, batch.age, batch.gender)
    finally:
        run.network = network
    return Work(flops.get_total_flops() / len(batch.age), traffic.num_bytes / len(batch.age))


def arithmetic_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Return the FLOP/s of a large matrix product: the best of five."""
    size = 8192 if device.type == "cuda" else 512
    a = torch.randn(size, size, device=device).to(dtype)
    b = torch.randn(size, size, device=device).to(dtype)
    return 2 * size**3 / _best_s(lambda: a @ b, device)


def memory_peak(device: torch.device) -> float:
    """Return the bytes/s, read and written, of a large copy: the best of five."""
    num_bytes = 2**30 if device.type == "cuda" else 2**26
    source = torch.zeros(num_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * num_bytes / _best_s(lambda: target.copy_(source), device)


def _best_s(work: Callable[[], Any], device: torch.device) -> float:
    best = float("inf")
    for _ in range(6):
        _synchronize(device)
        began = time.perf_counter()
        work()
        _synchronize(device)
        best = min(best, time.perf_counter() - began)
    return best


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def device_busy(loops: Loops) -> float:
    """Return the share of an epoch's wall time in which at least one kernel or copy ran on the GPU.

    From the profiler's device events, so gaps inside a step count as idle. The profiler slows the host a little: the
    true share is not lower.
    """
    assert loops.device.type == "cuda", loops.device
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        sample = loops.real()
    spans = [
        (event.time_range.start, event.time_range.end)
        for event in profiler.events()
        if event.device_type == torch.autograd.DeviceType.CUDA and not event.is_user_annotation
    ]
    return covered(spans) / 1e6 / sample.wall_s


def covered(spans: list[tuple[float, float]]) -> float:
    """Return the length of the union of spans (start, end)."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
