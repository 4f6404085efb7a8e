"""The undisturbed sweep that every disturbed one is compared with."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from sweeps import Sweep


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Whole sweeps take minutes each: they run when their count is named."""
    if config.getoption("--runs") is None:
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="whole sweeps under faults run with --runs N"))


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sweep]:
    sweep = Sweep(tmp_path_factory.mktemp("undisturbed"))
    code, text = sweep.go()
    assert code == 0, text
    yield sweep


@pytest.fixture
def runs(request: pytest.FixtureRequest) -> int | None:
    """`--runs N`: how often each fault is tried; None for each test's own count."""
    return request.config.getoption("--runs")
