"""Figures of what a score costs: training speed, answering speed, parameters; each with the front that nothing beats."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import plotly.graph_objects as go

from sweep.page.plots.style import MUTED, Palette, Plot, plain, styled, whiskers
from sweep.results.leaderboard import Board, Configuration
from sweep.wording import listing, millions, quantity, score


@dataclass(frozen=True)
class Front:
    """One cost to set against the score.

    Attributes:
        key: The figure's name.
        title: Its title.
        axis: What the axis shows.
        unit: Unit of a single value.
        cost: Its value of a configuration; None where the run does not tell.
        words: A value in words.
        less_is_better: Whether a smaller value is the better one.
    """

    key: str
    title: str
    axis: str
    unit: str
    cost: Callable[[Configuration], float | None]
    words: Callable[[float | None], str] = quantity
    less_is_better: bool = False


def _num_params(one: Configuration) -> float | None:
    return one.best.report["model"]["num_params"] if one.best is not None and one.best.report else None


# All of them are figures of the run itself: its timers, its models.
FRONTS = (
    Front("cost-plot", "Score against training speed", "training images per second", "images/s",
          lambda one: one.cost("images_per_s")),
    Front("answer-speed", "Score against answering speed", "test images scored per second", "images/s",
          lambda one: one.cost("eval_images_per_s")),
    Front("size-plot", "Score against size", "parameters", "parameters", _num_params, millions, less_is_better=True),
)  # fmt: skip


def front_plot(board: Board, front: Front, palette: Palette) -> Plot | None:
    """Show test score against one cost, and the front that nothing beats in both; None where no cost is known."""
    points = [(one, front.cost(one), fmean(one.test_scores())) for one in board.ranked]
    known = [(one, float(cost), value) for one, cost, value in points if cost]
    if not known:
        return None
    best_ids = {one.config_id for one in board.best_of_group.values()}
    sign = -1 if front.less_is_better else 1
    on_front = pareto_front([(sign * cost, value) for _, cost, value in known])
    traces: list[Any] = [
        go.Scatter(
            x=[known[i][1] for i in on_front], y=[known[i][2] for i in on_front], mode="lines", name="front",
            line={"color": MUTED, "width": 1.2, "dash": "dash"}, hoverinfo="skip",
        )
    ]  # fmt: skip
    for one, cost, value in known:
        is_best = one.config_id in best_ids
        ends = one.test_span if is_best else None
        traces.append(
            go.Scatter(
                x=[cost], y=[value], mode="markers", name=plain(one.group),
                error_y=whiskers([value], [ends], palette.color(one.group)) if ends else None,
                marker=palette.marker(one.group, size=11) if is_best
                else palette.hollow(one.group, size=6, opacity=0.5),
                customdata=[plain(one.config_id)],
                hovertemplate=f"%{{customdata}}<br>%{{x:,.4r}} {front.unit}, test %{{y:.4f}}<extra></extra>",
            )
        )  # fmt: skip
    costs = [cost for _, cost, _ in known]
    axis: dict[str, Any] = {"title": front.axis, "tickformat": ".3~s" if front.less_is_better else ",", "nticks": 6}
    if max(costs) > 10 * min(costs):
        axis |= {"type": "log", "dtick": "D2"}
    figure = styled(traces, x=axis, y={"title": "test mean_f1", "tickformat": ".3f"})
    words = [
        f"{one.group} {score(value)} at {front.words(cost)} {front.unit}"
        for one, cost, value in known
        if one.config_id in best_ids
    ]
    names = listing(list(dict.fromkeys(known[i][0].group for i in on_front)))
    alt = f"{front.title}, test mean_f1: {'; '.join(words)}. On the front: {names}."
    return Plot(front.key, front.title, figure, alt, 360)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the positions of points that no other point equals or beats in both values, by rising first value."""
    order = sorted(range(len(points)), key=lambda i: (-points[i][0], -points[i][1]))
    front: list[int] = []
    for i in order:
        if not front or points[i][1] > points[front[-1]][1]:
            front.append(i)
    return front[::-1]
