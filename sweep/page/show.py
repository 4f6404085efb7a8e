"""The page for whoever looks at it: its name, and a browser that opens it."""

from __future__ import annotations

import os
import sys
import webbrowser
from pathlib import Path

from fairface_core.console import tell

REPORT_HTML = "report.html"


def open_page(page: Path) -> None:
    """Open the page, or say where it lies: on a machine without a screen Python would start a browser of letters."""
    screen = sys.platform in ("darwin", "win32") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    )
    if not (screen and webbrowser.open(page.as_uri())):
        tell(f"no browser could be started here; the page is {page}")
