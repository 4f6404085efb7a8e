"""The sections of a search space that say how a sweep is run: scheduler, resources, failures."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from fairface_core.config import unknown_key
from sweep.space.scalars import dotted, shown
from sweep.space.yaml_nodes import Node

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(s|m|h|d)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def _seconds(value: Any) -> Any:
    """Read `15m`, `90s`, `1.5h`, a number of seconds, or off."""
    if value is None or value == "off":
        return None
    found = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if found:
        value = float(found[1]) * _SECONDS[found[2]]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 365 * 86_400:
        raise ValueError("accepted: a time such as 90s, 15m or 2h, or off")
    return float(value)


def _gpus(value: Any) -> Any:
    if value == "auto":
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError("accepted: auto, 0, 1 or a fraction of one GPU (a trial trains on one GPU)")
    return round(float(value), 4)  # Ray counts resources in 1/10,000


def _seeds(value: Any) -> Any:
    if value != "all" and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ValueError("accepted: all, or a whole number of seeds from 1")
    return value


Gpus = Annotated[float | Literal["auto"], BeforeValidator(_gpus)]
Cpus = Annotated[float, Field(ge=0.01, le=4096)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, populate_by_name=True)


class SchedulerSpec(_Section):
    """When a trial is stopped early.

    Attributes:
        kind: `asha` stops trials that fall behind in their group; `fifo` runs every trial in full.
        group_by: Trials are compared with those that share the value of this key only.
        grace_epochs: No trial is stopped before it has trained this many epochs.
        reduction_factor: About one in this many goes on at each rung.
        explore_seeds: How many seeds, in the order of the space, take part in the exploration.
        confirm: Whether each group's best configuration is then run in full for all seeds.
    """

    kind: Literal["asha", "fifo"] = "asha"
    group_by: str = "backbone"
    grace_epochs: Annotated[int, Field(ge=1)] = 3
    reduction_factor: Annotated[float, Field(ge=2, le=1000)] = 3.0
    explore_seeds: Annotated[int | Literal["all"], BeforeValidator(_seeds)] = "all"
    confirm: bool = True


class BackboneResources(_Section):
    """What a trial of one backbone needs; None takes the value of all trials."""

    cpu: Cpus | None = None
    gpu: Gpus | None = None


class ResourceSpec(_Section):
    """What a trial needs.

    Attributes:
        cpu: CPUs per trial; Ray's logical CPUs, so fractions are fine.
        gpu: GPUs per trial, 0 to 1; `auto` is 1 where there is a GPU, else 0.
        per_backbone: Other needs of single backbones.
        max_concurrent: Most trials at a time; None leaves it to the resources.
    """

    cpu: Cpus = 1.0
    gpu: Gpus = "auto"
    per_backbone: dict[str, BackboneResources] = {}
    max_concurrent: Annotated[int, Field(ge=1)] | None = None


class FailureSpec(_Section):
    """What happens to a trial that crashes or hangs.

    Attributes:
        max_retries: Further tries of a crashed trial, each from its last state.
        stall_timeout_s: Seconds without a sign of life before a trial is killed; None for never.
    """

    max_retries: Annotated[int, Field(ge=0, le=100)] = 2
    stall_timeout_s: Annotated[
        float | None,
        BeforeValidator(_seconds),
        Field(validation_alias=AliasChoices("stall_timeout", "stall_timeout_s")),
    ] = 900.0


Model = TypeVar("Model", bound=BaseModel)
# The keys that a person writes, which are also those that a message lists.
SECTION_KEYS: dict[type[BaseModel], tuple[str, ...]] = {
    SchedulerSpec: tuple(SchedulerSpec.model_fields),
    ResourceSpec: tuple(ResourceSpec.model_fields),
    BackboneResources: tuple(BackboneResources.model_fields),
    FailureSpec: ("max_retries", "stall_timeout"),
}


def read_section(model: type[Model], node: Node | None, title: str, problems: list[str]) -> Model:
    """Return a section's model; every problem becomes a line in `problems` and its key keeps the default."""
    if node is None or node.value is None:
        return model()
    keys = SECTION_KEYS[model]
    if not isinstance(node.value, dict):
        problems.append(f"{node.where}: {title} is {node.kind}; accepted: a mapping with the keys {', '.join(keys)}")
        return model()
    known = {}
    for key, child in node.value.items():
        if key not in keys:
            problems.append(unknown_key(f"{child.where}: {title}", key, keys))
        else:
            known[key] = child
    try:
        return model.model_validate({key: child.plain() for key, child in known.items()})
    except ValidationError as error:
        for item in error.errors():
            problems.append(_sentence(item, Node(known, node.where), title))
    return model()


def _sentence(item: Any, node: Node, title: str) -> str:
    """Word one of pydantic's errors with the line of the deepest node that its location reaches."""
    trail: list[str] = []
    for step in item["loc"]:
        child = node.value.get(str(step)) if isinstance(node.value, dict) else None
        if child is None:
            break
        trail.append(str(step))
        node = child
    if item["type"] == "extra_forbidden":
        section = dotted([title, *trail[:-1]])
        return unknown_key(f"{node.where}: {section}", item["loc"][-1], SECTION_KEYS[BackboneResources])
    name = dotted([title, *trail])
    if item["type"] in ("model_type", "dict_type"):
        return f"{node.where}: {name} is {node.kind}; accepted: a mapping"
    message = item["msg"].removeprefix("Value error, ").removeprefix("Input ")
    held = f"is {node.kind}" if isinstance(node.value, dict | tuple) else f"= {shown(node.value)}"
    return f"{node.where}: {name} {held}: {message}"
