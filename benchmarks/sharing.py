"""Memory of the image data when 1, 2 and 4 trials train at once: the goal is that of one.

    python -m benchmarks.sharing          # Linux only: it reads /proc/PID/smaps

Each trial is a process of its own that maps the cache and trains an epoch over all of it, so every page has been used;
then all of them wait and their maps are read. The proportional set size (PSS) counts a page that N processes share as
1/N for each: its sum over the trials is what the machine really spends on images. The goal is that of one trial.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.inputs import data_root
from benchmarks.loops import Job
from benchmarks.measure import Row, parser, ratio_row, say, show, summary
from fairface_core.config.train_config import make_config
from fairface_core.dataset.prepare import prepare_data
from fairface_core.training.fit import fit
from fairface_core.trial.reports import EpochReport

# A page that is read for the first time while maps are being read may count twice.
GOAL = 1.02


def mapped_bytes(pid: int | str, folder: Path) -> dict[str, int]:
    """Return `Pss` and `Rss` of a process's mappings of files in a folder, and `other`: the PSS of all others."""
    found = {"Pss": 0, "Rss": 0, "other": 0}
    ours = False
    with Path(f"/proc/{pid}/smaps").open(encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            key, _, value = line.partition(":")
            if "-" in key.partition(" ")[0] and not value.endswith("kB\n"):
                ours = f" {folder}/" in line
            elif key in ("Pss", "Rss"):
                size = int(value.split()[0]) * 1024
                if ours:
                    found[key] += size
                elif key == "Pss":
                    found["other"] += size
    return found


def together(job: Job, num_trials: int, cache: Path) -> dict[str, int]:
    """Train so many trials at once; return the sums of `mapped_bytes` after an epoch of each."""
    trials = []
    for number in range(num_trials):
        config = job.config().replace(out_dir=str(job.work / f"trial-{number}"), seed=number)
        command = [sys.executable, "-m", "benchmarks.sharing", "--child", config.model_dump_json()]
        trials.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    try:
        for trial in trials:
            assert trial.stdout is not None
            assert trial.stdout.readline() == "trained\n", "a trial ended before its first epoch"
        maps = [mapped_bytes(trial.pid, cache) for trial in trials]
    finally:
        for trial in trials:
            trial.communicate("")
    return {key: sum(one[key] for one in maps) for key in maps[0]}


def child(config_json: str) -> None:
    """Train one epoch, say so, and wait until stdin ends."""

    def wait(_: EpochReport) -> None:
        print("trained", flush=True)
        sys.stdin.read()

    fit(make_config(json.loads(config_json)), on_epoch=wait)


def measure(job: Job, *, counts: Sequence[int], rounds: int) -> list[Row]:
    """Measure each number of trials, in turn."""
    data = prepare_data(job.config())
    taken: dict[int, list[dict[str, int]]] = {count: [] for count in counts}
    for turn in range(rounds):
        for count in (*counts[turn % len(counts) :], *counts[: turn % len(counts)]):
            say(f"sharing: {count} trials")
            taken[count].append(together(job, count, data.cache.directory))
    mib = 2**20
    return [
        ratio_row(
            f"sharing.{count}_trials/one",
            [many["Pss"] / one["Pss"] for many, one in zip(taken[count], taken[counts[0]], strict=True)],
            goal=GOAL,
            sense="<=",
            image_pss_mib=summary([sums["Pss"] / mib for sums in taken[count]])[0],
            image_rss_mib=summary([sums["Rss"] / mib for sums in taken[count]])[0],
            other_pss_mib=summary([sums["other"] / mib for sums in taken[count]])[0],
            cache_mib=data.cache.images.nbytes / mib,
        )
        for count in counts
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    made = parser(__doc__, "sharing")
    made.add_argument("--root", default=None, help="data folder, or demo [the sample, else drawn faces]")
    made.add_argument("--backbone", default="mobilenet_v3_small")
    made.add_argument("--image_size", type=int, default=64)
    made.add_argument("--num_images", type=int, default=2048, help="training images")
    made.add_argument("--batch_size", type=int, default=128)
    made.add_argument("--trials", type=int, nargs="+", default=[1, 2, 4])
    made.add_argument("--rounds", type=int, default=5)
    made.add_argument("--child", default=None, help="a trial's config; used by the program itself")
    flags = made.parse_args(argv)
    if flags.child:
        child(flags.child)
        return 0
    # Trials share the cores.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory(prefix="fairface-sharing-") as temporary:
        work = Path(temporary)
        root = data_root(flags.root, work, image_px=flags.image_size)
        steps = max(1, flags.num_images // flags.batch_size)
        job = Job(root, work, flags.backbone, steps, flags.batch_size, flags.image_size, "cpu", {"epochs": 1})
        rows = measure(job, counts=flags.trials, rounds=flags.rounds)
    show(rows, as_json=flags.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
