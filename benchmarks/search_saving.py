"""How soon TPE finds what a random search of 32 finds, on a surface recorded from real short trainings.

    python -m benchmarks.search_saving --json                                        # about three minutes on one core
    python -m benchmarks.search_saving --run-dir runs/sample_surface --record FILE   # writes the CSV of another surface

The surface is a grid over learning rate, weight decay and dropout (benchmarks/spaces/sample_surface.yaml), one training a point;
between its points the learning curves are interpolated (linear in the logarithms of learning rate and weight decay, and in dropout). Both
searches are the ones of a sweep: `Cell.draw` and `propose`, `worth_of` and `GroupedASHA`, one trial at a time unless said otherwise. Each run of TPE
is held against a random search with draws of its own, for the two begin with the same draws where they share a seed.
A row's ratio is the number of configurations that TPE needs until one is as good as the best of 32 at random, median over the runs;
a run that does not get there within 64 counts as 64.
"""

from __future__ import annotations

import argparse
import csv
import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.interpolate import RegularGridInterpolator

from benchmarks.measure import Row, parser, say, show, summary
from fairface_core.files.folder import open_folder
from sweep.plan.cells import Cell, cells
from sweep.plan.search import propose
from sweep.policy.asha import GroupedASHA
from sweep.policy.confirm import Worth, worth_of
from sweep.policy.states import TrialState
from sweep.run_folder.records import read_run
from sweep.space.load import load_space

RECORDED = Path(__file__).parent / "results" / "surface_sample_2cores_2026-11.csv"
SPACE = Path(__file__).parent / "spaces" / "sample_surface_search.yaml"
KEYS = {"lr": True, "weight_decay": True, "dropout": False}  # and whether its logarithm is what is even
OF_RANDOM, MOST, BAR = 32, 64, 20


@dataclass(frozen=True)
class Surface:
    """Learning curves between the points of a grid.

    Attributes:
        curves: Point `[n, 3]`, in the coordinates of the grid, to scores `[n, epochs]`.
        epochs: Epochs of each.
        points: How many were recorded.
        best: The best score at a point.
    """

    curves: RegularGridInterpolator
    epochs: int
    points: int
    best: float

    def scores(self, values: dict[str, Any]) -> tuple[float, ...]:
        """Return the learning curve of a configuration."""
        point = [math.log(values[key]) if log else values[key] for key, log in KEYS.items()]
        return tuple(map(float, self.curves(point)[0]))


def read_surface(path: Path) -> Surface:
    """Read a surface that `record` wrote."""
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    epochs = max(int(row["epoch"]) for row in rows)
    axes = [sorted({float(row[key]) for row in rows}) for key in KEYS]
    table: npt.NDArray[np.float64] = np.full((*map(len, axes), epochs), np.nan)
    for row in rows:
        place = tuple(axis.index(float(row[key])) for axis, key in zip(axes, KEYS, strict=True))
        table[(*place, int(row["epoch"]) - 1)] = float(row["mean_f1"])
    assert not np.isnan(table).any(), f"{path}: a point of the grid is missing"
    even = [np.log(axis) if log else np.array(axis) for axis, log in zip(axes, KEYS.values(), strict=True)]
    return Surface(RegularGridInterpolator(even, table), epochs, table[..., 0].size, float(table.max()))


def record(run_dirs: Sequence[str], path: Path) -> None:
    """Write the learning curves of the full runs of some sweeps as CSV."""
    found = [one for folder in run_dirs for one in read_run(open_folder(folder)).records if one.full_budget]
    found.sort(key=lambda one: [one.config[key] for key in KEYS])
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow([*KEYS, "seed", "epoch", "mean_f1"])
        for one in found:
            for epoch in one.history:
                table.writerow(
                    [*(one.config[key] for key in KEYS), one.seed, epoch["epoch"], f"{epoch['mean_f1']:.6f}"]
                )


def at_random(surface: Surface, cell: Cell, num_samples: int) -> list[float]:
    """Return the scores of a random search, in the order of its draws."""
    return [max(surface.scores(cell.draw(sample))) for sample in range(num_samples)]


def by_tpe(
    surface: Surface, cell: Cell, num_samples: int, *, workers: int = 1, asha: bool = False, tell: str = "pruned"
) -> tuple[list[float], int]:
    """Search one cell.

    Args:
        surface: What is searched.
        cell: The cell, whose space says how many configurations follow from no score.
        num_samples: How many are tried.
        workers: Trials at a time, all of which last alike and begin together; those under way are poor ones.
        asha: Whether ASHA stops some, by grace 1 and factor 2.
        tell: What is said of a stopped one: `pruned` as in a sweep; `last`: its score as if it were final; `nothing`.

    Returns:
        The best score of each that ran in full (of the others -1), in the order of proposal, and the epochs trained.
    """
    values, worths, scores, epochs = list[dict[str, Any]](), list[Worth](), list[float](), 0
    rungs = GroupedASHA(epochs=surface.epochs, grace_epochs=1 if asha else surface.epochs, reduction_factor=2)
    known = cell.known(None)
    busy: list[tuple[float, int, Worth]] = []  # when it is over, which, and what it then says
    clock = 0.0
    for number in range(num_samples):
        if len(busy) == workers:
            clock, place, worth = heapq.heappop(busy)
            worths[place] = worth
        told = list(zip(values, worths, strict=True))
        fresh = known[number] if number < len(known) else cell.fresh(values, propose(cell, told, surface.epochs))
        assert fresh is not None, "floats do not run out"
        state = TrialState(str(number), "all", str(number), 1, True)
        for epoch, score in enumerate(surface.scores(fresh), start=1):
            state, epochs = replace(state, scores=(*state.scores, score)), epochs + 1
            if rungs.on_epoch(str(number), "all", epoch, score) == "stop":
                state = replace(state, status="stopped", decisions=rungs.decisions_of(str(number)))
                break
        else:
            state = replace(state, status="completed")
        worth = worth_of([state])
        scores.append(max(state.scores) if state.status == "completed" else -1.0)
        if state.status == "stopped" and tell != "pruned":
            worth = replace(worth, epochs=surface.epochs) if tell == "last" else Worth(None, 0, True, False)
        values.append(fresh)
        worths.append(Worth(None, 0, False, False))
        heapq.heappush(busy, (clock + len(state.scores), number, worth))
    return scores, epochs


def needed(scores: Sequence[float], target: float) -> int:
    """Return how many configurations were tried until one was as good as the target; all if none was."""
    return next((number for number, score in enumerate(scores, start=1) if score >= target), len(scores))


def rows(surface: Surface, arguments: argparse.Namespace) -> list[Row]:
    """Run every arm against the same random searches, and each against itself."""
    spec = load_space(SPACE)

    def cell_of(sample_seed: int, startup: int | None = None) -> Cell:
        search = spec.search if startup is None else spec.search.model_copy(update={"startup": startup})
        return cells(spec.model_copy(update={"sample_seed": sample_seed, "search": search}))[0]

    runs = range(arguments.runs)
    rivals = [at_random(surface, cell_of(10_000 + run), MOST) for run in runs]
    targets = [max(scores[:OF_RANDOM]) for scores in rivals]
    arms: dict[str, dict[str, Any]] = {"tpe": {}}
    if not arguments.only_tpe:
        arms |= {f"tpe.startup_{n}": {"startup": n} for n in (5, 16)}
        arms |= {f"tpe.workers_{n}": {"workers": n} for n in (2, 4)}
        arms |= {f"tpe.asha.{tell}": {"asha": True, "tell": tell} for tell in ("pruned", "last", "nothing")}
    facts = {"points": surface.points, "best_point": surface.best, "random_best_of_32": float(np.median(targets))}
    again = [at_random(surface, cell_of(20_000 + run), MOST) for run in runs]
    made = [_row("random", again, targets, facts)]
    for name, how in arms.items():
        say(name)
        startup = how.pop("startup", None)
        found = [by_tpe(surface, cell_of(run, startup), MOST, **how) for run in runs]
        spent = float(np.mean([epochs for _, epochs in found])) / (MOST * surface.epochs)
        made.append(_row(name, [scores for scores, _ in found], targets, {"epochs_of_full": spent}))
    return made


def _row(name: str, found: Sequence[Sequence[float]], targets: Sequence[float], facts: dict[str, Any]) -> Row:
    counts = [needed(scores, target) for scores, target in zip(found, targets, strict=True)]
    median, spread = summary(counts)
    low, high = np.quantile(counts, [0.25, 0.75])
    best = {f"best_of_{n}": float(np.median([max(scores[:n]) for scores in found])) for n in (10, 20, 32)}
    share = float(np.mean([count <= BAR for count in counts]))
    typical = float(np.median([needed(scores, float(np.median(targets))) for scores in found]))
    return Row(
        f"search_saving.{name}", median, BAR if name == "tpe" else None, len(counts), spread, "<=",
        {"quarter": float(low), "three_quarters": float(high), "within_20": share, "to_the_median_target": typical, **best, **facts},
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Search and print, or write down a surface."""
    flags = parser(__doc__, "search_saving")
    flags.add_argument("--runs", type=int, default=50, help="runs of each search")
    flags.add_argument("--only-tpe", action="store_true", help="without other settings, several workers and ASHA")
    flags.add_argument("--surface", type=Path, default=RECORDED, help="CSV of the surface")
    flags.add_argument("--run-dir", nargs="+", help="run folders to record a surface of")
    flags.add_argument("--record", type=Path, metavar="CSV", help="where to")
    arguments = flags.parse_args(argv)
    if arguments.record:
        record(arguments.run_dir, arguments.record)
        return 0
    show(rows(read_surface(arguments.surface), arguments), as_json=arguments.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
