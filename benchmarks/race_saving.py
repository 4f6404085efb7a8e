"""What a race saves, confirm included, and what it costs in score, on simulated and on recorded curves.

    python -m benchmarks.race_saving                        # 200 sweeps a row: about 4 minutes on one core
    python -m benchmarks.race_saving --only finetuned       # one network
    python -m benchmarks.race_saving --settle --rates 3     # with `confirm: settle`

The rule's constants were chosen on simulated curves and on those of a stand-in that is no longer here; the recorded networks are reports
(but for the gap at the full budget, which only a network that learns late ever meets, and which was chosen on the one recorded),
and `pretrained` was recorded last, when nothing was left to choose.
`ratio` of a saving is the epochs of all full grids over the epochs spent; its `wall` the same of time with `--slots`
trials side by side. Regret is what the winner's mean best score over all seeds, at full budget, lacks against the best
configuration's of the full grid: the mean over sweeps, and the worst single sweep. The ASHA rows run the same sweeps with
all seeds exploring. The recorded networks give few different sweeps: neighboring rates, seeds in any order, four groups drawn
from one grid; 200 of them are not independent. `field` has one backbone from each recorded network; in `simulated_clear` one backbone's best
rate is 0.05 better than any other's.

`--settle` adds rows: the same races with the winners' seeds in rounds. Its regret is that of the backbone that validation puts first, against the
best backbone with all its seeds; `confirm_true` beside it is the same with all seeds run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.asha_saving import regrets
from benchmarks.learning_curves import draw_curves, parts_of, read_curves
from benchmarks.measure import Row, parser, say, show, summary
from sweep.policy.simulate import Curve, plan_states, simulate
from sweep.policy.states import SETTLE

RESULTS = Path(__file__).parent / "results"
SAVING_GOALS = {3: 2.4, 4: 3.0, 6: 3.5}
MEAN_REGRET_GOAL, WORST_REGRET_GOAL = 0.003, 0.02
# Of race and settle together, at 3 rates: recorded networks, and one clear winner.
SETTLE_GOAL, CLEAR_GOAL = 2.9, 3.5
CLEAR_LEAD = 0.05
# Name -> file, group and validation images.
RECORDED = {
    "pretrained": ("curves_pretrained_2cores_2026-11.csv", "timm/tf_efficientnet_lite0", 2_000),
    "finetuned": ("curves_finetuned_2cores_2026-11.csv", "mobilenet_v3_small", 2_000),
    "scratch_resnet18": ("curves_sample_2cores_2026-11.csv", "resnet18", 2_000),
    "scratch_mobilenet": ("curves_sample_2cores_2026-11.csv", "mobilenet_v3_small", 2_000),
}
# A full FairFace validation split.
_SIMULATED_VAL_IMAGES = 8_763


def recorded(name: str) -> list[Curve]:
    """Return one network's curves."""
    file, group, val_images = RECORDED[name]
    curves = [curve for curve in read_curves(RESULTS / file) if curve.group == group]
    return [replace(curve, val_images=val_images) for curve in curves]


def sweeps_of(name: str, num_rates: int, count: int, seed: int, epochs: int) -> Iterator[list[Curve]]:
    """Yield sweeps of four groups with this many learning rates each."""
    rng = np.random.default_rng([seed, num_rates])
    if name == "field":
        for _ in range(count):
            parts = [(n, next(parts_of(recorded(n), num_rates, rng, 1, num_groups=1))) for n in RECORDED]
            curves = [replace(c, trial_id=f"{n}-{c.trial_id}", group=n, config_id=f"{n}-{c.config_id}")
                      for n, part in parts for c in part]  # fmt: skip
            yield sorted(curves, key=lambda curve: curve.seed)
    elif name == "simulated_clear":
        for _ in range(count):
            yield _with_a_clear_winner(draw_curves(rng, num_rates=num_rates, epochs=epochs))
    elif name.startswith("simulated"):
        harder = {"slowness": 2.0, "noise": 0.008, "luck": 0.008} if name == "simulated_harder" else {}
        for _ in range(count):
            drawn = draw_curves(rng, num_rates=num_rates, epochs=epochs, **harder)
            yield [replace(curve, val_images=_SIMULATED_VAL_IMAGES) for curve in drawn]
    else:
        yield from parts_of(recorded(name), num_rates, rng, count)


def _with_a_clear_winner(curves: Sequence[Curve]) -> list[Curve]:
    """Lower all backbones but the best one so that its lead is `CLEAR_LEAD`."""
    top: dict[str, float] = {}
    for curve in curves:
        top[curve.group] = max(top.get(curve.group, 0.0), curve.best)
    second, first = sorted(top.values())[-2:]
    lower = CLEAR_LEAD - (first - second)
    return [
        replace(c, val_images=_SIMULATED_VAL_IMAGES,
                scores=c.scores if top[c.group] == first else tuple(score - lower for score in c.scores))
        for c in curves
    ]  # fmt: skip


def settled_rows(name: str, sweeps: Sequence[Sequence[Curve]], *, goal: float | None, num_slots: int) -> list[Row]:
    """Run races whose winners get their seeds in rounds, and return two rows: saving, and mean regret of the first backbone."""
    full, spent, seeds, lacks = [], [], [], {SETTLE: list[float](), "all": list[float]()}
    for curves in sweeps:
        best = {
            c.config_id: float(np.mean([one.best for one in curves if one.config_id == c.config_id])) for c in curves
        }
        for confirm in lacks:
            out = simulate(curves, plan_states(curves), grace_epochs=3, reduction_factor=3, num_slots=num_slots,
                           race=True, confirm=SETTLE if confirm == SETTLE else True)  # fmt: skip
            assert all(choice.done for choice in out.choices.values())
            ran: dict[str, list[float]] = {}
            for state in out.states:
                if state.status == "completed" and state.config_id == out.choices[state.group].winner:
                    ran.setdefault(state.config_id, []).append(max(state.scores))
            first = max(ran, key=lambda config_id: (float(np.mean(ran[config_id])), config_id))
            lacks[confirm].append(max(best[config_id] for config_id in ran) - best[first])
            if confirm == SETTLE:
                full.append(len(curves) * len(curves[0].scores))
                spent.append(out.num_epochs)
                seeds.append(float(np.mean([len(values) for values in ran.values()])))
    ratios = np.array(full) / np.array(spent)
    low, high = np.quantile(ratios, [0.05, 0.95]).tolist()
    facts = {"p05": low, "p95": high, "seeds": float(np.mean(seeds))}
    regret = {"unit": "mean_f1", "confirm_true": float(np.mean(lacks["all"])), "worst": max(lacks[SETTLE])}
    return [
        Row(f"{name}.settle", sum(full) / sum(spent), goal, len(sweeps), summary(ratios.tolist())[1], facts=facts),
        Row(f"{name}.settle.regret", float(np.mean(lacks[SETTLE])), None, len(sweeps), sense="<=", facts=regret),
    ]


def rows_of(
    name: str, sweeps: Sequence[Sequence[Curve]], *, race: bool, goal: float | None, num_slots: int
) -> list[Row]:
    """Run sweeps and return three rows: saving, mean regret, worst regret."""
    full, spent, lacks, walls = [], [], [], []
    for curves in sweeps:
        out = simulate(curves, plan_states(curves), grace_epochs=3, reduction_factor=3, num_slots=num_slots, race=race)
        assert all(choice.done for choice in out.choices.values())
        full.append(len(curves) * len(curves[0].scores))
        spent.append(out.num_epochs)
        walls.append(sum(len(c.scores) * c.epoch_s for c in curves) / num_slots / out.duration)
        winners = [choice.winner for choice in out.choices.values() if choice.winner is not None]
        lacks.append(float(np.mean(regrets(curves, winners))))
    ratios = np.array(full) / np.array(spent)
    low, high = np.quantile(ratios, [0.05, 0.95]).tolist()
    facts = {"p05": low, "p95": high, "wall": float(np.mean(walls)), "trials": len(sweeps[0])}
    saving = Row(name, sum(full) / sum(spent), goal, len(sweeps), summary(ratios.tolist())[1], facts=facts)
    mean_goal, worst_goal = (None, None) if goal is None else (MEAN_REGRET_GOAL, WORST_REGRET_GOAL)
    return [
        saving,
        Row(f"{name}.regret", float(np.mean(lacks)), mean_goal, len(lacks), sense="<=", facts={"unit": "mean_f1"}),
        Row(f"{name}.worst", max(lacks), worst_goal, len(lacks), sense="<=", facts={"unit": "mean_f1"}),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Simulate and print."""
    sources = ["simulated", "simulated_harder", *RECORDED]
    more = ["simulated_clear", "field"]
    arguments = parser(__doc__, "race_saving")
    arguments.add_argument("--sweeps", type=int, default=200, help="sweeps a row")
    arguments.add_argument("--rates", type=int, nargs="+", default=[3, 4, 6], help="learning rates a backbone")
    arguments.add_argument("--only", choices=[*sources, *more], nargs="+")
    arguments.add_argument(
        "--settle", action="store_true", help="add the rows of `confirm: settle`, and two fields of backbones"
    )
    arguments.add_argument("--epochs", type=int, default=20, help="budget of simulated curves")
    arguments.add_argument("--slots", type=int, default=2, help="trials side by side")
    arguments.add_argument("--seed", type=int, default=0)
    args = arguments.parse_args(argv)
    rows: list[Row] = []
    for source in args.only or (sources + more if args.settle else sources):
        for num_rates in args.rates:
            name = f"{source}.{num_rates}_rates"
            say(name)
            sweeps = list(sweeps_of(source, num_rates, args.sweeps, args.seed, args.epochs))
            run: Callable[..., list[Row]] = rows_of
            rows += run(
                f"race_saving.{name}", sweeps, race=True, goal=SAVING_GOALS.get(num_rates), num_slots=args.slots
            )
            rows += run(f"race_saving.{name}.asha", sweeps, race=False, goal=None, num_slots=args.slots)
            if args.settle:
                at_3 = {"simulated_clear": CLEAR_GOAL, **dict.fromkeys([*RECORDED, "field"], SETTLE_GOAL)}
                goal = at_3.get(source) if num_rates == 3 else None
                rows += settled_rows(f"race_saving.{name}", sweeps, goal=goal, num_slots=args.slots)
    show(rows, as_json=args.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
