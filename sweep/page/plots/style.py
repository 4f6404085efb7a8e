"""How every figure looks: one style, one color and symbol per group, both themes.

Colors are the light theme's; the page swaps them by `DARK` when it is dark. Text from a run folder goes through
`plain`, because plotly reads a little HTML in every label.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

TEXT, MUTED, GRID, SURFACE = "#1c2430", "#5f6b7a", "#e1e6ec", "#ffffff"
# After Okabe and Ito's palette, whose hues people with any color blindness tell apart; darkened until each has at
# least 3:1 contrast on white, and lightened for the dark page. Symbols repeat the distinction without color.
COLORS = ("#0072b2", "#c8530a", "#00815b", "#b04a86", "#8a6a00", "#585ca0", "#16808f", "#6b6b6b")
DARK_COLORS = ("#5ab4ee", "#ff9a5c", "#37c99c", "#ea92c5", "#e2c044", "#a9adf0", "#62cfe0", "#b8b8b8")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "hexagon", "star")
DARK = {
    TEXT: "#e8ecf1",
    MUTED: "#9aa6b4",
    GRID: "#2d3743",
    SURFACE: "#14191f",
    **dict(zip(COLORS, DARK_COLORS, strict=True)),
}
_MAX_LABEL_CHARS = 60


@dataclass(frozen=True)
class Plot:
    """A figure and the words that stand for it.

    Attributes:
        key: Its id on the page.
        title: What it shows, in a few words.
        figure: The plotly figure.
        alt: The content in words, for those who do not see it.
        height_px: Its height.
    """

    key: str
    title: str
    figure: go.Figure
    alt: str
    height_px: int = 320


def plain(text: object) -> str:
    """Return text that plotly shows as it is."""
    return str(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _label(text: str) -> str:
    lines = (line if len(line) <= _MAX_LABEL_CHARS else f"{line[: _MAX_LABEL_CHARS - 1]}…" for line in text.split("\n"))
    return "<br>".join(plain(line) for line in lines)


@dataclass(frozen=True)
class Palette:
    """One color and one symbol per group, the same in every figure."""

    groups: tuple[str, ...]

    def index(self, group: str) -> int:
        """Return the group's position in the palette."""
        return self.groups.index(group) % len(COLORS)

    def color(self, group: str) -> str:
        """Return the group's color on the light page."""
        return COLORS[self.index(group)]

    def marker(self, group: str, **extra: Any) -> dict[str, Any]:
        """Return plotly's marker of the group."""
        return {"color": self.color(group), "symbol": SYMBOLS[self.index(group)], "size": 9, **extra}

    def hollow(self, group: str, **extra: Any) -> dict[str, Any]:
        """Return the same marker, open: for what did not have the full budget or does not count."""
        shape = f"{SYMBOLS[self.index(group)]}-open"
        return {"color": self.color(group), "symbol": shape, "size": 8, "line": {"width": 1.4}, **extra}


def styled(traces: Iterable[Any], *, x: Mapping[str, Any], y: Mapping[str, Any], **layout: Any) -> go.Figure:
    """Return a figure in the page's style."""
    axis = {
        "gridcolor": GRID, "linecolor": GRID, "zeroline": False, "automargin": True, "ticks": "",
        "tickfont": {"color": MUTED, "size": 12}, "title_font": {"color": MUTED, "size": 12}, "title_standoff": 8,
    }  # fmt: skip
    figure = go.Figure(
        data=list(traces),
        layout={
            "font": {
                "family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif",
                "size": 13,
                "color": TEXT,
            },
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "margin": {"l": 8, "r": 12, "t": 12, "b": 8},
            "hovermode": "closest",
            "hoverlabel": {"bgcolor": SURFACE, "bordercolor": GRID, "font": {"color": TEXT, "size": 12}},
            # The page names the groups once for all figures of a section.
            "showlegend": False,
            "xaxis": {**axis, **x},
            "yaxis": {**axis, **y},
            **layout,
        },
    )
    # plotly would put 6 kB of its default template into every figure.
    figure.layout.template = None
    return figure


def rows_axis(labels: Sequence[str]) -> dict[str, Any]:
    """Return a y axis of named rows, the first at the top."""
    return {
        "tickmode": "array",
        "tickvals": list(range(len(labels))),
        "ticktext": [_label(label) for label in labels],
        "range": [len(labels) - 0.4, -0.6],
        "gridcolor": GRID,
        "tickfont": {"color": TEXT, "size": 12},
    }


def whiskers(points: Sequence[float], spans: Sequence[tuple[float, float]], color: str) -> dict[str, Any]:
    """Return plotly's error bars from each point to the ends of its interval."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [high - point for point, (_, high) in zip(points, spans, strict=True)],
        "arrayminus": [point - low for point, (low, _) in zip(points, spans, strict=True)],
        "color": color,
        "thickness": 1.6,
        "width": 4,
    }
