"""Plain YAML scalars by the core schema of YAML 1.2.2 (section 10.3), and text that is fit to be shown."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

Scalar = str | int | float | bool | None

_NULL = frozenset(("", "~", "null", "Null", "NULL"))
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")


def shown(value: object, limit: int = 60) -> str:
    """Return a value as a message shows it: escaped, in YAML's spelling, cut to `limit` characters."""
    text = {"None": "null", "True": "true", "False": "false"}.get(str(value)) if not isinstance(value, str) else None
    text = text or repr(value)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def dotted(keys: Iterable[str]) -> str:
    """Return keys as `space.lr.grid`; one that is no plain word is quoted and escaped."""
    return ".".join(key if key.isidentifier() else shown(key) for key in keys)


def core_scalar(text: str) -> Scalar:
    """Read a plain (unquoted) scalar by YAML 1.2's core schema: null, true, 17, 0x11, 3e-4, or text.

    Raises:
        ValueError: A number that is not finite, or an integer beyond 64 bits.
    """
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if _INT.fullmatch(text):
        number = int(text, 0) if text[:2] in ("0o", "0x") else int(text)
        if abs(number) >= 2**63:
            raise ValueError(f"{shown(text)} is too large a whole number; accepted: up to 64 bits")
        return number
    if _NOT_FINITE.fullmatch(text):
        raise ValueError(f"{text} is not accepted; accepted: finite numbers")
    if _FLOAT.fullmatch(text):
        value = float(text)
        if not math.isfinite(value):
            raise ValueError(f"{shown(text)} is not accepted; accepted: finite numbers")
        return value
    return text


def join_surrogates(text: str) -> str:
    r"""Return a text with each surrogate pair as the one character that JSON means by it: "\ud83d\ude00"."""
    if text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def is_forbidden(character: str) -> bool:
    """Tell whether a character could command a terminal (C0 and C1 controls) or is half of a surrogate pair."""
    code = ord(character)
    return (code < 0x20 and character not in "\t\n") or 0x7F <= code < 0xA0 or 0xD800 <= code <= 0xDFFF
