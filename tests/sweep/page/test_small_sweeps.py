"""The page of a sweep that is too small to say much: one seed, few test images, a processor instead of a GPU."""

from __future__ import annotations

import html
from pathlib import Path

import pandas as pd
import pytest

from tests.sweep.results.test_benchmark import edit_json, recomputed, trial_folders
from tests.sweep.run_folders import Shape, make_run
from tests.sweep.test_report import Page, columns, page_of

SMALL = {"epochs": 3, "num_val": 60, "asha": False}
PAIR = {"resnet50": (3e-4,), "convnext_tiny": (3e-4,)}


def test_one_seed_is_never_called_better_on_the_page(tmp_path: Path) -> None:
    run = make_run(
        tmp_path / "run", Shape(spaces=PAIR, seeds=(1,), epochs=4, num_val=300, num_test=900, asha=False, race=False)
    )
    text, parsed = page_of(run)
    ((result, _),) = columns(parsed.tables["pairs"], "result")
    assert result == "convnext_tiny, one seed"
    assert "none is called better" in text and "leads on one seed, which may be luck" in text
    assert "A configuration of one seed is never called better or worse" in text
    card = (run / "model_card_convnext_tiny.md").read_text()
    assert "one seed cannot tell that from luck" in card and "It is ahead of" not in card


def test_subgroups_that_are_all_too_small_are_not_compared(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", Shape(spaces=PAIR, seeds=(1, 2), num_test=40, **SMALL))
    text, _ = page_of(run)
    assert text.count("fewer than two subgroups have 30 test images, so none are compared") == 2
    assert "Largest gap between subgroups" not in text and "By chance" not in text
    assert "too small" in text


def test_without_a_gpu_the_cost_is_time(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", Shape(spaces=PAIR, seeds=(1, 2), num_test=90, **SMALL))
    assert "GPU-hours" in titles(page_of(run)[1])
    seconds: dict[str, list[float]] = {}
    for trial in trial_folders(run):
        edit_json(trial / "report.json", lambda r: r["timing"].update(gpu_hours=0.0))
        edit_json(
            trial / "report.json",
            lambda r: seconds.setdefault(r["model"]["backbone"], []).append(r["timing"]["train_s"]),
        )
    _, parsed = page_of(run)
    assert "GPU-hours" not in titles(parsed)
    spent = [float(value) for _, value in columns(parsed.tables["costs"], "training time")]
    assert sorted(spent) == pytest.approx(sorted(sum(values) for values in seconds.values()))


def titles(parsed: Page) -> list[str]:
    return [text for text, _ in parsed.tables["costs"][0]]


def test_every_metric_of_a_card_has_an_interval_and_a_constant_model_none(tmp_path: Path) -> None:

    run = make_run(tmp_path / "run", Shape(spaces={"resnet50": (3e-4,)}, seeds=(1,), num_test=1500, **SMALL))
    page_of(run)
    rows = score_rows(run)
    assert list(rows) == ["mean_f1", "age_acc", "age_f1m", "gen_acc", "gen_f1m"]
    for value, _, interval in rows.values():
        low, _, high = interval.partition(" to ")
        assert float(low) < float(value) < float(high)
    (trial,) = trial_folders(run)
    table = pd.read_parquet(trial / "predictions.parquet")
    table.loc[table["split"] == "test", ["age_pred", "gender_pred"]] = 0
    table.to_parquet(trial / "predictions.parquet")
    edit_json(trial / "report.json", lambda r: r["test_metrics"].update(recomputed(trial, "test")))
    text, _ = page_of(run)
    assert "resnet50 gives every test image the same age group and gender" in html.unescape(text)
    assert {interval for _, _, interval in score_rows(run).values()} == {"no spread"}


def score_rows(run: Path) -> dict[str, tuple[str, str, str]]:
    """Return metric -> this model, mean, interval of the card's table."""
    lines = (run / "model_card_resnet50.md").read_text().splitlines()
    cells = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `")]
    return {name: (value, mean, interval) for name, value, mean, interval in cells}
