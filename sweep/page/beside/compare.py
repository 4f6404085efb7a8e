"""The page of two runs beside each other: one HTML file, without scripts."""

from __future__ import annotations

import re

from markupsafe import Markup

from sweep.page.templating import TEMPLATES, environment
from sweep.results.beside.runs import RunPair, result_words

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def page_name(found: RunPair) -> str:
    """Return the page's file name in the first run's folder: `compared_with_<second run>.html`, in safe characters."""
    return f"compared_with_{re.sub(r'[^A-Za-z0-9_.-]+', '_', found.b.run.name)[:80]}.html"


def render_comparison(found: RunPair) -> str:
    """Return the page."""
    return environment().get_template("compare.html.j2").render(
        found=found,
        policy=_POLICY,
        styles=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
        result_words=result_words,
    )  # fmt: skip
