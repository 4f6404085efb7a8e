"""Figures: they show the numbers of the files, they have words beside them, and no text of a folder becomes markup."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import plotly.graph_objects as go
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairface_core.files.folder import open_folder
from sweep.page.plots.cost import FRONTS, front_plot, pareto_front
from sweep.page.plots.of_sweep import (
    comparison_plot,
    learning_curves,
    response_plots,
    scores_plot,
)
from sweep.page.plots.of_trial import age_error_plot, audit_plots, calibration_plots
from sweep.page.plots.style import COLORS, DARK, DARK_COLORS, MUTED, SURFACE, SYMBOLS, TEXT, Palette, Plot, plain
from sweep.results.leaderboard import Board, build_board
from sweep.results.verdict import judge
from sweep.run_folder.records import read_run
from tests.sweep.run_folders import Shape, make_run


@pytest.fixture(scope="module")
def board(drawn_run: Path) -> Board:
    return build_board(read_run(open_folder(drawn_run)))


@pytest.fixture(scope="module")
def palette(board: Board) -> Palette:
    return Palette(board.run.groups)


def every_plot(board: Board, palette: Palette) -> list[Plot]:
    best = list(board.best_of_group.values())
    single = [
        scores_plot(board, palette),
        comparison_plot(judge(board).comparisons),
        *(front_plot(board, front, palette) for front in FRONTS),
        age_error_plot(best, palette),
    ]
    single += [learning_curves(board, group, palette) for group in board.run.groups]
    assert all(single)
    audits = [plot for axis in ("race", "age") for plot in audit_plots(best, axis, palette)]
    return [p for p in single if p] + response_plots(board, palette) + audits + calibration_plots(best, palette)


def test_every_figure_is_valid_has_points_words_and_a_key_of_its_own(board: Board, palette: Palette) -> None:
    plots = every_plot(board, palette)
    assert len({plot.key for plot in plots}) == len(plots) == 6 + 4 + 1 + 4 + 2
    for plot in plots:
        points = [x for trace in plot.figure.data for x in trace.x if x is not None]
        assert points and all(math.isfinite(x) for x in points), plot.key
        assert plot.alt.endswith(".") and any(digit in plot.alt for digit in "0123456789"), plot.key
        assert plot.height_px >= 120
        assert go.Figure(plot.figure.to_plotly_json()), plot.key


def test_a_group_has_one_color_and_one_symbol_everywhere(board: Board, palette: Palette) -> None:
    for plot in every_plot(board, palette):
        for trace in plot.figure.data:
            if trace.name in palette.groups:
                colors = {c for c in (trace.marker.color, trace.line.color) if c is not None}
                assert colors == {palette.color(trace.name)}, (plot.key, trace.name)


def test_the_scores_are_those_of_the_board(board: Board, palette: Palette) -> None:
    plot = scores_plot(board, palette)
    assert plot
    for one in board.best_of_group.values():
        seeds, val, test = (t for t in plot.figure.data if t.name == one.group)
        assert list(seeds.x) == one.test_scores()
        assert val.x[0] == pytest.approx(sum(one.val_scores()) / 3, abs=1e-12)
        assert one.test_span
        assert test.x[0] - test.error_x.arrayminus[0] == pytest.approx(one.test_span[0], abs=1e-12)
        assert test.x[0] + test.error_x.array[0] == pytest.approx(one.test_span[1], abs=1e-12)


def test_learning_curves_show_every_epoch_the_rungs_and_the_stops(board: Board, palette: Palette) -> None:
    plot = learning_curves(board, "resnet50", palette)
    assert plot
    records = [r for r in board.run.records if r.group == "resnet50"]
    lines = [t for t in plot.figure.data if t.mode == "lines"]
    assert sum(y is not None for t in lines for y in t.y) == sum(len(r.history) for r in records)
    assert [shape.x0 for shape in plot.figure.layout.shapes] == [3, 9]
    (stops,) = [t for t in plot.figure.data if t.name == "stopped"]
    stopped = [r for r in records if r.status == "stopped"]
    assert list(stops.x) == [r.epochs_trained for r in stopped]
    assert all("cutoff" in text for text in stops.customdata)
    (best,) = [t for t in lines if t.name == "best configuration"]
    assert sum(y is not None for y in best.y) == 3 * 20


def test_a_sweep_without_asha_shows_no_rungs(tmp_path: Path) -> None:
    shape = Shape(spaces={"resnet50": (3e-4,)}, seeds=(1, 2), epochs=5, num_val=90, num_test=90, asha=False)
    board = build_board(read_run(open_folder(make_run(tmp_path / "run", shape))))
    plot = learning_curves(board, "resnet50", Palette(("resnet50",)))
    assert plot and plot.figure.layout.shapes == ()


def test_each_numeric_swept_key_has_a_response_and_wide_ones_a_log_axis(tmp_path: Path) -> None:
    shape = Shape(
        spaces={"resnet50": (1e-4, 3e-3)}, seeds=(1,), epochs=3, num_val=90, num_test=90, asha=False,
        extra={"dropout": (0.1, 0.2, 0.4), "no_amp": (False, True)},
    )  # fmt: skip
    board = build_board(read_run(open_folder(make_run(tmp_path / "run", shape))))
    plots = {plot.title: plot.figure for plot in response_plots(board, Palette(board.run.groups))}
    assert set(plots) == {"Response to lr", "Response to dropout"}
    assert plots["Response to lr"].layout.xaxis.type == "log"
    assert plots["Response to dropout"].layout.xaxis.type == "linear"
    (points,) = [t for t in plots["Response to dropout"].data if t.mode == "markers"]
    assert sorted(points.x) == sorted([0.1, 0.2, 0.4] * 4)
    assert sorted(points.y) == sorted(r.best_mean_f1 for r in board.run.records)
    assert not [t for t in plots["Response to lr"].data if t.mode == "lines"], "a line would join unlike configurations"


def test_the_response_joins_the_means_over_seeds_of_a_single_key(board: Board, palette: Palette) -> None:
    (plot,) = response_plots(board, palette)
    for group in board.run.groups:
        (line,) = [t for t in plot.figure.data if t.mode == "lines" and t.line.color == palette.color(group)]
        by_lr: dict[float, list[float]] = {}
        for record in board.run.records:
            if record.group == group and record.best_mean_f1 is not None:
                by_lr.setdefault(record.config["lr"], []).append(record.best_mean_f1)
        assert list(line.y) == pytest.approx([sum(by_lr[lr]) / 3 for lr in sorted(by_lr)], abs=1e-12)
        assert list(line.x) == pytest.approx(sorted(by_lr), rel=0.2)


def test_the_audit_shows_the_reports_rows(board: Board, palette: Palette) -> None:
    age, gender = audit_plots(list(board.best_of_group.values()), "race", palette)
    for plot, metric in ((age, "age_acc"), (gender, "gen_acc")):
        for one in board.best_of_group.values():
            (trace,) = [t for t in plot.figure.data if t.name == one.group]
            assert one.best and one.best.report
            rows = one.best.report["subgroups"]["by"]["race"]
            assert list(trace.x) == [row[metric] for row in rows]
            ends = [x + bar for x, bar in zip(trace.x, trace.error_x.array, strict=True)]
            assert ends == pytest.approx([row[f"{metric}_high"] for row in rows], abs=1e-12)


def test_an_axis_that_no_report_has_gives_no_figure(board: Board, palette: Palette) -> None:
    assert audit_plots(list(board.best_of_group.values()), "hair", palette) == []
    assert audit_plots([], "race", palette) == []


def test_too_small_groups_are_hollow_and_named(board: Board, palette: Palette) -> None:
    best = list(board.best_of_group.values())
    assert best[0].best and best[0].best.report
    small = [row["group"] for row in best[0].best.report["subgroups"]["by"]["age"] if row["too_small"]]
    assert small, "the drawn run has age groups under 30 images"
    plot = audit_plots(best, "age", palette)[0]
    marked = [text for text in plot.figure.layout.yaxis.ticktext if text.endswith("<br>too small")]
    assert [text.partition(" · ")[0] for text in marked] == [plain(name) for name in small]
    (trace,) = [t for t in plot.figure.data if t.name == best[0].group]
    assert sum(symbol.endswith("-open") for symbol in trace.marker.symbol) == len(small)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12))
def test_the_front_holds_what_nothing_beats(points: list[tuple[int, int]]) -> None:
    front = pareto_front(points)
    on_front = {points[i] for i in front}
    assert [points[i][0] for i in front] == sorted({points[i][0] for i in front})
    for point in points:
        beaten = any(other != point and other[0] >= point[0] and other[1] >= point[1] for other in points)
        assert (point in on_front) == (not beaten)


def test_text_of_a_run_folder_is_no_markup_in_a_figure() -> None:
    assert plain('<a href="javascript:x">&amp;</a>') == '&lt;a href="javascript:x"&gt;&amp;amp;&lt;/a&gt;'


def luminance(color: str) -> float:
    """Relative luminance of WCAG 2.2."""
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def test_colors_can_be_seen_on_both_surfaces_and_symbols_repeat_them() -> None:
    assert len(COLORS) == len(DARK_COLORS) == len(SYMBOLS) == len(set(SYMBOLS)) == len(set(COLORS)) == 8
    # WCAG 2.2, 1.4.11 asks 3:1 of graphics, 1.4.3 asks 4.5:1 of text.
    for light, dark in zip(COLORS, DARK_COLORS, strict=True):
        assert contrast(light, SURFACE) >= 3 and contrast(dark, DARK[SURFACE]) >= 3
    for ink in (TEXT, MUTED):
        assert contrast(ink, SURFACE) >= 4.5 and contrast(DARK[ink], DARK[SURFACE]) >= 4.5


# Machado, Oliveira and Fernandes, "A Physiologically-based Model for Simulation of Color Vision Deficiency", IEEE
# TVCG 15(6), 2009: matrices on linear RGB for full protanopia, deuteranopia and tritanopia.
DEFICIENCIES = {
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.01182, 0.04294, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.3039)),
}


def seen(color: str, matrix: tuple[tuple[float, ...], ...]) -> tuple[float, float, float]:
    """CIELAB coordinates of a color as someone with the deficiency sees it."""
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    r, g, b = (min(max(sum(m * c for m, c in zip(row, linear, strict=True)), 0), 1) for row in matrix)
    xyz = (
        (0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.9505,
        0.2126 * r + 0.7152 * g + 0.0722 * b,
        (0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.089,
    )
    fx, fy, fz = (v ** (1 / 3) if v > 0.008856 else 7.787 * v + 16 / 116 for v in xyz)
    return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
@pytest.mark.parametrize("colors", [COLORS, DARK_COLORS], ids=["light", "dark"])
def test_the_first_four_colors_differ_for_every_kind_of_color_vision(colors: tuple[str, ...], deficiency: str) -> None:
    points = [seen(color, DEFICIENCIES[deficiency]) for color in colors[:4]]
    for a, b in itertools.combinations(points, 2):
        # A difference (CIE76) of 2.3 is just noticeable; 10 is seen at a glance.
        assert math.dist(a, b) >= 10
