"""The five ways in which a search space gives values to a key, and the pydantic types that read them.

A distribution maps a number in [0, 1) to a value and draws nothing itself: the plan hashes (sample_seed, key, draw) to
that number, so a draw depends on neither the order of keys, nor the platform, nor the Python version. Types and limits
are those that TrainConfig declares, so a limit there is the limit of every search space and of its schema.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import BaseMetadata, Gt
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, GetPydanticSchema, TypeAdapter, WithJsonSchema
from typing_extensions import TypedDict  # the standard one cannot tell pydantic its keys before Python 3.12

from fairface_core.backbones import BACKBONES, TIMM_PATTERN, matching, spec_of
from fairface_core.config.train_config import TrainConfig, absolute_path
from fairface_core.errors import ConfigError, shown
from sweep.space.yaml_nodes import core_scalar

SEED, BACKBONE, BUDGET = "seed", "backbone", "epochs"
# Draws of a float keep this many significant digits: enough for any hyperparameter, and few enough that a last-bit
# difference between two C libraries' exp() cannot give two trial ids.
SIGNIFICANT_DIGITS = 6
_LISTS = ("grid", "choice")  # the other kinds are ranges


@dataclass(frozen=True)
class Distribution:
    """What gives a key its values.

    Attributes:
        kind: grid: every value, each with every value of the other grids. Or one value per draw: choice: each equally
            likely; uniform: a float of [low, high); loguniform: one whose logarithm is uniform; randint: a whole number
            of [low, high), as in Ray Tune, NumPy and torch.
        values: The values of a grid or choice; the low and the high end of a range.
        repeated: By its place in the file, each value that a grid names once more and that is left out.
    """

    kind: Literal["grid", "choice", "uniform", "loguniform", "randint"]
    values: tuple[Any, ...]
    repeated: dict[int, Any] = field(default_factory=dict, compare=False, repr=False)

    def at(self, fraction: float) -> Any:
        """Return the value at a fraction in [0, 1) of the list or range."""
        if self.kind in _LISTS:
            return self.values[min(int(fraction * len(self.values)), len(self.values) - 1)]
        low, high = self.values
        if self.kind == "randint":
            return min(low + int(fraction * (high - low)), high - 1)
        if self.kind == "uniform":
            return self.nearest(low + fraction * (high - low))
        return self.nearest(math.exp(math.log(low) + fraction * (math.log(high) - math.log(low))))

    def nearest(self, value: float) -> float:
        """Return a float rounded to `SIGNIFICANT_DIGITS`, within the range."""
        low, high = self.values
        return min(max(float(f"{value:.{SIGNIFICANT_DIGITS}g}"), low), high)

    def holds(self, value: Any) -> bool:
        """Whether it can give a key this value; of floats, also the high end."""
        if self.kind in _LISTS:
            return value in self.values
        low, high = self.values
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and low <= value <= high - (self.kind == "randint")

    @property
    def size(self) -> float:
        """How many values it can give a key; infinite for floats."""
        if self.kind in _LISTS:
            return len(set(self.values))
        return self.values[1] - self.values[0] if self.kind == "randint" else math.inf

    def to_json(self) -> dict[str, Any]:
        """Return the distribution as a search space writes it."""
        return {self.kind: list(self.values)}


def mapping_of(title: str, kinds: dict[str, Any]) -> GetPydanticSchema:
    """Return the mark of a dict that has no other keys, each of which may be absent.

    Args:
        title: Name of the mapping in the JSON Schema.
        kinds: The type of each key's value.
    """
    make: Any = TypedDict
    mapping = make(title, kinds, total=False)
    mapping.__pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)
    return GetPydanticSchema(lambda _, handler: handler.generate_schema(mapping))


def value_type(key: str) -> Any:
    """Return the type of one value of a TrainConfig field: numbers may be quoted, paths are made absolute."""
    declared, kinds = TrainConfig.model_fields[key], _kinds(key)
    marks: list[Any] = [*declared.metadata, AfterValidator(partial(_with_absolute_path, key))]
    if kinds & {int, float}:
        marks.append(BeforeValidator(_number))
    if bool in kinds:
        marks.append(WithJsonSchema({"enum": [True, False, "yes", "no", "on", "off"]}))
    if tuple in kinds:
        marks.append(BeforeValidator(lambda given: [given] if isinstance(given, str) else given, str | list[str]))
    if key == BACKBONE:
        names = {"anyOf": [{"enum": [*BACKBONES]}, {"pattern": TIMM_PATTERN}], "type": "string"}
        return Annotated[(str, *marks, AfterValidator(lambda name: _asked(spec_of, name).name), WithJsonSchema(names))]
    return Annotated[(declared.annotation, *marks)]


def distribution_type(key: str) -> Any:
    """Return the type of a mapping such as `{grid: [1e-4, 3e-4]}` for a TrainConfig field; seed and backbone have grids alone."""
    kinds = _kinds(key)
    value: Any = value_type(key)
    values: Any = Annotated[list[value], Field(min_length=1)]
    forms = {"grid": values} if key in (SEED, BACKBONE) else {"grid": values, "choice": values}
    if key == BACKBONE:
        pattern: Any = Annotated[str, Field(min_length=1, max_length=200)]
        several: Any = Annotated[list[pattern], Field(min_length=1)]
        forms["glob"] = Annotated[pattern | several, AfterValidator(_glob)]
    elif key != SEED and kinds & {int, float}:
        for kind in ("uniform", "loguniform", "randint") if float in kinds else ("randint",):
            forms[kind] = _range_type(key, kind)

    def check_size(given: Any) -> Any:
        if isinstance(given, dict) and len(given) != 1:
            raise ValueError(f"holds {shown([*given])}; accepted: exactly one of {', '.join(forms)}")
        return given

    return Annotated[
        dict[str, Any],
        mapping_of(f"Values of {key}", forms),
        BeforeValidator(check_size),
        AfterValidator(_distribution),
        Field(json_schema_extra={"minProperties": 1, "maxProperties": 1}),
    ]


def _range_type(key: str, kind: str) -> Any:
    limits = [mark for mark in TrainConfig.model_fields[key].metadata if isinstance(mark, BaseMetadata)]
    limits += [Gt(0)] if kind == "loguniform" else []
    number: Any = int if kind == "randint" else float
    low_type: Any = Annotated[(number, *limits, BeforeValidator(_number))]
    high_type: Any = Annotated[int, BeforeValidator(_number)] if number is int else low_type

    def check_form(ends: Any) -> Any:
        if not isinstance(ends, list) or len(ends) != 2:
            raise ValueError("accepted: [low, high]")
        return ends

    def check(ends: tuple[Any, Any]) -> tuple[Any, Any]:
        low, high = ends
        if low >= high:
            raise ValueError("accepted: [low, high] with low < high (for one value, a grid)")
        # Every limit of TrainConfig is an interval, so both ends stand for all that lies between them.
        TypeAdapter(low_type).validate_python(high - 1 if number is int else high)
        return ends

    return Annotated[tuple[low_type, high_type], AfterValidator(check), BeforeValidator(check_form)]


def _distribution(given: dict[Any, Any]) -> Distribution:
    ((kind, values),) = given.items()
    if kind not in ("grid", "glob"):
        return Distribution(kind, tuple(values))
    first = {value: i for i, value in reversed([*enumerate(values)])}
    repeated = {i: value for i, value in enumerate(values) if first[value] != i}
    return Distribution("grid", tuple(dict.fromkeys(values)), repeated)


def _asked(question: Callable[[str], Any], name: str) -> Any:
    """Return what is known of a backbone or a pattern; what is not is a value's problem."""
    try:
        return question(name)
    except ConfigError as error:
        raise ValueError(error.problems[0].removeprefix(f"backbone = {shown(name, 200)} ")) from None


def _glob(patterns: str | list[str]) -> list[str]:
    """Return the backbones that patterns match; names that cannot be used are told, all of them."""
    several = [patterns] if isinstance(patterns, str) else patterns
    names = dict.fromkeys(name for pattern in several for name in _asked(matching, pattern))
    problems: list[str] = []
    for name in names:
        try:
            spec_of(name)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ValueError("; ".join(problems))
    return list(names)


def _kinds(key: str) -> set[Any]:
    """Return a field's type and what it is made of."""
    declared = TrainConfig.model_fields[key].annotation
    return {declared, typing.get_origin(declared), *typing.get_args(declared)}


def _number(value: Any) -> Any:
    value = core_scalar(value.strip()) if isinstance(value, str) else value
    if isinstance(value, bool):
        raise ValueError("accepted: a number")
    return value


def _with_absolute_path(key: str, value: Any) -> Any:
    if isinstance(value, tuple):  # of folders; a trial runs in a working folder of its own
        return tuple(str(Path(path).expanduser().absolute()) for path in value)
    return absolute_path(key, value)
