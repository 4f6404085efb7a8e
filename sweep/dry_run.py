"""What `--dry-run` prints: the trials, what they can cost at worst, what ASHA may save, and the disk they need."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fairface_core.backbones import BACKBONES
from sweep.plan import Plan, PlannedTrial
from sweep.space import BACKBONE, BUDGET, SEED
from sweep.trial_names import short_number

# A float32 training state holds each parameter and AdamW's two moments of it. Two are kept, and the best weights.
_STATE_BYTES_PER_PARAM = 3 * 4
_DISK_BYTES_PER_PARAM = 2 * _STATE_BYTES_PER_PARAM + 4
# The simulation's time grows with the square of a group: 20 draws of 4 groups of 9 trials took 0.8 s on one core.
_MAX_DRAWS = 20
_MAX_WORK = 8_000  # sum over draws and groups of (trials in the group) squared: about 1 s


def describe_plan(plan: Plan, *, max_rows: int = 60, estimate: bool = True) -> RenderableType:
    """Return what a person wants to see before saying yes, for `rich.print`.

    Args:
        plan: The plan.
        max_rows: Most trials that are listed one by one.
        estimate: Whether to simulate what ASHA saves (imports Ray's ASHA).
    """
    parts: list[RenderableType] = [_summary(plan), _group_table(plan), _trial_table(plan.trials, max_rows)]
    parts += [Text(line) for line in _cost_lines(plan, estimate)]
    parts += [Text.assemble(("note: ", "yellow"), note) for note in plan.notes]
    return Group(*parts)


def state_bytes(trial: PlannedTrial) -> int:
    """Return roughly how many bytes one training state of a trial takes."""
    return BACKBONES[trial.config[BACKBONE]].num_params * _STATE_BYTES_PER_PARAM


def disk_bytes(trials: Sequence[PlannedTrial]) -> int:
    """Return roughly how many bytes the folders of these trials take: two states and the best weights each."""
    return sum(BACKBONES[trial.config[BACKBONE]].num_params * _DISK_BYTES_PER_PARAM for trial in trials)


def expected_epochs(plan: Plan) -> int | None:
    """Return how many epochs the sweep trains if the better configuration is better at every epoch.

    The real scheduler and the real confirm policy run on made-up curves: in each draw the configurations of a group
    get random ranks, which their seeds share but for a little. The mean of up to `_MAX_DRAWS` draws from a fixed seed;
    None for a plan without early stopping, or too large to simulate in about a second.
    """
    groups = plan.groups().values()
    draws = min(_MAX_DRAWS, _MAX_WORK // sum(len(trials) ** 2 for trials in groups))
    if plan.scheduler.kind != "asha" or plan.epochs > 1_000 or draws == 0:
        return None
    from sweep.simulate import Curve, plan_states, simulate  # imports Ray's ASHA

    first = plan.scheduler.explore_seeds
    total = 0
    for draw in range(draws):
        for trials in groups:
            generator = random.Random(draw)
            configs = list(dict.fromkeys(trial.config_id for trial in trials))
            ranks = dict(zip(configs, generator.sample(range(len(configs)), len(configs)), strict=True))
            curves = [
                Curve(
                    trial.trial_id,
                    trial.group,
                    trial.config_id,
                    trial.seed,
                    ((1 + ranks[trial.config_id] + 0.5 * generator.random()) / (2 + len(configs)),) * plan.epochs,
                )
                for trial in trials
            ]
            states = plan_states(curves, explore_seeds=None if first == "all" else first)
            total += simulate(
                curves,
                states,
                grace_epochs=plan.scheduler.grace_epochs,
                reduction_factor=plan.scheduler.reduction_factor,
                confirm=plan.scheduler.confirm,
            ).num_epochs
    return round(total / draws)


def _summary(plan: Plan) -> Text:
    seeds = list(dict.fromkeys(trial.seed for trial in plan.trials))
    configs = len({trial.config_id for trial in plan.trials})
    return Text(
        f"{_count(len(plan.trials), 'trial')}: {_count(configs, 'configuration')} x {_count(len(seeds), 'seed')}, "
        f"{_count(plan.epochs, 'epoch')} each; {plan.scheduler.kind} by {plan.group_by}",
        style="bold",
    )


def _group_table(plan: Plan) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in (plan.group_by, "trials", "explore", "cpu", "gpu", "disk GiB", "values"):
        table.add_column(name, justify="left" if name in (plan.group_by, "values") else "right")
    varying = _varying(plan)
    for group, trials in plan.groups().items():
        table.add_row(
            Text(group),
            str(len(trials)),
            str(sum(trial.explores for trial in trials)),
            _span([trial.cpu for trial in trials]),
            _span([trial.gpu for trial in trials]),
            f"{disk_bytes(trials) / 2**30:.1f}",
            Text("; ".join(f"{key} {_values(trials, key)}" for key in varying)),
        )
    return table


def _trial_table(trials: Sequence[PlannedTrial], max_rows: int) -> RenderableType:
    shown = trials if len(trials) <= max_rows else trials[: max_rows // 2]
    lines = [f"  {trial.trial_id}{'' if trial.explores else '   (if its configuration wins)'}" for trial in shown]
    if len(shown) < len(trials):
        lines.append(f"  ... and {len(trials) - len(shown):,} more, all in plan.json once the sweep starts")
    return Text("\n".join(["Trials, the longest first:", *lines, ""]))


def _cost_lines(plan: Plan, estimate: bool) -> list[str]:
    worst = plan.worst_case_epochs()
    full = len(plan.trials) * plan.epochs
    every = f" (every trial in full: {full:,})" if worst < full else ""
    lines = [f"Worst case: {worst:,} epochs of training{every}."]
    expected = expected_epochs(plan) if estimate else None
    if expected is not None:
        confirmed = ", winners confirmed in full" if plan.scheduler.confirm else ""
        lines.append(
            f"Expected with ASHA: about {expected:,} epochs{confirmed}: {full / expected:.1f}x fewer than every trial "
            "in full. Simulated with configurations that keep their order from the first epoch on."
        )
    lines.append(
        f"Disk: up to {disk_bytes(plan.trials) / 2**30:.1f} GiB, the largest trial "
        f"{max(disk_bytes([trial]) for trial in plan.trials) / 2**30:.1f} GiB (two states and the best weights); "
        "states that no winner can need are removed as the sweep goes."
    )
    return lines


def _varying(plan: Plan) -> list[str]:
    keys = dict.fromkeys(key for trial in plan.trials for key in trial.config)
    return [
        key
        for key in keys
        if key not in (SEED, BUDGET, plan.group_by) and len({repr(t.config.get(key)) for t in plan.trials}) > 1
    ]


def _values(trials: Sequence[PlannedTrial], key: str) -> str:
    values = list(dict.fromkeys(trial.config.get(key) for trial in trials))
    numbers = [value for value in values if isinstance(value, int | float)]
    if len(numbers) == len(values) > 6:
        return f"{_shown(min(numbers))} to {_shown(max(numbers))} ({len(values)} values)"
    return ", ".join(map(_shown, values[:6])) + (f" and {len(values) - 6} more" if len(values) > 6 else "")


def _shown(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "null" if value is None else str(value)
    return short_number(value)


def _span(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
