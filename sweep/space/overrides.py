"""Puts `--set key=value` and the other command-line overrides into a parsed space, before anything is checked.

So a value from the command line passes the same checks as one from the file, and its messages name the flag.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fairface_core.errors import ConfigError
from sweep.space.distributions import KINDS
from sweep.space.scalars import dotted, shown
from sweep.space.yaml_nodes import MAX_DEPTH, Node, parse_value

# The flag of sweep.run -> the key that it sets.
FLAGS: dict[str, tuple[str, ...]] = {
    "root": ("data", "root"),
    "protocol": ("data", "protocol"),
    "on_bad_image": ("data", "on_bad_image"),
    "drop_duplicates": ("data", "drop_duplicates"),
    "name": ("name",),
    "scheduler": ("scheduler", "kind"),
    "gpus_per_trial": ("resources", "gpu"),
    "cpus_per_trial": ("resources", "cpu"),
    "max_concurrent": ("resources", "max_concurrent"),
}


def apply_overrides(
    root: Node, sets: Sequence[str], flags: Mapping[str, Any], problems: list[str], notes: list[str]
) -> Node:
    """Return a space with the overrides in it.

    Args:
        root: The mapping that the file holds.
        sets: `key=value` texts; keys are dotted, values are YAML.
        flags: Values by key of `FLAGS`; None means that the flag was not given.
        problems: Gets one line for each override that cannot be read.
        notes: Gets one line for each override that a reader may take for more, or less, than it does.
    """
    seen: set[tuple[str, ...]] = set()
    for text in sets:
        where = f"--set {shown(text)[1:-1]}"
        name, equals, value = text.partition("=")
        keys = tuple(part.strip() for part in name.split("."))
        if not equals or not all(keys) or len(keys) > MAX_DEPTH:
            problems.append(f"{where}: cannot be read; accepted: --set key=value, such as --set fixed.epochs=3")
            continue
        if keys in seen:
            problems.append(f"{where}: {dotted(keys)} is set twice on the command line; keep one of them")
            continue
        seen.add(keys)
        try:
            root = _replaced(root, keys, parse_value(value, where))
        except ConfigError as error:
            problems.extend(error.problems)
        else:
            _note_kept(root, keys, where, notes)
    for flag, given in flags.items():
        if given is None:
            continue
        keys, where = FLAGS[flag], f"--{flag.replace('_', '-')} {shown(given)}"
        if keys in seen:
            problems.append(f"{where}: {dotted(keys)} is set by --set too; keep one of them")
            continue
        try:
            root = _for_every_backbone(root, keys, notes, where)
            root = _replaced(_without_demo(root, notes) if flag == "root" else root, keys, Node(given, where))
        except ConfigError as error:
            problems.extend(error.problems)
    return root


def _replaced(node: Node, keys: tuple[str, ...], new: Node, path: tuple[str, ...] = ()) -> Node:
    """Return `node` with `new` at the dotted place; sections that are absent are made."""
    if not keys:
        return new
    if path == ("data",) and node.value == "demo":
        node = Node({"demo": Node({}, node.where)}, node.where)
    if path == ("data", "demo") and node.value is True:
        node = Node({}, node.where)
    items = {} if node.value is None else node.value
    if not isinstance(items, dict):
        raise ConfigError(f"{new.where}: {dotted(path)} is {node.kind} at {node.where}, which has no keys to set")
    # A distribution is one thing: setting its grid replaces a loguniform that the file has there.
    depth = {"space": 2, "per_backbone": 3}.get(path[0] if path else "", 0)
    if len(keys) == 1 and keys[0] in KINDS and len(path) == depth:
        items = {}
    child = items.get(keys[0], Node(None, new.where))
    made = _replaced(child, keys[1:], new, (*path, keys[0]))
    return Node({**items, keys[0]: made}, node.where)


def _child(node: Node, key: str) -> Node | None:
    return node.value.get(key) if isinstance(node.value, dict) else None


def _note_kept(root: Node, keys: tuple[str, ...], where: str, notes: list[str]) -> None:
    """Say that `space.lr` does not touch the learning rates that one backbone has of its own."""
    overrides = _child(root, "per_backbone")
    if keys[0] != "space" or len(keys) < 2 or overrides is None or not isinstance(overrides.value, dict):
        return
    own = [name for name, node in overrides.value.items() if _child(node, keys[1]) is not None]
    if own:
        notes.append(f"{where}: {', '.join(own)} keeps its own {keys[1]} (per_backbone)")


def _for_every_backbone(root: Node, keys: tuple[str, ...], notes: list[str], where: str) -> Node:
    """Drop the per-backbone values of a resource that the command line sets for every trial."""
    section = _child(root, keys[0]) if keys[0] == "resources" else None
    overrides = _child(section, "per_backbone") if section is not None else None
    if overrides is None or not isinstance(overrides.value, dict):
        return root
    held = {
        name: Node({k: v for k, v in node.value.items() if k != keys[1]}, node.where)
        for name, node in overrides.value.items()
        if isinstance(node.value, dict)
    }
    if any(_child(node, keys[1]) is not None for node in overrides.value.values()):
        notes.append(f"{where}: holds for every backbone; resources.per_backbone is not used for {keys[1]}")
    return _replaced(root, ("resources", "per_backbone"), Node({**overrides.value, **held}, overrides.where))


def _without_demo(root: Node, notes: list[str]) -> Node:
    """Drop the built-in faces from a space that is run on images from a folder."""
    data = _child(root, "data")
    if data is None or (data.value != "demo" and _child(data, "demo") is None):
        return root
    notes.append("--root: the images of this folder are used instead of the built-in faces (data.demo)")
    kept = {k: v for k, v in data.value.items() if k != "demo"} if isinstance(data.value, dict) else {}
    return _replaced(root, ("data",), Node(kept, data.where))
