"""Turns YAML nodes into checked values and distributions of TrainConfig fields; a problem is one line with its place.

TrainConfig itself is the judge of every value, so a limit that is declared there is the limit of every search space.
"""

from __future__ import annotations

import math
import types
import typing
from typing import Any, Final, Literal, Union

from fairface_core.config import TrainConfig, absolute_path, make_config, unknown_key
from fairface_core.errors import ConfigError
from sweep.core_schema import core_scalar, shown
from sweep.distributions import KINDS, LISTS, RANGES, Distribution, Grid, RandInt
from sweep.strict_yaml import Node

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
