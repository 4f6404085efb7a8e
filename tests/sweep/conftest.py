"""A drawn run folder for tests that read one, and copies of it for those that damage one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.sweep.run_folders import Shape, make_run


@pytest.fixture(scope="session")
def drawn_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four backbones, three learning rates, three seeds, ASHA; 36 trials. To be read only."""
    return make_run(tmp_path_factory.mktemp("drawn") / "backbones", Shape(num_val=400, num_test=300))


@pytest.fixture
def drawn_copy(drawn_run: Path, tmp_path: Path) -> Path:
    """A copy of it to change."""
    return Path(shutil.copytree(drawn_run, tmp_path / "copy"))
