"""Interleaved timing, ratios with their spread, and the rows that every benchmark prints.

Absolute times depend on the machine and on who else uses it; ratios of two things timed in turn, in one run, much less.
So each round times every arm once, in an order that rotates, and a ratio is taken within its round. The median of
the rounds is the figure, and their interquartile range over the median is the spread.

CPU seconds (all threads, finished children included) stand beside wall seconds: they hardly change when other
programs use the same cores.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np


class Sample(NamedTuple):
    """One timing of one arm.

    Attributes:
        units: What was done, such as images.
        wall_s: Seconds that passed.
        cpu_s: Processor seconds of this process and of its children that ended meanwhile.
    """

    units: float
    wall_s: float
    cpu_s: float

    @property
    def rate(self) -> float:
        """Units per second of wall time."""
        return self.units / self.wall_s

    @property
    def cpu_rate(self) -> float:
        """Units per second of processor time."""
        return self.units / self.cpu_s


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        name: `program.what`.
        ratio: Median over the rounds; None where it was not measured.
        goal: What the ratio has to reach, or None.
        n: Rounds.
        spread: Interquartile range of the rounds' ratios over their median; None below two rounds.
        sense: Whether `ratio` has to be at least or at most `goal`.
        facts: The figures behind it, with units in their names, and notes.
    """

    name: str
    ratio: float | None
    goal: float | None = None
    n: int = 0
    spread: float | None = None
    sense: Literal[">=", "<="] = ">="
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None without a goal or a measurement."""
        if self.goal is None or self.ratio is None:
            return None
        return self.ratio >= self.goal if self.sense == ">=" else self.ratio <= self.goal

    def as_dict(self) -> dict[str, Any]:
        """Return the row for `--json`; facts stand beside the figures."""
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "facts"}
        return {**own, "met": self.met, **self.facts}


def not_measured(name: str, why: str, goal: float | None = None, sense: Literal[">=", "<="] = ">=") -> Row:
    """Return a row for what this machine cannot tell."""
    return Row(name, None, goal, sense=sense, facts={"note": f"not measured: {why}"})


def processor_s() -> float:
    """Return the processor seconds of this process and of its finished children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def timed(work: Callable[[], float]) -> Sample:
    """Run work that returns how many units it did."""
    cpu, wall = processor_s(), time.perf_counter()
    units = work()
    return Sample(units, time.perf_counter() - wall, processor_s() - cpu)


def interleave(arms: Mapping[str, Callable[[], Sample]], *, rounds: int, warm_up: int = 1) -> dict[str, list[Sample]]:
    """Time every arm once a round, in an order that rotates, so that drift and neighbors hit all alike.

    Args:
        arms: Name to a call that times itself (`timed`).
        rounds: How often.
        warm_up: Rounds before, thrown away.
    """
    names = list(arms)
    taken: dict[str, list[Sample]] = {name: [] for name in names}
    for turn in range(-warm_up, rounds):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            sample = arms[name]()
            if turn >= 0:
                taken[name].append(sample)
    return taken


def summary(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the median, and the interquartile range over it (None for a single value)."""
    median = float(np.median(values))
    if len(values) < 2:
        return median, None
    low, high = np.quantile(values, [0.25, 0.75])
    return median, float((high - low) / abs(median)) if median else math.inf


def rate_row(
    name: str,
    ours: Sequence[Sample],
    peer: Sequence[Sample],
    *,
    goal: float | None = None,
    unit: str = "images",
    **facts: Any,
) -> Row:
    """Return the ratio of two rates, round by round: above 1 is faster than the peer."""
    ratio, spread = summary([a.rate / b.rate for a, b in zip(ours, peer, strict=True)])
    cpu_ratio, cpu_spread = summary([a.cpu_rate / b.cpu_rate for a, b in zip(ours, peer, strict=True)])
    return Row(
        name,
        ratio,
        goal,
        len(ours),
        spread,
        facts={
            f"{unit}_per_s": summary([a.rate for a in ours])[0],
            f"peer_{unit}_per_s": summary([b.rate for b in peer])[0],
            "cpu_ratio": cpu_ratio,
            "cpu_spread": cpu_spread,
            **facts,
        },
    )


def ratio_row(
    name: str,
    ratios: Sequence[float],
    *,
    goal: float | None = None,
    sense: Literal[">=", "<="] = ">=",
    **facts: Any,
) -> Row:
    """Return the median of ratios that were taken round by round."""
    ratio, spread = summary(ratios)
    return Row(name, ratio, goal, len(ratios), spread, sense, facts)


def machine() -> dict[str, Any]:
    """Return what a result depends on: no host name, no user, no path."""
    from fairface_core.machine.provenance import cpu_name, git_commit, versions
    from fairface_core.machine.resources import local_cpus

    return {
        "cpu": cpu_name(),
        "cores": local_cpus(),
        "python": platform.python_version(),
        **versions(),
        "commit": git_commit(),
        "load_1m": round(os.getloadavg()[0], 1),
    }


def parser(doc: str | None, name: str) -> argparse.ArgumentParser:
    """Return a parser with the flags that all benchmarks share."""
    made = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=doc,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--json", action="store_true", help="print a JSON list of rows, and nothing else, on stdout")
    return made


def show(rows: Sequence[Row], *, as_json: bool) -> None:
    """Print the rows: a JSON list, or a table with the machine above it and the facts below each row."""
    if as_json:
        print(json.dumps([_finite(row.as_dict()) for row in rows], indent=1))
        return
    print(", ".join(f"{key} {value}" for key, value in machine().items()))
    width = max((len(row.name) for row in rows), default=0)
    for row in rows:
        goal = "" if row.goal is None else f"  goal {row.sense} {row.goal:g}: {_VERDICTS[row.met]}"
        spread = "" if row.spread is None else f" ±{row.spread:.1%}"
        figure = "not measured" if row.ratio is None else f"{row.ratio:.4g}x{spread} (n={row.n})"
        print(f"{row.name:<{width}}  {figure}{goal}")
        if row.facts:
            print("    " + ", ".join(f"{key} {_short(value)}" for key, value in row.facts.items()))


_VERDICTS = {True: "met", False: "MISSED", None: "not measured"}


def say(text: str) -> None:
    """Print progress on stderr: a benchmark takes minutes."""
    print(text, file=sys.stderr, flush=True)


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
