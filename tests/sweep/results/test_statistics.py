"""A statistic that is declared once is a column of the CSV, of the page and a line of the card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fairface_core.files.folder import open_folder
from sweep.page import card, sections
from sweep.page.write import write_report
from sweep.results import benchmark
from sweep.results.statistics import STATISTICS, Statistic
from sweep.wording import score
from tests.sweep.run_folders import Shape, make_run


@pytest.mark.parametrize("found", ["0.5", None, True, float("nan"), float("inf"), 1e300, [0.5], {"x": 1}])
def test_what_is_no_number_is_no_figure(found: Any) -> None:
    one = Statistic(("a", "b"), "", "", score)
    assert one.of({"a": {"b": found}}) is None
    assert one.of({"a": found}) is None
    assert one.of({"a": {"b": 0.25}}) == 0.25


def test_a_new_statistic_is_found_by_csv_page_and_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(
        tmp_path / "run",
        Shape(spaces={"resnet50": (1e-4,)}, seeds=(1, 2), epochs=2, num_val=60, num_test=60, asha=False),
    )
    for place, path in enumerate(sorted(run.glob("trials/*/report.json"))):
        path.write_text(json.dumps({**json.loads(path.read_text()), "novelty": {"share": 0.125 + place / 2}}))
    new = Statistic(("novelty", "share"), "share of novelty", "Novelty on the test images", score, "test_novelty")
    for module in (benchmark, card, sections):
        monkeypatch.setattr(module, "STATISTICS", (*STATISTICS, new))
    board = write_report(open_folder(run)).board
    assert pd.read_csv(run / "benchmark_results.csv")["test_novelty"].tolist() == [0.125, 0.625]
    best = board.ranked[0].best
    assert best is not None and best.report is not None
    shown = score(best.report["novelty"]["share"])
    page = (run / "report.html").read_text()
    assert "share of novelty</button>" in page and f">{shown}</td>" in page
    assert f"- Novelty on the test images: {shown}\n" in (run / "model_card_resnet50.md").read_text()


def test_every_section_has_its_template_and_every_template_its_section() -> None:
    from sweep.page.templating import TEMPLATES

    templates = {path.name.removesuffix(".html.j2") for path in (TEMPLATES / "sections").iterdir()}
    assert templates == {key for key, _, _ in sections.SECTIONS}
