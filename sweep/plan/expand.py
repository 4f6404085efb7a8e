"""SweepSpec -> an explicit list of trials with stable ids.

Order: first all trials that explore, then the others; the group with the longest trials first, so that no long trial
is left to run alone at the end; within a group one seed after the other, each with the configurations in order of their
values, or in the order in which a search proposed them. sweep/policy/confirm.py picks the next trial of a group and takes its
middle from this order. The whole order follows from the space and the proposals, so a plan that grew one by one equals one made anew.
"""

from __future__ import annotations

import importlib.util
import json
import math
from dataclasses import dataclass, replace
from typing import Any

from fairface_core.backbones import relative_cost
from fairface_core.config.train_config import TrainConfig, make_config
from fairface_core.errors import ConfigError
from sweep.plan.cells import Cell, cells, constant
from sweep.plan.names import short_keys, trial_name
from sweep.plan.plan import Plan, PlannedTrial, space_difference, varying_keys
from sweep.space.spec import BACKBONE, SEED, SweepSpec
from sweep.space.yaml_nodes import MAX_PROBLEMS, source_of

__all__ = ["Plan", "PlannedTrial", "count_trials", "make_plan", "space_difference"]

MAX_TRIALS = 1_000
# With --yes. Beyond this the driver's own bookkeeping, not the training, would decide how long a sweep takes.
MAX_TRIALS_EVER = 10_000

_CROSSED = "; grids are crossed: values that do not go together need two spaces, or per_backbone"


@dataclass(frozen=True)
class _Draft:
    """A configuration with one seed, before ids are given."""

    config: TrainConfig
    values: dict[str, Any]  # of all fields, later of those that the space decides, as JSON
    group: str
    config_digest: str
    given: tuple[str, ...]  # the fields that the space decides
    number: int  # of the proposal in its cell; 0 where nothing is proposed
    seed_rank: int
    cost: float


def count_trials(spec: SweepSpec) -> int:
    """Return how many trials a space asks for, without making them; drawn values that coincide are counted apart."""
    return len(spec.all_seeds) * sum(
        math.prod(len(d.values) for d in own.values() if d.kind == "grid")
        * (1 if all(d.kind == "grid" for d in own.values()) else spec.num_samples)
        for own in map(spec.distributions, spec.backbones)
    )


def make_plan(
    spec: SweepSpec,
    *,
    limit: int = MAX_TRIALS,
    yes: bool = False,
    auto_gpu: float = 0.0,
    held: Plan | None = None,
) -> Plan:
    """Expand a space into its trials and check each of them as a whole.

    Of a search, these are the configurations that are known; `sweep.plan.search.grown` adds the others.

    Args:
        spec: The space.
        limit: Most trials that are planned without `yes`.
        yes: `--yes`: plan more, up to `MAX_TRIALS_EVER`.
        auto_gpu: What `gpu: auto` stands for (`sweep.launch.tasks.auto_gpu_of`).
        held: The plan so far, whose proposals are kept.

    Raises:
        ConfigError: Too many trials, values that do not go together, or a search without Optuna.
    """
    where = source_of(spec.path)
    count = count_trials(spec)
    most = MAX_TRIALS_EVER if yes else limit
    if count > most:
        how = "the most that a sweep can hold" if yes else "the most that is accepted without --yes"
        raise ConfigError(
            f"{where}: the space makes {count:,} trials ({_factors(spec)}); {most:,} is {how}; take values out, or "
            "draw some of them with num_samples"
        )
    searched = any(cell.searched for cell in cells(spec))
    if searched and importlib.util.find_spec("optuna") is None:
        raise ConfigError(
            f"{where}: search.kind = {spec.search.kind} needs Optuna, which is not installed: pip install 'fairface-sweep[optuna]', or "
            "search: {kind: random}"
        )
    drafts, to_come = _drafts(spec, where, held)
    unique = {draft.config.digest(): draft for draft in reversed(drafts)}
    ordered = _in_order(list(reversed(unique.values())), spec)
    trials = _named(ordered, spec, auto_gpu)
    if spec.scheduler.kind != "fifo" and spec.scheduler.confirm == "settle" and len({d.group for d in drafts}) == 1:
        raise ConfigError(
            f"{where}: scheduler.confirm = settle tells the best of each {spec.scheduler.group_by} apart, and there is one; "
            "accepted: true"
        )
    notes = list(spec.notes)
    if searched:
        notes.append(
            f"search {spec.search.kind}: {spec.num_samples:,} configurations for each combination of the grids, the defaults first; up to "
            f"{spec.search.startup} are known from the start, each further one follows from the results so far"
        )
    elif len(trials) < count:
        notes.append(f"{count - len(trials):,} of {count:,} trials equal another one; each is run once")
    if spec.scheduler.kind == "asha":
        alone = [name for name, number in _group_sizes(trials).items() if number == 1 and not to_come.get(name)]
        if alone:
            notes.append(f"ASHA stops nothing in {', '.join(alone)}: a single trial has nothing to be compared with")
    return Plan(
        space_digest=spec.digest(),
        space=spec.canonical(),
        group_by=spec.scheduler.group_by,
        epochs=spec.epochs,
        scheduler=spec.scheduler,
        trials=trials,
        notes=tuple(notes),
        equal_within=spec.equal_within,
        to_come=to_come,
    )


def _drafts(spec: SweepSpec, where: str, held: Plan | None) -> tuple[list[_Draft], dict[str, int]]:
    """Return all drafts, and for each group with a search how many configurations are still to be proposed."""
    drafts: list[_Draft] = []
    to_come: dict[str, int] = {}
    keys: set[str] = set()
    problems: dict[str, list[str]] = {}
    tried = 0
    for cell in cells(spec):
        known = cell.known(held)
        tried += len(known)
        for number, values in enumerate(known):
            found = _seeds_of(cell, values, number if cell.searched else 0, where, problems)
            drafts += found
            keys |= {key for draft in found for key in draft.given}
        if cell.searched and drafts:
            group = drafts[-1].group
            to_come[group] = to_come.get(group, 0) + cell.budget - len(known)
    if problems:
        lines = [
            f"{line} (the trial with {told[0]}{f', and {len(told) - 1:,} more' if told[1:] else ''}"
            f"{_CROSSED if len(told) < tried else ''})"
            for line, told in problems.items()
        ]
        rest = len(lines) - MAX_PROBLEMS
        raise ConfigError([*lines[:MAX_PROBLEMS], *([f"and {rest:,} more problems"] if rest > 0 else [])])
    # All trials name the same keys, also those that only one backbone has values of its own for.
    return [replace(draft, values={key: draft.values[key] for key in sorted(keys)}) for draft in drafts], to_come


def _seeds_of(
    cell: Cell, values: dict[str, Any], number: int, where: str, problems: dict[str, list[str]]
) -> list[_Draft]:
    """Return one configuration's drafts; what is wrong with it goes to `problems`, with the values at fault."""
    spec, shared = cell.spec, constant(cell.spec)
    drafts: list[_Draft] = []
    for rank, seed in enumerate(spec.all_seeds):
        given = {**shared, **cell.values, **values, SEED: seed}
        try:
            config = make_config(given, where=where)
        except ConfigError as error:
            told = ", ".join(f"{key} {value}" for key, value in sorted(given.items()) if key not in shared)
            for line in error.problems:
                problems.setdefault(line, []).append(told)
            break
        held = config.model_dump(mode="json")
        group, digest = _label(held[spec.scheduler.group_by]), config.model_copy(update={SEED: 0}).digest()
        drafts.append(_Draft(config, held, group, digest, tuple(given), number, rank, relative_cost(held)))
    return drafts


def _explores(draft: _Draft, spec: SweepSpec) -> bool:
    first = spec.scheduler.explore_seeds
    return draft.seed_rank < (len(spec.seeds) if spec.scheduler.kind != "asha" or first == "all" else first)


def _in_order(drafts: list[_Draft], spec: SweepSpec) -> list[_Draft]:
    group_cost: dict[str, float] = {}
    for draft in drafts:
        group_cost[draft.group] = max(draft.cost, group_cost.get(draft.group, 0.0))
    # Names and digests, not the order in the file, break ties.
    return sorted(
        drafts,
        key=lambda d: (
            not _explores(d, spec),
            -group_cost[d.group],
            d.group,
            d.seed_rank,
            d.number,
            -d.cost,
            _natural(d.values),
            d.config_digest,
        ),
    )


def _natural(values: dict[str, Any]) -> list[tuple[str, float, str]]:
    """Return a sort key that puts numbers in order of size."""
    return [
        (key, float(value), "") if isinstance(value, int | float) else (key, 0.0, str(value))
        for key, value in values.items()
    ]


def _named(drafts: list[_Draft], spec: SweepSpec, auto_gpu: float) -> tuple[PlannedTrial, ...]:
    varying = varying_keys([draft.values for draft in drafts], spec.scheduler.group_by)
    if spec.search.kind != "random":
        # Names must not follow from what a search has tried so far.
        varying = tuple(key for key in drafts[0].values if key in {*varying, *spec.drawn()})
    names = short_keys(varying)
    trials = []
    for draft in drafts:
        shown = {names[key]: draft.values[key] for key in varying}
        seed = draft.values[SEED]
        cpu, gpu = _needs(spec, draft.values[BACKBONE], auto_gpu)
        trials.append(
            PlannedTrial(
                trial_id=trial_name(draft.group, shown, seed, draft.config.digest()),
                config=draft.values,
                group=draft.group,
                seed=seed,
                config_id=trial_name(draft.group, shown, None, draft.config_digest),
                explores=_explores(draft, spec),
                cpu=cpu,
                gpu=gpu,
            )
        )
    ids = {trial.trial_id.casefold() for trial in trials}  # some file systems do not tell cases apart
    assert len(ids) == len(trials), "two trials agree in name and in 32 bits of digest"
    return tuple(trials)


def _needs(spec: SweepSpec, backbone: str, auto_gpu: float) -> tuple[float, float]:
    own = spec.resources.per_backbone.get(backbone)
    cpu = own.cpu if own and own.cpu is not None else spec.resources.cpu
    gpu = own.gpu if own and own.gpu is not None else spec.resources.gpu
    return cpu, auto_gpu if gpu == "auto" else gpu


def _group_sizes(trials: tuple[PlannedTrial, ...]) -> dict[str, int]:
    sizes = {trial.group: 0 for trial in trials}
    for trial in trials:
        sizes[trial.group] += trial.explores
    return sizes


def _label(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _factors(spec: SweepSpec) -> str:
    """Return how a count came about, such as `backbone 4 x lr 3 x seed 3`."""
    sizes = {key: len(grid.values) for key, grid in spec.space.items() if grid.kind == "grid"}
    parts = [f"{key} {size:,}" for key, size in sizes.items() if size > 1]
    if spec.drawn():
        parts.append(f"num_samples {spec.num_samples:,}")
    apart = "; per_backbone apart" if any(spec.per_backbone.get(name) for name in spec.backbones) else ""
    return " x ".join(parts[:6]) + apart
