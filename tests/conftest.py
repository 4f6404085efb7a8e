"""Fixtures of all tests: the demo faces, the real sample, and no path of the machine that they run on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Two threads of two tests at once are slower than one each, and bits then depend on nothing but the code.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Half a dozen processes of each of sixty Rays; the tests of the dashboard turn it on.
os.environ.setdefault("FAIRFACE_DASHBOARD", "0")

PROJECT = Path(__file__).resolve().parents[1]
REAL_DATA = PROJECT.parent / "shared" / "data"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--runs", type=int, default=None, help="how often each fault is tried (default: each test's own)")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two: a third one made tests that start Ray wait for each other's processors, and was no faster on two cores."""
    return min(2, os.cpu_count() or 1)


# First: xdist's own hook reads the marks.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests that start Ray in one process, one after another, and the faults in another."""
    for item in items:
        if item.get_closest_marker("faults"):
            item.add_marker(pytest.mark.xdist_group("faults"))
        elif item.get_closest_marker("ray"):
            item.add_marker(pytest.mark.xdist_group("ray"))


@pytest.fixture(autouse=True)
def _private_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("FAIRFACE_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """`../shared/data`: the real FairFace sample and the full label files."""
    if not (REAL_DATA / "fairface_sample").is_dir():
        pytest.skip("the real FairFace sample (../shared/data) is not here")
    return REAL_DATA


@pytest.fixture(scope="session")
def demo_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small folder of drawn faces in FairFace's layout: 240 train and 200 val images of 32 px."""
    from fairface_core.demo import draw_faces

    root = tmp_path_factory.mktemp("demo") / "faces"
    draw_faces(root, num_train=240, num_val=200, image_px=32, seed=7)
    return root
