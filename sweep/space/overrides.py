"""Puts `--set key=value` and the other command-line overrides into a parsed space, before anything is checked.

So a value from the command line passes the same checks as one from the file, and its messages name the flag.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fairface_core.errors import ConfigError, shown
from sweep.space.yaml_nodes import MAX_DEPTH, Document, dotted, parse_yaml

Keys = tuple[str, ...]

# The flag of sweep.run -> the key that it sets.
FLAGS: dict[str, Keys] = {
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


def apply_overrides(document: Document, sets: Sequence[str], flags: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Change a space as the command line says.

    Args:
        document: What the file holds.
        sets: `key=value` texts; keys are dotted, values are YAML.
        flags: Values by key of `FLAGS`.

    Returns:
        A line for each override that cannot be read, and one for each that a reader may take for more, or less, than it does.
    """
    problems: list[str] = []
    notes: list[str] = []
    given: list[tuple[Keys, Document]] = []
    for text in sets:
        try:
            given.append(_parsed(text))
        except ConfigError as error:
            problems += error.problems
    num_sets = len(given)
    for flag, value in flags.items():
        given.append((FLAGS[flag], Document(value, {(): f"--{flag.replace('_', '-')} {shown(value)}"})))
    for n, (keys, new) in enumerate(given):
        where = new.where(())
        if keys in (earlier for earlier, _ in given[:n]):
            problems.append(f"{where}: {dotted(keys)} is set twice on the command line; keep one of them")
            continue
        if document.value.get("data") == "demo" or document.entries("data").get("demo") is True:
            document.value["data"] = {**document.entries("data"), "demo": {}}  # which can be set below
        if n >= num_sets:
            notes += _made_room(document, keys, where)
        problems += _put(document, keys, new)
        if keys[0] == "space" and keys[1:]:
            names = document.entries("per_backbone")
            own = [name for name in names if keys[1] in document.entries("per_backbone", name)]
            notes += [f"{where}: {', '.join(own)} keeps its own {keys[1]} (per_backbone)"] if own else []
    return problems, notes


def _parsed(text: str) -> tuple[Keys, Document]:
    """Read a `--set`."""
    where = f"--set {shown(text)[1:-1]}"
    name, equals, value = text.partition("=")
    keys = tuple(part.strip() for part in name.split("."))
    if not equals or not all(keys) or len(keys) > MAX_DEPTH:
        raise ConfigError(f"{where}: cannot be read; accepted: --set key=value, such as --set fixed.epochs=3")
    return keys, parse_yaml(value, where, is_file=False)


def _put(document: Document, keys: Keys, new: Document) -> list[str]:
    """Put a value at a dotted place, with the sections that are absent; return what is wrong with that."""
    where, held = new.where(()), document.value
    # A distribution is one thing: setting its grid replaces a loguniform that the file has there.
    whole = {"space": 2, "per_backbone": 3}.get(keys[0], len(keys))
    for n, key in enumerate(keys[:-1], 1):
        below = None if n == whole else held.get(key)
        held[key] = below = {} if below is None else below
        if not isinstance(below, dict):
            there = document.where(keys[:n])
            return [f"{where}: {dotted(keys[:n])} is {shown(below)} at {there}, which has no keys"]
        held = below
    held[keys[-1]] = new.value
    kept = {path: place for path, place in document.places.items() if path[:whole] != keys[:whole]}
    made = {keys[:n]: where for n in range(1, len(keys))}
    document.places = made | kept | {(*keys, *path): place for path, place in new.places.items()}
    return []


def _made_room(document: Document, keys: Keys, where: str) -> Iterator[str]:
    """Drop what a flag takes the place of, and tell it: the built-in faces, and the resources of single backbones."""
    data = document.entries("data")
    if keys == ("data", "root") and "demo" in data:
        del data["demo"]
        yield "--root: the images of this folder are used instead of the built-in faces (data.demo)"
    names = document.entries("resources", "per_backbone")
    own = [needs for name in names if keys[-1] in (needs := document.entries("resources", "per_backbone", name))]
    if keys[0] == "resources" and own:
        for needs in own:
            del needs[keys[-1]]
        yield f"{where}: holds for every backbone; resources.per_backbone is not used for {keys[-1]}"
