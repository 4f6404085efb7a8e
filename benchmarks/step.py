"""Images per second of the training loop, against a constant batch and against the original's loop.

    python -m benchmarks.step                                            # the four backbones at their own sizes
    python -m benchmarks.step --backbones mobilenet_v3_small --image_size 64 --batch_size 128 --steps 8

Four loops run in turn, epoch by epoch, on the same images:

- real: `fairface_core.training.fit`'s own epoch, without evaluation and files;
- constant: the same function, fed with one uint8 batch that is already on the device;
- model only: the same without augmentation too. On the CPU augmentation and model share the cores, so `real` can come
  close to it only where the model is heavy; on CUDA the augmentation is device work that overlaps with nothing;
- original: `benchmarks.original`, 8 worker processes. Its short epochs are charged a FairFace epoch's share of starting
  the workers, not all of it; the workers are slow to reach their pace, so epochs of 32 images on a CPU flatter us.

Wall-clock ratios on busy cores favor a program with nine processes over one with one; `cpu_ratio` (images per
processor second) does not.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_facts import device_busy
from benchmarks.inputs import data_root
from benchmarks.loops import Job, Loops
from benchmarks.measure import Row, interleave, not_measured, parser, rate_row, ratio_row, say, show, summary
from benchmarks.peer import Peer
from fairface_core.machine.provenance import BF16_FEATURES, cpu_features

BACKBONES = ("resnet50", "convnext_tiny", "efficientnet_v2_s", "vit_b_16")
CONSTANT_GOAL = {"cuda": 0.95, "cpu": 0.97}
ORIGINAL_GOAL_CUDA = 3.0
BUSY_GOAL = 0.95
# On the CPU, at (backbone, size); slower for none.
ORIGINAL_GOALS_CPU = {
    ("resnet50", 224): 1.15,
    ("efficientnet_v2_s", 384): 1.15,
    ("efficientnet_v2_s", 224): 1.15,
    ("mobilenet_v3_small", 64): 1.5,
}
# On a CPU that multiplies in bfloat16: over our own float32, and the whole loop over the original's; slower for none.
BF16_GOALS = {"resnet50": 2.5, "vit_b_16": 2.5}
BF16_ORIGINAL_GOAL = 4.0


def measure(loops: Loops, *, rounds: int, with_original: bool = True) -> list[Row]:
    """Time the four loops in turn.

    Args:
        loops: What to time.
        rounds: How often each.
        with_original: Whether the original's loop takes part.
    """
    config, device = loops.config, loops.device.type
    name = f"step.{config.backbone}@{loops.run.image_size}.{device}"
    arms = {"real": loops.real, "constant": loops.constant, "model": loops.model_only}
    peer = Peer(loops) if with_original else None
    if peer is not None:
        arms["original"] = peer.train
    taken = interleave(arms, rounds=rounds)
    setup: dict[str, Any] = {
        "batch_size": config.batch_size,
        "images_per_round": loops.num_images,
        "threads": torch.get_num_threads(),
    }
    goal = CONSTANT_GOAL.get(device)
    rows = [
        rate_row(f"{name}.real/constant", taken["real"], taken["constant"], goal=goal, **setup),
        rate_row(f"{name}.real/model_only", taken["real"], taken["model"], goal=goal, **setup),
    ]
    if peer is not None:
        if device == "cuda":
            against = ORIGINAL_GOAL_CUDA
        elif loops.run.amp_dtype is not None and config.backbone in BF16_GOALS:
            against = BF16_ORIGINAL_GOAL
        else:
            against = ORIGINAL_GOALS_CPU.get((config.backbone, loops.run.image_size), 1.0)
        respawn_s = summary([sample.wall_s for sample in peer.respawns])[0]
        setup["original_worker_start_s"] = respawn_s
        rows.append(rate_row(f"{name}.real/original", taken["real"], taken["original"], goal=against, **setup))
    if device == "cuda":
        busy = [device_busy(loops) for _ in range(rounds)]
        rows.append(ratio_row(f"{name}.device_busy", busy, goal=BUSY_GOAL, images=loops.num_images))
    return rows


def number_format(loops: Loops, *, rounds: int) -> Row:
    """Time the loop in the number format that this CPU gets against float32."""
    config = loops.config
    name, goal = f"step.{config.backbone}@{loops.run.image_size}.cpu.bf16/fp32", BF16_GOALS.get(config.backbone, 1.0)
    if loops.run.amp_dtype is None:
        able = not BF16_FEATURES.isdisjoint(cpu_features())
        why = "float32 is this backbone's choice at this size" if able else "this CPU does not multiply in bfloat16"
        return not_measured(name, why, goal)
    job = dataclasses.replace(loops.job, changes={**loops.job.changes, "no_amp": True})
    taken = interleave({"bf16": loops.real, "fp32": Loops(job, loops.data).real}, rounds=rounds)
    return rate_row(name, taken["bf16"], taken["fp32"], goal=goal, cpu_features=list(cpu_features()))


def unmeasured(backbones: Sequence[str]) -> list[Row]:
    """Return the rows that need a GPU."""
    goals = {"real/constant": CONSTANT_GOAL["cuda"], "real/original": ORIGINAL_GOAL_CUDA, "device_busy": BUSY_GOAL}
    return [
        not_measured(f"step.{backbone}.cuda.{what}", "no GPU", goal)
        for backbone in backbones
        for what, goal in goals.items()
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    made = parser(__doc__, "step")
    add_flags(made)
    flags = made.parse_args(argv)
    if flags.threads:
        torch.set_num_threads(flags.threads)
    rows = []
    with tempfile.TemporaryDirectory(prefix="fairface-step-") as temporary:
        work = Path(flags.work) if flags.work else Path(temporary)
        root = data_root(flags.root, work)
        for backbone in flags.backbones:
            say(f"step: {backbone}")
            job = Job(root, work, backbone, flags.steps, flags.batch_size, flags.image_size, flags.device)
            loops = Loops(job)
            rows += measure(loops, rounds=flags.rounds, with_original=not flags.no_original)
            if loops.device.type == "cpu":
                rows.append(number_format(loops, rounds=flags.rounds))
    if not torch.cuda.is_available():
        rows += unmeasured(flags.backbones)
    show(rows, as_json=flags.json)
    return 0


def add_flags(made: argparse.ArgumentParser) -> None:
    """Add the flags that `step` and `gpu` share."""
    made.add_argument("--backbones", nargs="+", default=list(BACKBONES), metavar="NAME")
    made.add_argument("--image_size", type=int, default=None, help="pixels; default: each backbone's own")
    made.add_argument("--batch_size", type=int, default=128 if torch.cuda.is_available() else 8)
    made.add_argument("--steps", type=int, default=40 if torch.cuda.is_available() else 12, help="per timing")
    made.add_argument("--rounds", type=int, default=5)
    made.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto")
    made.add_argument("--threads", type=int, default=None, help="torch threads [all cores]")
    made.add_argument("--root", default=None, help="data folder, or demo [the sample, else drawn faces]")
    made.add_argument("--work", default=None, help="keeps the image cache between runs [a temporary folder]")
    made.add_argument("--no_original", action="store_true", help="leave the original's loop out")


if __name__ == "__main__":
    sys.exit(main())
