"""Reads YAML from strangers: plain data with a place for every node, or one line per problem; never code.

The text goes through PyYAML's parser only. Its resolver, composer and constructor stay out: they apply tags, expand
aliases, recurse, keep the last of two equal keys and read YAML 1.1 (`3e-4` as text, `on` and `no` as booleans, `1:30`
as 90). Scalars are read by the core schema of YAML 1.2.2, section 10.3, instead.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fairface_core.config import nearest
from fairface_core.errors import ConfigError
from sweep.space.scalars import Scalar, core_scalar, is_forbidden, join_surrogates, shown

MAX_BYTES = 256 * 1024  # PyYAML's parser reads about 0.5 MB/s on one core
MAX_DEPTH = 16
MAX_NODES = 20_000
MAX_SCALAR_CHARS = 4_096
MAX_PROBLEMS = 20

_TAG = "tag:yaml.org,2002:"
_TYPES: dict[str, tuple[type, ...]] = {
    f"{_TAG}str": (str,),
    f"{_TAG}int": (int,),
    f"{_TAG}float": (float, int),
    f"{_TAG}bool": (bool,),
    f"{_TAG}null": (type(None),),
}


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
        if isinstance(self.value, tuple):
            return [node.plain() for node in self.value]
        return self.value

    @property
    def kind(self) -> str:
        """What the node is, in words for a message."""
        if isinstance(self.value, dict):
            return "a mapping"
        return "a list" if isinstance(self.value, tuple) else shown(self.value)


def source_of(path: Path) -> str:
    """Return a path as messages show it: one line, whatever the name holds."""
    return shown(str(path), 300)[1:-1]


def read_yaml(path: Path) -> tuple[Node, str]:
    """Read one YAML file whose root is a mapping.

    Args:
        path: A regular file of UTF-8 text, at most `MAX_BYTES` long.

    Returns:
        The root node and the text as it stands in the file.

    Raises:
        ConfigError: The file cannot be read, or breaks a rule of `parse_yaml`.
    """
    source = source_of(path)
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):  # a FIFO would block for ever, /dev/zero never ends
            what = "a directory" if stat.S_ISDIR(mode) else "not a regular file"
            raise ConfigError(f"{source}: is {what}; accepted: a YAML file")
        with path.open("rb") as file:
            payload = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(f"{source}: no such file{_neighbor(path)}; accepted: the path of a YAML file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigError(f"{source}: cannot be read: {reason}") from error
    if len(payload) > MAX_BYTES:
        raise ConfigError(f"{source}: is larger than {MAX_BYTES // 1024} KiB, the most that is read")
    try:
        text = payload.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = payload.count(b"\n", 0, error.start) + 1
        byte = payload[error.start]
        raise ConfigError(f"{source}:{line}: byte 0x{byte:02x} is not UTF-8; save the file as UTF-8") from error
    return parse_yaml(text, source), text


def _neighbor(path: Path) -> str:
    try:
        names = [entry.name for entry in path.parent.iterdir() if entry.suffix in (".yaml", ".yml")]
    except (OSError, ValueError):
        return ""
    return nearest(path.name, names)


def parse_yaml(text: str, source: str) -> Node:
    """Parse one YAML document whose root is a mapping.

    Refused: two equal keys, keys that are not single words, tags beyond the core schema, anchors and aliases, more than
    one document, numbers that are not finite, control characters, and texts beyond the `MAX_*` bounds of this module.

    Args:
        text: The YAML text.
        source: What stands before the line number in messages.

    Raises:
        ConfigError: One line for each problem found.
    """
    root = _Reader(source).read(text)
    if not isinstance(root.value, dict):
        what = "is empty" if root.value is None else f"the root is {root.kind}"
        raise ConfigError(
            f"{root.where if root.value is not None else source}: {what}; accepted: a mapping of keys, as in search_spaces/quickstart.yaml"
        )
    return root


def parse_value(text: str, source: str) -> Node:
    """Parse one YAML value of any kind, such as the right side of `--set key=value`; messages carry no line.

    Raises:
        ConfigError: As `parse_yaml`, except that any root is accepted.
    """
    return _Reader(source, with_lines=False).read(text)


@dataclass
class _Frame:
    """A collection that is still open."""

    where: str
    items: dict[str, Node] | list[Node]
    key: str | None = None
    key_where: str = ""
    first_at: dict[str, str] = field(default_factory=dict)


class _Reader:
    """Builds nodes from parser events with a stack of its own, so that deep nesting cannot exhaust Python's."""

    def __init__(self, source: str, *, with_lines: bool = True) -> None:
        self.source = source
        self.with_lines = with_lines
        self.problems: list[str] = []
        self.stack: list[_Frame] = []
        self.root: Node | None = None
        self.num_nodes = 0
        self.num_documents = 0

    def read(self, text: str) -> Node:
        try:
            for event in yaml.parse(text, Loader=yaml.SafeLoader):
                self.take(event)
        except yaml.MarkedYAMLError as error:
            self.fail(self.place(error.problem_mark or error.context_mark), _syntax(error))
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            character = error.character if isinstance(error.character, int) else ord(error.character)
            self.fail(self.at(line), f"character U+{character:04X} is not allowed in YAML; remove it")
        except (ValueError, OverflowError):
            # PyYAML 6.0.3 calls chr() on any \U escape and int() on any %YAML version.
            self.fail(self.source, "not valid YAML: an escape or a version number is out of range")
        if self.problems:
            raise ConfigError(self.problems)
        return self.root if self.root is not None else Node(None, self.at(1))

    def at(self, line: int) -> str:
        return f"{self.source}:{line}" if self.with_lines else self.source

    def place(self, mark: Any) -> str:
        return self.at(mark.line + 1) if mark else self.source

    def fail(self, where: str, problem: str) -> None:
        """Stop: what follows in the text could not be trusted."""
        raise ConfigError([*self.problems, f"{where}: {problem}"])

    def report(self, where: str, problem: str) -> None:
        self.problems.append(f"{where}: {problem}")
        if len(self.problems) == MAX_PROBLEMS:
            raise ConfigError([*self.problems, f"{self.source}: more problems may follow"])

    def take(self, event: yaml.Event) -> None:
        where = self.place(event.start_mark)
        if isinstance(event, yaml.DocumentStartEvent):
            self.num_documents += 1
            if self.num_documents > 1:
                self.fail(where, "a second document starts here ('---'); accepted: one document")
        elif isinstance(event, yaml.AliasEvent):
            self.report(where, f"alias {shown(f'*{event.anchor}')} is not accepted; write the value out")
            self.add(Node(None, where))
        elif isinstance(event, yaml.NodeEvent):
            self.num_nodes += 1
            if self.num_nodes > MAX_NODES:
                self.fail(where, f"more than {MAX_NODES:,} values; accepted: up to {MAX_NODES:,}")
            if event.anchor is not None:
                self.report(
                    where,
                    f"anchor {shown(f'&{event.anchor}')} is not accepted; write the value out where used",
                )
            if isinstance(event, yaml.ScalarEvent):
                event.value = join_surrogates(event.value)
                self.add(Node(self.scalar(event, where), where), key_text=event.value)
            elif isinstance(event, yaml.CollectionStartEvent):
                self.open(event, where)
        elif isinstance(event, yaml.CollectionEndEvent):
            frame = self.stack.pop()
            items = frame.items
            self.add(Node(items if isinstance(items, dict) else tuple(items), frame.where))

    def open(self, event: yaml.CollectionStartEvent, where: str) -> None:
        is_mapping = isinstance(event, yaml.MappingStartEvent)
        if event.tag not in (None, "!", f"{_TAG}{'map' if is_mapping else 'seq'}"):
            self.report(where, _bad_tag(event.tag))
        if len(self.stack) == MAX_DEPTH:
            self.fail(where, f"nested deeper than {MAX_DEPTH} levels")
        self.stack.append(_Frame(where, {} if is_mapping else []))

    def add(self, node: Node, key_text: str | None = None) -> None:
        if not self.stack:
            self.root = node
            return
        frame = self.stack[-1]
        if isinstance(frame.items, list):
            frame.items.append(node)
        elif frame.key is None:
            if key_text is None:
                self.report(node.where, f"a key is {node.kind}; accepted: one word")
            frame.key, frame.key_where = key_text or "", node.where
            if key_text in frame.first_at:
                self.report(
                    node.where,
                    f"key {shown(key_text)} stands twice (first at {frame.first_at[key_text]}); keep one of them",
                )
            elif key_text is not None:
                frame.first_at[key_text] = node.where
        else:
            frame.items[frame.key] = Node(node.value, frame.key_where)
            frame.key = None

    def scalar(self, event: yaml.ScalarEvent, where: str) -> Scalar:
        text: str = event.value
        if len(text) > MAX_SCALAR_CHARS:
            self.report(where, f"a value of {len(text):,} characters; accepted: up to {MAX_SCALAR_CHARS:,}")
            return None
        if any(is_forbidden(character) for character in text):
            self.report(where, f"{shown(text)} holds a control character or half of a surrogate pair; remove it")
            return None
        if event.tag in ("!", f"{_TAG}str") or (event.tag is None and event.style is not None):
            return text
        if event.tag is not None and event.tag not in _TYPES:
            self.report(where, _bad_tag(event.tag))
            return None
        try:
            value = core_scalar(text)
        except ValueError as error:
            self.report(where, str(error))
            return None
        if event.tag is not None and (
            not isinstance(value, _TYPES[event.tag]) or (isinstance(value, bool) and not event.tag.endswith("bool"))
        ):
            self.report(where, f"{shown(text)} does not fit its tag {shown('!!' + event.tag[len(_TAG) :])}")
        return value


def _bad_tag(tag: str) -> str:
    written = f"!!{tag[len(_TAG) :]}" if tag.startswith(_TAG) else tag
    return f"tag {shown(written)} is not accepted; write the plain value (tags can run code in other readers)"


def _syntax(error: yaml.MarkedYAMLError) -> str:
    problem = (error.problem or error.context or "cannot be parsed").strip()
    hint = "; indent with spaces, not tabs" if "'\\t'" in problem else ""
    context = f" {error.context}" if error.context and error.problem else ""
    return f"not valid YAML: {problem}{context}{hint}"
