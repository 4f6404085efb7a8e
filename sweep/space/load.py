"""Strict YAML -> SweepSpec: every key is known, every value is checked, every problem names its line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fairface_core.config.train_config import TrainConfig
from fairface_core.config.wording import unknown_key, validation_problem
from fairface_core.errors import ConfigError, shown
from sweep.space.distributions import BUDGET, Grid
from sweep.space.overrides import FLAGS, apply_overrides
from sweep.space.scheduler import SchedulerSpec
from sweep.space.spec import DATA_FIELDS, RESERVED, SHARED, SpaceFile, SweepSpec, json_schema
from sweep.space.yaml_nodes import Node, dotted, read_yaml, source_of


def load_space(path: Path, *, sets: Sequence[str] = (), **flags: Any) -> SweepSpec:
    """Read and check a search space, with what the command line changes in it.

    Args:
        path: The YAML file.
        sets: `--set` texts, `key=value` with dotted keys and YAML values.
        **flags: Values of the flags of `sweep.space.overrides.FLAGS`; None for one that was not given.

    Raises:
        ConfigError: One line for each problem, with file and line or the flag.
    """
    assert flags.keys() <= FLAGS.keys()
    flags = {flag: flags[flag] for flag in FLAGS if flags.get(flag) is not None}
    document, text = read_yaml(path)
    if {"method", "parameters"} <= document.entries().keys():
        raise ConfigError(
            f"{document.entries()['method'].where}: a W&B sweep file (keys method and parameters); this command reads "
            "spaces of its own words: docs/search_spaces.md has them beside those of W&B"
        )
    problems: list[str] = []
    notes: list[str] = []
    root = apply_overrides(document, sets, flags, problems, notes)
    problems += _decided_twice(root)
    try:
        space = SpaceFile.model_validate(root.plain())
    except ValidationError as error:
        problems += _worded(error, root, source_of(path))
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    typed = [f"--set {text}" for text in sets]
    typed += [f"--{flag.replace('_', '-')} {value}" for flag, value in flags.items()]
    spec = SweepSpec.model_construct(**dict(space), path=path, text=text, overrides=tuple(typed))
    _cross_check(spec, root, problems, notes)
    if problems:
        raise ConfigError(problems)
    return spec.model_copy(update={"notes": tuple(dict.fromkeys([*_repeated(spec, root), *notes]))})


def _worded(error: ValidationError, root: Node, source: str) -> Iterator[str]:
    """Word pydantic's errors, one line for each place; what the members of a union say of it stands together."""
    found: dict[tuple[str | int, ...], list[Any]] = {}
    for item in error.errors():
        path, node = item["loc"][:1], root.at(*item["loc"][:1]) or root
        for step in item["loc"][1:]:
            # Steps that are no keys name a member of a union.
            if child := node.at(step):
                path, node = (*path, step), child
        found.setdefault(path, []).append({**item, "where": source if node is root else node.where})
    above = {path[:length] for path in found for length in range(len(path))}
    for path, items in found.items():
        if path in above:
            continue  # a member of a union took the value for its own and says more
        where, keys = items[0]["where"], [step for step in path if isinstance(step, str)]
        if any(item["type"] == "extra_forbidden" for item in items):
            yield _unknown(where, keys)
            continue
        lines = []
        for item in items:
            if item["type"] in ("model_type", "model_attributes_type"):
                known = _keys_of(keys)
                item["msg"] = f"accepted: a mapping of {', '.join(known)}, such as {{{known[0]}: ...}}"
            lines.append(validation_problem(dotted(keys), item))
        first, *others = dict.fromkeys(lines)
        yield f"{where}: {'; or '.join([first, *(other.partition(': ')[2] for other in others)])}"


def _unknown(where: str, path: list[str]) -> str:
    (*section, key), name = path, dotted(path)
    if section and section[0] in ("fixed", "space", "per_backbone"):
        if key in RESERVED:
            return f"{where}: {name} is set by the sweep itself; {RESERVED[key]}"
        if section[0] == "per_backbone" and key in SHARED:
            return f"{where}: {name}: all backbones are compared on the same {key}; set it for all of them"
        if key == BUDGET:
            return f"{where}: {name}: the budget is the same for all trials; write fixed: {{{key}: ...}}"
        if key in TrainConfig.model_fields:
            home = "data" if key in DATA_FIELDS else "fixed"
            return f"{where}: {name} cannot be swept; write {home}: {{{key}: ...}}; tunable: {', '.join(_keys_of(section))}"
    return unknown_key(f"{where}: {dotted(section)}" if section else where, key, _keys_of(section))


def _keys_of(path: Sequence[str]) -> list[str]:
    """Return the keys that the mapping at a place may have."""
    schema = json_schema()
    found: list[Any] = [schema]
    for step in [*path, None]:
        for part in found:  # grows while it is read
            found += part.get("anyOf", ())
            found += [schema["$defs"][part["$ref"].rpartition("/")[2]]] if "$ref" in part else []
        keyed = [part["properties"] for part in found if "properties" in part]
        others = [
            kind for part in found for p, kind in part.get("patternProperties", {}).items() if re.match(p, step or "")
        ]
        if step is None or not keyed:
            break
        found = [keys[step] for keys in keyed if step in keys] + others
    return list(keyed[0]) if keyed else []


def _decided_twice(root: Node) -> Iterator[str]:
    places: dict[str, Node] = {}
    for section in ("data", "fixed", "space"):
        for key, node in root.entries(section).items():
            if key in places:
                first = places[key].where
                yield f"{node.where}: {section}.{dotted([key])} is decided a second time (first at {first}); keep one"
            places[key] = node


def _repeated(spec: SweepSpec, root: Node) -> Iterator[str]:
    for path in [("space",), *(("per_backbone", name) for name in spec.per_backbone)]:
        given = spec.per_backbone[path[1]] if path[1:] else spec.space
        for key, distribution in given.items():
            for place, value in distribution.repeated.items():
                where = (root.at(*path, key, Grid.kind, place) or root).where
                yield f"{where}: {key}.grid names {shown(value)} more than once; it is counted once"


def _settling(given: SchedulerSpec, scheduler: Mapping[str, Node], num_seeds: int) -> Iterator[str]:
    """Yield what is wrong with the seeds of `confirm: settle`."""
    most = given.seeds.up_to if given.seeds else num_seeds
    if given.seeds and given.confirm != "settle":
        yield f"{scheduler['seeds'].where}: scheduler.seeds is for confirm: settle alone; accepted with it: up_to"
    elif given.seeds and most < num_seeds:
        where = scheduler["seeds"].where
        yield f"{where}: scheduler.seeds.up_to = {most}, but the space has {num_seeds} seeds; accepted: {num_seeds} or more"
    elif given.confirm == "settle" and most < 2:
        yield (
            f"{scheduler['confirm'].where}: scheduler.confirm = settle with one seed: one seed shows no luck, so nothing could "
            "be told apart; accepted: two seeds or more, or seeds: {up_to: 10}"
        )


def _searching(spec: SweepSpec, where: str) -> Iterator[str]:
    """Yield what speaks against proposals that follow from results."""
    asked = f"{where}: search.kind = {spec.search.kind}"
    if not spec.drawn():
        yield f"{asked} has nothing to propose, for every key is a grid; accepted: random, or a loguniform, uniform, randint or choice"
    if spec.scheduler.kind == "race":
        yield (
            f"{asked} with scheduler.kind = race: a race compares all configurations at its first rung, and most are proposed only when "
            "others are over; accepted: asha or fifo, or search.kind: random"
        )


def _cross_check(spec: SweepSpec, root: Node, problems: list[str], notes: list[str]) -> None:
    """Check what takes more than one section to see."""
    drawn, num_seeds, given = spec.drawn(), len(spec.seeds), spec.scheduler
    top, scheduler = root.entries(), root.entries("scheduler")
    if spec.num_samples > 1 and not drawn:
        problems.append(
            f"{top['num_samples'].where}: num_samples = {spec.num_samples} would run the same trials "
            f"{spec.num_samples} times, for every key is a grid; accepted: 1. For repeats give more seeds, for random "
            "search a loguniform, uniform, randint or choice"
        )
    if spec.num_samples == 1 and drawn:
        names = ", ".join(drawn)
        notes.append(
            f"{source_of(spec.path)}: {names}: drawn only once for each combination of the grids (num_samples: 1)"
        )
    if spec.search.kind != "random":
        problems += _searching(spec, root.entries("search")["kind"].where)
    if given.group_by in drawn:
        problems.append(
            f"{scheduler['group_by'].where}: scheduler.group_by = {shown(given.group_by)} is drawn at random, so each "
            "trial would be a group of its own; accepted: a key with a grid"
        )
    unused = [name for name in scheduler if name not in ("kind", "group_by")]
    if given.kind == "fifo" and unused:
        notes.append(f"scheduler fifo runs every trial in full; not used: {', '.join(unused)}")
    if given.kind == "asha" and isinstance(given.explore_seeds, int):
        explore = f"{scheduler['explore_seeds'].where}: scheduler.explore_seeds = {given.explore_seeds}"
        if given.explore_seeds > num_seeds:
            problems.append(f"{explore}, but the space has {num_seeds}; accepted: all, or 1 to {num_seeds}")
        elif given.explore_seeds < num_seeds and not given.confirm:
            problems.append(
                f"{explore} with confirm: false would never run the other seeds; accepted: confirm: true, or all"
            )
    if given.kind != "fifo":
        problems += _settling(given, scheduler, num_seeds)
    if given.kind == "race" and "explore_seeds" in scheduler:
        notes.append("scheduler race gives each configuration the seeds it needs; not used: explore_seeds")
    if given.kind == "race" and not given.confirm and num_seeds > 1:
        problems.append(
            f"{scheduler['confirm'].where}: scheduler.confirm = false with a race would never run the other seeds; "
            "accepted: true"
        )
    if given.kind != "fifo" and given.grace_epochs >= spec.epochs:
        who = "ASHA" if given.kind == "asha" else "a race"
        notes.append(f"{who} can stop no trial: grace_epochs {given.grace_epochs} >= {BUDGET} {spec.epochs}")
    for path in (("per_backbone",), ("resources", "per_backbone")):
        for name, node in root.entries(*path).items():
            if name not in spec.backbones:
                notes.append(f"{node.where}: {dotted([*path, name])} is not used: {name} is not in the space")
