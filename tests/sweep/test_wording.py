"""How numbers are written."""

from __future__ import annotations

import math
from typing import Any

import pytest

from sweep import wording


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3e-4, "3e-4"), (2.5e-05, "2.5e-5"), (0.001, "1e-3"), (0.05, "0.05"), (0.0, "0"), (1.0, "1"), (128, "128"),
        (True, "on"), (False, "off"), (None, "default"), ("imagenet", "imagenet"), (1e6, "1e6"), (math.inf, "inf"),
        (10**40, "1" + "0" * 40),
    ],
)  # fmt: skip
def test_config_values(value: Any, text: str) -> None:
    assert wording.number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(1310.4, "1,310"), (12_345.0, "12,300"), (86.44, "86.4"), (0.5, "0.5"), (0.0123, "0.0123"), (0, "0"), (None, "–")],
)
def test_quantities_have_three_digits(value: float | None, text: str) -> None:
    assert wording.quantity(value) == text


def test_scores_differences_and_shares() -> None:
    assert (wording.score(0.81349), wording.score(None)) == ("0.813", "–")
    assert (wording.signed(-0.0114), wording.signed(0.0114)) == ("−0.011", "+0.011")
    assert wording.span(0.7, 0.71234) == "0.700 to 0.712"
    assert wording.span(0.18391, 0.18392) == "no spread"
    assert (wording.percent(0.6632), wording.points(0.0711)) == ("66.3\u202f%", "7.1")
    assert [wording.p_words(p) for p in (0.0001, 0.0123, 0.5)] == ["< 0.001", "0.012", "0.50"]
    assert [wording.probability(p) for p in (0.0, 0.5, 0.999)] == ["< 0.01", "0.50", "> 0.99"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.512, "0.51 s"), (59, "59 s"), (104, "1 min 44 s"), (660, "11 min"), (7380, "2 h 3 min"), (720_000, "200 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert wording.duration(seconds) == text


def test_lists_and_counts() -> None:
    assert [wording.listing(words) for words in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == [
        "",
        "a",
        "a and b",
        "a, b and c",
    ]
    assert [wording.counted(n, "trial") for n in (0, 1, 1200)] == ["0 trials", "1 trial", "1,200 trials"]
    assert wording.sd([1.0]) is None and wording.sd([1.0, 3.0]) == pytest.approx(math.sqrt(2))
    assert wording.shortened("x" * 3000) == "x" * 2000 + "…"
