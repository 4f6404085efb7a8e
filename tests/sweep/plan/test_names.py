"""The readable part of trial ids."""

from __future__ import annotations

import math
from typing import Any

import pytest

from sweep.plan.names import short_keys, short_number, short_value, trial_name


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3e-4, "3e-4"), (0.001, "1e-3"), (0.0123456, "0.0123"), (0.2, "0.2"), (1.0, "1"), (128, "128"), (0, "0"),
        (1.234e-5, "1.23e-5"), (1.5e7, "1.5e7"), (True, "true"), (None, "none"), ("imagenet", "imagenet"),
        ("/a/../best model.pth", "best_model.pth"), ("..", "_"), ("größe", "gr_e"), (2**32 - 1, "4294967295"),
    ],
)  # fmt: skip
def test_values_in_ids_are_short(value: Any, text: str) -> None:
    assert short_value(value) == text


def test_numbers_in_ids_can_be_told_apart() -> None:
    grid = [10.0**e * m for e in range(-6, 1) for m in (1, 2, 3, 5, 7)]
    assert len({short_number(value) for value in grid}) == len(grid)
    assert all(math.isclose(float(short_number(value)), value, rel_tol=1e-9) for value in grid)


def test_keys_in_ids_are_short_unless_two_would_be_alike() -> None:
    assert short_keys(["lr", "weight_decay"]) == {"lr": "lr", "weight_decay": "wd"}
    assert short_keys(["batch_size", "big_size"]) == {"batch_size": "batch_size", "big_size": "big_size"}


def test_a_long_name_is_cut_and_keeps_seed_and_digest() -> None:
    name = trial_name("a" * 300, {"lr": 1.0}, 2**32 - 1, "0123456789ab")
    assert name == f"{'a' * 80}-s4294967295-01234567"
