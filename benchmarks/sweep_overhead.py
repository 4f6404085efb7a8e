"""What a sweep costs beyond its trials: `python -m sweep.run`, wall time minus the trials' own.

    python -m benchmarks.sweep_overhead

The trials' own time is that of their `fit`, taken inside the workers and divided by the number that ran at once.
Everything else is overhead: Python and Ray starting, preflight, worker starts, scheduling, CSV, leaderboard, report.
With fake learning curves (`tests/sweep/fake_fit.py`, which writes real trial folders) and with a tiny real model.
`ratio` is the overhead per trial over the bar of 0.25 s; starting Ray is in it, so few trials carry more each.
The marginal rows compare the seconds per further trial from the first to the second and from the second to the third
size: 1 is linear. Scheduler decisions alone: `benchmarks.scheduler_decisions`.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.inputs import data_root
from benchmarks.measure import Row, parser, processor_s, ratio_row, say, show, summary
from benchmarks.timed_fit import TIMED_ENV, TIMES

BAR_S = 0.25
LINEAR = 1.25
_PROJECT = Path(__file__).resolve().parents[1]
_RUN = "import sys; from sweep.run import main; sys.exit(main(sys.argv[1:], fit='benchmarks.timed_fit:fit'))"
_FITS = {"fake": "tests.sweep.fake_fit:fit", "tiny": "fairface_core.training.fit:fit"}
_SPACE = """\
name: overhead
space:
  backbone: {{grid: [mobilenet_v3_small]}}
  seed: {{grid: {seeds}}}
fixed: {{epochs: {epochs}, batch_size: 16, image_size: 32, weights: none, device: cpu}}
scheduler: {{kind: fifo}}
resources: {{cpu: 1, gpu: 0, max_concurrent: {slots}}}
"""


class Overhead(NamedTuple):
    """What one sweep took.

    Attributes:
        overhead_s: Wall seconds minus the trials' own.
        wall_s: Wall seconds.
        overhead_cpu_s: Processor seconds of the driver and all that it started and ended, minus the trials' own.
    """

    overhead_s: float
    wall_s: float
    overhead_cpu_s: float


def measure_once(kind: str, num_trials: int, root: Path, work: Path, *, epochs: int, slots: int) -> Overhead:
    """Run one sweep and take the trials' own time off."""
    storage = Path(tempfile.mkdtemp(prefix=f"{kind}-{num_trials}-", dir=work))
    space = storage / "overhead.yaml"
    seeds = list(range(num_trials))
    space.write_text(_SPACE.format(seeds=seeds, epochs=epochs, slots=slots), encoding="utf-8")
    environment = {
        **os.environ,
        TIMED_ENV: _FITS[kind],
        "PYTHONPATH": str(_PROJECT),
        "FAIRFACE_CACHE_DIR": str(work / "cache"),
    }
    command = [sys.executable, "-c", _RUN, "--space", str(space), "--root", str(root), "--storage", str(storage)]
    cpu, began = processor_s(), time.perf_counter()
    run = subprocess.run(command, env=environment, cwd=_PROJECT, capture_output=True, text=True, check=False)
    wall_s, cpu_s = time.perf_counter() - began, processor_s() - cpu
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    folders = sorted((storage / "overhead" / "trials").iterdir())
    assert len(folders) == num_trials, (len(folders), num_trials)
    lines = [line for folder in folders for line in (folder / TIMES).read_text("utf-8").splitlines()]
    own_s, own_cpu_s = np.array([line.split() for line in lines], float).sum(axis=0)
    return Overhead(wall_s - own_s / slots, wall_s, cpu_s - own_cpu_s)


def measure(
    kind: str, counts: Sequence[int], root: Path, work: Path, *, rounds: int, epochs: int, slots: int
) -> list[Row]:
    """Measure sweeps of several sizes in turn."""
    taken: dict[int, list[Overhead]] = {count: [] for count in counts}
    for _ in range(rounds):
        for count in counts:
            say(f"sweep_overhead: {kind}, {count} trials")
            taken[count].append(measure_once(kind, count, root, work, epochs=epochs, slots=slots))
    extra = {count: np.array([one.overhead_s for one in values]) for count, values in taken.items()}
    cpu = {count: np.array([one.overhead_cpu_s for one in values]) for count, values in taken.items()}
    rows = [
        ratio_row(
            f"sweep_overhead.{kind}.{count}_trials",
            (extra[count] / count / BAR_S).tolist(),
            goal=1.0 if count >= 64 else None,
            sense="<=",
            overhead_s_per_trial=float(np.median(extra[count] / count)),
            overhead_s=float(np.median(extra[count])),
            overhead_cpu_s=float(np.median(cpu[count])),
            wall_s=summary([one.wall_s for one in taken[count]])[0],
            epochs=epochs,
            slots=slots,
        )
        for count in counts
    ]
    slopes = [(extra[large] - extra[small]) / (large - small) for small, large in itertools.pairwise(counts)]
    for slope, (small, large) in zip(slopes, itertools.pairwise(counts), strict=True):
        rows.append(
            ratio_row(
                f"sweep_overhead.{kind}.further_trial_{small}_to_{large}",
                (slope / BAR_S).tolist(),
                goal=1.0,
                sense="<=",
                s_per_further_trial=float(np.median(slope)),
                cpu_s_per_further_trial=float(np.median((cpu[large] - cpu[small]) / (large - small))),
            )
        )
    if len(slopes) > 1:
        growth = (slopes[-1] / slopes[0]).tolist()
        rows.append(ratio_row(f"sweep_overhead.{kind}.growth", growth, goal=LINEAR, sense="<="))
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    made = parser(__doc__, "sweep_overhead")
    made.add_argument("--kinds", nargs="+", choices=tuple(_FITS), default=list(_FITS))
    made.add_argument("--trials", type=int, nargs="+", default=[8, 64, 256], help="with fake learning curves")
    made.add_argument("--tiny_trials", type=int, nargs="+", default=[8, 64], help="with a tiny real model")
    made.add_argument("--epochs", type=int, default=2)
    made.add_argument("--slots", type=int, default=2, help="trials at a time")
    made.add_argument("--rounds", type=int, default=3)
    flags = made.parse_args(argv)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="fairface-overhead-", ignore_cleanup_errors=True) as temporary:
        work = Path(temporary)
        root = data_root("demo", work, num_train=32, num_val=45, image_px=32)
        for kind in flags.kinds:
            counts = flags.trials if kind == "fake" else flags.tiny_trials
            rows += measure(kind, counts, root, work, rounds=flags.rounds, epochs=flags.epochs, slots=flags.slots)
    show(rows, as_json=flags.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
