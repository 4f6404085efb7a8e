"""What is printed before a sweep and after it: what will run where, then the leaderboard and where everything lies."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from statistics import fmean

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sweep.cluster.connect import NO_DASHBOARD, Cluster
from sweep.console.progress import failure_table
from sweep.driving.ledger import Ledger
from sweep.driving.placement import Needs, Placement
from sweep.plan.plan import Plan
from sweep.results.facts import scored_by
from sweep.results.leaderboard import Board, Configuration
from sweep.results.verdict import Verdict
from sweep.wording import amount, and_more, counted, listing, number, plain, quantity, score, sd, span

_MAX_ROWS = 12
# The leaderboard with standard deviations and speeds; a terminal of 80 columns goes without them.
_WIDE_COLUMNS = 110


def print_header(console: Console, name: str, ledger: Ledger, cluster: Cluster, max_legs: int | None) -> None:
    """Print what will run, on what, and where to watch it."""
    plan = ledger.plan
    seeds = {trial.seed for trial in plan.trials}
    configs = {trial.config_id for trial in plan.trials}
    shape = f"{counted(len(configs), 'configuration')} x {counted(len(seeds), 'seed')}, {counted(plan.epochs, 'epoch')}"
    rows = [
        ("sweep", Text(name, style="bold")),
        ("trials", f"{len(plan.trials)}: {shape}; at most {plan.worst_case_epochs():,} epochs in all"),
        ("scheduler", _scheduler(plan)),
        ("resources", _resources(plan, cluster, max_legs)),
    ]
    over = ledger.count("completed", "stopped", "diverged", "skipped")
    if over:
        rows.insert(2, ("resumed", f"{over} over, {len(plan.trials) - over} to go"))
    if cluster.dashboard:
        token = f"; it asks for the token that `{cluster.token_hint}` prints" if cluster.token_hint else ""
        rows.append(("dashboard", f"{cluster.dashboard}{token}"))
    else:
        off = os.environ.get(NO_DASHBOARD) == "0"
        why = f"off ({NO_DASHBOARD}=0)" if off else 'not installed: pip install "ray[default]"'
        rows.append(("dashboard", "this cluster runs without one" if cluster.joined else why))
    rows.append(("results", ledger.run.uri))
    for key, value in rows:
        console.print(Text.assemble((f"{key:<10} ", "dim"), str(value)), soft_wrap=True)


def print_notes(console: Console, notes: Iterable[str]) -> None:
    """Print what a reader should know, one line each."""
    for note in notes:
        console.print(Text.assemble(("note: ", "yellow"), plain(note)), soft_wrap=True)


def print_closing(console: Console, ledger: Ledger, board: Board, verdict: Verdict, files: Sequence[str]) -> None:
    """Print the leaderboard, what it says, what went wrong, and where everything lies."""
    if board.ranked:
        console.print(leaderboard_table(board, wide=console.width >= _WIDE_COLUMNS))
        console.print(Text(plain(f"scored by {scored_by(board.run)}"), style="dim"), soft_wrap=True)
    console.print(Text(plain(f"{verdict.headline}. {verdict.sentence}"), style="bold"), soft_wrap=True)
    print_notes(console, verdict.caveats)
    print_notes(console, (f"{name}: {problem}" for name, problem in board.problems))
    table = failure_table(ledger.trials.values())
    if table is not None:
        console.print(table)
    for file in files:
        console.print(Text(f"{ledger.run.uri}/{file}"), soft_wrap=True)


def leaderboard_table(board: Board, *, wide: bool) -> Table:
    """Return the ranked configurations: mean, sd and number of seeds, validation and test, the test's interval.

    Args:
        board: The leaderboard.
        wide: With standard deviations and speeds; else for 80 columns.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1) if wide else (0, 1, 0, 0))
    table.add_column("", justify="right")
    table.add_column(Text(plain(board.run.group_by)), no_wrap=True)
    for key in board.run.swept_keys:
        table.add_column(Text(plain(key)), justify="right", no_wrap=True)
    names = ("seeds", "val mean_f1", "test mean_f1", "95 % interval", "images/s")
    for name in names if wide else ("n", "val", "test", "95 % interval"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in board.ranked[:_MAX_ROWS]:
        table.add_row(*_cells(one, board.run.swept_keys, wide=wide))
    if len(board.ranked) > _MAX_ROWS:
        table.add_row("", and_more(_MAX_ROWS, len(board.ranked)))
    return table


def _cells(one: Configuration, keys: Sequence[str], *, wide: bool) -> list[Text]:
    val, test = (_mean(scores, wide=wide) for scores in (one.val_scores(), one.test_scores()))
    values = [number(one.values.get(key)) for key in keys]
    cells = [str(one.rank), one.group, *values, str(len(one.full)), val, test, span(*(one.test_span or (None, None)))]
    if wide:
        cells.append(quantity(one.cost("images_per_s")))
    return [Text(plain(cell)) for cell in cells]


def _mean(scores: Sequence[float], *, wide: bool) -> str:
    spread = sd(scores)
    return score(fmean(scores)) + (f" ± {score(spread)}" if wide and spread is not None else "")


def _scheduler(plan: Plan) -> str:
    given = plan.scheduler
    if given.kind == "fifo":
        return "fifo: every trial runs in full"
    if given.kind == "race":
        return (
            f"race within each {plan.group_by}: first look after {counted(given.grace_epochs, 'epoch')}, factor "
            f"{given.reduction_factor:g}; the winner then runs in full with all seeds"
        )
    confirm = "the best configuration of each then runs in full" if given.confirm else "no confirm runs"
    return (
        f"ASHA within each {plan.group_by}: grace {counted(given.grace_epochs, 'epoch')}, "
        f"factor {given.reduction_factor:g}; {confirm}"
    )


def _resources(plan: Plan, cluster: Cluster, max_legs: int | None) -> str:
    where = f"a cluster of {counted(len(cluster.nodes), 'machine')}" if cluster.joined else "this machine"
    groups: dict[Needs, dict[str, None]] = {}
    for trial in plan.trials:
        groups.setdefault(Needs(trial.cpu, trial.gpu), {})[trial.group] = None
    parts = []
    for needs, names in groups.items():
        fit = Placement(cluster.cpus, cluster.gpus).fitting(needs)
        at_a_time = min(fit, max_legs or fit, len(plan.trials))
        whose = f"{listing(list(names))}: " if len(groups) > 1 else ""
        gpu = f" and {needs.gpu:g} GPU" if needs.gpu else ""
        parts.append(f"{whose}{needs.cpu:g} CPU{gpu} a trial, {at_a_time} at a time")
    return f"{where}: {amount(cluster.cpus, 'CPU')}, {amount(cluster.gpus, 'GPU')}; {'; '.join(parts)}"
