"""Figures of each group's best trial: whom it fails, how sure it is, by how much it misses."""

from __future__ import annotations

import math
from collections.abc import Sequence

import plotly.graph_objects as go

from sweep.page.plots.style import MUTED, Palette, Plot, plain, rows_axis, styled, whiskers
from sweep.results.leaderboard import Configuration
from sweep.wording import axis_words, listing, percent

_ROW_PX = 34


def audit_plots(best: Sequence[Configuration], axis: str, palette: Palette) -> list[Plot]:
    """Show accuracy and Wilson interval by subgroup, for the best trial of each group."""
    reports = [(one, one.best.report) for one in best if one.best and one.best.report]
    tables = [
        (one, {row["group"]: row for row in report["subgroups"]["by"][axis]})
        for one, report in reports
        if axis in report.get("subgroups", {}).get("by", {})
    ]
    names = list(dict.fromkeys(name for _, table in tables for name in table))
    if not names:
        return []
    sizes = {name: max(table[name]["n"] for _, table in tables if name in table) for name in names}
    small = {name for name in names if any(table[name]["too_small"] for _, table in tables if name in table)}
    # Two lines: on a phone, one of them would leave the figure a third of the width.
    labels = [f"{name} · {sizes[name]:,}" + ("\ntoo small" if name in small else "") for name in names]
    plots = []
    for metric, words in (("age_acc", "age-group accuracy"), ("gen_acc", "gender accuracy")):
        traces = []
        for position, (one, table) in enumerate(tables):
            shift = 0.55 * ((position + 0.5) / len(tables) - 0.5)
            rows = [(names.index(name) + shift, row) for name, row in table.items()]
            values = [row[metric] for _, row in rows]
            marker = palette.marker(one.group, size=7)
            marker["symbol"] = [
                palette.hollow(one.group)["symbol"] if row["too_small"] else marker["symbol"] for _, row in rows
            ]
            bars = whiskers(
                values,
                [(row[f"{metric}_low"], row[f"{metric}_high"]) for _, row in rows],
                palette.color(one.group),
            )
            traces.append(
                go.Scatter(
                    x=values, y=[y for y, _ in rows], mode="markers", name=plain(one.group), marker=marker,
                    error_x={**bars, "thickness": 1.2, "width": 0},
                    customdata=[f"{plain(row['group'])}, n = {row['n']:,}" for _, row in rows],
                    hovertemplate="%{customdata}: %{x:.1%}<extra></extra>",
                )
            )  # fmt: skip
        figure = styled(traces, x={"title": words, "tickformat": ".0%"}, y=rows_axis(labels))
        leader, table = tables[0]
        extremes = sorted((row for row in table.values() if not row["too_small"]), key=lambda row: row[metric])
        alt = f"{words.capitalize()} by {axis_words(axis)} with 95 % Wilson intervals."
        if len(extremes) > 1:
            low, high = extremes[0], extremes[-1]
            alt += (
                f" {leader.group}: lowest for {low['group']} ({percent(low[metric])}), "
                f"highest for {high['group']} ({percent(high[metric])})."
            )
        height = 110 + len(names) * max(_ROW_PX, 11 * len(tables))
        plots.append(Plot(f"audit-{axis}-{metric}", words.capitalize(), figure, alt, height))
    return plots


def calibration_plots(best: Sequence[Configuration], palette: Palette) -> list[Plot]:
    """Show, for each head, accuracy against the confidence of the predicted class."""
    plots = []
    for task, ece_key in (("age", "age_ece"), ("gender", "gender_ece")):
        diagonal = go.Scatter(
            x=[0, 1], y=[0, 1], mode="lines", line={"color": MUTED, "width": 1, "dash": "dot"},
            hoverinfo="skip",
        )  # fmt: skip
        traces, words = [diagonal], []
        for one in best:
            calibration = one.best.report.get("calibration") if one.best and one.best.report else None
            bins = [b for b in (calibration or {}).get(f"{task}_bins", []) if b["n"]]
            if not bins or calibration is None:
                continue
            most = max(b["n"] for b in bins)
            sizes = [4 + 8 * math.sqrt(b["n"] / most) for b in bins]
            words.append(f"{one.group} {calibration[ece_key]:.3f}")
            traces.append(
                go.Scatter(
                    x=[b["confidence"] for b in bins], y=[b["accuracy"] for b in bins], mode="lines+markers",
                    name=plain(one.group), marker=palette.marker(one.group, size=sizes, line={"width": 0}),
                    line={"color": palette.color(one.group), "width": 1.2}, customdata=[b["n"] for b in bins],
                    hovertemplate="said %{x:.0%}, right %{y:.0%} (%{customdata:,} images)<extra></extra>",
                )
            )  # fmt: skip
        if words:
            share = {"tickformat": ".0%", "range": [-0.03, 1.03]}
            figure = styled(traces, x={"title": "confidence", **share}, y={"title": "accuracy", **share})
            alt = f"Reliability of the {task} head. Expected calibration error: {listing(words)}."
            plots.append(Plot(f"calibration-{task}", f"Calibration of the {task} head", figure, alt, 340))
    return plots


def age_error_plot(best: Sequence[Configuration], palette: Palette) -> Plot | None:
    """Show by how many age groups the age head misses."""
    traces, words = [], []
    for one in best:
        error = one.best.report.get("age_error") if one.best and one.best.report else None
        # The axis is logarithmic, so that the rare large misses can be seen: 0 has no place on it.
        counts = {int(k): n for k, n in error["histogram"].items() if n} if error else {}
        total = sum(counts.values())
        if not error or not total:
            continue
        words.append(f"{one.group} {percent(error['within_one_acc'])}")
        steps = sorted(counts)
        traces.append(
            go.Scatter(
                x=steps, y=[counts[k] / total for k in steps], mode="lines+markers", name=plain(one.group),
                marker=palette.marker(one.group, size=7), line={"color": palette.color(one.group), "width": 1.4},
                hovertemplate="%{x:+d}: %{y:.1%}<extra></extra>",
            )
        )  # fmt: skip
    if not traces:
        return None
    x = {"title": "predicted − true age group", "tickformat": "+d", "dtick": 2}
    figure = styled(traces, x=x, y={"title": "share of test images", "tickformat": ".1~%", "type": "log", "dtick": 1})
    alt = f"Distribution of the age error in groups. Right or one group off: {listing(words)}."
    return Plot("age-error", "Age error", figure, alt, 340)
