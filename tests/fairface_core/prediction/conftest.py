"""One small trained model for the tests that ask it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fairface_core import fit
from tests.fairface_core.small_data import training_config


@pytest.fixture(scope="session")
def trial(demo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a trial on the drawn faces."""
    folder = tmp_path_factory.mktemp("trial") / "run"
    cache = tmp_path_factory.mktemp("cache")
    fit(training_config(demo_root, folder, epochs=2, cache_dir=str(cache)))
    return folder


@pytest.fixture(scope="session")
def other_trial(demo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with another seed and another input size."""
    folder = tmp_path_factory.mktemp("trial") / "other"
    cache = tmp_path_factory.mktemp("cache")
    fit(training_config(demo_root, folder, epochs=1, seed=2, image_size=64, cache_dir=str(cache)))
    return folder
