"""What a sweep should know of its GPUs before the first trial: whether they compute, who else fills them, which idle."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from fairface_core.backbones import relative_cost
from fairface_core.machine.gpu_probe import Gpu
from sweep.cluster.connect import Node
from sweep.driving.placement import Needs, Placement
from sweep.plan.plan import PlannedTrial
from sweep.wording import counted

_GIB = 2**30
# Forward multiply-adds a second, 1e9, of training on one CPU core in float32: 12 to 19 for the backbones at 224 px, up to
# three times as many in bfloat16 (docs/architecture.md, Facts about speed).
_CORE_GMAC_PER_S = 14.0
_SLOW_S = 24 * 3600.0
_ENOUGH_CPUS = 1e6
# What a desktop, or a context of somebody's who idles, holds at most.
_TAKEN = 0.1


def gpu_problems(seen: Sequence[Gpu] | str, wanted: int) -> list[str]:
    """Return what keeps trials from training on this machine's GPUs.

    Args:
        seen: What `probe_gpus` found.
        wanted: GPUs that Ray will give away here.
    """
    if isinstance(seen, str):
        are = "is" if wanted == 1 else "are"
        return [
            f"gpu: {counted(wanted, 'GPU')} {are} counted here, but torch cannot use them: {seen}; mend driver or torch, or "
            "train on the CPU with --gpus-per-trial 0"
        ]
    return [
        f"gpu {number}: {gpu.name} (compute capability {gpu.capability}) fails: {gpu.problem}; use another torch build, or "
        "hide it with CUDA_VISIBLE_DEVICES"
        for number, gpu in enumerate(seen)
        if gpu.problem
    ]


def filled_gpus(seen: Sequence[Gpu] | str, share: float) -> list[str]:
    """Return which GPUs somebody else fills so far that a trial's share of them may not be had.

    Args:
        seen: What `probe_gpus` found.
        share: The largest share of one GPU that a trial asks for.
    """
    return [
        f"gpu {number}: {gpu.name} has {gpu.free_bytes / _GIB:.1f} of {gpu.total_bytes / _GIB:.1f} GiB free, somebody else "
        "holds the rest, and trials may run out; end that, or hide it with CUDA_VISIBLE_DEVICES"
        for number, gpu in enumerate([] if isinstance(seen, str) else seen)
        if not gpu.problem and gpu.free_bytes < min(share, 1 - _TAKEN) * gpu.total_bytes
    ]


def idle_gpus(nodes: Iterable[Node], groups: Mapping[Needs, int], max_legs: int | None) -> list[str]:
    """Return a note where fewer trials run at a time than the GPUs have room for, for want of CPUs.

    Args:
        nodes: The machines.
        groups: How many trials there are of each size.
        max_legs: Most trials at a time, None for as many as fit.
    """
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    notes = []
    for needs, count in groups.items():
        if not needs.gpu:
            continue
        most = min(count, max_legs or count)
        fit = min(Placement(cpus, gpus).fitting(needs), most)
        could = min(Placement(_ENOUGH_CPUS, gpus).fitting(needs), most)
        if 0 < fit < could:
            notes.append(
                f"resources: {cpus:g} CPUs are enough for {counted(fit, 'trial')} of {needs.cpu:g} CPU at a time, "
                f"{gpus:g} GPUs for {could}: some idle; --cpus-per-trial {max(1, math.floor(cpus / could))} would use them"
            )
    return notes


def slow_notes(nodes: Sequence[Node], todo: Iterable[PlannedTrial]) -> list[str]:
    """Say so where GPUs would be used and there are none: the benchmark on two CPU cores takes most of a year."""
    cores = sum(node.cpus for node in nodes)
    on_cpu = [trial for trial in todo if trial.gpu == 0]
    seconds = sum(map(relative_cost, (trial.config for trial in on_cpu))) / (_CORE_GMAC_PER_S * max(cores, 1))
    if seconds < _SLOW_S:
        return []
    return [
        f"no GPU for {counted(len(on_cpu), 'trial')}: on {counted(round(cores), 'CPU core')} they may take "
        f"{seconds / 86_400:.0f} days (a rough guess for FairFace's size); for a first look add "
        "--set fixed.epochs=2 --set data.limit_train=2000"
    ]
