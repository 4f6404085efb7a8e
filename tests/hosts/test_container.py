"""Homes and temporary folders that are absent, read-only or somebody else's, as in a container of a batch system.

The rule: FAIRFACE_CACHE_DIR and --storage are all that a sweep needs to write to, and a place for Ray's sockets (/dev/shm
will do). Where one of them cannot be written, one line names it, what refuses and what to set; exit code 2, and no run folder.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hosts.commands import TIMEOUT_S
from tests.sweep.fake_sweeps import PROJECT

SCRIPT = PROJECT / "tests" / "hosts" / "container.sh"
QUICKSTART = PROJECT / "search_spaces" / "quickstart.yaml"
SMALL = ("--set", "space.backbone.grid=[mobilenet_v3_small]", "--set", "fixed.epochs=1", "--yes")


@pytest.fixture(scope="module")
def allowed() -> None:
    tools = [name for name in ("unshare", "setpriv", "ip") if shutil.which(name) is None]
    if tools:
        pytest.skip(f"no {', '.join(tools)} here")
    closed = [folder for folder in Path(sys.prefix).parents if not folder.stat().st_mode & 1]
    if closed and not Path(sys.prefix).is_relative_to(sys.base_prefix):
        pytest.skip(f"no other user may enter {closed[0]}, where the interpreter lies")
    tried = subprocess.run(["unshare", "--mount", "--net", "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"namespaces are not allowed here: {tried.stderr.strip()}")


@pytest.fixture
def writable(allowed: None, tmp_path: Path) -> Iterator[Path]:
    """The folder that is /mnt inside: with a cache and a storage that anybody may write to."""
    folder = tmp_path / "writable"
    for place in (folder, folder / "cache", folder / "runs"):
        place.mkdir()
        place.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


def inside(writable: Path, *words: str) -> subprocess.CompletedProcess[str]:
    start = ["unshare", "--mount", "--net", "bash", str(SCRIPT), str(writable), sys.base_prefix]
    return subprocess.run(
        [*start, *words], cwd=PROJECT, capture_output=True, text=True, timeout=2 * TIMEOUT_S, check=False
    )


def sweep(writable: Path, *words: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    space = ("--space", str(QUICKSTART), "--storage", "/mnt/runs", "--name", "q")
    return inside(writable, *before, sys.executable, "-m", "sweep.run", *space, *SMALL, *words)


@pytest.mark.slow
@pytest.mark.ray
def test_quickstart_runs_with_a_cache_and_a_storage_alone(writable: Path) -> None:
    done = sweep(writable)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert (writable / "runs" / "q" / "report.html").is_file()
    rows = (writable / "runs" / "q" / "benchmark_results.csv").read_text().splitlines()
    assert len(rows) == 5


@pytest.mark.parametrize(
    "variable", ["FAIRFACE_CACHE_DIR=/var/cache/none", "FAIRFACE_CACHE_DIR="], ids=["read-only", "no home"]
)
def test_no_place_for_the_cache_is_one_line(variable: str, writable: Path) -> None:
    done = sweep(writable, before=("env", variable))
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and "name another folder by FAIRFACE_CACHE_DIR" in line
    assert not (writable / "runs" / "q").exists()
    train = ("-m", "fairface_core.demo", "--out", "/var/none/faces")
    done = inside(writable, sys.executable, *train)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)


def test_no_place_for_the_run_is_one_line(writable: Path) -> None:
    (writable / "runs").chmod(0o555)
    done = sweep(writable)
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: --storage: /mnt/runs cannot be written")
