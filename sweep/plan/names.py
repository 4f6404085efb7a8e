"""Names of trials and configurations: a part to read and 8 hex digits of what decides the trained weights."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

DIGEST_CHARS = 8
_MAX_READABLE_CHARS = 80
# What a trial id may be, also in a plan.json from a stranger: it becomes a folder name.
ID_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9_.+-]{0,119}$"


def short_keys(keys: Sequence[str]) -> dict[str, str]:
    """Return a short name for each key: `weight_decay` -> `wd`. A key of one word keeps it; so do keys that clash."""
    initials = {key: "".join(word[0] for word in key.split("_") if word) if "_" in key else key for key in keys}
    clashing = {name for name in initials.values() if list(initials.values()).count(name) > 1}
    return {key: key if name in clashing else name for key, name in initials.items()}


def trial_name(group: str, values: Mapping[str, Any], seed: int | None, digest: str) -> str:
    """Return an id such as `GROUP-lr3e-4-s42-1f0c9a3e`.

    Args:
        group: Its group.
        values: Short key to value, of the keys that vary in the plan.
        seed: Its seed; None for the name of a configuration.
        digest: Hex digits of what decides the weights; the first `DIGEST_CHARS` are used.
    """
    parts = [_word(group), *(f"{key}{short_value(value)}" for key, value in values.items())]
    readable = "-".join(parts)[:_MAX_READABLE_CHARS].rstrip("-.")
    seed_part = [] if seed is None else [f"s{seed}"]
    return "-".join([readable, *seed_part, digest[:DIGEST_CHARS]])


def short_value(value: Any) -> str:
    """Return a value as ids show it: `3e-4`, `0.05`, `true`, the stem of a path; at most 3 significant digits."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return short_number(value)
    return _word("none" if value is None else str(value).rpartition("/")[2])


def short_number(value: float) -> str:
    """Return a number with at most 3 significant digits if it is a fraction: 0.0003 -> `3e-4`, 128 -> `128`."""
    if isinstance(value, int) or (value == int(value) and abs(value) < 1e6):
        return str(int(value))
    mantissa, exponent = f"{value:.2e}".split("e")
    if -3 < int(exponent) < 6:
        return f"{value:.3g}"
    return f"{float(mantissa):g}e{int(exponent)}"


def _word(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.+]+", "_", text).strip("._") or "_"
