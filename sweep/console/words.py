"""Lines for a terminal, broken between words; a log keeps each line whole."""

from __future__ import annotations

import textwrap

from rich.console import Console
from rich.text import Text


def print_words(console: Console, *parts: str | Text | tuple[str, str], indent: int = 0, style: str = "") -> None:
    """Print one line of text, on a terminal in as many lines as its words need.

    A word that is longer than the terminal, such as a path, is left to the terminal, so that it can be copied whole. Rich
    alone breaks in the middle of words where it may not wrap itself, and at the narrow space of `95 %` where it may.

    Args:
        console: Where to.
        *parts: Text, or (text, style).
        indent: Spaces before every line but the first.
        style: Of what has no style of its own.
    """
    text = Text.assemble(*parts, style=style)
    lines = wrapped(text, console.width, indent) if console.is_terminal else [text]
    for line in lines:
        console.print(line, soft_wrap=True)


def wrapped(text: Text, width: int, indent: int = 0) -> list[Text]:
    """Return the lines of a text, styles kept; a line is wider than asked only where a single word is."""
    lines = textwrap.wrap(
        text.plain, max(width, 2 * indent), subsequent_indent=" " * indent,
        break_long_words=False, break_on_hyphens=False, expand_tabs=False, replace_whitespace=False,
    )  # fmt: skip
    out, end = [], 0
    for number, line in enumerate(lines):
        words = line[indent:] if number else line
        start = text.plain.index(words, end)
        end = start + len(words)
        out.append(Text.assemble(" " * indent if number else "", text[start:end]))
    return out
