"""Reads YAML from strangers: plain data with a place for every node, or one line per problem; never code.

The nodes are composed here from PyYAML's parser: its own composer and constructor apply tags, expand aliases, recurse
without end, keep the last of two equal keys and read YAML 1.1 (`3e-4` as text, `no` as false, `1:30` as 90).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fairface_core.config.wording import nearest
from fairface_core.errors import ConfigError, shown
from fairface_core.files.regular import read_regular

MAX_BYTES = 256 * 1024  # PyYAML's parser reads about 0.5 MB/s on one core
MAX_DEPTH = 16
MAX_NODES = 20_000
MAX_SCALAR_CHARS = 4_096
MAX_PROBLEMS = 20

Scalar = str | int | float | bool | None
Place = tuple[str | int, ...]
_WORDS: dict[str, Scalar] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **{word: word[0] in "tT" for word in ("true", "True", "TRUE", "false", "False", "FALSE")},
}
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_NOT_FINITE = r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
_FLOAT = re.compile(rf"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|{_NOT_FINITE}")
# What commands a terminal (C0 and C1 controls), and halves of surrogate pairs.
_FORBIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass
class Document:
    """A YAML text as plain data, and where in the text each value stands.

    Attributes:
        value: str, int, float, bool, None, list and dict.
        places: By keys and indices, what messages blame for what stands there, such as `backbones.yaml:7`: in a mapping
            the line of the key, for the root the name of the text alone.
    """

    value: Any
    places: dict[Place, str]

    def where(self, path: Place) -> str:
        """Return what to blame for a value; one that is absent takes the place of what should hold it."""
        return next(self.places[path[:n]] for n in range(len(path), -1, -1) if path[:n] in self.places)

    def entries(self, *keys: str) -> dict[str, Any]:
        """Return what a mapping below some keys holds; what is no mapping holds nothing."""
        held = self.value
        for key in keys:
            held = held.get(key) if isinstance(held, dict) else None
        return held if isinstance(held, dict) else {}


def source_of(path: Path) -> str:
    """Return a path as messages show it: one line, whatever the name holds."""
    return shown(str(path), 300)[1:-1]


def dotted(keys: Iterable[str]) -> str:
    """Return keys as `space.lr.grid`; one that is no plain word is quoted and escaped."""
    return ".".join(key if key.isidentifier() else shown(key) for key in keys)


def core_scalar(text: str) -> Scalar:
    """Read a plain (unquoted) scalar by the core schema of YAML 1.2.2, section 10.3: null, true, 17, 0x11, 3e-4, or text.

    Raises:
        ValueError: A number that is not finite, or an integer beyond 64 bits.
    """
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        number = int(text, 0) if text[:2] in ("0o", "0x") else int(text)
        if abs(number) >= 2**63:
            raise ValueError(f"{shown(text)} is too large a whole number; accepted: up to 64 bits")
        return number
    if not _FLOAT.fullmatch(text):
        return text
    if text[-1] in "fFnN" or math.isinf(float(text)):
        raise ValueError(f"{shown(text)} is not accepted; accepted: finite numbers")
    return float(text)


def read_yaml(path: Path) -> tuple[Document, str]:
    """Return a YAML file of at most `MAX_BYTES`, whose root is a mapping, and the text as it stands there.

    Raises:
        ConfigError: The file cannot be read, or breaks a rule of `parse_yaml`.
    """
    source = source_of(path)
    try:
        payload = read_regular(path, limit=MAX_BYTES)
        text = payload.decode("utf-8-sig")
    except FileNotFoundError:
        near = nearest(path.name, [other.name for other in path.parent.glob("*.y*ml")])
        raise ConfigError(f"{source}: no such file{near}; accepted: the path of a YAML file") from None
    except OSError as error:
        raise ConfigError(f"{source}: cannot be read: {error.strerror}; accepted: a YAML file") from error
    except UnicodeDecodeError as error:
        where = f"{source}:{payload.count(10, 0, error.start) + 1}"
        raise ConfigError(f"{where}: byte 0x{payload[error.start]:02x} is not UTF-8; save the file as UTF-8") from error
    return parse_yaml(text, source), text


def parse_yaml(text: str, source: str, *, is_file: bool = True) -> Document:
    """Parse one YAML document whose root is a mapping.

    Refused: two equal keys, keys that are not single words, tags, anchors and aliases, more than one document, numbers
    that are not finite, control characters, and texts beyond the `MAX_*` bounds of this module.

    Args:
        text: The YAML text.
        source: What stands before the line number in messages.
        is_file: False for the value of an option, such as `--set key=value`: any root is accepted, and no line is told.

    Raises:
        ConfigError: One line for each problem found.
    """
    reader = _Reader(yaml.parse(text, Loader=yaml.SafeLoader), source, is_file)
    problems = reader.problems
    try:
        root = reader.document()
        if is_file and not isinstance(root, dict):
            held = "is empty" if root is None else f"the root is {shown(root)}"
            where = reader.places.get((), source)
            problems.append(f"{where}: {held}; accepted: a mapping, as in search_spaces/quickstart.yaml")
    except yaml.MarkedYAMLError as error:
        told = " ".join(part for part in (error.problem, error.context) if part)
        hint = "; indent with spaces, not tabs" if "'\\t'" in told else ""
        problems.append(f"{reader.at(error.problem_mark or error.context_mark)}: not valid YAML: {told}{hint}")
    except yaml.reader.ReaderError as error:
        line = f":{text.count(chr(10), 0, error.position) + 1}" if is_file else ""
        code = error.character if isinstance(error.character, int) else ord(error.character)
        problems.append(f"{source}{line}: character U+{code:04X} is not allowed in YAML; remove it")
    except ConfigError as error:  # what follows in the text could not be trusted
        problems += error.problems
    except (ValueError, OverflowError):
        # PyYAML 6 calls chr() on any \U escape and int() on any %YAML version.
        problems.append(f"{source}: not valid YAML: an escape or a version number is out of range")
    if problems:
        raise ConfigError(problems)
    return Document(root, {**reader.places, (): source})


class _Reader:
    """Composes values from parser events."""

    def __init__(self, events: Iterator[Any], source: str, with_lines: bool) -> None:
        self.events = events
        self.source = source
        self.with_lines = with_lines
        self.problems: list[str] = []
        self.places: dict[Place, str] = {}
        self.num_nodes = 0

    def at(self, mark: Any) -> str:
        return f"{self.source}:{mark.line + 1}" if mark and self.with_lines else self.source

    def report(self, where: str, problem: str) -> None:
        self.problems.append(f"{where}: {problem}")
        if len(self.problems) == MAX_PROBLEMS:
            raise ConfigError(f"{self.source}: more problems may follow")

    def document(self) -> Any:
        root = None
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent) and self.places:
                raise ConfigError(f"{self.at(event.start_mark)}: a second document starts here; accepted: one")
            if isinstance(event, yaml.NodeEvent):
                root = self.node(event, ())
        return root

    def until(self, end: type) -> Iterator[Any]:
        while not isinstance(event := next(self.events), end):
            yield event

    def node(self, event: Any, path: Place) -> Any:
        where = self.places[path] = self.at(event.start_mark)
        self.num_nodes += 1
        if self.num_nodes > MAX_NODES:
            raise ConfigError(f"{where}: more than {MAX_NODES:,} values; accepted: up to {MAX_NODES:,}")
        if event.anchor is not None:
            sign = "*" if isinstance(event, yaml.AliasEvent) else "&"
            self.report(where, f"alias {shown(sign + event.anchor)} is not accepted; write the value out where used")
        if isinstance(event, yaml.AliasEvent):
            return None
        if event.tag is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            self.report(where, f"tag {shown(tag)} is not accepted; write the plain value, text in quotes")
        if isinstance(event, yaml.ScalarEvent):
            return self.scalar(event, where)
        if len(path) >= MAX_DEPTH:
            raise ConfigError(f"{where}: nested deeper than {MAX_DEPTH} levels")
        if isinstance(event, yaml.SequenceStartEvent):
            return [self.node(item, (*path, i)) for i, item in enumerate(self.until(yaml.SequenceEndEvent))]
        items: dict[str, Any] = {}
        for key_event in self.until(yaml.MappingEndEvent):
            key = self.node(key_event, (*path, -1))  # no index of any list
            where, is_word = self.places.pop((*path, -1)), isinstance(key_event, yaml.ScalarEvent)
            if not is_word:
                self.report(where, f"a key is {shown(key)}; accepted: one word")
            text = _text(key_event) if is_word else shown(key)
            below = (*path, text)
            if text in items:
                self.report(where, f"key {shown(text)} stands twice (first at {self.places[below]}); keep one")
            items[text] = self.node(next(self.events), below)
            self.places[below] = where
        return items

    def scalar(self, event: Any, where: str) -> Scalar:
        text = _text(event)
        try:
            if len(text) > MAX_SCALAR_CHARS:
                raise ValueError(f"a value of {len(text):,} characters; accepted: up to {MAX_SCALAR_CHARS:,}")
            if _FORBIDDEN.search(text):
                raise ValueError(f"{shown(text)} holds a control character or half of a surrogate pair; remove it")
            return core_scalar(text) if event.style is None else text
        except ValueError as error:
            self.report(where, str(error))
        return None


def _text(event: Any) -> str:
    r"""Return a scalar's text, each surrogate pair as the one character that JSON means by it: "\ud83d\ude00"."""
    text: str = event.value
    return text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
