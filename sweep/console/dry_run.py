"""What `--dry-run` prints: the trials, what they can cost at worst, what early stopping may save, and the disk they need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sweep.plan.cost import disk_bytes, expected_epochs
from sweep.plan.plan import Plan, PlannedTrial
from sweep.wording import and_more, counted, duration, number

_EXPECTED = {
    "asha": ("ASHA", ", winners confirmed in full"),
    "race": ("a race", ", winners in full with all seeds"),
}


def describe_plan(
    plan: Plan,
    *,
    max_rows: int = 60,
    estimate: bool = True,
    epoch_s: Mapping[str, float] | None = None,
    whole: Plan | None = None,
) -> RenderableType:
    """Return what a person wants to see before saying yes, for `rich.print`.

    Args:
        plan: The plan.
        max_rows: Most trials that are listed one by one.
        estimate: Whether to simulate what early stopping saves (imports Ray's ASHA).
        epoch_s: Seconds of an epoch by group, of those that have trained one.
        whole: Of a search, a plan with as many trials as it will propose; see `sweep.plan.search.at_random`.
    """
    whole = whole or plan
    parts: list[RenderableType] = [_summary(whole), _group_table(whole, plan), _trial_table(plan.trials, max_rows)]
    parts += [Text(line) for line in _cost_lines(whole, estimate, epoch_s or {})]
    parts += [Text.assemble(("note: ", "yellow"), note) for note in plan.notes]
    return Group(*parts)


def plan_values(plan: Plan, whole: Plan | None = None) -> dict[str, Any]:
    """Return the plan and its cost for programs; see docs/json.md. `whole` as in `describe_plan`."""
    whole = whole or plan
    expected = expected_epochs(whole)
    return {
        "schema_version": 1,
        "trials": [trial.model_dump(mode="json") for trial in plan.trials],
        "to_come": plan.to_come,
        "epochs": {
            "a_trial": plan.epochs,
            "worst_case": whole.worst_case_epochs(),
            "expected": None if expected is None else round(sum(expected.values()), 1),
        },
        "disk_bytes": disk_bytes(whole.trials),
        "notes": list(plan.notes),
    }


def _summary(plan: Plan) -> Text:
    seeds = list(dict.fromkeys(trial.seed for trial in plan.trials))
    configs = len({trial.config_id for trial in plan.trials})
    return Text(
        f"{counted(len(plan.trials), 'trial')}: {counted(configs, 'configuration')} x {counted(len(seeds), 'seed')}, "
        f"{counted(plan.epochs, 'epoch')} each; {plan.scheduler.kind} by {plan.group_by}",
        style="bold",
    )


def _group_table(plan: Plan, known: Plan) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in (plan.group_by, "trials", "explore", "cpu", "gpu", "disk GiB", "values"):
        table.add_column(name, justify="left" if name in (plan.group_by, "values") else "right")
    values = known.groups()
    for group, trials in plan.groups().items():
        table.add_row(
            Text(group),
            str(len(trials)),
            str(sum(trial.explores for trial in trials)),
            _span([trial.cpu for trial in trials]),
            _span([trial.gpu for trial in trials]),
            f"{disk_bytes(trials) / 2**30:.1f}",
            Text("; ".join(f"{key} {_values(values[group], key)}" for key in plan.swept_keys)),
        )
    return table


def _trial_table(trials: Sequence[PlannedTrial], max_rows: int) -> RenderableType:
    shown = trials if len(trials) <= max_rows else trials[: max_rows // 2]
    lines = [f"  {trial.trial_id}{'' if trial.explores else '   (if its configuration wins)'}" for trial in shown]
    if len(shown) < len(trials):
        lines.append(f"  ... {and_more(len(shown), len(trials))}, all in plan.json once the sweep starts")
    return Text("\n".join(["Trials, the longest first:", *lines, ""]))


def _cost_lines(plan: Plan, estimate: bool, epoch_s: Mapping[str, float]) -> list[str]:
    groups = plan.groups()
    at_worst = {g: plan.model_copy(update={"trials": trials}).worst_case_epochs() for g, trials in groups.items()}
    worst, full = sum(at_worst.values()), len(plan.grid) * plan.epochs
    what = "every trial in full" if plan.grid == plan.trials else "every trial of the grid in full"
    every = f" ({what}: {full:,})" if worst != full else ""
    lines = [f"Worst case: {worst:,} epochs of training{every}."]
    expected = expected_epochs(plan) if estimate else None
    if expected is not None:
        name, confirmed = _EXPECTED[plan.scheduler.kind]
        apart = ""
        if plan.most_seeds:
            confirmed = f", winners' seeds in rounds, up to {plan.most_seeds} each"
            apart = f", and {plan.group_by}s that lie 0.02 apart"
        epochs = sum(expected.values())
        lines.append(
            f"Expected with {name}: about {round(epochs):,} epochs{confirmed if plan.scheduler.confirm else ''}: "
            f"{full / epochs:.1f}x fewer than {what}. Simulated with configurations that keep their order "
            f"from the first epoch on{apart}."
        )
    if groups.keys() <= epoch_s.keys():
        hours = f"{duration(sum(at_worst[g] * epoch_s[g] for g in groups))} at worst"
        if expected is not None:
            hours += f", about {duration(sum(expected[g] * epoch_s[g] for g in groups))} expected"
        lines.append(f"At the pace of the epochs that this run has trained, one trial at a time: {hours}.")
    lines.append(
        f"Disk: up to {disk_bytes(plan.trials) / 2**30:.1f} GiB, the largest trial "
        f"{max(disk_bytes([trial]) for trial in plan.trials) / 2**30:.1f} GiB (two states and the best weights); "
        "states that no winner can need are removed as the sweep goes."
    )
    return lines


def _values(trials: Sequence[PlannedTrial], key: str) -> str:
    values = list(dict.fromkeys(trial.config.get(key) for trial in trials))
    numbers = [value for value in values if isinstance(value, int | float)]
    if len(numbers) == len(values) > 6:
        return f"{number(min(numbers))} to {number(max(numbers))} ({len(values)} values)"
    return f"{', '.join(map(number, values[:6]))} {and_more(6, len(values))}".rstrip()


def _span(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"
