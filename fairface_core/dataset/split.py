"""The frozen split: which rows are trained on, which choose the model, which are only scored.

The draws repeat scikit-learn's `StratifiedShuffleSplit` row by row (tests compare the two). They are written out
here because a test set must not move when a library is upgraded; numpy promises that the streams of `RandomState`
never change.
"""

from __future__ import annotations

import math

import numpy as np

from fairface_core.labels import AGE_GROUPS, GENDERS

# The original script stratified by the text "<age>_<gender>", and the order of the strata decides the draws: they are
# numbered as those texts sort ("0-2_Female", "0-2_Male", "10-19_Female", ..., "3-9_Female", ...).
_SORTED = sorted(f"{age}_{gender}" for age in AGE_GROUPS for gender in GENDERS)
_STRATUM = np.array([[_SORTED.index(f"{age}_{gender}") for gender in GENDERS] for age in AGE_GROUPS])


def strata(age: np.ndarray, gender: np.ndarray) -> np.ndarray:
    """Number the age x gender cells.

    Args:
        age: int64 [N], 0..8.
        gender: int64 [N], 0..1.

    Returns:
        int64 [N], 0..17, in the sort order of the original script's texts.
    """
    return _STRATUM[age, gender]


def stratified_split(stratum: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Divide rows in two, each stratum in the same proportion.

    Equals `StratifiedShuffleSplit(n_splits=1, test_size=share, random_state=seed)` wherever that accepts the input,
    order of rows included (the original script scores its batches in this order, and a class-weighted loss depends
    on it). A stratum of one row, which scikit-learn refuses, goes to the first part.

    Args:
        stratum: int [N], stratum of each row.
        share: Share of the second part, in (0, 1).
        seed: 0 .. 2**32 - 1.

    Returns:
        Row numbers of the first and of the second part, int64; together a permutation of 0..N-1.
    """
    counts_all = np.bincount(stratum, minlength=1)
    single = counts_all[stratum] == 1
    rows = np.flatnonzero(~single)
    _, code, counts = np.unique(stratum[rows], return_inverse=True, return_counts=True)
    if len(rows) == 0:
        return np.flatnonzero(single), rows
    rng = np.random.RandomState(seed)
    num_second = math.ceil(share * len(rows))
    first_counts = _share_out(counts, len(rows) - num_second, rng)
    second_counts = _share_out(counts - first_counts, num_second, rng)
    first: list[np.ndarray] = []
    second: list[np.ndarray] = []
    for group, (count, take_first, take_second) in enumerate(zip(counts, first_counts, second_counts, strict=True)):
        drawn = rows[code == group][rng.permutation(count)]
        first.append(drawn[:take_first])
        second.append(drawn[take_first : take_first + take_second])
    first_part = rng.permutation(np.concatenate(first))
    second_part = rng.permutation(np.concatenate(second))
    return np.concatenate([first_part, np.flatnonzero(single)]), second_part


def _share_out(counts: np.ndarray, total: int, rng: np.random.RandomState) -> np.ndarray:
    """Share `total` out in proportion to `counts`, by largest remainder; equal remainders draw lots.

    The most likely counts of a multivariate hypergeometric draw, as scikit-learn computes them.
    """
    exact = counts / counts.sum() * total
    shares = np.floor(exact)
    remainder = exact - shares
    missing = int(total - shares.sum())
    for value in np.unique(remainder)[::-1]:
        if missing <= 0:
            break
        (tied,) = np.nonzero(remainder == value)
        chosen = rng.choice(tied, size=min(len(tied), missing), replace=False)
        shares[chosen] += 1
        missing -= len(chosen)
    return shares.astype(np.int64)


def stratified_sample(stratum: np.ndarray, num_rows: int, seed: int) -> np.ndarray:
    """Choose some rows, each stratum in proportion but at least one row of each while there is room.

    A larger sample of the same rows and seed contains every smaller one.

    Args:
        stratum: int [N], stratum of each row.
        num_rows: Rows to choose; all of them where N is not larger.
        seed: 0 .. 2**32 - 1.

    Returns:
        int64 [min(num_rows, N)], ascending row numbers.
    """
    if num_rows >= len(stratum):
        return np.arange(len(stratum))
    shuffled = np.random.RandomState(seed).permutation(len(stratum))
    grouped = shuffled[np.argsort(stratum[shuffled], kind="stable")]
    counts = np.bincount(stratum)
    place = np.arange(len(stratum)) - np.repeat(np.cumsum(counts) - counts, counts)
    # A row's turn is its place within its stratum over the stratum's size: all strata are used up at one pace.
    turn = place / counts[stratum[grouped]]
    return np.sort(grouped[np.argsort(turn, kind="stable")[:num_rows]])
