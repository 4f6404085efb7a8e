"""Turns YAML nodes into checked values and distributions of TrainConfig fields; a problem is one line with its place.

TrainConfig itself is the judge of every value, so a limit that is declared there is the limit of every search space.
"""

from __future__ import annotations

import math
import types
import typing
from pathlib import Path
from typing import Any, Final, Literal, Union

from fairface_core.config import TrainConfig, absolute_path, make_config, unknown_key
from fairface_core.errors import ConfigError
from sweep.space.distributions import KINDS, LISTS, RANGES, Distribution, Grid, RandInt
from sweep.space.scalars import core_scalar, shown
from sweep.space.yaml_nodes import Node

# TrainConfig fields that say which images the trials see. The limits are found by their prefix.
_DATA = (
    "train_csv",
    "val_csv",
    "img_col",
    "image_root",
    "protocol",
    "split_seed",
    "on_bad_image",
    "drop_duplicates",
)
DATA_FIELDS = tuple(name for name in TrainConfig.model_fields if name in _DATA or name.startswith("limit_"))
# Arguments of fairface_core.demo.folder.demo_root, with their least and largest value.
DEMO_SIZES = {
    "num_train": (18, 1_000_000),
    "num_val": (18, 1_000_000),
    "image_px": (16, 1024),
    "seed": (0, 2**32 - 1),
}

BAD: Final = object()  # stands for a value whose problem was reported


def check_value(key: str, node: Node, problems: list[str]) -> Any:
    """Return one value of a TrainConfig field as the field stores it, paths absolute, or `BAD` after a line in `problems`.

    Numbers may be quoted (`"3e-4"`); booleans are not numbers; numbers are finite.
    """
    kinds = _kinds(key)
    value = node.plain()
    if tuple in kinds:
        value = [value] if isinstance(value, str) else value
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            problems.append(f"{node.where}: {key} is {node.kind}; accepted: a path or a list of paths")
            return BAD
    elif isinstance(value, list | dict):
        problems.append(f"{node.where}: {key} is {node.kind}; accepted: one value")
        return BAD
    if isinstance(value, bool) and bool not in kinds:
        problems.append(f"{node.where}: {key} = {shown(value)}: {_accepted(kinds)}")
        return BAD
    if isinstance(value, str) and kinds & {int, float} and str not in kinds:
        try:
            value = core_scalar(value.strip())
        except ValueError as error:
            problems.append(f"{node.where}: {key} = {error}")
            return BAD
    try:
        checked = getattr(make_config({key: value}, where=node.where), key)
    except ConfigError as error:
        problems.extend(error.problems)
        return BAD
    if isinstance(checked, float) and not math.isfinite(checked):
        problems.append(f"{node.where}: {key} = {shown(value)}: accepted: a finite number")
        return BAD
    return absolute_path(key, checked)


def check_distribution(key: str, node: Node, problems: list[str], notes: list[str]) -> Distribution | None:
    """Return the distribution that a node such as `{grid: [1e-4, 3e-4]}` spells, or None after a line in `problems`.

    Values that a grid repeats are counted once, which a line in `notes` says.
    """
    example = f"write {key}: {{grid: [...]}}"
    if not isinstance(node.value, dict):
        hint = f"; {example}" if isinstance(node.value, tuple) else f"; {example}, or move {key} to fixed"
        problems.append(f"{node.where}: {key} is {node.kind}; accepted: one of {', '.join(KINDS)}{hint}")
        return None
    unknown = [name for name in node.value if name not in KINDS]
    problems.extend(unknown_key(f"{node.value[name].where}: {key}", name, KINDS) for name in unknown)
    if unknown:
        return None
    if len(node.value) != 1:
        held = " and ".join(node.value) if node.value else "nothing"
        problems.append(f"{node.where}: {key} holds {held}; accepted: exactly one of {', '.join(KINDS)}")
        return None
    ((kind, values),) = node.value.items()
    if not isinstance(values.value, tuple):
        problems.append(f"{values.where}: {key}.{kind} is {values.kind}; accepted: {_example(kind)}")
        return None
    if kind in LISTS:
        return _check_list(key, kind, values.value, values.where, problems, notes)
    return _check_range(key, kind, values.value, values.where, problems)


def _check_list(
    key: str, kind: str, nodes: tuple[Node, ...], where: str, problems: list[str], notes: list[str]
) -> Distribution | None:
    if not nodes:
        problems.append(f"{where}: {key}.{kind} is empty, which makes zero trials; accepted: at least one value")
        return None
    values = [check_value(key, node, problems) for node in nodes]
    if BAD in values:
        return None
    if kind != Grid.kind:
        return LISTS[kind](tuple(values))
    seen: set[str] = set()
    for node, value in zip(nodes, values, strict=True):
        if repr(value) in seen:
            notes.append(f"{node.where}: {key}.grid names {shown(value)} more than once; it is counted once")
        seen.add(repr(value))
    return Grid(tuple(dict.fromkeys(values)))


def _check_range(key: str, kind: str, nodes: tuple[Node, ...], where: str, problems: list[str]) -> Distribution | None:
    kinds = _kinds(key)
    if not kinds & {int, float}:
        problems.append(f"{where}: {key} is not a number, so {kind} cannot draw it; accepted: {', '.join(LISTS)}")
        return None
    if kind != RandInt.kind and float not in kinds:
        problems.append(f"{where}: {key} takes whole numbers; accepted: {RandInt.kind}, {', '.join(LISTS)}")
        return None
    if len(nodes) != 2:
        problems.append(f"{where}: {key}.{kind} holds {len(nodes)} values; accepted: [low, high]")
        return None
    numbers = [_number(f"{key}.{kind}", node, kind == RandInt.kind, problems) for node in nodes]
    if BAD in numbers:
        return None
    low, high = numbers
    if low >= high:
        problems.append(f"{where}: {key}.{kind} = [{low}, {high}]; accepted: low < high (for one value, a grid)")
        return None
    if kind == "loguniform" and low <= 0:
        problems.append(f"{nodes[0].where}: {key}.{kind} starts at {low}; accepted: low > 0")
        return None
    # Every limit of TrainConfig is an interval, so both ends stand for all that lies between them.
    last = Node(high - 1, nodes[1].where) if kind == RandInt.kind else nodes[1]
    if any(check_value(key, end, problems) is BAD for end in (nodes[0], last)):
        return None
    return RANGES[kind](low, high)


def _number(what: str, node: Node, whole: bool, problems: list[str]) -> Any:
    value = node.plain()
    if isinstance(value, str):
        try:
            value = core_scalar(value.strip())
        except ValueError:
            value = None
    if isinstance(value, bool) or not isinstance(value, int | float) or (whole and value != int(value)):
        problems.append(f"{node.where}: {what} holds {node.kind}; accepted: {'whole numbers' if whole else 'numbers'}")
        return BAD
    return int(value) if whole else float(value)


def _kinds(key: str) -> frozenset[type]:
    """Return the types that a field takes, without None."""
    annotation = TrainConfig.model_fields[key].annotation
    arguments = typing.get_args(annotation) if _is_union(annotation) else (annotation,)
    found: set[type] = set()
    for argument in arguments:
        if typing.get_origin(argument) is Literal:
            found.update(type(value) for value in typing.get_args(argument))
        elif argument is not type(None):
            found.add(typing.get_origin(argument) or argument)
    return frozenset(found)


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (Union, types.UnionType)


def _accepted(kinds: frozenset[type]) -> str:
    words = {int: "a whole number", float: "a number", str: "text (put it in quotes)"}
    return "accepted: " + " or ".join(word for kind, word in words.items() if kind in kinds)


def _example(kind: str) -> str:
    return "a list in square brackets" if kind in LISTS else "[low, high]"


def read_data(node: Node | None, problems: list[str]) -> dict[str, Any]:
    """Return the section's values; every problem becomes a line in `problems`.

    Returns:
        `root` (absolute folder or None), `demo` (sizes of the built-in faces, or None), and the data policies that the
        section names, by TrainConfig field.
    """
    out: dict[str, Any] = {"root": None, "demo": None}
    if node is None or node.value is None:
        return out
    if node.value == "demo":
        return {**out, "demo": {}}
    if not isinstance(node.value, dict):
        problems.append(f"{node.where}: data is {node.kind}; accepted: demo, or a mapping such as {{root: DIR}}")
        return out
    for key, child in node.value.items():
        if key == "root":
            out["root"] = _root(child, problems)
        elif key == "demo":
            out["demo"] = _demo(child, problems)
        elif key not in DATA_FIELDS:
            problems.append(unknown_key(f"{child.where}: data", key, ("root", "demo", *DATA_FIELDS)))
        elif (value := check_value(key, child, problems)) is not BAD:
            # Trials run in a working folder of their own, so paths are made absolute here.
            out[key] = tuple(map(_absolute, value)) if isinstance(value, tuple) else value
    if out["root"] is not None and out["demo"] is not None:
        problems.append(
            f"{node.where}: data holds root and demo; keep root for images of your own, demo for the built-in faces"
        )
    return out


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute())


def _root(node: Node, problems: list[str]) -> str | None:
    if node.value is None:
        return None
    if not isinstance(node.value, str) or not node.value.strip():
        problems.append(f"{node.where}: data.root is {node.kind}; accepted: a folder, or null to give --root DIR later")
        return None
    return _absolute(node.value)


def _demo(node: Node, problems: list[str]) -> dict[str, int] | None:
    if node.value is False:
        return None
    if node.value is None or node.value is True:
        return {}
    if not isinstance(node.value, dict):
        problems.append(f"{node.where}: data.demo is {node.kind}; accepted: true, or sizes such as {{num_train: 2000}}")
        return {}
    sizes: dict[str, int] = {}
    for key, child in node.value.items():
        if key not in DEMO_SIZES:
            problems.append(unknown_key(f"{child.where}: data.demo", key, DEMO_SIZES))
            continue
        least, most = DEMO_SIZES[key]
        value = child.value
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            problems.append(
                f"{child.where}: data.demo.{key} = {child.kind}; accepted: a whole number from {least:,} to {most:,}"
            )
        else:
            sizes[key] = value
    return sizes
