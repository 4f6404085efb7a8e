"""Everything that is asked of a GPU, in one program: a short table on stdout and all rows as JSON in a file.

    python -m benchmarks.gpu --out gpu.json                       # the four backbones, about 20 minutes on one GPU
    python -m benchmarks.gpu --out gpu.json --accuracy_epochs 10  # and bf16 against fp32 on the real sample, hours

For each backbone: the rows of `step`; every switch against the default (bf16, fp16, fp32; channels_last; compile;
determinism), interleaved; evaluation against the original's; peak memory; the share of the arithmetic and of the memory
ceiling. Then augmentation on CUDA against the CPU, and two trials on one GPU against one. Without a GPU it runs on the
CPU, and the rows that need one say `not measured`.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import step
from benchmarks.gpu_facts import arithmetic_peak, memory_peak, work_per_image
from benchmarks.inputs import data_root
from benchmarks.loops import Job, Loops
from benchmarks.measure import Row, interleave, machine, not_measured, parser, rate_row, ratio_row, say, show
from benchmarks.peer import Peer
from fairface_core.training.augment import STD, augment, draw_params
from fairface_core.training.fit import fit

# Name -> fields of TrainConfig; `default` is what a user gets.
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "bf16": {"amp_dtype": "bf16"},
    "fp16": {"amp_dtype": "fp16"},
    "fp32": {"no_amp": True},
    "channels_last": {"channels_last": "on"},
    "channels_first": {"channels_last": "off"},
    "compile": {"compile": True},
    "strict": {"determinism": "strict"},
    "off": {"determinism": "off"},
}
_NEED_CUDA = ("bf16", "fp16", "fp32", "compile")


def switches(job: Job, base: Loops, *, rounds: int) -> list[Row]:
    """Time the real loop with each switch changed, against the default, in turn."""
    name = f"gpu.{job.backbone}@{base.run.image_size}.{base.device.type}"
    on_cuda = base.device.type == "cuda"
    rows = [not_measured(f"{name}.{v}/default", "no GPU") for v in _NEED_CUDA if not on_cuda]
    for variant, changes in VARIANTS.items():
        if variant == "default" or (variant in _NEED_CUDA and not on_cuda):
            continue
        say(f"gpu: {job.backbone}, {variant}")
        other = Loops(_changed(job, changes), base.data)
        # A strict run refuses an operation that has no deterministic kernel: that is a finding, not a failure.
        try:
            taken = interleave({variant: other.real, "default": base.real}, rounds=rounds, warm_up=2)
        except RuntimeError as error:
            rows.append(not_measured(f"{name}.{variant}/default", str(error).splitlines()[0]))
            continue
        rows.append(rate_row(f"{name}.{variant}/default", taken[variant], taken["default"]))
    return rows


def _changed(job: Job, changes: dict[str, Any]) -> Job:
    return Job(
        job.root, job.work, job.backbone, job.steps, job.batch_size, job.image_size, job.device,
        {**job.changes, **changes},
    )  # fmt: skip


def ceilings(loops: Loops, *, rounds: int) -> list[Row]:
    """Return the share of the arithmetic and the memory ceiling that the real loop reaches, and the peak memory."""
    device, name = loops.device, f"gpu.{loops.config.backbone}@{loops.run.image_size}.{loops.device.type}"
    dtype = loops.run.amp_dtype or torch.float32
    work = work_per_image(loops)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    rates = [loops.real().rate for _ in range(rounds)]
    peak_flops, peak_bytes = arithmetic_peak(device, dtype), memory_peak(device)
    memory = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None
    facts: dict[str, Any] = {"images_per_s": float(np.median(rates)), "batch_size": loops.config.batch_size}
    return [
        ratio_row(
            f"{name}.real/arithmetic_ceiling",
            [rate * work.flop / peak_flops for rate in rates],
            gflop_per_image=work.flop / 1e9,
            measured_tflop_per_s=peak_flops / 1e12,
            dtype=str(dtype).removeprefix("torch."),
            **facts,
        ),
        ratio_row(
            f"{name}.real/memory_ceiling",
            [rate * work.traffic / peak_bytes for rate in rates],
            mb_per_image=work.traffic / 1e6,
            measured_gb_per_s=peak_bytes / 1e9,
            peak_memory_gib=memory,
            **facts,
        ),
    ]


def evaluation(loops: Loops, *, rounds: int) -> Row:
    """Time the evaluation against the original's."""
    peer = Peer(loops)
    taken = interleave({"ours": loops.evaluation, "original": peer.evaluation}, rounds=rounds)
    name = f"gpu.{loops.config.backbone}@{loops.run.image_size}.{loops.device.type}.evaluation/original"
    return rate_row(name, taken["ours"], taken["original"])


def augmentation_difference(loops: Loops) -> Row:
    """Return how far an augmented batch on CUDA is from the same on the CPU, in steps of 1/255.

    The CPU crops in uint8 and so rounds once on the way: half a step, which contrast and saturation may enlarge.
    """
    name = "gpu.augment.cuda-cpu"
    if loops.device.type != "cuda":
        return not_measured(name, "no GPU", 1.0, "<=")
    images, size = loops.batch.images.cpu(), loops.run.image_size
    params = draw_params(len(images), size, torch.Generator().manual_seed(0))
    here, there = augment(images, params, size), augment(images.cuda(), params, size).cpu()
    steps = ((here - there).abs() * 255 * torch.tensor(STD).view(3, 1, 1)).numpy()
    facts = {"mean_steps": float(steps.mean()), "largest_steps": float(steps.max())}
    return Row(name, float(np.quantile(steps, 0.999)), 1.0, 1, sense="<=", facts=facts)


def two_on_one(job: Job, *, epochs: int = 3) -> Row:
    """Return the images/s of two trials that share the device over those of one alone."""
    name = f"gpu.{job.backbone}.two_trials/one"
    if not torch.cuda.is_available():
        return not_measured(name, "no GPU")
    alone, together = _concurrent_rates(job, 1, epochs), _concurrent_rates(job, 2, epochs)
    return Row(name, sum(together) / sum(alone), None, 1, facts={"alone": alone, "together": together})


def _concurrent_rates(job: Job, num_trials: int, epochs: int) -> list[float]:
    """Train some trials side by side; return the images/s of each one's last epoch."""
    config, started = job.config(), []
    for number in range(num_trials):
        out = job.work / f"concurrent-{num_trials}-{number}"
        flags = {
            "root": config.root, "backbone": config.backbone, "batch_size": config.batch_size, "epochs": epochs,
            "limit_train": config.limit_train, "limit_val": config.limit_val, "weights": "none",
            "cache_dir": config.cache_dir, "out_dir": out, "results_csv": job.work / "concurrent.csv",
        }  # fmt: skip
        if config.image_size:
            flags["image_size"] = config.image_size
        command = [sys.executable, "-m", "fairface_core.train"]
        command += [part for key, value in flags.items() for part in (f"--{key}", str(value))]
        started.append((subprocess.Popen(command, stdout=subprocess.DEVNULL), out))
    rates = []
    for process, out in started:
        assert process.wait() == 0, out
        with (out / "history.csv").open(encoding="utf-8", newline="") as file:
            rates.append(float(list(csv.DictReader(file))[-1]["images_per_s"]))
    return rates


def accuracy(job: Job, epochs: int, seeds: Sequence[int] = (41, 42, 43)) -> Row:
    """Train with bf16 and with fp32; return the difference of the mean mean_f1 over the sd of the fp32 seeds."""
    scores: dict[str, list[float]] = {}
    for precision in ("bf16", "fp32"):
        for seed in seeds:
            changes = {"epochs": epochs, "seed": seed, "limit_train": None, "limit_val": None, **VARIANTS[precision]}
            out = {"out_dir": str(job.work / f"accuracy-{precision}-{seed}"), "weights": "imagenet"}
            scores.setdefault(precision, []).append(fit(_changed(job, {**changes, **out}).config()).mean_f1)
    noise = float(np.std(scores["fp32"], ddof=1))
    difference = abs(float(np.mean(scores["bf16"]) - np.mean(scores["fp32"])))
    # Two standard errors of a difference of two means of three.
    goal = 2 * (2 / len(seeds)) ** 0.5
    facts = {"mean_f1": scores, "sd_of_seeds": noise}
    return Row(f"gpu.{job.backbone}.bf16-fp32_over_seed_sd", difference / noise, goal, len(seeds), None, "<=", facts)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure everything, print a table and write the rows."""
    made = parser(__doc__, "gpu")
    step.add_flags(made)
    made.add_argument("--out", type=Path, default=None, help="JSON file for machine and rows")
    made.add_argument("--accuracy_epochs", type=int, default=0, help="train in bf16 and fp32 for so long, 3 seeds each")
    flags = made.parse_args(argv)
    if flags.threads:
        torch.set_num_threads(flags.threads)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="fairface-gpu-") as temporary:
        work = Path(flags.work) if flags.work else Path(temporary)
        root = data_root(flags.root, work)
        loops = None
        for backbone in flags.backbones:
            say(f"gpu: {backbone}")
            job = Job(root, work, backbone, flags.steps, flags.batch_size, flags.image_size, flags.device)
            loops = Loops(job)
            rows += step.measure(loops, rounds=flags.rounds, with_original=not flags.no_original)
            rows += ceilings(loops, rounds=flags.rounds)
            rows += switches(job, loops, rounds=flags.rounds)
            if not flags.no_original:
                rows.append(evaluation(loops, rounds=flags.rounds))
            rows.append(two_on_one(job))
            if flags.accuracy_epochs:
                rows.append(accuracy(job, flags.accuracy_epochs))
        if loops is not None:
            rows.append(augmentation_difference(loops))
    if not torch.cuda.is_available():
        rows += step.unmeasured(flags.backbones)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    if flags.out:
        listed = {"machine": {**machine(), "gpu": device}, "rows": [row.as_dict() for row in rows]}
        flags.out.write_text(json.dumps(listed, indent=1) + "\n", encoding="utf-8")
    show(rows, as_json=flags.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
