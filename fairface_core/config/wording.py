"""How a wrong key or value of a person's is put into words."""

from __future__ import annotations

import re
import typing
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from fairface_core.errors import shown


def validation_problem(name: str, item: Mapping[str, Any]) -> str:
    """Word one of the items of a pydantic error: `lr = -1: input should be greater than 0`.

    Args:
        name: What the person who wrote the value calls it.
        item: One of `ValidationError.errors()`.
    """
    message = item["msg"].removeprefix("Value error, ").replace("valid tuple", "valid list")
    value = item["input"]
    hint = ""
    if item["type"] == "literal_error" and isinstance(value, str):
        hint = nearest(value, re.findall(r"'([^']*)'", item["ctx"]["expected"]))
    return f"{name} = {shown(value, 200)}: {message[:1].lower()}{message[1:]}{hint}"


def nearest(word: str, accepted: typing.Iterable[str]) -> str:
    """Return `' (did you mean "x"?)'` for the closest accepted word, or nothing."""
    close = get_close_matches(str(word), list(accepted), n=1)
    return f' (did you mean "{close[0]}"?)' if close else ""


def unknown_key(where: str, key: object, accepted: typing.Iterable[str]) -> str:
    """Word the message for a key that nothing takes."""
    accepted = list(accepted)
    return f"{where}: unknown key {key!r}{nearest(str(key), accepted)}; accepted: {', '.join(accepted)}"
