"""Puts `--set key=value` and the other command-line overrides into a parsed space, before anything is checked.

So a value from the command line passes the same checks as one from the file, and its messages name the flag.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fairface_core.errors import ConfigError, shown
from sweep.space.distributions import KINDS
from sweep.space.yaml_nodes import MAX_DEPTH, Node, dotted, parse_yaml

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
    given: list[tuple[str, tuple[str, ...], Node | str]] = []
    for text in sets:
        where = f"--set {shown(text)[1:-1]}"
        name, equals, value = text.partition("=")
        keys = tuple(part.strip() for part in name.split("."))
        if equals and all(keys) and len(keys) <= MAX_DEPTH:
            given.append((where, keys, value))
        else:
            problems.append(f"{where}: cannot be read; accepted: --set key=value, such as --set fixed.epochs=3")
    for flag, set_to in flags.items():
        if set_to is not None:
            where = f"--{flag.replace('_', '-')} {shown(set_to)}"
            given.append((where, FLAGS[flag], Node(set_to, where)))
    for where, keys, new in given:
        if keys in seen:
            problems.append(f"{where}: {dotted(keys)} is set twice on the command line; keep one of them")
            continue
        seen.add(keys)
        try:
            if isinstance(new, str):
                root = _replaced(root, keys, parse_yaml(new, where, is_file=False))
                _note_kept(root, keys, where, notes)
            else:
                root = _replaced(_made_room(root, keys, where, notes), keys, new)
        except ConfigError as error:
            problems.extend(error.problems)
    return root


def _replaced(node: Node, keys: tuple[str, ...], new: Node, path: tuple[str, ...] = ()) -> Node:
    """Return `node` with `new` at the dotted place; sections that are absent are made."""
    if not keys:
        return new
    if path == ("data",) and node.value == "demo":
        node = Node({"demo": Node({}, node.where)}, node.where)
    if node.value is not None and not isinstance(node.value, dict) and (path, node.value) != (("data", "demo"), True):
        raise ConfigError(f"{new.where}: {dotted(path)} is {shown(node.plain())} at {node.where}, which has no keys")
    # A distribution is one thing: setting its grid replaces a loguniform that the file has there.
    is_kind = keys in [(kind,) for kind in KINDS] and len(path) == {"space": 2, "per_backbone": 3}.get(
        path[0] if path else ""
    )
    items = {} if is_kind else node.entries()
    below = items.get(keys[0], Node(None, new.where))
    return Node({**items, keys[0]: _replaced(below, keys[1:], new, (*path, keys[0]))}, node.where)


def _note_kept(root: Node, keys: tuple[str, ...], where: str, notes: list[str]) -> None:
    """Say that `space.lr` does not touch the learning rates that one backbone has of its own."""
    own = [name for name, node in root.entries("per_backbone").items() if node.at(*keys[1:2])]
    if keys[0] == "space" and len(keys) > 1 and own:
        notes.append(f"{where}: {', '.join(own)} keeps its own {keys[1]} (per_backbone)")


def _made_room(root: Node, keys: tuple[str, ...], where: str, notes: list[str]) -> Node:
    """Drop what a flag takes the place of: the built-in faces, and the resources of single backbones."""
    section, last = root.at(keys[0]) or Node(None, where), keys[-1]
    if keys == ("data", "root") and (section.value == "demo" or section.at("demo")):
        notes.append("--root: the images of this folder are used instead of the built-in faces (data.demo)")
        kept = {key: node for key, node in section.entries().items() if key != "demo"}
        return _replaced(root, ("data",), Node(kept, section.where))
    own = section.at("per_backbone")
    if keys[0] == "resources" and own and any(node.at(last) for node in own.entries().values()):
        notes.append(f"{where}: holds for every backbone; resources.per_backbone is not used for {last}")
        kept = {
            name: Node({k: v for k, v in node.entries().items() if k != last}, node.where) if node.entries() else node
            for name, node in own.entries().items()
        }
        return _replaced(root, ("resources", "per_backbone"), Node(kept, own.where))
    return root
