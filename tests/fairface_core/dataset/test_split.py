"""The frozen split: row for row scikit-learn's, on the original script's strata; and the stratified samples."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedShuffleSplit

from fairface_core.dataset.split import strata, stratified_sample, stratified_split
from fairface_core.labels import AGE_GROUPS, GENDERS

# sha256 of the comma-separated 1-based row numbers that StratifiedShuffleSplit (scikit-learn 1.9) picks for the test
# part of FairFace's val CSV, in order, at test_size=0.2 and random_state=42; the same for the sample's 2,500 rows.
FROZEN_FULL = "165d2fd519e80522002ccc98445e6f1a40f5685adfbdccbdd504f240739f8080"
FROZEN_SAMPLE = "9ba8147992fccd4235516b1bc0e83330a4725de68b9e55b252b9b48920844070"


def as_the_original(ages: list[str], genders: list[str], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The original script's own split: strata are texts."""
    joint = np.array([f"{age}_{gender}" for age, gender in zip(ages, genders, strict=True)])
    splitter = StratifiedShuffleSplit(n_splits=1, test_size=0.2, random_state=seed)
    return next(splitter.split(np.zeros(len(joint)), joint))


def random_labels(num_rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    share = rng.dirichlet(np.full(9, 0.7))
    return rng.choice(9, num_rows, p=share), rng.integers(0, 2, num_rows)


@given(st.integers(100, 900), st.integers(0, 2**32 - 1))
def test_the_rows_are_scikit_learns_in_its_order(num_rows: int, seed: int) -> None:
    age, gender = random_labels(num_rows, seed)
    stratum = strata(age, gender)
    keep = np.bincount(stratum)[stratum] > 1
    age, gender, stratum = age[keep], gender[keep], stratum[keep]
    first, second = as_the_original([AGE_GROUPS[a] for a in age], [GENDERS[g] for g in gender], seed)
    ours = stratified_split(stratum, 0.2, seed)
    np.testing.assert_array_equal(ours[0], first)
    np.testing.assert_array_equal(ours[1], second)


def test_the_order_of_the_strata_decides_the_rows() -> None:
    age, gender = random_labels(500, 1)
    by_text = stratified_split(strata(age, gender), 0.2, 42)[1]
    by_number = stratified_split(age * 2 + gender, 0.2, 42)[1]
    assert set(by_text.tolist()) != set(by_number.tolist())
    texts = sorted(f"{a}_{g}" for a in AGE_GROUPS for g in GENDERS)
    assert [texts[s] for s in strata(np.array([0, 2, 8]), np.array([1, 0, 0]))] == [
        "0-2_Female",
        "10-19_Male",
        "more than 70_Male",
    ]


@given(
    st.lists(st.integers(0, 17), min_size=0, max_size=120),
    st.sampled_from([0.1, 0.2, 0.5]),
    st.integers(0, 2**32 - 1),
)
def test_every_row_goes_to_one_part_and_lone_rows_to_the_first(codes: list[int], share: float, seed: int) -> None:
    stratum = np.array(codes, dtype=np.int64)
    first, second = stratified_split(stratum, share, seed)
    assert sorted([*first.tolist(), *second.tolist()]) == list(range(len(codes)))
    counts = np.bincount(stratum, minlength=18)
    lone = np.flatnonzero(counts[stratum] == 1)
    assert set(lone.tolist()) <= set(first.tolist())
    assert len(second) == np.ceil(share * (len(codes) - len(lone)))
    for group in np.flatnonzero(counts > 1):
        expected = share * counts[group]
        # Rounding up the whole adds at most one row, largest remainders another.
        assert abs((stratum[second] == group).sum() - expected) <= 1 + counts[group] / max(1, len(codes) - len(lone))
    again = stratified_split(stratum, share, seed)
    np.testing.assert_array_equal(again[0], first)
    np.testing.assert_array_equal(again[1], second)


@given(st.integers(20, 400), st.integers(0, 2**32 - 1), st.data())
def test_samples_are_stratified_and_nested(num_rows: int, seed: int, data: st.DataObject) -> None:
    stratum = strata(*random_labels(num_rows, seed))
    size = data.draw(st.integers(0, num_rows + 5))
    chosen = stratified_sample(stratum, size, seed)
    assert len(chosen) == min(size, num_rows)
    assert (np.diff(chosen) > 0).all()
    larger = stratified_sample(stratum, size + data.draw(st.integers(0, 50)), seed)
    assert set(chosen.tolist()) <= set(larger.tolist())
    present = np.unique(stratum)
    if size >= len(present):
        np.testing.assert_array_equal(np.unique(stratum[chosen]), present)
    for group in present:
        count = (stratum == group).sum()
        assert abs((stratum[chosen] == group).sum() - size * count / num_rows) <= 1.5 + len(present) * count / num_rows


def test_another_seed_is_another_sample() -> None:
    stratum = strata(*random_labels(300, 3))
    assert stratified_sample(stratum, 60, 1).tolist() != stratified_sample(stratum, 60, 2).tolist()


def test_the_draw_is_frozen() -> None:
    """Written down from scikit-learn 1.9: this must hold when a later one draws otherwise."""
    number = np.arange(60)
    second = stratified_split(strata(number % 9, number // 9 % 2), 0.2, 42)[1]
    assert second.tolist() == [49, 3, 37, 29, 46, 15, 42, 41, 26, 22, 0, 20]


def labels_of(path: Path) -> tuple[list[str], list[str]]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [row["age"] for row in rows], [row["gender"] for row in rows]


def digest(rows: np.ndarray) -> str:
    return hashlib.sha256(",".join(str(row + 1) for row in rows).encode()).hexdigest()


@pytest.mark.real_data
@pytest.mark.parametrize(("folder", "frozen"), [("labels", FROZEN_FULL), ("fairface_sample", FROZEN_SAMPLE)])
def test_fairfaces_own_test_set_is_frozen(real_data: Path, folder: str, frozen: str) -> None:
    ages, genders = labels_of(real_data / folder / "fairface_label_val.csv")
    age = np.array([AGE_GROUPS.index(a) for a in ages])
    gender = np.array([GENDERS.index(g) for g in genders])
    first, second = stratified_split(strata(age, gender), 0.2, 42)
    original = as_the_original(ages, genders, 42)
    np.testing.assert_array_equal(first, original[0])
    np.testing.assert_array_equal(second, original[1])
    assert digest(second) == frozen
