"""A plain Ray Tune script around the original's loop, as Ray's documentation writes it: the peer of `plain_tune`.

    python -m benchmarks.ray_script --rows rows.json --image_size 64 --epochs 3 --storage DIR

After Ray's "How to use Tune with PyTorch": a training function that builds its model and loaders, restores a
checkpoint if there is one, reports its metrics with a checkpoint each epoch, and a `Tuner` with default settings (one
CPU a trial, FIFO). In it is the original script as it was: two label passes over decoded images, then its epochs, then
the test set.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from ray import tune
from ray.tune import Checkpoint

from benchmarks.original import (
    FaceDataset,
    OriginalLoop,
    class_weights,
    count_labels,
    eval_transform,
    seed_everything,
    train_transform,
)
from fairface_core.model.network import build_model


def train_fairface(config: dict[str, Any], rows: dict[str, dict[str, list[Any]]], image_size: int, epochs: int) -> None:
    """Train one trial.

    Args:
        config: `backbone`, `lr`, `batch_size`, `seed`.
        rows: `train`, `val` and `test`, each with `paths`, `age` and `gender`.
        image_size: Square input, pixels.
        epochs: How long.
    """
    seed_everything(config["seed"])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    train = FaceDataset(**rows["train"], transform=train_transform(image_size))
    val, test = (FaceDataset(**rows[name], transform=eval_transform(image_size)) for name in ("val", "test"))
    age_counts, gender_counts = count_labels(train)
    loop = OriginalLoop(
        model=build_model(config["backbone"], image_size=image_size, dropout=0.2, weights="none"),
        train=train,
        evaluation=val,
        batch_size=config["batch_size"],
        device=device,
        lr=config["lr"],
        epochs=epochs,
        age_weights=class_weights(age_counts),
        gender_weights=class_weights(gender_counts),
    )
    start = 0
    checkpoint = tune.get_checkpoint()
    if checkpoint:
        with checkpoint.as_directory() as folder:
            state = torch.load(Path(folder) / "checkpoint.pt")
            start = state["epoch"] + 1
            loop.model.load_state_dict(state["model"])
            loop.optimizer.load_state_dict(state["optimizer"])
    for epoch in range(start, epochs):
        loop.train_epoch()
        loss, age_acc, gender_acc = loop.evaluate()
        loop.scheduler.step()
        if epoch + 1 == epochs:
            loop.evaluation = test
            loop.evaluate()
        with tempfile.TemporaryDirectory() as folder:
            state = {"epoch": epoch, "model": loop.model.state_dict(), "optimizer": loop.optimizer.state_dict()}
            torch.save(state, Path(folder) / "checkpoint.pt")
            metrics = {"loss": loss, "age_acc": age_acc, "gender_acc": gender_acc}
            tune.report(metrics, checkpoint=Checkpoint.from_directory(folder))


def main() -> int:
    """Tune, and print the best trial."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--backbones", nargs="+", default=["resnet18", "mobilenet_v3_small"])
    parser.add_argument("--lrs", nargs="+", type=float, default=[1e-4, 3e-4, 1e-3])
    parser.add_argument("--image_size", type=int, default=64)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--storage", type=Path, required=True)
    flags = parser.parse_args()
    space = {
        "backbone": tune.grid_search(flags.backbones),
        "lr": tune.grid_search(flags.lrs),
        "batch_size": flags.batch_size,
        "seed": 42,
    }
    rows = json.loads(flags.rows.read_text(encoding="utf-8"))
    function = tune.with_parameters(train_fairface, rows=rows, image_size=flags.image_size, epochs=flags.epochs)
    tuner = tune.Tuner(
        function,
        param_space=space,
        tune_config=tune.TuneConfig(metric="loss", mode="min"),
        run_config=tune.RunConfig(name="plain", storage_path=str(flags.storage.absolute())),
    )
    results = tuner.fit()
    print(f"best: {results.get_best_result().config}; errors: {results.num_errors}")
    return int(results.num_errors > 0)


if __name__ == "__main__":
    sys.exit(main())
