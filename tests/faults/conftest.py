"""The undisturbed sweep that every disturbed one is compared with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.sweeps import Sweep


@pytest.fixture(scope="session", autouse=True)
def _one_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Decoded images and drawn faces of all sweeps here; the fixture of all tests comes too late for `undisturbed`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAIRFACE_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))
        yield


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Two real trials of four epochs, two at a time."""
    sweep = Sweep(tmp_path_factory.mktemp("undisturbed"))
    code, text = sweep.go()
    assert code == 0, text
    return sweep


@pytest.fixture
def runs(request: pytest.FixtureRequest) -> int | None:
    """`--runs N`: how often each fault is tried; None for each test's own count, which CI can afford."""
    return request.config.getoption("--runs")
