"""Figures of the whole sweep: scores, comparisons, learning curves, responses to swept keys, cost."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import plotly.graph_objects as go

from sweep.page.plots.style import MUTED, TEXT, Palette, Plot, plain, rows_axis, styled, whiskers
from sweep.results.leaderboard import Board
from sweep.results.stats import Comparison
from sweep.run_folder.records import RunRecord, TrialRecord
from sweep.wording import counted, listing, number, score, settings, signed, signed_span, span


def scores_plot(board: Board, palette: Palette) -> Plot | None:
    """Show each group's best configuration: test mean, interval and seeds; validation beside it."""
    best = list(board.best_of_group.values())
    if not best:
        return None
    traces = []
    for row, one in enumerate(best):
        test, val = one.test_scores(), one.val_scores()
        mean = fmean(test)
        name, color = plain(one.group), palette.color(one.group)
        traces += [
            go.Scatter(
                x=test, y=[row + 0.16] * len(test), mode="markers", name=name,
                marker={"color": color, "size": 6, "opacity": 0.55, "symbol": "line-ns-open", "line": {"width": 1.6}},
                customdata=[plain(r.seed) for r in one.full],
                hovertemplate="seed %{customdata}: test %{x:.4f}<extra></extra>",
            ),
            go.Scatter(
                x=[fmean(val)], y=[row - 0.2], mode="markers", name=name,
                marker=palette.hollow(one.group), hovertemplate="validation %{x:.4f}<extra></extra>",
            ),
            go.Scatter(
                x=[mean], y=[row], mode="markers", name=name,
                marker=palette.marker(one.group, size=11),
                error_x=whiskers([mean], [one.test_span], color) if one.test_span else None,
                hovertemplate="test %{x:.4f}<extra></extra>",
            ),
        ]  # fmt: skip
    words = [
        f"{one.group} {score(fmean(one.test_scores()))}" + (f" ({span(*one.test_span)})" if one.test_span else "")
        for one in best
    ]
    x = {"title": "mean_f1", "tickformat": ".3f", "nticks": 7, "tickangle": 0}
    figure = styled(traces, x=x, y=rows_axis([one.group for one in best]))
    alt = f"Test mean_f1 and 95 % interval of each {board.run.group_by}'s best configuration: {listing(words)}."
    return Plot("scores", "Best configurations", figure, alt, 90 + 52 * len(best))


def comparison_plot(comparisons: Sequence[Comparison]) -> Plot | None:
    """Show the paired differences as a forest of intervals."""
    if not comparisons:
        return None
    traces = []
    for name, color, members in (
        ("told apart", TEXT, [i for i, c in enumerate(comparisons) if c.verdict() in ("a", "b")]),
        ("not told apart", MUTED, [i for i, c in enumerate(comparisons) if c.verdict() not in ("a", "b")]),
    ):
        if not members:
            continue
        chosen = [comparisons[i] for i in members]
        values = [c.difference for c in chosen]
        traces.append(
            go.Scatter(
                x=values, y=members, mode="markers", name=name,
                marker={"color": color, "size": 9, "symbol": "circle-open" if color == MUTED else "circle"},
                error_x=whiskers(values, [(c.low, c.high) for c in chosen], color),
                hovertemplate="%{x:+.4f}<extra></extra>",
            )
        )  # fmt: skip
    labels = [f"{c.a}\n− {c.b}" for c in comparisons]
    zero = {
        "type": "line",
        "x0": 0,
        "x1": 0,
        "yref": "paper",
        "y0": 0,
        "y1": 1,
        "line": {"color": MUTED, "width": 1},
    }
    figure = styled(
        traces,
        x={"title": "difference in test mean_f1", "tickformat": "+.3f", "nticks": 6, "tickangle": 0},
        y=rows_axis(labels),
        shapes=[zero],
    )
    words = [f"{c.a} minus {c.b} {signed(c.difference)} ({signed_span(c.low, c.high)})" for c in comparisons[:12]]
    alt = f"Paired differences in test mean_f1 with 95 % intervals: {'; '.join(words)}."
    return Plot("comparisons-plot", "Paired differences", figure, alt, 80 + 42 * len(comparisons))


# From the least to the most important: later ones are drawn on top.
_LINES: dict[str, dict[str, Any]] = {
    "cut short": {"width": 1.2, "dash": "solid", "opacity": 0.4},
    "running": {"width": 1.4, "dash": "dot", "opacity": 0.8},
    "full budget": {"width": 1.4, "dash": "solid", "opacity": 0.6},
    "best configuration": {"width": 2.6, "dash": "solid", "opacity": 1.0},
}


def _kind(record: TrialRecord, winners: set[str]) -> str:
    if record.trial_id in winners:
        return "best configuration"
    if record.status == "running":
        return "running"
    return "full budget" if record.full_budget else "cut short"


def learning_curves(board: Board, group: str, palette: Palette) -> Plot | None:
    """Show validation mean_f1 of every trial of a group, ASHA's rungs, and where trials ended early."""
    run = board.run
    records = [record for record in run.records if record.group == group and record.history]
    if not records:
        return None
    best = board.best_of_group.get(group)
    winners = {record.trial_id for record in best.full} if best else set()
    color = palette.color(group)
    by_kind: dict[str, list[TrialRecord]] = {kind: [] for kind in _LINES}
    for record in records:
        by_kind[_kind(record, winners)].append(record)
    traces: list[Any] = [
        go.Scatter(
            **_joined(members), mode="lines", name=kind, opacity=_LINES[kind]["opacity"],
            line={"color": color, "width": _LINES[kind]["width"], "dash": _LINES[kind]["dash"]},
            hovertemplate="%{customdata}<br>epoch %{x}: %{y:.4f}<extra></extra>", connectgaps=False,
        )
        for kind, members in by_kind.items()
        if members
    ]  # fmt: skip
    for status, symbol in (("stopped", "x-thin"), ("diverged", "asterisk"), ("failed", "asterisk")):
        ended = [r for r in records if r.status == status]
        if ended:
            traces.append(
                go.Scatter(
                    x=[r.history[-1]["epoch"] for r in ended], y=[r.history[-1]["mean_f1"] for r in ended],
                    mode="markers", name=status, customdata=[plain(_ending(r)) for r in ended],
                    marker={"color": TEXT, "symbol": symbol, "size": 8, "line": {"width": 1.8, "color": TEXT}},
                    hovertemplate="%{customdata}<extra></extra>",
                )
            )  # fmt: skip
    scores = [epoch["mean_f1"] for record in run.records for epoch in record.history]
    low, high = min(scores), max(scores)
    pad = 0.04 * (high - low) or 0.01
    lines = [
        {"type": "line", "x0": rung, "x1": rung, "yref": "paper", "y0": 0, "y1": 1,
         "line": {"color": MUTED, "width": 1, "dash": "dot"}}
        for rung in run.rungs
    ]  # fmt: skip
    notes = [
        {"x": rung, "yref": "paper", "y": 1, "yanchor": "bottom", "xanchor": "center", "showarrow": False,
         "text": f"rung {rung:g}" if rung == run.rungs[0] else f"{rung:g}", "font": {"size": 11, "color": MUTED}}
        for rung in run.rungs
    ]  # fmt: skip
    figure = styled(
        traces,
        # The same axes for every group: the panels can be compared by eye.
        x={"title": "epoch", "range": [0.6, run.epochs + 0.4], "dtick": 1 if run.epochs <= 10 else None},
        y={"title": "validation mean_f1", "range": [low - pad, high + pad], "tickformat": ".3f"},
        shapes=lines,
        annotations=notes,
        margin={"l": 8, "r": 12, "t": 22, "b": 8},
    )
    top = max(records, key=lambda r: r.best_mean_f1 or 0.0)
    over = sum(r.full_budget for r in records)
    alt = (
        f"Validation mean_f1 by epoch of {counted(len(records), 'trial')} of {group}; {over} had the full budget, "
        f"{sum(r.status == 'stopped' for r in records)} were stopped early. "
        f"Best: {score(top.best_mean_f1)} ({settings(_shown_values(run, top))})."
    )
    return Plot(f"curves-{palette.groups.index(group)}", group, figure, alt, 310)


def _joined(records: Sequence[TrialRecord]) -> dict[str, list[Any]]:
    """Return all curves as one line with gaps: one trace draws faster than hundreds."""
    joined: dict[str, list[Any]] = {"x": [], "y": [], "customdata": []}
    for record in records:
        joined["x"] += [epoch["epoch"] for epoch in record.history] + [None]
        joined["y"] += [round(epoch["mean_f1"], 5) for epoch in record.history] + [None]
        joined["customdata"] += [plain(record.trial_id)] * (len(record.history) + 1)
    return joined


def _ending(record: TrialRecord) -> str:
    cutoff, at = record.detail.get("cutoff"), record.detail.get("score")
    if isinstance(cutoff, int | float) and isinstance(at, int | float):
        return f"{record.trial_id}: {score(at)} at epoch {record.epochs_trained}, cutoff {score(cutoff)}"
    return f"{record.trial_id}: {record.status} at epoch {record.epochs_trained}"


def _shown_values(run: RunRecord, record: TrialRecord) -> dict[str, Any]:
    return {**{key: record.config.get(key) for key in run.swept_keys}, "seed": record.seed}


def response_plots(board: Board, palette: Palette) -> list[Plot]:
    """Show, for each swept key that is a number, how validation mean_f1 responds to it."""
    plots = [_response_plot(board, key, palette) for key in board.run.swept_keys]
    return [plot for plot in plots if plot is not None]


def _response_plot(board: Board, key: str, palette: Palette) -> Plot | None:
    run = board.run
    records = [r for r in run.records if _is_number(r.config.get(key)) and r.best_mean_f1 is not None]
    values = sorted({float(r.config[key]) for r in records})
    if len(values) < 2:
        return None
    log = values[0] > 0 and values[-1] / values[0] > 10
    traces: list[Any] = []
    for group in run.groups:
        members = [r for r in records if r.group == group]
        if not members:
            continue
        color, place = palette.color(group), _dodge(run.groups.index(group), len(run.groups), values, log=log)
        if len(run.swept_keys) == 1:
            # A line is the mean over seeds. With a second swept key it would join unlike configurations.
            means = _means_by(members, key)
            traces.append(
                go.Scatter(
                    x=[place(x) for x in means], y=list(means.values()), mode="lines",
                    line={"color": color, "width": 1.6}, opacity=0.7, hoverinfo="skip",
                )
            )  # fmt: skip
        for full in (True, False):
            part = [r for r in members if r.full_budget is full]
            if part:
                traces.append(
                    go.Scatter(
                        x=[place(float(r.config[key])) for r in part], y=[r.best_mean_f1 for r in part],
                        mode="markers", name=plain(group),
                        marker=palette.marker(group) if full else palette.hollow(group, size=7, opacity=0.8),
                        customdata=[f"{plain(r.trial_id)}, {r.epochs_trained} epochs" for r in part],
                        hovertemplate="%{customdata}<br>%{y:.4f}<extra></extra>",
                    )
                )  # fmt: skip
    axis: dict[str, Any] = {"title": plain(key), "type": "log" if log else "linear"}
    if len(values) <= 8:
        axis |= {"tickmode": "array", "tickvals": values, "ticktext": [plain(number(v)) for v in values]}
    figure = styled(traces, x=axis, y={"title": "best validation mean_f1", "tickformat": ".3f"})
    words = []
    for group in run.groups:
        members = [r for r in records if r.group == group]
        if members:
            top = max(members, key=lambda r: r.best_mean_f1 or 0.0)
            words.append(f"{group} {score(top.best_mean_f1)} at {number(float(top.config[key]))}")
    alt = f"Best validation mean_f1 of every trial against {key}. Highest per {run.group_by}: {listing(words)}."
    return Plot(f"response-{run.swept_keys.index(key)}", f"Response to {key}", figure, alt, 360)


def _is_number(value: Any) -> bool:
    # Not math.isfinite: JSON holds integers that no float can.
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e300 < value < 1e300


def _means_by(records: Sequence[TrialRecord], key: str) -> dict[float, float]:
    by_value: dict[float, list[float]] = {}
    for record in records:
        if record.best_mean_f1 is not None:
            by_value.setdefault(float(record.config[key]), []).append(record.best_mean_f1)
    return {value: fmean(scores) for value, scores in sorted(by_value.items())}


def _dodge(position: int, num_groups: int, values: Sequence[float], *, log: bool) -> Any:
    """Return a function that sets the groups' points a little apart where they share a few values."""
    if len(values) > 12 or num_groups == 1:
        return lambda value: value
    shift = (position - (num_groups - 1) / 2) / max(num_groups - 1, 1)
    if log:
        # A twentieth of the narrowest step, on the log axis.
        step = min(math.log(b / a) for a, b in itertools.pairwise(values))
        return lambda value: value * math.exp(0.1 * step * shift)
    step = min(b - a for a, b in itertools.pairwise(values))
    return lambda value: value + 0.1 * step * shift
