"""What ASHA with a bracket per backbone and a confirm phase saves, and what it costs in score.

    python -m benchmarks.asha_saving                                       # simulated curves
    python -m benchmarks.asha_saving --run-dir benchmarks/results/curves_pretrained_2cores_2026-11.csv
    python -m benchmarks.asha_saving --run-dir runs/<name>                 # a sweep made with --scheduler fifo

Known curves go through the real scheduler and the real confirm policy (`sweep.policy.simulate`), so an epoch that is not
spent there is one that a sweep does not train. `ratio` is the epochs of all full grids over the epochs spent, confirm
runs included; the spread is that of single sweeps. Regret is what the winner's mean best score over all seeds, at full
budget, lacks against the best configuration's of the full grid; a row each. Sweeps of recorded curves are drawn from
one grid: neighboring configurations of each group, seeds in any order. `--compare` adds the same sweeps in the order of
the plan, in random order, with one bracket over all backbones, and without noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.learning_curves import draw_curves, parts_of, read_curves
from benchmarks.measure import Row, not_measured, parser, say, show, summary
from sweep.policy.simulate import Curve, plan_states, simulate

GOALS = {None: 1.7, 1: 2.2}
REGRET_GOAL = 0.005


def regrets(curves: Sequence[Curve], winners: Iterable[str]) -> list[float]:
    """Return for each winner what it lacks against the best configuration of its group, at full budget."""
    best: dict[tuple[str, str], list[float]] = {}
    for curve in curves:
        best.setdefault((curve.group, curve.config_id), []).append(curve.best)
    mean = {key: float(np.mean(scores)) for key, scores in best.items()}
    top = {group: max(score for (g, _), score in mean.items() if g == group) for group, _ in mean}
    return [
        top[group] - score for winner in winners for (group, config_id), score in mean.items() if config_id == winner
    ]


def rows_of(
    name: str,
    sweeps: Sequence[Sequence[Curve]],
    *,
    explore_seeds: int | None,
    grace_epochs: int,
    reduction_factor: float,
    num_slots: int,
    goal: float | None,
    in_plan_order: bool = False,
) -> list[Row]:
    """Simulate sweeps and return a row for the saving and one for the regret."""
    full, spent, lacks = [], [], []
    for curves in sweeps:
        out = simulate(
            curves,
            plan_states(curves, explore_seeds=explore_seeds),
            grace_epochs=grace_epochs,
            reduction_factor=reduction_factor,
            num_slots=num_slots,
            in_plan_order=in_plan_order,
        )
        full.append(len(curves) * len(curves[0].scores))
        spent.append(out.num_epochs)
        winners = [choice.winner for choice in out.choices.values() if choice.winner is not None]
        lacks.append(float(np.mean(regrets(curves, winners))))
    ratios = np.array(full) / np.array(spent)
    low, median, high = np.quantile(ratios, [0.05, 0.5, 0.95]).tolist()
    saving = Row(
        f"asha_saving.{name}",
        sum(full) / sum(spent),
        goal,
        len(sweeps),
        summary(ratios.tolist())[1],
        facts={"median": median, "p05": low, "p95": high, "trials": len(sweeps[0]), "epochs": len(sweeps[0][0].scores)},
    )
    regret = Row(
        f"asha_saving.{name}.regret",
        float(np.mean(lacks)),
        None if goal is None else REGRET_GOAL,
        len(lacks),
        sense="<=",
        facts={"unit": "mean_f1", "p95": float(np.quantile(lacks, 0.95)), "max": max(lacks)},
    )
    return [saving, regret]


def main(argv: Sequence[str] | None = None) -> int:
    """Simulate and print."""
    arguments = parser(__doc__, "asha_saving")
    arguments.add_argument("--run-dir", type=Path, help="recorded curves: a run folder, or a CSV")
    arguments.add_argument("--sweeps", type=int, default=200, help="simulated sweeps a row")
    arguments.add_argument("--rates", type=int, nargs="+", default=[3, 4, 6], help="learning rates a backbone")
    arguments.add_argument("--epochs", type=int, default=20, help="budget of simulated curves")
    arguments.add_argument("--slowness", type=float, default=1.5, help="how much slower the next smaller rate starts")
    arguments.add_argument("--grace", type=int, default=3, help="grace epochs")
    arguments.add_argument("--factor", type=float, default=3, help="reduction factor")
    arguments.add_argument("--slots", type=int, default=2, help="trials side by side")
    arguments.add_argument("--compare", action="store_true", help="other orders, one bracket over all, no noise")
    arguments.add_argument("--seed", type=int, default=0)
    args = arguments.parse_args(argv)
    recorded = read_curves(args.run_dir) if args.run_dir else None
    source = "recorded" if recorded else "simulated"
    rows: list[Row] = []
    for num_rates in args.rates:
        if recorded and num_rates > max(len({c.config_id for c in recorded if c.group == g.group}) for g in recorded):
            rows.append(not_measured(f"asha_saving.recorded.{num_rates}_rates", "the recorded grid is smaller"))
            continue

        def draw(noise: float = 0.004, num_rates: int = num_rates) -> list[list[Curve]]:
            rng = np.random.default_rng([args.seed, num_rates])
            if recorded:
                return list(parts_of(recorded, num_rates, rng, args.sweeps))
            return [
                draw_curves(
                    rng, num_rates=num_rates, epochs=args.epochs, slowness=args.slowness, noise=noise, luck=noise
                )
                for _ in range(args.sweeps)
            ]

        sweeps = draw()
        for explore_seeds, goal in GOALS.items():
            seeds = "one_seed" if explore_seeds else "all_seeds"
            name = f"{source}.{num_rates}_rates.{seeds}"
            say(name)

            def add(
                what: str, made: Sequence[Sequence[Curve]], explore_seeds: int | None = explore_seeds, **changes: object
            ) -> None:
                settings = {
                    "explore_seeds": explore_seeds,
                    "grace_epochs": args.grace,
                    "reduction_factor": args.factor,
                    "num_slots": args.slots,
                    "goal": None,
                }
                rows.extend(rows_of(what, made, **{**settings, **changes}))

            add(name, sweeps, goal=goal)
            if args.compare:
                shuffle = np.random.default_rng(args.seed).permutation
                add(f"{name}.in_plan_order", sweeps, in_plan_order=True)
                add(f"{name}.in_random_order", [shuffled(s, shuffle) for s in sweeps], in_plan_order=True)
                add(f"{name}.one_bracket", [[replace(c, group="all") for c in s] for s in sweeps])
                if not recorded:
                    add(f"{name}.no_noise", draw(noise=0.0))
    show(rows, as_json=args.json)
    return 0


def shuffled(curves: Sequence[Curve], permutation: Callable[[int], np.ndarray]) -> list[Curve]:
    """Return the trials in a random order."""
    return [curves[int(i)] for i in permutation(len(curves))]


if __name__ == "__main__":
    raise SystemExit(main())
