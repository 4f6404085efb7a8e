"""The five ways in which a search space gives values to a key, and the pydantic types that read them.

A distribution maps a number in [0, 1) to a value and draws nothing itself: the plan hashes (sample_seed, key, draw) to
that number, so a draw depends on neither the order of keys, nor the platform, nor the Python version. Types and limits
are those that TrainConfig declares, so a limit there is the limit of every search space and of its schema.
"""

from __future__ import annotations

import math
import re
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

from annotated_types import BaseMetadata, Gt
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    GetPydanticSchema,
    TypeAdapter,
    WithJsonSchema,
    create_model,
)
from pydantic_core import core_schema

from fairface_core.backbones import BACKBONES, TIMM_PATTERN, matching, spec_of
from fairface_core.config.train_config import TrainConfig, absolute_path
from fairface_core.errors import ConfigError, shown
from sweep.space.yaml_nodes import core_scalar

SEED, BACKBONE, BUDGET = "seed", "backbone", "epochs"
# Draws of a float keep this many significant digits: enough for any hyperparameter, and few enough that a last-bit
# difference between two C libraries' exp() cannot give two trial ids.
SIGNIFICANT_DIGITS = 6


@dataclass(frozen=True)
class Distribution:
    """What gives a key its values.

    Attributes:
        values: The values of a list; the low and the high end of a range.
        repeated: By its place in the file, each value that a grid names once more and that is left out.
    """

    values: tuple[Any, ...]
    repeated: dict[int, Any] = field(default_factory=dict, compare=False, repr=False)
    kind: ClassVar[str]

    def at(self, fraction: float) -> Any:
        """Return the value at a fraction in [0, 1) of the list or range."""
        return self.values[min(int(fraction * len(self.values)), len(self.values) - 1)]

    def holds(self, value: Any) -> bool:
        """Whether it can give a key this value."""
        return value in self.values

    @property
    def size(self) -> float:
        """How many values it can give a key."""
        return len(dict.fromkeys(self.values))

    def to_json(self) -> dict[str, Any]:
        """Return the distribution as a search space writes it."""
        return {self.kind: list(self.values)}


class Grid(Distribution):
    """Every value, each with every value of the other grids."""

    kind = "grid"


class Choice(Distribution):
    """One value per draw, each equally likely."""

    kind = "choice"


class Floats(Distribution):
    """A range of floats."""

    @property
    def size(self) -> float:
        """Infinite: as many as there are floats."""
        return math.inf

    def holds(self, value: Any) -> bool:
        """Whether it is a number of the range, its ends included."""
        low, high = self.values
        return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high

    def nearest(self, value: float) -> float:
        """Return a value rounded to `SIGNIFICANT_DIGITS`, within the range."""
        low, high = self.values
        return min(max(float(f"{value:.{SIGNIFICANT_DIGITS}g}"), low), high)


class Uniform(Floats):
    """One float per draw from [low, high)."""

    kind = "uniform"

    def at(self, fraction: float) -> float:
        """Return `low + fraction * (high - low)`, rounded to `SIGNIFICANT_DIGITS`."""
        low, high = self.values
        return self.nearest(low + fraction * (high - low))


class LogUniform(Floats):
    """One float per draw from [low, high), whose logarithm is uniform; 0 < low."""

    kind = "loguniform"

    def at(self, fraction: float) -> float:
        """Return `low * (high / low) ** fraction`, rounded to `SIGNIFICANT_DIGITS`."""
        low, high = map(math.log, self.values)
        return self.nearest(math.exp(low + fraction * (high - low)))


class RandInt(Distribution):
    """One whole number per draw from low, low + 1, ..., high - 1, as `randint` of Ray Tune, NumPy and torch."""

    kind = "randint"

    def at(self, fraction: float) -> int:
        """Return the whole number at a fraction in [0, 1) of the range."""
        low, high = self.values
        return min(low + int(fraction * (high - low)), high - 1)

    def holds(self, value: Any) -> bool:
        """Whether it is a whole number of the range."""
        low, high = self.values
        return isinstance(value, int) and not isinstance(value, bool) and low <= value < high

    @property
    def size(self) -> float:
        """How many whole numbers there are."""
        low, high = self.values
        return high - low


RANGES: tuple[type[Distribution], ...] = (Uniform, LogUniform, RandInt)
KINDS = (Grid.kind, Choice.kind, *(form.kind for form in RANGES))


def num_values(distribution: Distribution) -> int:
    """Return how many values a grid crosses with the others; 1 for every kind that is drawn."""
    return len(distribution.values) if isinstance(distribution, Grid) else 1


class Keys(BaseModel):
    """A mapping whose keys are all known."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


def optional(kind: Any, **options: Any) -> Any:
    """Return the definition of a key that may be absent, for `mapping_of`."""
    return kind, Field(default_factory=lambda: None, **options)


def mapping_of(title: str, fields: dict[str, Any], *, more: str | None = None) -> GetPydanticSchema:
    """Return the mark of a dict that has no other keys and keeps those that were given, in their order.

    Args:
        title: Name of the mapping in the JSON Schema.
        fields: Key to pydantic field definition, such as `optional` returns.
        more: A pattern of further keys, which take what the first of `fields` takes.
    """
    model = create_model(title, __base__=Keys, **fields)

    def given(value: Any, check: Callable[[Any], Any]) -> dict[str, Any]:
        others = [key for key in value if re.match(more, str(key))] if more and isinstance(value, dict) else []
        if others:
            same: dict[str, Any] = dict.fromkeys(others, next(iter(fields.values())))
            checked = create_model(title, __base__=model, **same).model_validate(value)
        else:
            checked = check(value)
        return {key: getattr(checked, key) for key in value}

    def told(schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        found = handler(schema)
        if more:
            keys = handler.resolve_ref_schema(found)
            first = next(iter(keys["properties"].values()))
            keys["patternProperties"] = {more: {key: value for key, value in first.items() if key != "title"}}
        return found

    wrapped, as_it_is = core_schema.no_info_wrap_validator_function, core_schema.simple_ser_schema("any")
    return GetPydanticSchema(
        lambda _, handler: wrapped(given, handler.generate_schema(model), serialization=as_it_is), told
    )


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
        return Annotated[(str, *marks, AfterValidator(_known_backbone), WithJsonSchema(names))]
    return Annotated[(declared.annotation, *marks)]


def distribution_type(key: str, *, grid_only: bool = False) -> Any:
    """Return the type of a mapping such as `{grid: [1e-4, 3e-4]}` for a TrainConfig field."""
    kinds = _kinds(key)
    values: Any = Annotated[types.GenericAlias(list, (value_type(key),)), Field(min_length=1)]
    forms = {} if grid_only else {Choice.kind: optional(Annotated[values, AfterValidator(lambda v: Choice(tuple(v)))])}
    forms = {Grid.kind: optional(Annotated[values, AfterValidator(_grid)]), **forms}
    if key == BACKBONE:
        pattern: Any = Annotated[str, Field(min_length=1, max_length=200)]
        several: Any = Annotated[list[pattern], Field(min_length=1)]
        forms["glob"] = optional(Annotated[pattern | several, AfterValidator(_glob)])
    if kinds & {int, float} and not grid_only:
        forms |= {form.kind: optional(_range_type(key, form)) for form in (RANGES if float in kinds else (RandInt,))}

    def check_size(given: Any) -> Any:
        if isinstance(given, dict) and len(given) != 1:
            raise ValueError(f"holds {shown([*given])}; accepted: exactly one of {', '.join(forms)}")
        return given

    return Annotated[
        dict[str, Any],
        mapping_of(f"Values of {key}", forms),
        BeforeValidator(check_size),
        AfterValidator(lambda given: next(iter(given.values()))),
        Field(json_schema_extra={"minProperties": 1, "maxProperties": 1}),
    ]


def _range_type(key: str, form: type[Distribution]) -> Any:
    limits = [mark for mark in TrainConfig.model_fields[key].metadata if isinstance(mark, BaseMetadata)]
    limits += [Gt(0)] if form is LogUniform else []
    low_type: Any = Annotated[(int if form is RandInt else float, *limits, BeforeValidator(_number))]
    high_type: Any = Annotated[int, BeforeValidator(_number)] if form is RandInt else low_type

    def check_form(ends: Any) -> Any:
        if not isinstance(ends, list) or len(ends) != 2:
            raise ValueError("accepted: [low, high]")
        return ends

    def check(ends: tuple[Any, Any]) -> Distribution:
        low, high = ends
        if low >= high:
            raise ValueError("accepted: [low, high] with low < high (for one value, a grid)")
        # Every limit of TrainConfig is an interval, so both ends stand for all that lies between them.
        TypeAdapter(low_type).validate_python(high - 1 if form is RandInt else high)
        return form(ends)

    return Annotated[tuple[low_type, high_type], AfterValidator(check), BeforeValidator(check_form)]


def _grid(values: list[Any]) -> Grid:
    first = {value: i for i, value in reversed([*enumerate(values)])}
    return Grid(tuple(dict.fromkeys(values)), {i: value for i, value in enumerate(values) if first[value] != i})


def _known_backbone(name: str) -> str:
    try:
        return spec_of(name).name
    except ConfigError as error:
        raise ValueError(error.problems[0].removeprefix(f"backbone = {shown(name, 200)} ")) from None


def _glob(patterns: str | list[str]) -> Grid:
    """Return the grid of the backbones that patterns match; names that cannot be used are told, all of them."""
    names: dict[str, None] = {}
    problems: list[str] = []
    try:
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            names.update(dict.fromkeys(matching(pattern)))
    except ConfigError as error:
        problems += error.problems
    for name in names:
        try:
            spec_of(name)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ValueError("; ".join(problems))
    return Grid(tuple(names))


def _kinds(key: str) -> set[Any]:
    """Return the types that a field takes, without their arguments."""
    annotation = TrainConfig.model_fields[key].annotation
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return {typing.get_origin(kind) or kind for kind in (typing.get_args(annotation) if is_union else (annotation,))}


def _number(value: Any) -> Any:
    value = core_scalar(value.strip()) if isinstance(value, str) else value
    if isinstance(value, bool):
        raise ValueError("accepted: a number")
    return value


def _with_absolute_path(key: str, value: Any) -> Any:
    if isinstance(value, tuple):  # of folders; a trial runs in a working folder of its own
        return tuple(str(Path(path).expanduser().absolute()) for path in value)
    return absolute_path(key, value)
