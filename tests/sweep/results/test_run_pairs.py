"""Two runs beside each other: paired on the same images, what was asked differently, and the page of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fairface_core.files.folder import open_folder
from sweep.report import main
from sweep.results.beside.runs import RunPair, compare_runs, lines
from sweep.results.leaderboard import build_board
from sweep.results.stats import compare
from sweep.run_folder.records import read_run
from tests.sweep.results.test_benchmark import edit_json, trial_folders
from tests.sweep.run_folders import Shape, make_run
from tests.sweep.test_report import Page

QUICK = {"epochs": 3, "num_val": 60, "num_test": 200, "asha": False}
BOTH = {"resnet50": (3e-4,), "convnext_tiny": (3e-4,)}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs that share resnet50; its seeds differ."""
    folder = tmp_path_factory.mktemp("runs")
    first = make_run(folder / "first", Shape(spaces=BOTH, seeds=(1, 2), **QUICK))
    second = make_run(
        folder / "second", Shape(spaces={"resnet50": (1e-4,), "vit_b_16": (3e-5,)}, seeds=(3, 4), **QUICK)
    )
    return first, second


def pair(first: Path, second: Path) -> RunPair:
    return compare_runs(*(build_board(read_run(open_folder(run))) for run in (first, second)))


def test_what_both_rank_is_paired_and_what_one_ranks_is_said(runs: tuple[Path, Path]) -> None:
    found = pair(*runs)
    groups = {one.group: one for one in found.groups}
    assert set(groups) == {"resnet50", "convnext_tiny", "vit_b_16"}
    assert groups["convnext_tiny"].why_not == "ranked in A alone"
    assert groups["vit_b_16"].why_not == "ranked in B alone"
    one = groups["resnet50"]
    assert one.a is not None and one.b is not None and one.pair is not None
    assert one.pair.difference == pytest.approx(sum(one.a.test_scores()) / 2 - sum(one.b.test_scores()) / 2)
    lent = [other.test_scores() for other in (*found.a.lenders(one.a), *found.b.lenders(one.b))]
    assert lent, "the other configurations of both runs tell how seeds vary"
    expected = compare([s.test for s in one.a.scored], [s.test for s in one.b.scored], lenders=lent)
    assert (one.pair.low, one.pair.high, one.pair.p_value) == (expected.low, expected.high, expected.p_value)
    assert one.pair.p_holm == one.pair.p_value, "of a single pair"


def test_other_test_images_are_not_paired(runs: tuple[Path, Path], tmp_path: Path) -> None:
    other = make_run(
        tmp_path / "other", Shape(spaces={"resnet50": (3e-4,)}, seeds=(1, 2), **{**QUICK, "num_test": 150})
    )
    (one,) = [one for one in pair(runs[0], other).groups if one.group == "resnet50"]
    assert (one.pair, one.why_not) == (None, "other test images")


def test_what_was_asked_and_what_ran_it(runs: tuple[Path, Path], tmp_path: Path) -> None:
    other = make_run(tmp_path / "other", Shape(spaces=BOTH, seeds=(1, 2), **QUICK))
    assert pair(runs[0], other).changes == ()
    assert "the same space, the same program, the same data" in lines(pair(runs[0], other))
    edit_json(other / "plan.json", lambda plan: plan["space"].update({"fixed": {"weight_decay": 0.01}}))
    for trial in trial_folders(other):
        edit_json(trial / "report.json", lambda report: report["provenance"]["versions"].update(torch="2.15.0"))
    changes = {key: values for key, *values in pair(runs[0], other).changes}
    assert changes["fixed.weight_decay"] == ["", "0.01"]
    assert changes["versions"][0] != changes["versions"][1] and "torch 2.15.0" in changes["versions"][1]
    assert set(changes) == {"fixed.weight_decay", "versions"}


def test_the_command_prints_the_table_and_writes_the_page(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = runs
    before = sorted(path.name for path in second.rglob("*"))
    assert main([str(first), str(second)]) == 0
    told = capsys.readouterr().out
    page = first / "compared_with_second.html"
    assert told.splitlines()[-1] == str(page)
    assert sorted(path.name for path in second.rglob("*")) == before, "the second run is only read"
    text = page.read_text(encoding="utf-8")
    head, *rows = Page(text).tables["groups"]
    assert len(head) == 11 and [row[0][0] for row in rows] == [one.group for one in pair(first, second).groups]
    (line,) = [line for line in told.splitlines() if line.startswith("resnet50")]
    (row,) = [row for row in rows if row[0][0] == "resnet50"]
    for cell in (row[3], row[6], row[7], row[8], row[9], row[10]):
        assert cell[0] in line
    assert "<script" not in text


def test_a_hostile_name_stays_text(runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = make_run(tmp_path / "<img src=x>\x1b[2J", Shape(spaces=BOTH, seeds=(1, 2), **QUICK))
    edit_json(other / "plan.json", lambda plan: plan["space"].update({"<b>": "\x1b[2J" * 100}))
    assert main([str(runs[0]), str(other)]) == 0
    assert "\x1b" not in capsys.readouterr().out
    (page,) = runs[0].glob("compared_with__img*.html")
    text = page.read_text(encoding="utf-8")
    assert "<img" not in text and "<b>" not in text
    page.unlink()


def test_a_second_run_and_a_file_of_answers_do_not_go_together(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*map(str, runs), "--with", "x.csv"]) == 2
    assert "a second run goes with no flag" in capsys.readouterr().err
    assert main([str(runs[0]), str(runs[0] / "none")]) == 2
    assert "no such file" in capsys.readouterr().err
    assert json.loads((runs[0] / "plan.json").read_text())["trials"]
