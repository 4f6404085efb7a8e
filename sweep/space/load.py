"""Strict YAML -> SweepSpec: every key is known, every value is checked, every problem names its line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fairface_core.config.train_config import TrainConfig
from fairface_core.config.wording import unknown_key, validation_problem
from fairface_core.errors import ConfigError, shown
from sweep.space.distributions import BUDGET
from sweep.space.overrides import FLAGS, apply_overrides
from sweep.space.spec import DATA_FIELDS, RESERVED, SHARED, SpaceFile, SweepSpec, json_schema
from sweep.space.yaml_nodes import Document, Place, dotted, read_yaml, source_of


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
    if {"method", "parameters"} <= document.value.keys():
        raise ConfigError(
            f"{document.where(('method',))}: a W&B sweep file (keys method and parameters); this command reads "
            "spaces of its own words: docs/search_spaces.md has them beside those of W&B"
        )
    problems, notes = apply_overrides(document, sets, flags)
    problems += _decided_twice(document)
    try:
        space = SpaceFile.model_validate(document.value)
    except ValidationError as error:
        problems += _worded(error, document)
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    typed = [f"--set {text}" for text in sets]
    typed += [f"--{flag.replace('_', '-')} {value}" for flag, value in flags.items()]
    spec = SweepSpec.model_construct(**dict(space), path=path, text=text, overrides=tuple(typed))
    problems += [f"{document.where(tuple(told.split()[0].split('.')))}: {told}" for told in _at_odds(spec)]
    if problems:
        raise ConfigError(problems)
    return spec.model_copy(update={"notes": tuple(dict.fromkeys([*notes, *_notes(spec, document)]))})


def _worded(error: ValidationError, document: Document) -> Iterator[str]:
    """Word pydantic's errors, one line for each place; what the members of a union say of it stands together."""
    found: dict[Place, list[Any]] = {}
    unknown: set[Place] = set()
    for item in error.errors():
        path: Place = item["loc"][:1]
        for step in item["loc"][1:]:
            # Steps that are no keys name a member of a union, or what is wrong with a key.
            path = (*path, step) if (*path, step) in document.places else path
        found.setdefault(path, []).append(item)
        unknown |= {path} if item["type"] == "extra_forbidden" or "[key]" in item["loc"] else set()
    above = {path[:length] for path in found for length in range(len(path))}
    for path, items in found.items():
        where, keys = document.where(path), [step for step in path if isinstance(step, str)]
        if any(path[:length] in unknown for length in range(len(path))) or path in above - unknown:
            continue  # nothing takes what holds it; or a member of a union took it for its own and says more
        if path in unknown:
            yield _unknown(where, keys)
            continue
        lines = []
        for item in items:
            if item["type"] in ("model_type", "dict_type"):
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
        keyed = [part for part in found if "properties" in part]
        kinds = [(part["properties"] | part.get("patternProperties", {})).items() for part in keyed]
        found = [kind for each in kinds for known, kind in each if step and re.fullmatch(known, step)]
    return [key for part in keyed for key in part["properties"]]


def _decided_twice(document: Document) -> Iterator[str]:
    places: dict[str, str] = {}
    for section in ("data", "fixed", "space"):
        for key in document.entries(section):
            where = document.where((section, key))
            if key in places:
                yield f"{where}: {section}.{dotted([key])} is decided a second time (first at {places[key]}); keep one"
            places[key] = where


def _at_odds(spec: SweepSpec) -> Iterator[str]:
    """Yield what takes more than one key to see; each begins with the key to change."""
    drawn, num_seeds, given, explore = spec.drawn(), len(spec.seeds), spec.scheduler, spec.scheduler.explore_seeds
    if spec.num_samples > 1 and not drawn:
        yield (
            f"num_samples = {spec.num_samples} would run the same trials {spec.num_samples} times, for every key is a grid; "
            "accepted: 1. For repeats give more seeds, for random search a loguniform, uniform, randint or choice"
        )
    if spec.search.kind != "random" and not drawn:
        yield (
            f"search.kind = {spec.search.kind} has nothing to propose, for every key is a grid; accepted: random, or a "
            "loguniform, uniform, randint or choice"
        )
    if spec.search.kind != "random" and given.kind == "race":
        yield (
            f"search.kind = {spec.search.kind} with scheduler.kind = race: a race compares all configurations at its first "
            "rung, and most are proposed only when others are over; accepted: asha or fifo, or search.kind: random"
        )
    if given.group_by in drawn:
        yield (
            f"scheduler.group_by = {shown(given.group_by)} is drawn at random, so each trial would be a group of its own; "
            "accepted: a key with a grid"
        )
    if given.kind == "fifo":
        return
    if given.kind == "asha" and isinstance(explore, int) and explore > num_seeds:
        yield f"scheduler.explore_seeds = {explore}, but the space has {num_seeds}; accepted: all, or 1 to {num_seeds}"
    if given.kind == "asha" and isinstance(explore, int) and explore < num_seeds and not given.confirm:
        yield (
            f"scheduler.explore_seeds = {explore} with confirm: false would never run the other seeds; accepted: confirm: "
            "true, or all"
        )
    if given.kind == "race" and not given.confirm and num_seeds > 1:
        yield "scheduler.confirm = false with a race would never run the other seeds; accepted: true"
    if given.seeds and given.confirm != "settle":
        yield "scheduler.seeds is for confirm: settle alone; accepted with it: up_to"
    if given.seeds and given.confirm == "settle" and given.seeds.up_to < num_seeds:
        most = given.seeds.up_to
        yield f"scheduler.seeds.up_to = {most}, but the space has {num_seeds} seeds; accepted: {num_seeds} or more"
    if given.confirm == "settle" and len(spec.all_seeds) < 2:
        yield (
            "scheduler.confirm = settle with one seed: one seed shows no luck, so nothing could be told apart; accepted: two "
            "seeds or more, or seeds: {up_to: 10}"
        )


def _notes(spec: SweepSpec, document: Document) -> Iterator[str]:
    """Yield what a reader should know of a space that is accepted."""
    drawn, given = spec.drawn(), spec.scheduler
    sections: dict[Place, Any] = {("space",): spec.space}
    sections |= {("per_backbone", name): own for name, own in spec.per_backbone.items()}
    for section, distributions in sections.items():
        for key, distribution in distributions.items():
            for place, value in distribution.repeated.items():
                where = document.where((*section, key, "grid", place))
                yield f"{where}: {key}.grid names {shown(value)} more than once; it is counted once"
    if spec.num_samples == 1 and drawn:
        names = ", ".join(drawn)
        yield f"{source_of(spec.path)}: {names}: drawn only once for each combination of the grids (num_samples: 1)"
    unused = [key for key in document.entries("scheduler") if key not in ("kind", "group_by")]
    if given.kind == "fifo" and unused:
        yield f"scheduler fifo runs every trial in full; not used: {', '.join(unused)}"
    if given.kind == "race" and "explore_seeds" in unused:
        yield "scheduler race gives each configuration the seeds it needs; not used: explore_seeds"
    if given.kind != "fifo" and given.grace_epochs >= spec.epochs:
        who = "ASHA" if given.kind == "asha" else "a race"
        yield f"{who} can stop no trial: grace_epochs {given.grace_epochs} >= {BUDGET} {spec.epochs}"
    for keys in (("per_backbone",), ("resources", "per_backbone")):
        for name in document.entries(*keys):
            if name not in spec.backbones:
                where = document.where((*keys, name))
                yield f"{where}: {dotted((*keys, name))} is not used: {name} is not in the space"
