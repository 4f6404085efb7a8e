"""What is printed before a sweep and after it: what will run where, then the leaderboard and where everything lies."""

from __future__ import annotations

import os
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from sweep.cluster.connect import NO_DASHBOARD, Cluster
from sweep.console.leaderboard import print_leaderboard
from sweep.console.progress import failure_table
from sweep.console.words import print_words
from sweep.driving.ledger import Ledger
from sweep.driving.placement import Needs, Placement
from sweep.plan.plan import Plan
from sweep.results.leaderboard import Board
from sweep.results.verdict import Verdict
from sweep.wording import amount, counted, listing


def print_header(console: Console, name: str, ledger: Ledger, cluster: Cluster, max_legs: int | None) -> None:
    """Print what will run, on what, and where to watch it."""
    plan = ledger.plan
    seeds = {trial.seed for trial in plan.trials}
    configs = len({trial.config_id for trial in plan.trials}) + sum(plan.to_come.values())
    shape = f"{counted(configs, 'configuration')} x {counted(len(seeds), 'seed')}, {counted(plan.epochs, 'epoch')}"
    rows: list[tuple[str, str | tuple[str, str]]] = [
        ("sweep", (name, "bold")),
        ("trials", f"{plan.num_trials}: {shape}; at most {plan.worst_case_epochs():,} epochs in all"),
        ("scheduler", _scheduler(plan)),
        ("resources", _resources(plan, cluster, max_legs)),
    ]
    over = ledger.count("completed", "stopped", "diverged", "skipped")
    if over:
        rows.insert(2, ("resumed", f"{over} over, {plan.num_trials - over} to go"))
    if cluster.dashboard:
        token = f"; it asks for the token that `{cluster.token_hint}` prints" if cluster.token_hint else ""
        rows.append(("dashboard", f"{cluster.dashboard}{token}"))
    else:
        off = os.environ.get(NO_DASHBOARD) == "0"
        why = f"off ({NO_DASHBOARD}=0)" if off else 'not installed: pip install "ray[default]"'
        rows.append(("dashboard", "this cluster runs without one" if cluster.joined else why))
    rows.append(("results", ledger.run.uri))
    for key, value in rows:
        print_words(console, (f"{key:<10} ", "dim"), value, indent=11)


def print_closing(console: Console, ledger: Ledger, board: Board, verdict: Verdict, files: Sequence[str]) -> None:
    """Print the leaderboard, what it says, what went wrong, and where everything lies."""
    print_leaderboard(console, board, verdict)
    table = failure_table(ledger.trials.values())
    if table is not None:
        console.print(table)
    for file in files:
        console.print(Text(f"{ledger.run.uri}/{file}"), soft_wrap=True)


def _scheduler(plan: Plan) -> str:
    given = plan.scheduler
    if given.kind == "fifo":
        return "fifo: every trial runs in full"
    settling = f"the winners then get seeds in rounds, up to {plan.most_seeds}" if plan.most_seeds else ""
    if given.kind == "race":
        return (
            f"race within each {plan.group_by}: first look after {counted(given.grace_epochs, 'epoch')}, factor "
            f"{given.reduction_factor:g}; {settling or 'the winner then runs in full with all seeds'}"
        )
    confirm = settling or ("the best configuration of each then runs in full" if given.confirm else "no confirm runs")
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
