"""Numbers and configurations in words, alike on the page, in the model cards and on the console."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import stdev
from typing import Any

from fairface_core.errors import one_line

NOTHING = "–"
_NARROW_SPACE = "\u202f"


def plain(text: str) -> str:
    """Return text of a run folder for a terminal, which obeys what it is shown: one line, controls made visible."""
    return _NARROW_SPACE.join(map(one_line, text.split(_NARROW_SPACE)))


def number(value: Any) -> str:
    """Return a config value as a person writes it: `3e-4`, `128`, `0.05`, `on`."""
    if value is None:
        return "default"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float) and math.isfinite(value):
        if value and not 1e-2 <= abs(value) < 1e5:
            mantissa, _, exponent = f"{value:.3e}".partition("e")
            return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
        return f"{value:.4g}"
    return str(value)


def settings(values: Mapping[str, Any]) -> str:
    """Return `lr 3e-4, dropout 0.2`."""
    return ", ".join(f"{key} {number(value)}" for key, value in values.items())


def score(value: float | None) -> str:
    """Return a score with three decimals: a test set of 2,000 images does not support a fourth."""
    return NOTHING if value is None else f"{value:.3f}"


def signed(value: float | None) -> str:
    """Return a difference with its sign and a real minus."""
    return NOTHING if value is None else f"{value:+.3f}".replace("-", "−")


def span(low: float | None, high: float | None) -> str:
    """Return an interval of scores; of a model that gives every image the same answer it has no width."""
    if low is None or high is None:
        return NOTHING
    ends = f"{low:.3f}", f"{high:.3f}"
    return "no spread" if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"


def signed_span(low: float, high: float) -> str:
    """Return an interval of differences."""
    return f"{signed(low)} to {signed(high)}"


def percent(value: float | None) -> str:
    """Return a share in percent, one decimal."""
    return NOTHING if value is None else f"{100 * value:.1f}\u202f%"


def quantity(value: float | None) -> str:
    """Return three significant digits with thousands separators: `1,310`, `86.4`, `0.0123`."""
    if value is None:
        return NOTHING
    if abs(value) >= 1000:
        digits = len(str(int(abs(value)))) - 3
        return f"{round(value, -digits):,.0f}"
    return f"{value:.3g}" if value == 0 or abs(value) >= 1e-3 else f"{value:.1e}"


def millions(value: float | None) -> str:
    """Return a number of parameters in millions."""
    return NOTHING if value is None else f"{value / 1e6:.1f}\u202fM"


def p_words(value: float) -> str:
    """Return a p-value: `0.03`, `< 0.001`."""
    return "< 0.001" if value < 0.001 else f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def points(value: float | None) -> str:
    """Return a difference of two shares in percentage points."""
    return NOTHING if value is None else f"{100 * value:.1f}"


def probability(value: float) -> str:
    """Return a probability with two decimals, never a false 0 or 1."""
    return "< 0.01" if value < 0.005 else "> 0.99" if value > 0.995 else f"{value:.2f}"


def sd(values: Sequence[float]) -> float | None:
    """Return the standard deviation over seeds (n - 1), None for one seed."""
    return stdev(values) if len(values) > 1 else None


def duration(seconds: float | None) -> str:
    """Return a duration in its two largest units."""
    if seconds is None:
        return NOTHING
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest and minutes < 10 else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 100 else f"{hours} h"


def shortened(text: str, limit: int = 2_000) -> str:
    """Return text without its end where it is longer than anyone reads."""
    return text if len(text) <= limit else f"{text[:limit]}…"


def listing(words: Sequence[str], last: str = "and") -> str:
    """Return `a, b and c`."""
    return f"{', '.join(words[:-1])} {last} {words[-1]}" if len(words) > 1 else "".join(words)


def counted(n: int, noun: str) -> str:
    """Return `1 trial` or `3 trials`."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def amount(number: float, noun: str) -> str:
    """Return `no GPU`, `1 CPU`, `2 CPUs` or `0.5 GPUs`."""
    return f"no {noun}" if number == 0 else f"{number:g} {noun}{'' if number == 1 else 's'}"


def and_more(shown: int, total: int) -> str:
    """Return `and 3 more` for what a list leaves out, nothing where it is whole."""
    return f"and {total - shown:,} more" if total > shown else ""


def axis_words(axis: str) -> str:
    """Return an audit axis in words: `race x gender`, `age group`."""
    return {"age": "age group"}.get(axis, axis.replace("_x_", " × ").replace("_", " "))
