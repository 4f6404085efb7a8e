"""Trains one age + gender model on FairFace; knows no Ray.

Reading order: config -> dataset -> images -> model -> training -> trial.
The public names below are loaded when first used, so that importing the package costs milliseconds.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fairface_core.backbones import BACKBONES
    from fairface_core.config.train_config import TrainConfig, make_config
    from fairface_core.dataset.prepare import prepare_data
    from fairface_core.errors import FairfaceError
    from fairface_core.labels import AGE_GROUPS, GENDERS
    from fairface_core.training.fit import fit
    from fairface_core.trial.checkpoint import load_checkpoint
    from fairface_core.trial.reports import EpochReport, TrialReport

__version__ = "0.1.0"

_HOMES = {
    "fit": "training.fit",
    "TrainConfig": "config.train_config",
    "make_config": "config.train_config",
    "TrialReport": "trial.reports",
    "EpochReport": "trial.reports",
    "BACKBONES": "backbones",
    "AGE_GROUPS": "labels",
    "GENDERS": "labels",
    "prepare_data": "dataset.prepare",
    "load_checkpoint": "trial.checkpoint",
    "FairfaceError": "errors",
}

__all__ = [
    "AGE_GROUPS",
    "BACKBONES",
    "GENDERS",
    "EpochReport",
    "FairfaceError",
    "TrainConfig",
    "TrialReport",
    "fit",
    "load_checkpoint",
    "make_config",
    "prepare_data",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"fairface_core.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'fairface_core' has no attribute {name!r}")
