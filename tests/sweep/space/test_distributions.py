"""Draws lie where their distribution says."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sweep.space.distributions import Distribution

DISTRIBUTIONS = st.one_of(
    st.lists(st.integers() | st.text(max_size=3), min_size=1, max_size=9).map(lambda v: Distribution("grid", tuple(v))),
    st.lists(st.floats(0, 1), min_size=1, max_size=9).map(lambda v: Distribution("choice", tuple(v))),
    st.tuples(st.floats(-1e3, 1e3), st.floats(1e-3, 1e3)).map(lambda v: Distribution("uniform", (v[0], v[0] + v[1]))),
    st.tuples(st.floats(1e-9, 1e3), st.floats(1.1, 1e3)).map(lambda v: Distribution("loguniform", (v[0], v[0] * v[1]))),
    st.tuples(st.integers(-1000, 1000), st.integers(1, 1000)).map(
        lambda v: Distribution("randint", (v[0], v[0] + v[1]))
    ),
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(DISTRIBUTIONS, st.floats(0, 1, exclude_max=True))
def test_a_draw_lies_in_its_distribution(distribution: Distribution, fraction: float) -> None:
    value: Any = distribution.at(fraction)
    if distribution.kind in ("grid", "choice"):
        assert value in distribution.values
        assert distribution.at(0) == distribution.values[0]
    elif distribution.kind == "randint":
        assert isinstance(value, int)
        assert distribution.values[0] <= value < distribution.values[1]
    else:
        assert isinstance(value, float)
        assert distribution.values[0] <= value <= distribution.values[1]
    assert distribution.holds(value)
    assert json.loads(json.dumps(distribution.to_json())) == distribution.to_json()
