"""The picture of a race: a lane for each seed that ran, a ring where it went on, a cross where it fell."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from fairface_core.files.folder import open_folder
from sweep.page.plots.race import race_plot
from sweep.page.plots.style import Palette
from sweep.page.sections import SECTIONS, build_page
from sweep.results.beside.gathered import Beside
from sweep.results.leaderboard import build_board
from sweep.results.verdict import judge
from sweep.run_folder.records import RunRecord, read_run
from tests.sweep.run_folders import Shape, make_run

SHAPE = Shape(spaces={"resnet50": (1e-4, 3e-4), "vit_b_16": (1e-4,)}, seeds=(41, 42), epochs=8, asha=False, num_val=300,
              num_test=250)  # fmt: skip


def raced(tmp_path: Path, kind: str = "race") -> RunRecord:
    """A run in which lr 1e-4 of resnet50 fell at rung 3, seed 41 there and seed 42 nowhere yet."""
    run = make_run(tmp_path / "run", SHAPE)
    plan = json.loads((run / "plan.json").read_text())
    plan["scheduler"] |= {"kind": kind, "grace_epochs": 3, "reduction_factor": 3}
    (run / "plan.json").write_text(json.dumps(plan))
    for trial in plan["trials"]:
        folder, config = run / "trials" / trial["trial_id"], trial["config"]
        if trial["group"] != "resnet50" or (config["lr"], trial["seed"]) == (3e-4, 42):
            continue
        falls = config["lr"] == 1e-4
        decision = {"trial_id": trial["trial_id"], "group": "resnet50", "rung": 3, "epoch": 3, "score": 0.4, "cutoff": 0.45,
                    "stop": falls, "order": 0, "constant": 0.2, "kind": "race", "value": 0.41 if falls else 0.5}  # fmt: skip
        if falls and trial["seed"] == 42:
            (folder / "status.json").write_text(json.dumps({"schema_version": 1, "status": "skipped", "reason": "",
                                                            "detail": {}, "epochs_trained": 0, "attempts": 1}))  # fmt: skip
            for name in ("history.csv", "report.json"):
                (folder / name).unlink()
        else:
            (folder / "decisions.json").write_text(json.dumps({"schema_version": 1, "decisions": [decision]}))
    return read_run(open_folder(run))


def test_each_seed_that_ran_has_a_lane_and_its_marks(tmp_path: Path) -> None:
    run = raced(tmp_path)
    plot = race_plot(run, "resnet50", Palette(run.groups))
    assert plot is not None
    lanes = [trace for trace in plot.figure.data if trace.mode == "lines"]
    marks = [trace for trace in plot.figure.data if trace.mode == "markers"]
    assert len(lanes) == 3, "a seed that never ran has none"
    assert sorted((mark.marker.symbol, tuple(mark.x)) for mark in marks) == [("circle-open", (3,)), ("x-thin", (3,))]
    assert lanes[0].line.color != lanes[-1].line.color, "the winner is in color"
    assert [shape.x0 for shape in plot.figure.layout.shapes] == [3]
    assert "lr 3e-4: 2 seeds, 8 + 8 epochs, won" in plot.alt
    assert "lr 1e-4: 1 seed, 8 epochs, fell at rung 3" in plot.alt


def test_the_page_draws_the_race_of_each_group_and_of_other_sweeps_none(tmp_path: Path) -> None:
    sections = {}
    for kind in ("race", "fifo"):
        board = build_board(raced(tmp_path / kind, kind))
        page = build_page(board, judge(board), [], Beside(), {})
        sections[kind] = {section.key: section for section in page.sections}
    assert [plot.title for plot in sections["race"]["course"].plots()] == ["vit_b_16", "resnet50"] or [
        plot.title for plot in sections["race"]["course"].plots()
    ] == ["resnet50", "vit_b_16"]
    assert "course" not in sections["fifo"]
    assert "course" in [key for key, _, _ in SECTIONS]


def test_the_rungs_of_a_race_are_those_that_it_decides_at(tmp_path: Path) -> None:
    for kind, rungs in (("race", (3,)), ("asha", (3, 7.5))):
        run = raced(tmp_path / kind, kind)
        scheduler = run.plan.scheduler.model_copy(update={"reduction_factor": 2.5})
        assert replace(run, plan=run.plan.model_copy(update={"scheduler": scheduler})).rungs == rungs
