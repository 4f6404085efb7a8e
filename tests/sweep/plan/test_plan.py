"""plan.json, also from a stranger, and the words for what changed between two plans."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fairface_core.errors import ConfigError
from sweep.plan.plan import Plan, space_difference
from tests.sweep.spaces import DESIGN_SPACE, RANDOM_SPACE, plan_of


def test_a_plan_survives_its_file(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, RANDOM_SPACE, sets=["scheduler.explore_seeds=1", "data.image_root=/more"])
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"schema_version": 2}, "plan.json: schema_version = 2; this program reads 1"),
        ({"trials": "many"}, "plan.json: trials = 'many': input should be a valid list"),
        ({"extra": 1}, "plan.json: extra = 1: extra inputs are not permitted"),
        ({"space": {"a": nested(50_000)}}, "plan.json: is nested deeper than any plan; the file is damaged"),
        ({"epochs": 0}, "plan.json: epochs = 0: input should be greater than or equal to 1"),
    ],
    ids=["version", "trials", "extra", "deep", "epochs"],
)
def test_a_plan_from_a_stranger_is_refused(tmp_path: Path, change: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Plan.from_json({**plan_of(tmp_path, RANDOM_SPACE).to_json(), **change})
    assert refused.value.problems == (problem,)


@pytest.mark.parametrize(
    "name", ["../../etc", "/etc/passwd", "..", ".ssh", "a/b", "a\\b", "a\nb", "a\n", "", "-rf", "a" * 200, "ä", "a\0"]
)
def test_an_id_that_is_no_plain_folder_name_is_refused(tmp_path: Path, name: str) -> None:
    value = plan_of(tmp_path, RANDOM_SPACE).to_json()
    value["trials"][0]["trial_id"] = name
    with pytest.raises(ConfigError, match=r"^plan.json: trials\.0\.trial_id = "):
        Plan.from_json(value)


def test_two_trials_of_one_id_are_refused(tmp_path: Path) -> None:
    value = plan_of(tmp_path, RANDOM_SPACE).to_json()
    value["trials"][1]["trial_id"] = value["trials"][0]["trial_id"].upper()
    with pytest.raises(ConfigError, match=r"^plan.json: two trials have one id; the file is damaged$"):
        Plan.from_json(value)


@pytest.mark.parametrize("value", [None, [], "plan", 3, {}, {"schema_version": None}], ids=repr)
def test_what_is_no_plan_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"^plan.json: schema_version = None; this program reads 1$"):
        Plan.from_json(value)


# Differences.


def test_the_same_space_has_no_difference(tmp_path: Path) -> None:
    old = plan_of(tmp_path, DESIGN_SPACE)
    new = plan_of(tmp_path, "# later\n" + DESIGN_SPACE, root="/data", cpus_per_trial=1, sets=["failures.max_retries=9"])
    assert space_difference(old, new) == []
    assert space_difference(Plan.from_json(json.loads(json.dumps(old.to_json()))), new) == []


def test_a_difference_is_told_in_words(tmp_path: Path) -> None:
    old = plan_of(tmp_path, DESIGN_SPACE)
    sets = [
        "fixed.epochs=30",
        "space.lr.grid=[1e-4]",
        "per_backbone=null",
        "data.protocol=official",
        "scheduler.kind=fifo",
    ]
    assert space_difference(old, plan_of(tmp_path, DESIGN_SPACE, sets=sets)) == [
        "fixed.epochs: was not given, is 30",
        'fixed.protocol: was not given, is "official"',
        "per_backbone.vit_b_16.lr.grid: was [0.0001, 1e-05, 3e-05], is not given any more",
        "scheduler.confirm: was true, is not given any more",
        'scheduler.explore_seeds: was "all", is not given any more',
        "scheduler.grace_epochs: was 3, is not given any more",
        'scheduler.kind: was "asha", is "fifo"',
        "scheduler.reduction_factor: was 3.0, is not given any more",
        "space.lr.grid: was [0.0001, 0.0003, 0.001], is [0.0001]",
        "trials: were 36, are 12 (12 new, 36 gone)",
    ]


def test_what_counts_as_equal_is_planned_and_stays(tmp_path: Path) -> None:
    """A margin chosen after the scores were seen would prove anything."""
    old, new = (plan_of(tmp_path, DESIGN_SPACE, sets=sets) for sets in ([], ["equal_within=5e-3"]))
    assert (old.equal_within, new.equal_within) == (0.01, 0.005)
    assert space_difference(old, new) == ["equal_within: was not given, is 0.005"]
    assert [trial.trial_id for trial in old.trials] == [trial.trial_id for trial in new.trials]
    before = {key: value for key, value in new.to_json().items() if key != "equal_within"}
    assert Plan.from_json(before).equal_within == 0.01


def test_other_trials_of_the_same_space_come_from_another_version(tmp_path: Path) -> None:
    old = plan_of(tmp_path, "space: {lr: {grid: [1e-4, 1e-3]}}")
    trials = (old.trials[0].model_copy(update={"trial_id": "resnet50-00000000"}), *old.trials[1:])
    assert space_difference(old.model_copy(update={"trials": trials}), old) == [
        "the same space gives other trials: another version of this program made the run",
        "trials: were 2, are 2 (1 new, 1 gone)",
    ]
