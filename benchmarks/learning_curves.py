"""Learning curves for simulated sweeps: drawn from a model, or recorded in a run folder or a CSV.

The model, for one group with learning rates half a decade apart: after epoch e of E the score is

    floor + (final - floor) * (1 - exp(-e / tau)) / (1 - exp(-E / tau)) + noise * (1 - 0.7 * e / E)

final = top - fall * d**2 for the rate that lies d steps from the best one, plus the luck of a seed; the best rate lies
anywhere within the grid. tau grows `slowness`-fold for each step to a smaller rate: small rates start slowly and may
win, which is what early stopping can get wrong.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from fairface_core.files.folder import open_folder
from fairface_core.trial.reports import constant_of
from sweep.policy.simulate import Curve
from sweep.run_folder.records import read_run

COLUMNS = ("group", "config_id", "seed", "epoch", "mean_f1", "constant_mean_f1")


def draw_curves(
    rng: np.random.Generator,
    *,
    num_groups: int = 4,
    num_rates: int = 3,
    num_seeds: int = 3,
    epochs: int = 20,
    slowness: float = 1.5,
    luck: float = 0.004,
    noise: float = 0.004,
) -> list[Curve]:
    """Draw the curves of one sweep.

    Args:
        rng: Where they come from.
        num_groups: Backbones; their epochs last 1, 1.7, 2.4 ... units.
        num_rates: Learning rates a backbone, from small to large.
        num_seeds: Seeds a rate.
        epochs: Full budget.
        slowness: How many times longer tau is at the next smaller rate.
        luck: Standard deviation of the final score over seeds.
        noise: Standard deviation of a score over epochs, at the start.
    """
    epoch = np.arange(1, epochs + 1)
    curves = []
    for group in range(num_groups):
        top, floor = rng.uniform(0.68, 0.76), rng.uniform(0.25, 0.35)
        best_rate, fall, tau_of_best = rng.uniform(0, num_rates - 1), rng.uniform(0.004, 0.02), rng.uniform(1.5, 4)
        for rate in range(num_rates):
            steps = rate - best_rate
            tau = tau_of_best * slowness**-steps
            shape = (1 - np.exp(-epoch / tau)) / (1 - math.exp(-epochs / tau))
            for seed in range(num_seeds):
                final = top - fall * steps**2 + rng.normal(0, luck)
                scores = floor + (final - floor) * shape + rng.normal(0, noise, epochs) * (1 - 0.7 * epoch / epochs)
                name = f"g{group}-r{rate}"
                curves.append(
                    Curve(f"{name}-s{seed}", f"g{group}", name, seed, tuple(map(float, scores)), 1 + 0.7 * group)
                )
    return curves


def read_curves(path: Path) -> list[Curve]:
    """Read curves from a run folder (its completed and diverged trials) or from a CSV with the columns of `COLUMNS`.

    Raises:
        ValueError: A trial stopped early, so that its curve is not known: record with `--scheduler fifo`.
    """
    return _from_csv(path) if path.is_file() else _from_run(path)


def _from_csv(path: Path) -> list[Curve]:
    scores: dict[tuple[str, str, int], list[float]] = {}
    constant = 0.0
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(line for line in file if not line.startswith("#")):
            trial = scores.setdefault((row["group"], row["config_id"], int(row["seed"])), [])
            if int(row["epoch"]) != len(trial) + 1:
                raise ValueError(f"{path}: {row['config_id']} seed {row['seed']}: epoch {row['epoch']} out of order")
            trial.append(float(row["mean_f1"]))
            constant = float(row["constant_mean_f1"])
    curves = [Curve(f"{c}-s{seed}", g, c, seed, tuple(s), constant=constant) for (g, c, seed), s in scores.items()]
    return _whole(curves, max((len(curve.scores) for curve in curves), default=0), str(path))


def _from_run(path: Path) -> list[Curve]:
    run = read_run(open_folder(path))
    curves = []
    for record in run.records:
        scores = [float(epoch["mean_f1"]) for epoch in record.history]
        if record.status == "diverged":
            scores += [math.nan] * (run.epochs - len(scores))
        identity = (record.trial_id, record.group, record.config_id, record.seed)
        curves.append(Curve(*identity, tuple(scores), constant=constant_of(record.history)))
    return _whole(curves, run.epochs, str(path))


def _whole(curves: Sequence[Curve], epochs: int, where: str) -> list[Curve]:
    short = [curve.trial_id for curve in curves if len(curve.scores) != epochs]
    if short or not curves:
        raise ValueError(f"{where}: no full curve of {len(short)} of {len(curves)} trials, such as {short[:3]}")
    return sorted(curves, key=lambda curve: curve.seed)


def write_csv(curves: Sequence[Curve], path: Path) -> None:
    """Write curves as a CSV that `read_curves` reads."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for curve in curves:
            for epoch, score in enumerate(curve.scores, start=1):
                identity = [curve.group, curve.config_id, curve.seed, epoch]
                writer.writerow([*identity, f"{score:.6f}", f"{curve.constant:.6f}"])


def parts_of(
    curves: Sequence[Curve], num_configs: int, rng: np.random.Generator, count: int, *, num_groups: int = 4
) -> Iterator[list[Curve]]:
    """Yield sweeps made of a recorded grid: neighboring configurations of its groups, seeds in any order.

    Args:
        curves: A full grid, configurations in order of size.
        num_configs: Configurations a group.
        rng: Picks groups (again and again if there are fewer than asked for), neighbors and the order of the seeds.
        count: How many sweeps.
        num_groups: Groups a sweep.
    """
    grids: dict[str, dict[str, list[Curve]]] = {}
    for curve in curves:
        grids.setdefault(curve.group, {}).setdefault(curve.config_id, []).append(curve)
    names = list(grids)
    for _ in range(count):
        part = []
        picked = rng.permutation(max(len(names), num_groups))[:num_groups] % len(names)
        for place, pick in enumerate(picked):
            grid = list(grids[names[pick]].values())
            first = int(rng.integers(max(0, len(grid) - num_configs) + 1))
            order = rng.permutation(len(grid[0])).tolist()
            part += [
                replace(
                    trials[order[rank]],
                    trial_id=f"{place}-{trials[order[rank]].trial_id}",
                    group=f"{place}-{trials[order[rank]].group}",
                    config_id=f"{place}-{trials[order[rank]].config_id}",
                    seed=rank,
                )
                for trials in grid[first : first + num_configs]
                for rank in range(len(order))
            ]
        yield sorted(part, key=lambda curve: curve.seed)
