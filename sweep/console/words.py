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
    if not console.is_terminal:
        console.print(text, soft_wrap=True)
        return
    lines = textwrap.wrap(
        text.plain, max(console.width, 2 * indent), subsequent_indent=" " * indent,
        break_long_words=False, break_on_hyphens=False, expand_tabs=False, replace_whitespace=False,
    )  # fmt: skip
    end = 0
    for number, line in enumerate(lines):
        words = line[indent:] if number else line
        start = text.plain.index(words, end)
        end = start + len(words)
        console.print(Text.assemble(" " * indent if number else "", text[start:end]), soft_wrap=True)
