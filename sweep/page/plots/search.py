"""What a search, or many configurations, say of the keys: how much each decides, and where two of them are good together."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
from PIL import Image

from sweep.page.importance import Importance
from sweep.page.plots.style import MUTED, Palette, Plot, plain, rows_axis, styled
from sweep.results.leaderboard import Board
from sweep.wording import counted, listing, number, percent, score

# Above it, shuffled scores give as much importance too often for the key to be believed.
_CHANCE = 0.05
_FEWEST, _LEVELS, _PIXELS = 8, 8, 160
# No color further than so many bandwidths from the nearest configuration.
_REACH = 1.5


def importance_plot(found: Importance, palette: Palette) -> Plot:
    """Show each key's share; hollow, where shuffled scores give as much in more than 5 % of draws."""
    keys = list(found.shares)
    color = palette.color(found.group)
    traces = [
        go.Bar(
            x=[found.shares[key]], y=[row], orientation="h", width=0.55, name=plain(key),
            marker={"color": color if sure else "rgba(0,0,0,0)", "line": {"color": color, "width": 1.6}},
            hovertemplate=f"{plain(key)}: %{{x:.0%}}; as much by chance: {found.chance[key]:.1%}<extra></extra>",
        )
        for row, key in enumerate(keys)
        for sure in [found.chance[key] <= _CHANCE]
    ]  # fmt: skip
    x = {"title": "share of the importance", "tickformat": ".0%", "range": [0, 1]}
    figure = styled(traces, x=x, y=rows_axis(keys))
    words = [
        f"{key} {percent(found.shares[key])}{'' if found.chance[key] <= _CHANCE else ', which chance gives too'}"
        for key in keys
    ]
    alt = (
        f"Importance of each key in {found.group}, of {counted(found.num_configs, 'configuration')}: {listing(words)}."
    )
    return Plot(f"importance-{palette.groups.index(found.group)}", found.group, figure, alt, 90 + 34 * len(keys))


def contour_plot(board: Board, group: str, keys: Sequence[str], palette: Palette) -> Plot | None:
    """Show validation mean_f1 over the first two keys that are numbers, smoothed, and the configurations that it is known from.

    The smoothing is a Gaussian kernel's (Nadaraya and Watson) in the unit square of the two axes, its bandwidth Scott's rule. It is drawn as a
    picture in steps, because the page's plotly has no contours; nothing is drawn far from all configurations.
    """
    configs = [one for one in board.ranked if one.group == group]
    numeric = [key for key in keys if all(_is_number(one.values[key]) for one in configs)]
    if len(numeric) < 2 or len(configs) < _FEWEST:
        return None
    axes = [_axis([float(one.values[key]) for one in configs]) for key in numeric[:2]]
    if any(high <= low for _, low, high, _ in axes):
        return None
    (x, x_low, x_high, x_log), (y, y_low, y_high, y_log) = axes
    values = np.array([float(np.mean(one.val_scores())) for one in configs])
    place = np.stack([(x - x_low) / (x_high - x_low), (y - y_low) / (y_high - y_low)], axis=1)
    levels, edges = _levels(place, values)
    color = palette.color(group)
    best = int(values.argmax())
    picture = {
        "source": _picture(levels, color), "xref": "x", "yref": "y", "x": x_low, "y": y_high, "sizex": x_high - x_low,
        "sizey": y_high - y_low, "sizing": "stretch", "layer": "below", "xanchor": "left", "yanchor": "top",
    }  # fmt: skip
    raw = [(10**x if x_log else x), (10**y if y_log else y)]
    traces = [
        go.Scatter(
            x=raw[0][chosen], y=raw[1][chosen], mode="markers", name=name, marker=marker, cliponaxis=False,
            customdata=[[plain(configs[i].config_id), score(values[i])] for i in chosen],
            hovertemplate="%{customdata[0]}<br>%{customdata[1]}<extra></extra>",
        )
        for name, chosen, marker in (
            ("configuration", [i for i in range(len(configs)) if i != best], palette.hollow(group, size=7)),
            ("best", [best], palette.marker(group, size=13, symbol="star", line={"color": "#ffffff", "width": 1.5})),
        )
    ]  # fmt: skip
    names = numeric[:2]
    figure = styled(
        traces,
        x={"title": plain(names[0]), "type": "log" if x_log else "linear", "range": [x_low, x_high], "showgrid": False},
        y={"title": plain(names[1]), "type": "log" if y_log else "linear", "range": [y_low, y_high], "showgrid": False},
        images=[picture],
        annotations=[
            {
                "text": f"strongest: {score(edges[-2])} and more; a step is {edges[1] - edges[0]:.3f}", "xref": "paper", "yref": "paper",
                "x": 1, "y": 1, "xanchor": "right", "yanchor": "bottom", "showarrow": False, "font": {"size": 11, "color": MUTED},
            }
        ],
        margin={"l": 8, "r": 12, "t": 24, "b": 8},
    )  # fmt: skip
    at = " and ".join(f"{key} {number(configs[best].values[key])}" for key in names)
    alt = (
        f"Validation mean_f1 of {group} over {names[0]} and {names[1]}, smoothed from {counted(len(configs), 'configuration')}: "
        f"from {score(values.min())} to {score(values.max())}, the best at {at}."
    )
    return Plot(f"contour-{palette.groups.index(group)}", f"{group}: {names[0]} and {names[1]}", figure, alt, 360)


Floats = npt.NDArray[np.float64]


def _axis(values: list[float]) -> tuple[Floats, float, float, bool]:
    """Return values in the axis' own coordinates, its ends, and whether these are logarithms."""
    log = min(values) > 0 and max(values) / min(values) > 10
    own = np.log10(values) if log else np.array(values)
    return own, float(own.min()), float(own.max()), log


def _levels(place: Floats, values: Floats) -> tuple[Floats, Floats]:
    """Return the step that each pixel lies in, NaN where nothing is known, rows from the top; and the edges of the steps."""
    bandwidth = len(values) ** (-1 / 6) * place.std(axis=0).mean()
    line = (np.arange(_PIXELS) + 0.5) / _PIXELS
    x, y = np.meshgrid(line, line[::-1])
    squares = (x[..., None] - place[:, 0]) ** 2 + (y[..., None] - place[:, 1]) ** 2
    weights = np.exp(-squares / (2 * bandwidth**2))
    smooth = (weights * values).sum(axis=2) / np.maximum(weights.sum(axis=2), 1e-300)
    known = squares.min(axis=2) < (_REACH * bandwidth) ** 2
    edges = np.linspace(smooth[known].min(), smooth[known].max() + 1e-9, _LEVELS + 1)
    return np.where(known, np.digitize(smooth, edges[1:-1]), np.nan), edges


def _picture(levels: Floats, color: str) -> str:
    """Return steps as a PNG in a `data:` URI, higher ones less transparent: it stands on the light page and on the dark one."""
    pixels = np.zeros((*levels.shape, 4), np.uint8)
    pixels[..., :3] = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    pixels[..., 3] = np.nan_to_num(20 + 190 * levels / (_LEVELS - 1)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def contours(board: Board, importances: Sequence[Importance], palette: Palette) -> list[Plot]:
    """Return a picture for each group with two keys: its most important ones, or the only two that were swept."""
    ordered = {found.group: list(found.shares) for found in importances}
    only = list(board.run.swept_keys)
    drawn = [
        contour_plot(board, group, ordered.get(group, only if len(only) == 2 else []), palette)
        for group in board.run.groups
    ]
    return [plot for plot in drawn if plot]
