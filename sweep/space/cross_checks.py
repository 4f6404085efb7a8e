"""Checks that need more than one section of a search space: samples, scheduler and resources against the trials."""

from __future__ import annotations

from collections.abc import Mapping

from fairface_core.backbones import BACKBONES
from fairface_core.config import nearest, tunable_fields
from sweep.space.scalars import dotted, shown
from sweep.space.spec import BUDGET, SEED, SweepSpec
from sweep.space.yaml_nodes import Node, source_of


def cross_check(spec: SweepSpec, top: Mapping[str, Node], problems: list[str], notes: list[str]) -> None:
    """Check a space whose sections are all right one by one.

    Args:
        spec: What the sections say.
        top: The nodes of the document, for the lines.
        problems: Gets one line per problem.
        notes: Gets one line per fact that a reader should know before the sweep starts.
    """
    _check_samples(spec, top, problems, notes)
    _check_scheduler(spec, _entries(top.get("scheduler")), problems, notes)
    for name, node in _entries(top.get("per_backbone")).items():
        if name not in spec.backbones:
            notes.append(f"{node.where}: per_backbone.{name} is not used: {name} is not in the space")
    _check_resources(spec, _entries(_entries(top.get("resources")).get("per_backbone")), problems, notes)


def unknown_backbone(where: str, section: str, name: str) -> str:
    """Word the message for a section that names a backbone which does not exist."""
    known = ", ".join(BACKBONES)
    return f"{where}: {section}.{dotted([name])} is not a backbone{nearest(name, BACKBONES)}; accepted: {known}"


def _entries(node: Node | None) -> Mapping[str, Node]:
    return node.value if node is not None and isinstance(node.value, dict) else {}


def _check_samples(spec: SweepSpec, top: Mapping[str, Node], problems: list[str], notes: list[str]) -> None:
    drawn = spec.drawn()
    if spec.num_samples > 1 and not drawn:
        problems.append(
            f"{top['num_samples'].where}: num_samples = {spec.num_samples} would run the same trials "
            f"{spec.num_samples} times, for every key is a grid; accepted: 1. For repeats give more seeds, for random "
            "search a loguniform, uniform, randint or choice"
        )
    if spec.num_samples == 1 and drawn:
        notes.append(
            f"{source_of(spec.path)}: {', '.join(drawn)}: drawn only once for each combination of the grids "
            "(num_samples: 1)"
        )


def _check_scheduler(spec: SweepSpec, entries: Mapping[str, Node], problems: list[str], notes: list[str]) -> None:
    given, num_seeds = spec.scheduler, len(spec.seeds)
    key, groupable = given.group_by, sorted(tunable_fields() - {SEED})
    group_by = f"scheduler.group_by = {shown(key)}"
    if key not in groupable:
        problems.append(
            f"{entries['group_by'].where}: {group_by} cannot be grouped by{nearest(key, groupable)}; "
            f"accepted: {', '.join(groupable)}"
        )
    elif key in spec.drawn():
        problems.append(
            f"{entries['group_by'].where}: {group_by} is drawn at random, so each trial would be a group of its own; "
            "accepted: a key with a grid"
        )
    if given.kind == "fifo":
        unused = [name for name in entries if name not in ("kind", "group_by")]
        if unused:
            notes.append(f"scheduler fifo runs every trial in full; not used: {', '.join(unused)}")
        return
    if isinstance(given.explore_seeds, int):
        explore = f"{entries['explore_seeds'].where}: scheduler.explore_seeds = {given.explore_seeds}"
        if given.explore_seeds > num_seeds:
            problems.append(
                f"{explore}, but there {'is' if num_seeds == 1 else 'are'} {num_seeds} seed{'s' * (num_seeds != 1)} "
                f"in the space; accepted: all, or 1 to {num_seeds}"
            )
        elif given.explore_seeds < num_seeds and not given.confirm:
            problems.append(
                f"{explore} with confirm: false would never run the other seeds; "
                "set confirm: true, or explore_seeds: all"
            )
    if given.grace_epochs >= spec.epochs:
        notes.append(f"ASHA can stop no trial: grace_epochs {given.grace_epochs} >= {BUDGET} {spec.epochs}")


def _check_resources(spec: SweepSpec, entries: Mapping[str, Node], problems: list[str], notes: list[str]) -> None:
    for name, node in entries.items():
        section = "resources.per_backbone"
        if name not in BACKBONES:
            problems.append(unknown_backbone(node.where, section, name))
        elif name not in spec.backbones:
            notes.append(f"{node.where}: {section}.{name} is not used: {name} is not in the space")
