"""One race in a picture: which seed of which configuration ran how far, who waited, who fell."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

from sweep.page.plots.style import MUTED, TEXT, Palette, Plot, plain, rows_axis, styled
from sweep.run_folder.records import RunRecord, TrialRecord
from sweep.wording import counted, listing, settings

_LANE = 0.22


def race_plot(run: RunRecord, group: str, palette: Palette) -> Plot | None:
    """Show a group's race: a row for each configuration, a lane for each seed that ran, best on top.

    A ring stands where a seed was judged and went on or waited, a cross where its configuration fell. None for a group
    in which nothing has run yet.
    """
    rows: dict[str, list[TrialRecord]] = {}
    for record in run.records:
        if record.group == group and record.epochs_trained:
            rows.setdefault(record.config_id, []).append(record)
    if not rows:
        return None
    ordered = sorted(rows.values(), key=lambda seeds: (-sum(r.epochs_trained for r in seeds), seeds[0].config_id))
    winner = [r for seeds in ordered[:1] for r in seeds if any(r.full_budget for r in seeds)]
    color = palette.color(group)
    traces: list[Any] = []
    for row, seeds in enumerate(ordered):
        middle = (len(seeds) - 1) / 2
        for place, record in enumerate(seeds):
            y = row + _LANE * (place - middle)
            line = {"color": color if record in winner else MUTED, "width": 5 if record in winner else 3}
            words = plain(f"seed {record.seed}: {record.epochs_trained} epochs, {record.status}")
            traces.append(
                go.Scatter(
                    x=[0, record.epochs_trained], y=[y, y], mode="lines", line=line, hoverinfo="text", text=words,
                    name=plain(record.trial_id),
                )
            )  # fmt: skip
            traces += _marks(record, y, line["color"])
    labels = [_label(run, seeds[0]) for seeds in ordered]
    rungs = [
        {"type": "line", "x0": rung, "x1": rung, "yref": "paper", "y0": 0, "y1": 1,
         "line": {"color": MUTED, "width": 1, "dash": "dot"}}
        for rung in run.rungs
    ]  # fmt: skip
    figure = styled(traces, x={"title": "epoch", "range": [0, run.epochs + 0.4]}, y=rows_axis(labels), shapes=rungs)
    told = [
        f"{label}: {counted(len(seeds), 'seed')}, {' + '.join(str(r.epochs_trained) for r in seeds)} epochs{_end(seeds)}"
        for label, seeds in zip(labels, ordered, strict=True)
    ]
    return Plot(f"race-{palette.groups.index(group)}", group, figure, f"The race of {group}. {'. '.join(told)}.",
                90 + 34 * len(ordered))  # fmt: skip


def _marks(record: TrialRecord, y: float, color: Any) -> list[Any]:
    judged = [d for d in record.decisions if not d.stop and d.epoch == d.rung < record.config["epochs"]]
    fell = [d for d in record.decisions if d.stop]
    marks = [(judged, {"symbol": "circle-open", "color": color, "size": 8, "line": {"width": 1.6}})]
    marks.append((fell, {"symbol": "x-thin", "color": TEXT, "size": 9, "line": {"width": 2, "color": TEXT}}))
    return [
        go.Scatter(
            x=[d.epoch for d in decisions], y=[y] * len(decisions), mode="markers", marker=marker,
            customdata=[plain(d.reason()) for d in decisions], hovertemplate="%{customdata}<extra></extra>",
        )
        for decisions, marker in marks
        if decisions
    ]  # fmt: skip


def _label(run: RunRecord, record: TrialRecord) -> str:
    values = {key: record.config.get(key) for key in run.swept_keys}
    return settings(values) or record.config_id


def _end(seeds: list[TrialRecord]) -> str:
    fell = sorted({f"{d.rung:g}" for r in seeds for d in r.decisions if d.stop})
    if fell:
        return f", fell at rung {listing(fell)}"
    return ", won" if all(r.full_budget for r in seeds) else ""
