"""From process start to the first optimizer step at FairFace's full size, and import times.

    python -m benchmarks.startup --work DIR          # DIR keeps the links and the cache: 97,698 images, 1.2 GB at 64 px

The data set is a folder of 86,744 + 10,954 links to the sample's images. Ours: `python -m fairface_core.train` with a
tiny backbone at 64 px, ended after its first step, with the image cache there (warm) and without (cold). The peer is
the label pass that the original ran before its first step: its own two passes over decoded, augmented images, here over
some hundreds of them, **extrapolated** to the training set. The original has no 64 px input, so the goal is set against
its 224 px; 64 px stands beside it. Both are one thread, timed in turn.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.inputs import FULL_TRAIN, FULL_VAL, data_root, full_size_root
from benchmarks.measure import Row, Sample, interleave, parser, processor_s, ratio_row, say, show, summary, timed
from benchmarks.original import FaceDataset, count_labels, train_transform

GOAL = 30.0
_BACKBONE, _IMAGE_SIZE, _BATCH_SIZE = "mobilenet_v3_small", 64, 128
_PROJECT = Path(__file__).resolve().parents[1]
# Import times, each against `import torch`, which nothing that trains can avoid.
_IMPORTS = (
    "fairface_core",
    "fairface_core.train",
    "fairface_core.training.fit",
    "sweep.space.load",
    "sweep.report",
    "sweep.run",
)


class Start:
    """Runs of `benchmarks.first_step` on one data folder."""

    def __init__(self, root: Path, work: Path, threads: int) -> None:
        self.cache_dir = work / "cache"
        self.phases: list[Mapping[str, float]] = []
        self.environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(_PROJECT)}
        flags: dict[str, Any] = {
            "root": root,
            "backbone": _BACKBONE,
            "image_size": _IMAGE_SIZE,
            "batch_size": _BATCH_SIZE,
            "weights": "none",
            "epochs": 1,
            "device": "cpu",
            "num_workers": os.cpu_count(),
            "cache_dir": self.cache_dir,
            "out_dir": work / "run",
            "results_csv": work / "run.csv",
        }
        self.command = [sys.executable, "-m", "benchmarks.first_step"]
        self.command += [part for key, value in flags.items() for part in (f"--{key}", str(value))]

    def __call__(self) -> Sample:
        """Start once; the wall time ends with the step, the processor time with the process."""
        cpu, began = processor_s(), time.monotonic()
        run = subprocess.run(
            self.command, env=self.environment, cwd=_PROJECT, check=True, stdout=subprocess.PIPE, text=True
        )
        told = json.loads(run.stdout.splitlines()[-1])
        self.phases.append(told["phases_s"])
        return Sample(1, told["at"] - began, processor_s() - cpu)


def label_pass(root: Path, image_size: int, num_images: int, num_train: int) -> Sample:
    """Time the original's two label passes over some images; the sample is scaled to `num_train`."""
    paths = [str(root / "train" / f"{number + 1}.jpg") for number in range(num_images)]
    zeros = [0] * num_images
    dataset = FaceDataset(paths, zeros, zeros, train_transform(image_size))

    def work() -> float:
        age, _ = count_labels(dataset)
        return float(age.sum())

    sample = timed(work)
    scale = num_train / num_images
    return Sample(1, sample.wall_s * scale, sample.cpu_s * scale)


def import_rows(rounds: int, warm_up: int) -> list[Row]:
    """Time imports in fresh processes: the seconds above an empty Python, over those of `import torch`."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}

    def arm(code: str) -> Sample:
        def work() -> float:
            subprocess.run([sys.executable, "-c", code], env=environment, cwd=_PROJECT, check=True)
            return 1.0

        return timed(work)

    codes = {"": "pass", "torch": "import torch", **{name: f"import {name}" for name in _IMPORTS if _exists(name)}}
    # One warm-up round writes the byte code.
    taken = interleave(
        {name: functools.partial(arm, code) for name, code in codes.items()}, rounds=rounds, warm_up=warm_up
    )

    def cpu_ms(name: str) -> np.ndarray:
        return 1e3 * np.array([a.cpu_s - b.cpu_s for a, b in zip(taken[name], taken[""], strict=True)])

    return [
        ratio_row(
            f"startup.import {name}/torch",
            (cpu_ms(name) / cpu_ms("torch")).tolist(),
            cpu_ms=float(np.median(cpu_ms(name))),
            peer_cpu_ms=float(np.median(cpu_ms("torch"))),
        )
        for name in codes
        if name not in ("", "torch")
    ]


def _exists(module: str) -> bool:
    return (_PROJECT / f"{module.replace('.', '/')}.py").is_file() or (_PROJECT / module).is_dir()


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    made = parser(__doc__, "startup")
    made.add_argument("--root", default=None, help="where the images come from [the sample, else drawn faces]")
    made.add_argument("--work", type=Path, default=None, help="keeps links and cache [a temporary folder]")
    made.add_argument("--num_train", type=int, default=FULL_TRAIN, help="training rows")
    made.add_argument("--num_val", type=int, default=FULL_VAL, help="rows of the val CSV")
    made.add_argument("--label_images", type=int, default=200, help="images of a label pass, a round")
    made.add_argument("--threads", type=int, default=1, help="torch threads of our start")
    made.add_argument("--rounds", type=int, default=5)
    made.add_argument("--warm_up", type=int, default=1, help="rounds before, thrown away")
    flags = made.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="fairface-startup-") as temporary:
        work = flags.work or Path(temporary)
        source = data_root(flags.root, work, num_train=flags.label_images, image_px=_IMAGE_SIZE)
        say(f"startup: linking {flags.num_train + flags.num_val:,} images")
        full = work / f"links-{flags.num_train}x{flags.num_val}"
        root = full_size_root(source, full, num_train=flags.num_train, num_val=flags.num_val)
        rows = measure(root, work, flags)
    show([*rows, *import_rows(flags.rounds, flags.warm_up)], as_json=flags.json)
    return 0


def measure(root: Path, work: Path, flags: Any) -> list[Row]:
    """Time starts and label passes in turn."""
    start = Start(root, work, flags.threads)
    shutil.rmtree(start.cache_dir, ignore_errors=True)
    say("startup: cold")
    cold = start()
    start.phases.clear()
    say("startup: warm, and the label passes")
    num_labels = min(flags.label_images, flags.num_train)
    peers = {size: f"label pass {size}" for size in (224, _IMAGE_SIZE)}
    taken = interleave(
        {
            "warm": start,
            **{
                name: functools.partial(label_pass, root, size, num_labels, flags.num_train)
                for size, name in peers.items()
            },
        },
        rounds=flags.rounds,
        warm_up=flags.warm_up,
    )
    warm = taken["warm"]
    facts: dict[str, Any] = {
        "num_images": flags.num_train + flags.num_val,
        "warm_s": summary([sample.wall_s for sample in warm])[0],
        "warm_cpu_s": summary([sample.cpu_s for sample in warm])[0],
    }
    names = dict.fromkeys(name for phases in start.phases for name in phases)
    facts["phases_s"] = {
        name: round(summary([phases.get(name, 0.0) for phases in start.phases])[0], 3) for name in names
    }
    rows = []
    for size, name in peers.items():
        passes = taken[name]
        cpu_ratio, cpu_spread = summary([b.cpu_s / a.cpu_s for a, b in zip(warm, passes, strict=True)])
        rows.append(
            ratio_row(
                f"startup.warm/label_pass@{size}",
                [b.wall_s / a.wall_s for a, b in zip(warm, passes, strict=True)],
                goal=GOAL if size == 224 else None,
                cpu_ratio=cpu_ratio,
                cpu_spread=cpu_spread,
                label_pass_s=summary([sample.wall_s for sample in passes])[0],
                label_pass_cpu_s=summary([sample.cpu_s for sample in passes])[0],
                extrapolated_from=f"{num_labels * len(passes)} images, two passes each",
                **facts,
            )
        )
    passes = taken[peers[224]]
    rows.append(
        ratio_row(
            "startup.cold/label_pass@224",
            [summary([sample.wall_s for sample in passes])[0] / cold.wall_s],
            cold_s=cold.wall_s,
            cold_cpu_s=cold.cpu_s,
        )
    )
    return rows


if __name__ == "__main__":
    sys.exit(main())
