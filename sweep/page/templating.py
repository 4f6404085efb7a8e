"""The one Jinja environment of the page and the model cards.

Text from a run folder may hold anything. On the page Jinja escapes it as HTML; in a card every expression goes through
`escape_markdown`, so that none can be forgotten.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined, pass_eval_context
from jinja2.nodes import EvalContext

from sweep import wording

TEMPLATES = Path(__file__).parent / "templates"
# Also at the start of a line, where they would begin a list or a title; an underscore within a word means nothing.
_MARKDOWN = re.compile(r"([\\`*\[\]<>|~$&]|^[-+#=]|(?<!\w)_|_(?!\w))")


class Verbatim(str):
    """Text that needs no escape: a name of ours, or a trial id, which the plan's reader holds to safe characters."""

    __slots__ = ()


def escape_markdown(value: Any) -> str:
    """Return a value as text that Markdown shows as it is, on one line: a run folder may hold anything."""
    if isinstance(value, Verbatim):
        return value
    text = "".join(" " if unicodedata.category(char).startswith("C") else char for char in str(value))
    return _MARKDOWN.sub(r"\\\1", text)


@functools.cache
def environment() -> Environment:
    """Return the environment: HTML where the template's name says so, Markdown elsewhere."""
    found = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        finalize=_finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in ("number", "settings", "score", "signed", "span", "signed_span", "percent", "quantity", "millions",
                 "p_words", "duration", "counted", "listing", "probability", "points", "sd", "shortened",
                 "axis_words"):  # fmt: skip
        found.filters[name] = getattr(wording, name)
    found.filters["verbatim"] = Verbatim
    found.filters["mean"] = lambda values: sum(values) / len(values)
    found.filters["trial_href"] = lambda trial_id: f"trials/{quote(trial_id)}/"
    return found


@pass_eval_context
def _finalize(context: EvalContext, value: Any) -> Any:
    return value if context.autoescape else escape_markdown(value)
