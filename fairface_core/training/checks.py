"""What can be known before training: whether a configuration can be trained, and its data. No torch is loaded for it.

A sweep's driver asks all of it and trains nothing: without torch it starts 2 s earlier and is half as large.
"""

from __future__ import annotations

from fairface_core.backbones import check_image_size, check_micro_batch
from fairface_core.config.train_config import TrainConfig
from fairface_core.dataset.prepare import data_key, prepare_data
from fairface_core.errors import ConfigError, is_text, not_utf8
from fairface_core.files.folder import open_folder
from fairface_core.model.weights import ensure_weights
from fairface_core.trial.benchmark_csv import check_results_csv

# What a caller may ask before `fit`: a fake of it (tests/sweep/fake_fit.py) has these three beside it.
__all__ = ["check_config", "data_key", "prepare_data"]


def check_config(config: TrainConfig) -> None:
    """Raise ConfigError or WeightsError for what can be known wrong before any data is read."""
    problems = []
    if not config.root:
        problems.append(
            "root: no data folder given; use --root DIR (or draw one: python -m fairface_core.demo --out DIR)"
        )
    checked = (
        check_image_size(config.backbone, config.image_size),
        check_micro_batch(config.backbone, config.micro_batch_size),
    )
    problems += [problem for problem in checked if problem]
    if not is_text(open_folder(config.out_dir).uri):
        problems.append(not_utf8(f"out_dir = {config.out_dir!r}: its folder's whole name"))
    if problems:
        raise ConfigError(problems)
    if config.results_csv:
        check_results_csv(config.results_csv)
    if ensure_weights(config.backbone, config.weights) is not None and config.weights != "imagenet":
        # A file of the user's may be damaged or of another network: better known now than in the first trial.
        from fairface_core.model.network import build_model

        build_model(
            config.backbone,
            image_size=config.image_size,
            dropout=config.dropout,
            weights=config.weights,
            weights_map=config.weights_map,
        )
