"""Plan and its file, plan.json: what a sweep runs, and how two plans differ."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fairface_core.config.wording import validation_problem
from fairface_core.errors import ConfigError
from sweep.plan.names import ID_PATTERN
from sweep.space.scheduler import SchedulerSpec
from sweep.space.spec import EQUAL_WITHIN, SEED
from sweep.space.yaml_nodes import MAX_PROBLEMS

SCHEMA_VERSION = 1
# plan.json has six levels; anything much deeper is meant to exhaust a reader's stack.
_MAX_LEVELS = 10


class PlannedTrial(BaseModel):
    """One trial of a sweep.

    Attributes:
        trial_id: Name of its folder, the same on every machine and after every restart.
        config: What the space decides, by TrainConfig field; always with backbone, epochs and seed, never with a path
            of the run.
        group: Value of the key that trials are grouped by.
        seed: Its seed.
        config_id: The same for all seeds of a configuration.
        explores: Whether it takes part in the exploration; if not, it runs only to confirm its configuration.
        cpu: CPUs that it needs.
        gpu: GPUs that it needs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    trial_id: Annotated[str, Field(pattern=ID_PATTERN)]
    config: dict[str, Any]
    group: Annotated[str, Field(max_length=500)]
    seed: int
    config_id: Annotated[str, Field(pattern=ID_PATTERN)]
    explores: bool
    cpu: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    gpu: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Plan(BaseModel):
    """All trials of a sweep, the longest group first (sweep/plan/expand.py gives the whole order).

    Attributes:
        schema_version: Version of plan.json.
        space_digest: 12 hex digits of `space`.
        space: `SweepSpec.canonical()`: what decides the trials.
        group_by: The key that trials are grouped by.
        epochs: Full budget of a trial.
        scheduler: When trials are stopped.
        trials: The trials.
        notes: What a reader should know before the sweep starts, one line each.
        equal_within: Differences in mean_f1 below it are none for practical purposes.
        to_come: By group, configurations that a search is still to propose; 0 when it has proposed all, and no entry for a
            group without one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA_VERSION
    space_digest: str
    space: dict[str, Any]
    group_by: str
    epochs: Annotated[int, Field(ge=1)]
    scheduler: SchedulerSpec
    trials: tuple[PlannedTrial, ...]
    notes: tuple[str, ...] = ()
    equal_within: Annotated[float, Field(gt=0, lt=1)] = EQUAL_WITHIN
    to_come: dict[str, Annotated[int, Field(ge=0)]] = {}

    def to_json(self) -> dict[str, Any]:
        """Return the content of plan.json."""
        return self.model_dump(mode="json", exclude=None if self.to_come else {"to_come"})

    @classmethod
    def from_json(cls, value: Any, *, where: str = "plan.json") -> Plan:
        """Read the content of plan.json.

        Raises:
            ConfigError: It is damaged, of another version, or holds an id that is not a plain folder name.
        """
        version = value.get("schema_version") if isinstance(value, dict) else None
        if version != SCHEMA_VERSION:
            raise ConfigError(f"{where}: schema_version = {version!r:.60}; this program reads {SCHEMA_VERSION}")
        if _deeper_than(value, _MAX_LEVELS):
            raise ConfigError(f"{where}: is nested deeper than any plan; the file is damaged")
        try:
            plan = cls.model_validate(value)
        except ValidationError as error:
            lines = [
                f"{where}: {validation_problem('.'.join(map(str, item['loc'])), item)}"
                for item in itertools.islice(error.errors(), MAX_PROBLEMS)
            ]
            raise ConfigError(lines) from error
        ids = [trial.trial_id for trial in plan.trials]
        if len({name.casefold() for name in ids}) != len(ids):
            raise ConfigError(f"{where}: two trials have one id; the file is damaged")
        return plan

    def groups(self) -> dict[str, tuple[PlannedTrial, ...]]:
        """Return the trials of each group, in plan order."""
        names = dict.fromkeys(trial.group for trial in self.trials)
        return {name: tuple(trial for trial in self.trials if trial.group == name) for name in names}

    @property
    def swept_keys(self) -> tuple[str, ...]:
        """Config keys whose values differ within a group, without the seed."""
        return varying_keys([trial.config for trial in self.trials], self.group_by)

    @property
    def most_seeds(self) -> int | None:
        """Seeds that each group's best can get in rounds; None for a plan that does not settle."""
        if self.scheduler.kind == "fifo" or self.scheduler.confirm != "settle":
            return None
        return max(Counter(trial.config_id for trial in self.trials).values())

    @property
    def grid(self) -> tuple[PlannedTrial, ...]:
        """The trials without the seeds that settling may add."""
        if self.scheduler.seeds is None:
            return self.trials
        seeds = self.space.get("space", {}).get("seed", {}).get("grid", [self.trials[0].seed])
        return tuple(trial for trial in self.trials if trial.seed in seeds)

    def trials_to_come(self, group: str, *, exploring: bool) -> int:
        """Return how many trials of a group are still to be proposed; with `exploring`, without the seeds that do not explore."""
        first = next(trial for trial in self.trials if trial.group == group).config_id
        seeds = sum(trial.explores or not exploring for trial in self.trials if trial.config_id == first)
        return self.to_come.get(group, 0) * seeds

    @property
    def num_trials(self) -> int:
        """How many trials there are, and are still to be proposed."""
        return len(self.trials) + sum(self.trials_to_come(group, exploring=False) for group in self.to_come)

    def worst_case_epochs(self) -> int:
        """Return how many epochs are trained if no trial is stopped early, proposals to come included.

        Seeds that do not explore run for one configuration of their group.
        """
        total = 0
        for group, trials in self.groups().items():
            exploring = sum(trial.explores for trial in trials) + self.trials_to_come(group, exploring=True)
            others: dict[str, int] = {}
            for trial in trials:
                others[trial.config_id] = others.get(trial.config_id, 0) + (not trial.explores)
            total += exploring + max(others.values())
        return total * self.epochs


def varying_keys(configs: Sequence[Mapping[str, Any]], group_by: str) -> tuple[str, ...]:
    """Return the keys whose values differ within a group, without the seed and the key that trials are grouped by.

    What differs between groups alone is said by the group's name.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for config in configs:
        groups.setdefault(repr(config.get(group_by)), []).append(config)
    keys = dict.fromkeys(key for config in configs for key in config)
    return tuple(
        key
        for key in keys
        if key not in (SEED, group_by) and any(len({repr(one.get(key)) for one in own}) > 1 for own in groups.values())
    )


def space_difference(old: Plan, new: Plan) -> list[str]:
    """Word what changed between two plans, one line each; empty if a sweep may go on with the new one.

    Resources, failures, name and data folder may change between a start and its `--resume`; they are not compared.
    """
    before, after = _flat(old.space), _flat(new.space)
    lines = []
    for key in sorted(before.keys() | after.keys()):
        if key not in after:
            lines.append(f"{key}: was {_json(before[key])}, is not given any more")
        elif key not in before:
            lines.append(f"{key}: was not given, is {_json(after[key])}")
        elif before[key] != after[key]:
            lines.append(f"{key}: was {_json(before[key])}, is {_json(after[key])}")
    old_ids, new_ids = ({trial.trial_id for trial in plan.trials} for plan in (old, new))
    if old_ids != new_ids:
        if not lines:
            lines.append("the same space gives other trials: another version of this program made the run")
        gone, added = len(old_ids - new_ids), len(new_ids - old_ids)
        lines.append(f"trials: were {len(old_ids):,}, are {len(new_ids):,} ({added:,} new, {gone:,} gone)")
    return lines


def space_changes(a: Plan, b: Plan) -> list[tuple[str, str, str]]:
    """Return (key, value in a, value in b), values as JSON, of what two spaces ask differently; empty: not given."""
    before, after = _flat(a.space), _flat(b.space)
    both = {key: [_json(side[key]) if key in side else "" for side in (before, after)] for key in {**before, **after}}
    return [(key, first, second) for key, (first, second) in both.items() if first != second]


def _deeper_than(value: Any, levels: int) -> bool:
    """Tell whether JSON is nested deeper than this; level by level, for recursion is what such a file is after."""
    level = [value]
    for _ in range(levels):
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
        ]
    return bool(level)


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    out: dict[str, Any] = {}
    for key, item in value.items():
        out.update(_flat(item, f"{prefix}.{key}" if prefix else str(key)))
    return out


def _json(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
