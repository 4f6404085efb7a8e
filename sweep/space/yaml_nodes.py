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
_WORDS: dict[str, Scalar] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **{word: word[0] in "tT" for word in ("true", "True", "TRUE", "false", "False", "FALSE")},
}
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_NOT_FINITE = r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
_FLOAT = re.compile(rf"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|{_NOT_FINITE}")
# What commands a terminal (C0 and C1 controls), and halves of surrogate pairs.
_FORBIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True)
class Node:
    """One value of a YAML text.

    Attributes:
        value: A scalar, a tuple of nodes, or a dict of nodes by key.
        where: What to blame in messages, such as `backbones.yaml:7`; in a mapping, the line of the key.
    """

    value: Scalar | tuple[Node, ...] | dict[str, Node]
    where: str

    def plain(self) -> Any:
        """Return the value as str, int, float, bool, None, list and dict."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        return [node.plain() for node in self.value] if isinstance(self.value, tuple) else self.value

    def at(self, *steps: str | int) -> Node | None:
        """Return the node below keys and indices, or None where there is none."""
        node: Node | None = self
        for step in steps:
            held = node.value if node else None
            if isinstance(held, tuple):
                node = held[step] if isinstance(step, int) and step < len(held) else None
            else:
                node = held.get(str(step)) if isinstance(held, dict) else None
        return node

    def entries(self, *steps: str) -> dict[str, Node]:
        """Return what a mapping below some keys holds; what is no mapping holds nothing."""
        node = self.at(*steps)
        return node.value if node and isinstance(node.value, dict) else {}


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


def read_yaml(path: Path) -> tuple[Node, str]:
    """Return the root mapping of a YAML file of at most `MAX_BYTES`, and the text as it stands there.

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


def parse_yaml(text: str, source: str, *, is_file: bool = True) -> Node:
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
        if is_file and not isinstance(root.value, dict):
            held = "is empty" if root.value is None else f"the root is {shown(root.plain())}"
            problems.append(f"{root.where}: {held}; accepted: a mapping, as in search_spaces/quickstart.yaml")
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
    return root


class _Reader:
    """Composes nodes from parser events."""

    def __init__(self, events: Iterator[Any], source: str, with_lines: bool) -> None:
        self.events = events
        self.source = source
        self.with_lines = with_lines
        self.problems: list[str] = []
        self.num_nodes = 0

    def at(self, mark: Any) -> str:
        return f"{self.source}:{mark.line + 1}" if mark and self.with_lines else self.source

    def report(self, where: str, problem: str) -> None:
        self.problems.append(f"{where}: {problem}")
        if len(self.problems) == MAX_PROBLEMS:
            raise ConfigError(f"{self.source}: more problems may follow")

    def document(self) -> Node:
        roots: list[Node] = []
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent) and roots:
                raise ConfigError(f"{self.at(event.start_mark)}: a second document starts here; accepted: one")
            if isinstance(event, yaml.NodeEvent):
                roots.append(self.node(event, 1))
        return roots[0] if roots else Node(None, self.source)

    def until(self, end: type) -> Iterator[Any]:
        while not isinstance(event := next(self.events), end):
            yield event

    def node(self, event: Any, depth: int) -> Node:
        where = self.at(event.start_mark)
        self.num_nodes += 1
        if self.num_nodes > MAX_NODES:
            raise ConfigError(f"{where}: more than {MAX_NODES:,} values; accepted: up to {MAX_NODES:,}")
        if event.anchor is not None:
            sign = "*" if isinstance(event, yaml.AliasEvent) else "&"
            self.report(where, f"alias {shown(sign + event.anchor)} is not accepted; write the value out where used")
        if isinstance(event, yaml.AliasEvent):
            return Node(None, where)
        if event.tag is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            self.report(where, f"tag {shown(tag)} is not accepted; write the plain value, text in quotes")
        if isinstance(event, yaml.ScalarEvent):
            return Node(self.scalar(event, where), where)
        if depth > MAX_DEPTH:
            raise ConfigError(f"{where}: nested deeper than {MAX_DEPTH} levels")
        if isinstance(event, yaml.SequenceStartEvent):
            return Node(tuple(self.node(e, depth + 1) for e in self.until(yaml.SequenceEndEvent)), where)
        items: dict[str, Node] = {}
        for key_event in self.until(yaml.MappingEndEvent):
            key, value = self.node(key_event, depth + 1), self.node(next(self.events), depth + 1).value
            if not isinstance(key_event, yaml.ScalarEvent):
                self.report(key.where, f"a key is {shown(key.plain())}; accepted: one word")
                continue
            text = _text(key_event)
            if text in items:
                self.report(key.where, f"key {shown(text)} stands twice (first at {items[text].where}); keep one")
            items[text] = Node(value, key.where)
        return Node(items, where)

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
