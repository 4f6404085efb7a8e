"""Fixtures of the core's tests."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import settings

from tests.fairface_core.small_data import DataRoot, make_small_data

# A busy machine must not fail a property: pytest-timeout bounds the time.
settings.register_profile("no_deadline", deadline=None)
settings.load_profile("no_deadline")


@pytest.fixture(scope="session")
def clean_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small data folder, not to be changed."""
    root = tmp_path_factory.mktemp("clean") / "root"
    make_small_data(root)
    return root


@pytest.fixture
def data_root(clean_root: Path, tmp_path: Path) -> DataRoot:
    """A fresh copy of the small data folder, with a folder of its own around it."""
    shutil.copytree(clean_root, tmp_path / "data" / "root")
    return DataRoot(tmp_path / "data" / "root")
