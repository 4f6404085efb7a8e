"""The subgroup audit against scikit-learn, closed formulas and simulated equal groups."""

from __future__ import annotations

import json
import math
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as sk

from fairface_core.labels import AGE_GROUPS, GENDERS
from fairface_core.scoring.audit import MIN_IMAGES, max_log_ratio_disparity, subgroup_audit, wilson

RACES = ("Black", "East Asian", "Indian", "Latino_Hispanic", "Middle Eastern", "Southeast Asian", "White")


def judged(rows: int, seed: int, age_acc: float = 0.6, gender_acc: float = 0.94) -> dict[str, np.ndarray]:
    """Return predictions that are right equally often for everyone, and wrong by at least one group."""
    rng = np.random.default_rng(seed)
    age, gender = rng.integers(0, 9, rows), rng.integers(0, 2, rows)
    return {
        "age_pred": np.where(rng.random(rows) < age_acc, age, (age + rng.integers(1, 9, rows)) % 9),
        "gender_pred": np.where(rng.random(rows) < gender_acc, gender, 1 - gender),
        "age": age,
        "gender": gender,
        "race": rng.choice(RACES, rows),
    }


def row_of(audit: dict[str, Any], axis: str, group: str) -> dict[str, Any]:
    return next(row for row in audit["by"][axis] if row["group"] == group)


def wilson_formula(p: float, n: int, z: float = 1.959963984540054) -> tuple[float, float]:
    center = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return center - half, center + half


@pytest.mark.parametrize(("right", "n"), [(5, 10), (0, 30), (30, 30), (1, 1), (2060, 2191)])
def test_wilson_is_wilsons_formula(right: int, n: int) -> None:
    assert wilson(right, n) == pytest.approx(wilson_formula(right / n, n), abs=1e-9)


def test_wilson_of_five_in_ten() -> None:
    """The textbook value (Agresti and Coull 1998 print 0.237 to 0.763)."""
    assert wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=5e-5)


def test_disparity_is_the_largest_log_ratio_over_all_pairs() -> None:
    accuracies = np.array([0.81, 0.9, 0.72, 0.85])
    by_pairs = max(math.log(a / b) for a, b in permutations(accuracies, 2))
    assert max_log_ratio_disparity(accuracies) == pytest.approx(by_pairs, abs=1e-12)
    assert by_pairs == pytest.approx(math.log(0.9 / 0.72))
    assert max_log_ratio_disparity(np.array([0.7, 0.7, 0.7])) == 0.0


@pytest.mark.parametrize("accuracies", [[], [0.5], [0.0, 0.5]])
def test_disparity_without_a_bound_or_a_pair_is_none(accuracies: list[float]) -> None:
    assert max_log_ratio_disparity(np.array(accuracies)) is None


def test_every_row_is_scikit_learns() -> None:
    data = judged(2191, 0)
    audit = subgroup_audit(**data)
    masks = {
        "gender": {label: data["gender"] == k for k, label in enumerate(GENDERS)},
        "age": {label: data["age"] == k for k, label in enumerate(AGE_GROUPS)},
        "race": {name: data["race"] == name for name in RACES},
        "race_x_gender": {
            f"{name} x {label}": (data["race"] == name) & (data["gender"] == k)
            for name in RACES
            for k, label in enumerate(GENDERS)
        },
    }
    for axis, groups in masks.items():
        assert [row["group"] for row in audit["by"][axis]] == list(groups)
        assert sum(row["n"] for row in audit["by"][axis]) == 2191
        for group, mask in groups.items():
            row = row_of(audit, axis, group)
            for task, name in (("age", "age"), ("gen", "gender")):
                truth, pred = data[name][mask], data[f"{name}_pred"][mask]
                accuracy = sk.accuracy_score(truth, pred)
                assert row[f"{task}_acc"] == pytest.approx(accuracy, abs=1e-9)
                low, high = wilson_formula(accuracy, int(mask.sum()))
                assert (row[f"{task}_acc_low"], row[f"{task}_acc_high"]) == pytest.approx((low, high), abs=1e-9)
                present = np.unique(truth)
                if len(present) == 1:
                    assert row[f"{task}_f1m"] is None
                else:
                    macro = sk.f1_score(truth, pred, labels=present, average="macro", zero_division=0)
                    assert row[f"{task}_f1m"] == pytest.approx(macro, abs=1e-9)
    assert audit["overall"]["n"] == 2191
    assert audit["overall"]["age_acc"] == pytest.approx((data["age"] == data["age_pred"]).mean())


def test_a_group_of_one_class_has_no_macro_f1() -> None:
    audit = subgroup_audit(**judged(500, 1))
    assert all(row["age_f1m"] is None and row["gen_f1m"] is not None for row in audit["by"]["age"])
    assert all(row["gen_f1m"] is None and row["age_f1m"] is not None for row in audit["by"]["gender"])


def test_a_group_without_old_people_is_not_worse_for_it() -> None:
    data = judged(400, 2)
    data["age"] = data["age_pred"] = np.arange(400) % 4
    assert row_of(subgroup_audit(**data), "gender", "Male")["age_f1m"] == 1.0


def test_small_groups_are_listed_and_left_out_of_every_comparison() -> None:
    """29 images that are all wrong are marked; 30 are the worst group."""
    for size, small in ((MIN_IMAGES - 1, True), (MIN_IMAGES, False)):
        data = judged(1000, 3)
        data["race"] = np.array(["White"] * 500 + ["Black"] * (500 - size) + ["Indian"] * size)
        data["age_pred"][-size:] = (data["age"][-size:] + 1) % 9
        audit = subgroup_audit(**data)
        row = row_of(audit, "race", "Indian")
        assert (row["n"], row["too_small"], row["age_acc"]) == (size, small, 0.0)
        assert (audit["worst_group"]["race"]["age_acc"]["group"] == "Indian") is not small
        assert (audit["largest_gap"]["race"]["age_acc"]["worst"] == "Indian") is not small
        # An accuracy of 0 has no bounded ratio; without the group there is one.
        assert (audit["max_log_ratio_disparity"]["race"]["age_acc"] is None) is not small


def test_comparisons_are_those_of_the_rows() -> None:
    audit = subgroup_audit(**judged(2191, 4))
    for axis, rows in audit["by"].items():
        for metric in ("age_acc", "gen_acc"):
            values = {row["group"]: row[metric] for row in rows if row["n"] >= MIN_IMAGES}
            worst = audit["worst_group"][axis][metric]
            gap = audit["largest_gap"][axis][metric]
            assert worst["value"] == min(values.values()) == values[worst["group"]]
            assert worst["low"] < worst["value"] < worst["high"]
            assert gap["gap"] == pytest.approx(max(values.values()) - min(values.values()))
            assert (values[gap["best"]], values[gap["worst"]]) == (max(values.values()), min(values.values()))
            ratio = math.log(max(values.values()) / min(values.values()))
            assert audit["max_log_ratio_disparity"][axis][metric] == pytest.approx(ratio)


def test_one_comparable_group_has_no_gap() -> None:
    data = judged(100, 5)
    data["race"] = np.array(["White"] * 80 + ["Black"] * 20)
    audit = subgroup_audit(**data)
    for fact in ("worst_group", "largest_gap", "max_log_ratio_disparity"):
        assert audit[fact]["race"] == {"age_acc": None, "gen_acc": None}


def test_blank_race_is_counted_and_no_race_column_gives_no_race_axis() -> None:
    data = judged(300, 6)
    data["race"] = data["race"].astype(object)
    data["race"][:5] = ["", " ", None, float("nan"), "nan"]
    audit = subgroup_audit(**data)
    assert audit["race_not_given"] == 5
    assert sum(row["n"] for row in audit["by"]["race"]) == 295
    assert sum(row["n"] for row in audit["by"]["gender"]) == 300
    del data["race"]
    without = subgroup_audit(**data)
    assert set(without["by"]) == {"gender", "age"} and "race_not_given" not in without
    assert without["by"] == {axis: audit["by"][axis] for axis in ("gender", "age")}


def test_gap_of_equal_groups_is_chance() -> None:
    """Seven groups of about 313 images: the gap of equally good groups is 8 points, and p is below 0.05 in 5 %."""
    gaps = [subgroup_audit(**judged(2191, 100 + i))["largest_gap"]["race"]["age_acc"] for i in range(100)]
    observed = np.mean([gap["gap"] for gap in gaps])
    assert np.mean([gap["by_chance"] for gap in gaps]) == pytest.approx(observed, rel=0.06)
    assert 0.07 < observed < 0.09
    below = np.mean([gap["p_value"] < 0.05 for gap in gaps])
    assert below <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 100)


def test_a_group_that_is_served_worse_is_found() -> None:
    data = judged(2191, 7)
    failed = (data["race"] == "Indian") & (np.random.default_rng(0).random(2191) < 0.35)
    data["age_pred"][failed] = (data["age"][failed] + 1) % 9
    gap = subgroup_audit(**data)["largest_gap"]["race"]["age_acc"]
    assert gap["worst"] == "Indian" and gap["p_value"] <= 0.001 and gap["gap"] > 1.5 * gap["by_chance"]


def test_the_audit_is_json_and_repeats_itself() -> None:
    data = judged(700, 8)
    audit = subgroup_audit(**data)
    assert json.loads(json.dumps(audit, allow_nan=False)) == audit == subgroup_audit(**data)


def test_the_border_counts_answers_on_the_other_side_of_20_by_group() -> None:
    age = np.array([2, 2, 2, 0, 3, 3, 8, 4])
    pred = np.array([3, 2, 8, 1, 2, 3, 0, 3])
    gender = np.array([0, 0, 1, 1, 0, 0, 1, 1])
    race = np.array(["a", "a", "b", "b", "a", "b", "b", ""], dtype=object)
    border = subgroup_audit(pred, gender, age, gender, race)["border"]
    assert (border["younger"], border["older"]) == ("10-19", "20-29")
    assert list(border["by"]) == ["all", "gender", "race", "race_x_gender"]
    (everyone,) = border["by"]["all"]
    assert (everyone["false_older"], everyone["false_older_n"]) == (2 / 4, 4)
    assert (everyone["false_younger"], everyone["false_younger_n"]) == (2 / 4, 4)
    assert (everyone["false_older_low"], everyone["false_older_high"]) == wilson(2, 4)
    found = {row["group"]: row for axis in ("race", "race_x_gender") for row in border["by"][axis]}
    assert (found["a"]["false_older"], found["b"]["false_older"]) == (1 / 2, 1 / 2)
    assert found["a"]["false_younger"] == 1.0, "the image without a race is in no race"
    assert found["b x Male"]["false_older"] is None and found["b x Male"]["false_older_n"] == 0
