"""What `--dry-run` prints."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fairface_core.backbones import BACKBONES
from sweep.console.dry_run import describe_plan, plan_values
from sweep.plan.cost import disk_bytes, expected_epochs
from sweep.plan.plan import Plan
from tests.sweep.spaces import DESIGN_SPACE, RANDOM_SPACE, plan_of


def printed(plan: Plan, **options: Any) -> str:
    """Return what is printed, with every run of white space as one space."""
    out = io.StringIO()
    Console(width=110, file=out).print(describe_plan(plan, **options))
    return " ".join(out.getvalue().split())


def test_a_dry_run_says_what_is_run_and_what_it_can_cost(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, DESIGN_SPACE, sets=["scheduler.explore_seeds=1", "per_backbone.resnet18.lr=5"])
    text = printed(plan)
    assert "36 trials: 12 configurations x 3 seeds, 20 epochs each; asha by backbone" in text
    assert "vit_b_16 9 3 4 1 11.3 lr 1e-5, 3e-5, 1e-4" in text
    assert "Worst case: 400 epochs of training (every trial in full: 720)." in text
    assert "Expected with ASHA: about " in text
    assert "note: " in text
    assert "per_backbone.resnet18 is not used" in text
    for trial in plan.trials:
        assert trial.trial_id in text


def test_a_dry_run_of_many_trials_lists_some(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, RANDOM_SPACE, sets=["num_samples=200"])
    text = printed(plan, estimate=False)
    assert "... and 770 more, all in plan.json once the sweep starts" in text
    assert "lr " in text
    assert "(200 values)" in text
    assert sum(trial.trial_id in text for trial in plan.trials) == 30


def test_names_in_a_dry_run_are_not_markup(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "space: {weights: {grid: ['[bold]a[/bold].pth', none]}}")
    assert "[bold]a[/bold].pth, none" in printed(plan)


def test_the_disk_that_a_plan_takes(tmp_path: Path) -> None:
    text = "space: {backbone: {grid: [vit_b_16]}}"
    # Two states (weights, moments of the optimizer, moving average) and the best weights, float32.
    for fixed, in_a_state in ({}, 3), ({"ema_decay": 0.999}, 4), ({"optimizer": "sgd"}, 2):
        (trial,) = plan_of(tmp_path, text, sets=[f"fixed.{key}={value}" for key, value in fixed.items()]).trials
        assert disk_bytes([trial]) == BACKBONES["vit_b_16"].num_params * 4 * (2 * in_a_state + 1)


def test_what_asha_is_expected_to_save_is_what_was_measured(tmp_path: Path) -> None:
    # docs/architecture.md, Facts about Ray: 3 seeds, 20 epochs, 3 learning rates, confirm included: 1.8x fewer epochs,
    # one seed exploring 2.2x.
    one_backbone = ["space.backbone.grid=[resnet50]", "per_backbone=null"]
    every_seed = expected_epochs(plan_of(tmp_path, DESIGN_SPACE, sets=one_backbone))
    first_seed = expected_epochs(plan_of(tmp_path, DESIGN_SPACE, sets=[*one_backbone, "scheduler.explore_seeds=1"]))
    assert every_seed is not None
    assert first_seed is not None
    assert 180 / sum(every_seed.values()) == pytest.approx(1.8, abs=0.4)
    assert 180 / sum(first_seed.values()) == pytest.approx(2.2, abs=0.4)
    assert expected_epochs(plan_of(tmp_path, DESIGN_SPACE, scheduler="fifo")) is None


def test_what_a_race_is_expected_to_save_is_what_was_measured(tmp_path: Path) -> None:
    # benchmarks/results/race_2cores_2026-11.md: 3 seeds, 20 epochs, 3 and 6 learning rates: 2.5x and 4.1x fewer epochs.
    for rates, saving in (("1e-4, 3e-4, 1e-3", 2.5), ("1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3", 4.1)):
        sets = [f"space.lr.grid=[{rates}]", "per_backbone=null"]
        plan = plan_of(tmp_path, DESIGN_SPACE, sets=sets, scheduler="race")
        expected = expected_epochs(plan)
        assert expected is not None
        assert len(plan.trials) * 20 / sum(expected.values()) == pytest.approx(saving, abs=0.4)
    text = printed(plan)
    assert "Expected with a race: about " in text
    assert "Worst case: 1,440 epochs of training." in text


def test_a_dry_run_knows_what_settling_is_expected_to_cost(tmp_path: Path) -> None:
    def expected(*sets: str) -> float:
        epochs = expected_epochs(plan_of(tmp_path, DESIGN_SPACE, sets=sets, scheduler="race"))
        assert epochs is not None
        return sum(epochs.values())

    full, settled = expected(), expected("scheduler.confirm=settle")
    assert 0.75 * full < settled < full, "a seed or two of 12 less"
    sets = ["scheduler.confirm=settle", "scheduler.seeds.up_to=10"]
    text = printed(plan_of(tmp_path, DESIGN_SPACE, sets=sets, scheduler="race"))
    (more,) = re.findall(r"about (\d+) epochs, winners' seeds in rounds, up to 10 each: ", text)
    assert int(more) > full, "backbones that lie near each other get more than the grid has"
    assert "than every trial of the grid in full" in text and "backbones that lie 0.02 apart" in text
    assert "Worst case: 1,280 epochs of training (every trial of the grid in full: 720)." in text


def test_hours_are_told_once_every_group_has_trained_an_epoch(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, DESIGN_SPACE, scheduler="fifo")
    groups = list(plan.groups())
    assert "pace" not in printed(plan, epoch_s=dict.fromkeys(groups[1:], 60.0))
    text = printed(plan, epoch_s=dict.fromkeys(groups, 60.0))
    assert "At the pace of the epochs that this run has trained, one trial at a time: 12 h 0 min at worst." in text
    raced = printed(plan_of(tmp_path, DESIGN_SPACE, scheduler="race"), epoch_s=dict.fromkeys(groups, 60.0))
    assert " at worst, about " in raced and " expected." in raced


def test_a_dry_run_of_a_search_says_what_is_known(tmp_path: Path) -> None:
    sets = ["num_samples=14", "search.kind=tpe"]
    plan = plan_of(tmp_path, RANDOM_SPACE, sets=sets, scheduler="fifo")
    whole = plan_of(tmp_path, RANDOM_SPACE, sets=sets[:1], scheduler="fifo")
    text = printed(plan, whole=whole)
    # Of 14 draws from four values of one key, some coincide; a search has them all apart, by the other key.
    assert text.startswith("56 trials: 28 configurations x 2 seeds")
    assert text.count("-lr3e-4-") == 4, "the defaults of two backbones, with two seeds"
    assert (
        "search tpe: 14 configurations for each combination of the grids, the defaults first; up to 10 are known from the start"
        in text
    )
    assert "Worst case: 1,120 epochs of training." in text
    values = plan_values(plan, whole)
    assert (len(values["trials"]), values["to_come"]) == (40, {"resnet50": 4, "resnet18": 4})
    assert values["epochs"]["worst_case"] == 1_120
