"""The page as one HTML file that asks nothing of the network."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from typing import Any

from markupsafe import Markup

from sweep.page.plots.style import COLORS, DARK, DARK_COLORS
from sweep.page.sections import Page
from sweep.page.templating import TEMPLATES, environment

# The same shapes as in the figures (plots/style.py, SYMBOLS).
_GLYPHS = "●■◆▲▼✚⬢★"


def render_page(page: Page, reload_s: float | None = None) -> str:
    """Return the whole page as one HTML file that asks nothing of the network, and reloads itself where that is given."""
    scripts = {"plotly": _plotly_script(), "page": Markup((TEMPLATES / "report.js").read_text(encoding="utf-8"))}
    # Only these two scripts may run, whatever text a run folder holds. Styles are inline: plotly sets them.
    hashes = " ".join(f"'sha256-{_sha256(text)}'" for text in scripts.values())
    policy = (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    figures = {plot.key: {**plot.figure.to_plotly_json(), "height": plot.height_px} for plot in page.plots()}
    return environment().get_template("report.html.j2").render(
        page=page,
        run=page.run,
        reload_s=reload_s,
        policy=policy,
        scripts=scripts,
        styles=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
        palette=list(zip(COLORS, DARK_COLORS, strict=True)),
        glyphs=_GLYPHS,
        figures=_embedded(figures),
        dark=_embedded(DARK),
    )  # fmt: skip


@functools.cache
def _plotly_script() -> Markup:
    # The package's own bundle is four times as large and draws maps, 3D and much else that no figure here has.
    return Markup((TEMPLATES.parent / "vendor" / "plotly-basic.min.js").read_text(encoding="utf-8"))


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _embedded(value: Any) -> Markup:
    """Return JSON that stands inside a script element: no character of it can end the element."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"), default=list)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
