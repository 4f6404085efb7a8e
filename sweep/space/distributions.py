"""The five ways in which a search space gives values to a key.

A distribution maps a number in [0, 1) to a value and draws nothing itself: the plan hashes (sample_seed, key, draw) to
that number, so a draw depends on neither the order of keys, nor the platform, nor the Python version.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

Value = str | int | float | bool | None

# Draws of a float keep this many significant digits: enough for any hyperparameter, and few enough that a last-bit
# difference between two C libraries' exp() cannot give two trial ids.
SIGNIFICANT_DIGITS = 6


class Distribution(Protocol):
    """What the plan needs of a distribution."""

    kind: ClassVar[str]

    def at(self, fraction: float) -> Value:
        """Return the value at a fraction in [0, 1) of the distribution's range."""

    def to_json(self) -> dict[str, Any]:
        """Return the distribution as a search space writes it."""


@dataclass(frozen=True)
class Grid:
    """Every value, each with every value of the other grids."""

    values: tuple[Any, ...]
    kind: ClassVar[str] = "grid"

    def at(self, fraction: float) -> Value:
        """Return the value at a fraction in [0, 1) of the list."""
        return self.values[_index(fraction, len(self.values))]

    def to_json(self) -> dict[str, Any]:
        """Return the distribution as a search space writes it."""
        return {self.kind: list(self.values)}


@dataclass(frozen=True)
class Choice:
    """One value per draw, each equally likely."""

    values: tuple[Any, ...]
    kind: ClassVar[str] = "choice"

    def at(self, fraction: float) -> Value:
        """Return the value at a fraction in [0, 1) of the list."""
        return self.values[_index(fraction, len(self.values))]

    def to_json(self) -> dict[str, Any]:
        """Return the distribution as a search space writes it."""
        return {self.kind: list(self.values)}


@dataclass(frozen=True)
class Uniform:
    """One float per draw from [low, high)."""

    low: float
    high: float
    kind: ClassVar[str] = "uniform"

    def at(self, fraction: float) -> Value:
        """Return `low + fraction * (high - low)`, rounded to `SIGNIFICANT_DIGITS`."""
        return _rounded(self.low + fraction * (self.high - self.low), self.low, self.high)

    def to_json(self) -> dict[str, Any]:
        """Return the distribution as a search space writes it."""
        return {self.kind: [self.low, self.high]}


@dataclass(frozen=True)
class LogUniform:
    """One float per draw from [low, high), whose logarithm is uniform; 0 < low."""

    low: float
    high: float
    kind: ClassVar[str] = "loguniform"

    def at(self, fraction: float) -> Value:
        """Return `low * (high / low) ** fraction`, rounded to `SIGNIFICANT_DIGITS`."""
        log_low, log_high = math.log(self.low), math.log(self.high)
        return _rounded(math.exp(log_low + fraction * (log_high - log_low)), self.low, self.high)

    def to_json(self) -> dict[str, Any]:
        """Return the distribution as a search space writes it."""
        return {self.kind: [self.low, self.high]}


@dataclass(frozen=True)
class RandInt:
    """One whole number per draw from low, low + 1, ..., high - 1, as `randint` of Ray Tune, NumPy and torch."""

    low: int
    high: int
    kind: ClassVar[str] = "randint"

    def at(self, fraction: float) -> Value:
        """Return the whole number at a fraction in [0, 1) of the range."""
        return self.low + _index(fraction, self.high - self.low)

    def to_json(self) -> dict[str, Any]:
        """Return the distribution as a search space writes it."""
        return {self.kind: [self.low, self.high]}


LISTS: dict[str, type[Grid] | type[Choice]] = {"grid": Grid, "choice": Choice}
RANGES: dict[str, type[Uniform] | type[LogUniform] | type[RandInt]] = {
    "uniform": Uniform,
    "loguniform": LogUniform,
    "randint": RandInt,
}
KINDS = (*LISTS, *RANGES)


def num_values(distribution: Distribution) -> int:
    """Return how many values a grid crosses with the others; 1 for every kind that is drawn."""
    return len(distribution.values) if isinstance(distribution, Grid) else 1


def _index(fraction: float, length: int) -> int:
    return min(int(fraction * length), length - 1)


def _rounded(value: float, low: float, high: float) -> float:
    rounded = float(f"{value:.{SIGNIFICANT_DIGITS}g}")
    return min(max(rounded, low), high)
