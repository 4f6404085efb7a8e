"""One small sweep here and in a plain Ray Tune script around the original's loop.

    python -m benchmarks.plain_tune        # 2 backbones x 3 learning rates, 2,000 images, 64 px, 6 epochs, FIFO

Same images, same backbones, same learning rates, same epochs, no early stopping, one CPU a trial; both as a user starts
them, Ray included, with no cache there. Ours also writes a resumable state, predictions, reports and a leaderboard.

The other rows ask what share of our wall time the work itself takes: all epochs and evaluations at the rates that the
same loops reach on one constant uint8 batch (as in `step`), measured in the same rounds by as many processes as trials
run at once. `allowed` divides that work by the slots, as if a trial could be cut; `schedule` is the shortest time in which
whole trials, each on its own CPU, can be done. `--arms ours allowed` measures these rows alone.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.inputs import data_root
from benchmarks.loops import Job, Loops
from benchmarks.measure import Row, Sample, interleave, parser, processor_s, ratio_row, say, show, summary
from fairface_core.config.train_config import make_config
from fairface_core.dataset.prepare import prepare_data

SPEED_GOAL, SHARE_GOAL = 1.5, 0.85
_PROJECT = Path(__file__).resolve().parents[1]
_SPACE = """\
name: plain
space:
  backbone: {{grid: {backbones}}}
  lr: {{grid: {lrs}}}
fixed: {{epochs: {epochs}, batch_size: {batch_size}, image_size: {image_size}, weights: none, device: cpu, seed: 42}}
data: {{limit_train: {num_train}, limit_val: {num_val}}}
scheduler: {{kind: fifo}}
resources: {{cpu: 1, gpu: 0}}
"""


class Contest:
    """Both sweeps on one set of images."""

    def __init__(self, flags: argparse.Namespace, root: Path, work: Path) -> None:
        self.flags, self.root, self.work = flags, root, work
        self.turn = 0
        self.schedules: list[float] = []
        sizes = {"limit_train": flags.num_train, "limit_val": flags.num_val}
        config = make_config(
            {**sizes, "root": str(root), "backbone": flags.backbones[0], "image_size": flags.image_size,
             "cache_dir": str(work / "cache")}
        )  # fmt: skip
        data = prepare_data(config)
        splits = {"train": data.train, "val": data.val, "test": data.test}
        self.num = {name: len(split) for name, split in splits.items()}
        self.rows = work / "rows.json"
        listed = {
            name: {
                "paths": split.rows.path.tolist(),
                "age": split.rows.age.tolist(),
                "gender": split.rows.gender.tolist(),
            }
            for name, split in splits.items()
        }
        self.rows.write_text(json.dumps(listed), encoding="utf-8")
        self.environment = {**os.environ, "PYTHONPATH": str(_PROJECT), "RAY_USAGE_STATS_ENABLED": "0"}
        self.environment.pop("OMP_NUM_THREADS", None)

    def ours(self) -> Sample:
        """Run `python -m sweep.run`."""
        flags = self.flags
        folder = self._fresh("ours")
        space = folder / "plain.yaml"
        text = _SPACE.format(num_train=flags.num_train, num_val=flags.num_val, **self._shared())
        space.write_text(text, encoding="utf-8")
        command = ["-m", "sweep.run", "--space", space, "--root", self.root, "--storage", folder]
        return self._timed(command, {"FAIRFACE_CACHE_DIR": str(folder / "cache")})

    def plain(self) -> Sample:
        """Run the plain script."""
        flags = self.flags
        command: list[Any] = ["-m", "benchmarks.ray_script", "--rows", self.rows, "--storage", self._fresh("plain")]
        command += ["--backbones", *flags.backbones, "--lrs", *flags.lrs, "--epochs", flags.epochs]
        command += ["--image_size", flags.image_size, "--batch_size", flags.batch_size]
        return self._timed(command, {})

    def allowed(self) -> Sample:
        """Return the wall time that constant-batch rates would need for all trials, as a sample of one unit.

        What whole trials would need is added to `schedules`.
        """
        flags = self.flags
        command = [sys.executable, "-m", "benchmarks.plain_tune", "--rates", "--work", str(self.work)]
        command += ["--root", str(self.root), "--backbones", *flags.backbones, "--image_size", str(flags.image_size)]
        command += ["--batch_size", str(flags.batch_size)]
        environment = {**self.environment, "OMP_NUM_THREADS": "1"}
        with contextlib.ExitStack() as stack:
            running = [
                stack.enter_context(
                    subprocess.Popen(
                        [*command, "--slot", str(slot)], env=environment, cwd=_PROJECT, stdout=subprocess.PIPE
                    )
                )
                for slot in range(flags.slots)
            ]
            for process in running:
                stack.callback(process.kill)
            told = [json.loads(process.communicate()[0]) for process in running]
        trials = [
            sum(self._trial_s(rates[backbone]) for rates in told) / len(told)
            for backbone in flags.backbones
            for _ in flags.lrs
        ]
        self.schedules.append(shortest_schedule(trials, flags.slots))
        return Sample(1, sum(trials) / flags.slots, 1.0)

    def _trial_s(self, rates: Mapping[str, float]) -> float:
        epochs = self.flags.epochs
        scored = self.num["val"] * epochs + self.num["test"]
        return self.num["train"] * epochs / rates["train"] + scored / rates["evaluation"]

    def _shared(self) -> dict[str, Any]:
        flags = self.flags
        return {
            "backbones": f"[{', '.join(flags.backbones)}]",
            "lrs": f"[{', '.join(flags.lrs)}]",
            "epochs": flags.epochs,
            "batch_size": flags.batch_size,
            "image_size": flags.image_size,
        }

    def _fresh(self, name: str) -> Path:
        self.turn += 1
        folder = self.work / f"{name}-{self.turn}"
        folder.mkdir()
        return folder

    def _timed(self, command: Sequence[Any], extra: Mapping[str, str]) -> Sample:
        say(f"plain_tune: {command[1]}")
        cpu, began = processor_s(), time.perf_counter()
        run = subprocess.run(
            [sys.executable, *map(str, command)],
            env={**self.environment, **extra}, cwd=_PROJECT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
        return Sample(1, time.perf_counter() - began, processor_s() - cpu)


def shortest_schedule(seconds: Sequence[float], slots: int) -> float:
    """Return the least time in which whole trials can be done, every way of sharing them out tried."""
    reached = {(0.0,) * slots}
    for trial_s in seconds:
        reached = {
            tuple(sorted(round(busy + trial_s * (place == slot), 6) for place, busy in enumerate(loads)))
            for loads in reached
            for slot in range(slots)
        }
    return min(max(loads) for loads in reached)


def constant_rates(flags: argparse.Namespace, root: Path, work: Path) -> dict[str, dict[str, float]]:
    """Return images/s of training and evaluation on constant batches, by backbone, in this process."""
    rates = {}
    for backbone in flags.backbones:
        job = Job(root, work / f"slot-{flags.slot}", backbone, 3, flags.batch_size, flags.image_size, "cpu")
        loops = Loops(job)
        taken = interleave({"train": loops.constant, "evaluation": loops.constant_evaluation}, rounds=3)
        rates[backbone] = {name: summary([sample.rate for sample in samples])[0] for name, samples in taken.items()}
    return rates


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    made = parser(__doc__, "plain_tune")
    made.add_argument("--root", default=None, help="data folder, or demo [the sample, else drawn faces]")
    made.add_argument("--backbones", nargs="+", default=["resnet18", "mobilenet_v3_small"])
    made.add_argument("--lrs", nargs="+", default=["1e-4", "3e-4", "1e-3"])
    made.add_argument("--num_train", type=int, default=2000)
    made.add_argument("--num_val", type=int, default=500, help="of the val CSV, before it is split")
    made.add_argument("--image_size", type=int, default=64)
    made.add_argument("--batch_size", type=int, default=128)
    made.add_argument("--epochs", type=int, default=6, help="those of search_spaces/sample_scratch.yaml")
    made.add_argument("--slots", type=int, default=os.cpu_count(), help="trials that run at once")
    made.add_argument("--rounds", type=int, default=5)
    made.add_argument("--arms", nargs="+", choices=("ours", "plain", "allowed"), default=["ours", "plain", "allowed"])
    for name in ("rates", "work", "slot"):
        made.add_argument(f"--{name}", default=None, nargs="?", const=True, help=argparse.SUPPRESS)
    flags = made.parse_args(argv)
    if flags.rates:
        print(json.dumps(constant_rates(flags, Path(flags.root), Path(flags.work))))
        return 0
    with tempfile.TemporaryDirectory(prefix="fairface-plain-", ignore_cleanup_errors=True) as temporary:
        work = Path(temporary)
        root = data_root(flags.root, work, image_px=flags.image_size)
        rows = measure(Contest(flags, root, work), flags.rounds)
    show(rows, as_json=flags.json)
    return 0


def measure(contest: Contest, rounds: int) -> list[Row]:
    """Run both sweeps and the rates in turn."""
    arms = {name: getattr(contest, name) for name in contest.flags.arms}
    taken = interleave(arms, rounds=rounds, warm_up=0)
    wall = {name: [sample.wall_s for sample in samples] for name, samples in taken.items()}
    facts = {f"{name}_s": summary(seconds)[0] for name, seconds in wall.items()}
    facts |= {"images": contest.num, "epochs": contest.flags.epochs}
    wall["schedule"] = contest.schedules
    rows = []
    for name, goal in (("plain", SPEED_GOAL), ("allowed", SHARE_GOAL), ("schedule", SHARE_GOAL)):
        if "ours" in wall and wall.get(name):
            ratios = [other / own for own, other in zip(wall["ours"], wall[name], strict=True)]
            rows.append(ratio_row(f"plain_tune.{name}/ours", ratios, goal=goal, **facts))
    return rows


if __name__ == "__main__":
    sys.exit(main())
