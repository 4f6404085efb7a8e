"""A sweep whose winners got their seeds in rounds: ranks, verdict at the spent level, and the looks on the page."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from fairface_core.files.folder import open_folder, write_json
from fairface_core.trial.writing import write_status
from sweep.policy.spending import spent_level
from sweep.policy.states import SETTLE, RungDecision, decisions_to_json
from sweep.results.leaderboard import board_frame
from tests.sweep.results.test_verdict import PAIR, QUICK, judged, trials_of
from tests.sweep.run_folders import Shape, make_run
from tests.sweep.test_report import page_of

MOST = 5


def left(trial: Path) -> None:
    shutil.rmtree(trial)
    write_status(
        open_folder(trial), "skipped", reason="left for a test", detail={"kind": SETTLE}, epochs_trained=0, attempts=0
    )


def look(trial: Path, number: int, value: float, *, stop: bool) -> None:
    group = json.loads((trial / "config.json").read_text())["config"]["backbone"]
    told = RungDecision(trial.name, group, float(number), 4, value, 0.7, stop, number, kind=SETTLE, value=value)
    write_json(open_folder(trial), "decisions.json", decisions_to_json([told]))


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """The same scores of 3 and of 2 seeds: of a sweep that ran them all, and of one that looked twice and stopped."""
    whole = make_run(tmp_path / "whole", Shape(**{**QUICK, "asha": True, "spaces": PAIR, "seeds": range(1, MOST + 1)}))
    for backbone, n in (("convnext_tiny", 3), ("resnet50", 2)):
        for trial in trials_of(whole, backbone)[n:]:
            left(trial)
    settled = tmp_path / "settled"
    shutil.copytree(whole, settled)
    plan = json.loads((settled / "plan.json").read_text())
    plan["scheduler"] |= {"confirm": "settle", "seeds": {"up_to": MOST}}
    (settled / "plan.json").write_text(json.dumps(plan))
    look(trials_of(settled, "convnext_tiny")[1], 2, 0.74, stop=False)
    look(trials_of(settled, "resnet50")[1], 2, 0.69, stop=True)
    return whole, settled


def test_a_pair_is_judged_at_the_level_that_its_look_left(runs: tuple[Path, Path]) -> None:
    (_, plain), (_, verdict) = map(judged, runs)
    (at_five,), (pair,) = plain.comparisons, verdict.comparisons
    assert (at_five.num_seeds, pair.num_seeds, pair.difference) == ((3, 2), (3, 2), at_five.difference)
    level = spent_level(2, MOST)
    assert (at_five.level, pair.level) == (pytest.approx(0.05), level)
    assert level < 0.01
    assert pair.p_value == pytest.approx(min(at_five.p_value * 0.05 / level, 1.0))
    assert pair.high - pair.low > 1.2 * (at_five.high - at_five.low)
    (said,) = (text for text in verdict.caveats if "rounds" in text)
    assert f"{level:.4f} with 2 seeds, {spent_level(3, MOST):.4f} with 3" in said.replace(" and ", ", ")
    assert said.endswith("Left early: resnet50 (2 seeds).")
    assert not any("fewer seeds than planned" in text or "rounds" in text for text in plain.caveats)


def test_who_was_left_is_ranked_with_its_seeds_and_a_mark(runs: tuple[Path, Path]) -> None:
    board, _ = judged(runs[1])
    frame = board_frame(board).set_index("group")
    assert frame.loc["resnet50", ["num_seeds", "full_budget"]].tolist() == [2, True]
    assert frame.loc["resnet50", "note"] == "seeds 3, 4, 5 left by settling"
    assert frame["rank"].notna().all()


def test_the_page_shows_each_look(runs: tuple[Path, Path]) -> None:
    text, parsed = page_of(runs[1])
    assert "left by settling" in text and "up to 5 each" in text
    html = (runs[1] / "report.html").read_text()
    assert html.count('data-look="2"') == 2
    assert html.count("left: cannot be the best any more") == 1
    assert 'id="looks"' not in (page_of(runs[0])[0], (runs[0] / "report.html").read_text())[1]
    assert parsed.tables
