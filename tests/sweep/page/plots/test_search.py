"""What decides, and two keys together: importances of keys and the contour picture."""

from __future__ import annotations

import importlib.util
import io
import re
from base64 import b64decode
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fairface_core.files.folder import open_folder
from sweep.page import importance
from sweep.page.importance import FEWEST, importance_of, is_asked
from sweep.page.plots.search import contour_plot, contours, importance_plot
from sweep.page.plots.style import Palette
from sweep.page.write import write_report
from sweep.results.leaderboard import Board, build_board
from sweep.run_folder.records import read_run
from tests.sweep.run_folders import Shape, make_run

RATES = tuple(float(f"{3e-4 * 10 ** (k / 4):.3g}") for k in range(-4, 4))
SHAPE = Shape(
    spaces={"resnet50": RATES, "vit_b_16": (3e-5,)}, seeds=(41,), epochs=3, asha=False, num_val=120, num_test=100,
    extra={"dropout": (0.1, 0.3, 0.5)},
)  # fmt: skip


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("many") / "run", SHAPE)


@pytest.fixture(scope="module")
def board(run_dir: Path) -> Board:
    return build_board(read_run(open_folder(run_dir)))


def test_the_key_that_decides_is_found_and_chance_is_told(board: Board) -> None:
    found = importance_of(board, "resnet50")
    assert found is not None and found.num_configs == 24 >= FEWEST
    assert [*found.shares] == ["lr", "dropout"] and sum(found.shares.values()) == pytest.approx(1)
    # Scores follow from lr alone.
    assert found.shares["lr"] > 0.8 and found.chance["lr"] < 0.05 < found.chance["dropout"]
    assert importance_of(board, "vit_b_16") is None, "three configurations say nothing"
    plot = importance_plot(found, Palette(board.run.groups))
    (first, second) = plot.figure.data
    assert (first.x[0], second.x[0]) == tuple(found.shares.values())
    assert (first.marker.color, second.marker.color) == ("#0072b2", "rgba(0,0,0,0)"), "what chance gives too is hollow"
    assert re.fullmatch(
        r"Importance of each key in resnet50, of 24 configurations: lr .+ and dropout .+, which chance gives too.",
        plot.alt,
    )


def test_the_contour_is_high_where_the_configurations_are(board: Board) -> None:
    palette = Palette(board.run.groups)
    plot = contour_plot(board, "resnet50", ["lr", "dropout"], palette)
    assert plot is not None
    (source,) = [one.source for one in plot.figure.layout.images]
    alpha = np.asarray(Image.open(io.BytesIO(b64decode(source.partition(",")[2]))))[..., 3]
    # The best rate lies between the fourth and the sixth of eight; rows are dropout.
    columns = alpha.mean(axis=0)
    assert columns[len(columns) * 4 // 8 : len(columns) * 5 // 8].mean() > 1.3 * max(columns[0], columns[-1])
    best = board.best_of_group["resnet50"]
    star = plot.figure.data[1]
    assert (star.x[0], star.y[0]) == (pytest.approx(best.values["lr"]), pytest.approx(best.values["dropout"]))
    assert plot.alt.startswith(
        "Validation mean_f1 of resnet50 over lr and dropout, smoothed from 24 configurations: from "
    )
    assert plot.figure.layout.xaxis.type == "log" and plot.figure.layout.yaxis.type == "linear"
    assert contour_plot(board, "vit_b_16", ["lr", "dropout"], palette) is None
    assert [one.key for one in contours(board, [], palette)] == ["contour-0"], "two keys need no importances"


def test_the_page_says_how_to_get_it_where_optuna_is_missing(
    run_dir: Path, board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = run_dir / "report.html"
    write_report(open_folder(run_dir))
    with_it = page.read_text(encoding="utf-8")
    assert (
        "<h3>What decides</h3>" in with_it and "<h3>Two keys together</h3>" in with_it and "pip install" not in with_it
    )
    found = importlib.util.find_spec

    def lacking(name: str, *more: Any) -> Any:
        return None if name == "optuna" else found(name, *more)

    monkeypatch.setattr(importance.importlib.util, "find_spec", lacking)
    write_report(open_folder(run_dir))
    without = page.read_text(encoding="utf-8")
    assert "<h3>What decides</h3>" not in without and "<h3>Two keys together</h3>" in without
    assert "pip install 'fairface-sweep[optuna]'" in without.replace("&#39;", "'")


def test_a_small_run_is_not_asked_for_importances(tmp_path: Path) -> None:
    few = Shape(spaces={"resnet50": RATES[:2]}, seeds=(41,), epochs=2, asha=False, num_val=60, num_test=60)
    board = build_board(read_run(open_folder(make_run(tmp_path / "run", few))))
    assert not is_asked(board) and contours(board, [], Palette(board.run.groups)) == []
