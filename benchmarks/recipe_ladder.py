"""What each ingredient of the recipe is worth on FairFace: a ladder of small sweeps, each beside the rung below it.

    python -m benchmarks.recipe_ladder --root ../shared/data/fairface_sample --storage runs/ladder

Each rung is a sweep of `search_spaces/recipe_ladder.yaml` (learning rates, three seeds) with the ingredients kept so far and
one more. The learning rate is chosen on validation, rung by rung. An ingredient is kept if the mean validation mean_f1 of
the chosen rate rises; the next rung then stands on it, else on the rung below. The test images (the whole val CSV, protocol
official) decide nothing: on them each rung is compared with the one it stands on, paired by image, with the intervals of a
leaderboard; the configurations of all rungs lend each other what they know of how seeds vary. Finished rungs are taken as they
are, so each ladder needs a storage of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from benchmarks.measure import machine
from fairface_core.files.folder import open_folder
from sweep.results.leaderboard import Configuration, build_board
from sweep.results.stats import Comparison, compare, holm
from sweep.run_folder.going_on import state_of
from sweep.run_folder.records import read_run

SPACE = Path("search_spaces/recipe_ladder.yaml")
# Stands on nothing; higher rates, as weights drawn at random need.
RANDOM = (
    "random weights",
    {"fixed.weights": "none", "fixed.weights_map": None, "space.lr": {"grid": [1e-3, 2e-3, 4e-3]}},
)
BASE: tuple[str, dict[str, Any]] = ("ImageNet weights", {})
INGREDIENTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("norm_momentum 0.1", {"fixed.norm_momentum": 0.1}),
    ("crop_scale_min 0.4", {"fixed.crop_scale_min": 0.4}),
    ("age_loss soft_labels", {"fixed.age_loss": "soft_labels"}),
    ("weighting none", {"fixed.weighting": "none"}),
    ("ema_decay 0.99", {"fixed.ema_decay": 0.99}),
    ("warmup_epochs 1", {"fixed.warmup_epochs": 1}),
    ("layer_decay 0.8", {"fixed.layer_decay": 0.8}),
    ("mixup 0.2", {"fixed.mixup": 0.2}),
    ("random_erasing 0.25", {"fixed.random_erasing": 0.25}),
)


@dataclass(frozen=True)
class Rung:
    """One sweep and what won in it.

    Attributes:
        name: The ingredient that is new.
        typed: Keys and values that it has beyond the space.
        best: The configuration that validation chose.
        below: The rung that it stands on; None for the first two.
        kept: Whether the next one stands on it.
    """

    name: str
    typed: dict[str, Any]
    best: Configuration
    below: Rung | None
    kept: bool

    @property
    def val(self) -> float:
        """Mean validation mean_f1 over the seeds."""
        return fmean(self.best.val_scores())

    def against_below(self, others: Sequence[Rung]) -> Comparison | None:
        """Compare with the rung below on the test images; `others` lend what they know of seeds."""
        if self.below is None:
            return None
        compared = (self.best.config_id, self.below.best.config_id)
        lenders = [one.best.test_scores() for one in others if one.best.config_id not in compared]
        answers = [[scored.test for scored in one.best.scored] for one in (self, self.below)]
        return compare(*answers, names=(self.name, self.below.name), lenders=lenders)


def main(argv: Sequence[str] | None = None) -> None:
    """Climb the ladder and print one line a rung, as it is known; at the end the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="data folder")
    parser.add_argument("--storage", required=True, help="where the runs go, and are found again")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rungs", type=int, default=len(INGREDIENTS), help="ingredients to try, in order")
    parser.add_argument("set", nargs="*", metavar="KEY=VALUE", help="of every rung, as in sweep.run --set")
    arguments = parser.parse_args(argv)

    def run(name: str, typed: dict[str, Any]) -> Configuration:
        number = len(rungs)
        changes = [*arguments.set, *(f"{key}={json.dumps(value)}" for key, value in typed.items())]
        return _trained(arguments.root, arguments.storage, f"{number:02d}-{name.replace(' ', '-')}", changes)

    rungs: list[Rung] = []
    rungs.append(Rung(*RANDOM, run(*RANDOM), None, False))
    rungs.append(below := Rung(*BASE, run(*BASE), rungs[0], True))
    for name, new in INGREDIENTS[: arguments.rungs]:
        typed = {**below.typed, **new}
        best = run(name, typed)
        rungs.append(Rung(name, typed, best, below, fmean(best.val_scores()) > below.val))
        below = rungs[-1] if rungs[-1].kept else below
    if below.below not in (rungs[0], rungs[1]):  # else its own row says how far it is above the base
        rungs.append(Rung("best of the ladder", below.typed, below.best, rungs[1], True))
    rows = table(rungs)
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return
    print(machine())
    for row in rows:
        print("| " + " | ".join(str(value) for value in row.values()) + " |")


def table(rungs: Sequence[Rung]) -> list[dict[str, Any]]:
    """Return one row a rung; p-values are Holm-corrected over the rungs."""
    pairs = [one.against_below(rungs) for one in rungs]
    corrected = iter(holm([pair.p_value for pair in pairs if pair]))
    rows = []
    for one, pair in zip(rungs, pairs, strict=True):
        test = one.best.test_scores()
        rows.append(
            {
                "rung": one.name,
                "stands on": one.below.name if one.below else "–",
                "lr": f"{one.best.values['lr']:g}",
                "val mean_f1": f"{one.val:.3f}",
                "test mean_f1": f"{fmean(test):.3f} ± {stdev(test):.3f}",
                "test age F1": f"{fmean(one.best.test_scores('age_f1m')):.3f}",
                "test gender F1": f"{fmean(one.best.test_scores('gen_f1m')):.3f}",
                "difference": f"{pair.difference:+.3f} ({pair.low:+.3f} to {pair.high:+.3f})" if pair else "–",
                "p (Holm)": f"{next(corrected):.2g}" if pair else "–",
                "kept": "yes" if one.kept else "no",
            }
        )
    return rows


def _trained(root: str, storage: str, name: str, changes: Sequence[str]) -> Configuration:
    """Return the best configuration of a sweep, trained unless it is finished."""
    folder = Path(storage) / name
    command = [
        sys.executable, "-m", "sweep.run", "--space", str(SPACE), "--root", root, "--storage", storage, "--name", name,
    ]  # fmt: skip
    command += [part for change in changes for part in ("--set", change)]
    begun = folder.exists()
    if not begun or state_of(read_run(open_folder(str(folder)))) != "finished":
        subprocess.run([*command, *["--resume"] * begun], check=True, stdout=sys.stderr)
    board = build_board(read_run(open_folder(str(folder))))
    best = board.ranked[0]
    scores = f"val {fmean(best.val_scores()):.4f}, test {fmean(best.test_scores()):.4f}"
    print(f"{name}: lr {best.values['lr']:g}, {scores}", file=sys.stderr, flush=True)
    return best


if __name__ == "__main__":
    main()
