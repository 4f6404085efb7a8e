"""Fixtures of all tests: the demo faces, the real sample, and no path of the machine that they run on."""

from __future__ import annotations

import ast
import functools
import os
from pathlib import Path
from typing import Any

import pytest

# Two threads of two tests at once are slower than one each, and bits then depend on nothing but the code.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Half a dozen processes of each of sixty Rays; the tests of the dashboard turn it on.
os.environ.setdefault("FAIRFACE_DASHBOARD", "0")

PROJECT = Path(__file__).resolve().parents[1]
REAL_DATA = PROJECT.parent / "shared" / "data"
# Marks whose tests share one process: they would wait for each other's processors.
GROUPS = ("faults", "ray")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--runs", type=int, default=None, help="how often each fault is tried (default: each test's own)")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two: a third one made tests that start Ray wait for each other's processors, and was no faster on two cores."""
    return min(2, os.cpu_count() or 1)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep the faults in one process, the tests that start Ray in one, and the others of each file in one.

    Not by `--dist loadgroup`: xdist 3.8 under pytest 9.2 reads the marks and then does nothing with them.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    return ByGroup(config, log)


def group_of(nodeid: str) -> str:
    """Return what a test shares its process with: those of its mark in `GROUPS`, or of its file."""
    path, _, name = nodeid.partition("::")
    marks = _marks(path)
    return marks.get(name.partition("[")[0]) or marks.get("pytestmark") or path


@functools.cache
def _marks(path: str) -> dict[str, str]:
    """Test -> its mark in `GROUPS`; `pytestmark` stands for all of a file. The scheduler knows tests by name alone."""
    found = {}
    for node in ast.parse((PROJECT / path).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            name, text = node.name, "".join(map(ast.unparse, node.decorator_list))
        elif isinstance(node, ast.Assign):
            name, text = ast.unparse(node.targets[0]), ast.unparse(node.value)
        else:
            continue
        mark = next((mark for mark in GROUPS if f"mark.{mark}" in text), None)
        if mark:
            found[name] = mark
    return found


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the long groups, so that the processes end together."""
    rank = {mark: position for position, mark in enumerate(GROUPS)}
    items.sort(key=lambda item: rank.get(group_of(item.nodeid), len(rank)))


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
    from fairface_core.demo.folder import draw_faces

    root = tmp_path_factory.mktemp("demo") / "faces"
    draw_faces(root, num_train=240, num_val=200, image_px=32, seed=7)
    return root
