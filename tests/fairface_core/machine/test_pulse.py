"""Every loop that can take minutes shows signs of life."""

from __future__ import annotations

from pathlib import Path

from fairface_core.config.train_config import make_config
from fairface_core.machine import pulse
from fairface_core.training.fit import fit


def test_decoding_training_and_scoring_show_life(demo_root: Path, tmp_path: Path) -> None:
    config = make_config(
        {
            "root": str(demo_root), "backbone": "mobilenet_v3_small", "weights": "none", "image_size": 32, "epochs": 1,
            "batch_size": 16, "limit_train": 64, "limit_val": 60, "cache_dir": str(tmp_path / "cache"),
            "out_dir": str(tmp_path / "run"), "results_csv": None, "device": "cpu", "num_workers": 1,
        }
    )  # fmt: skip
    at_epoch: list[int] = []
    before = pulse.beats()
    fit(config, on_epoch=lambda report: at_epoch.append(pulse.beats()))
    train, val, test = 64 // 16, 48 // 16, 1
    decoded = 1
    assert at_epoch[0] - before >= decoded + train + val + test
