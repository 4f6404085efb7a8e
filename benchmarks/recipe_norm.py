"""What slow batch-norm statistics cost: `python -m benchmarks.recipe_norm --root FOLDER --work DIR --seed 1 [FIELD=VALUE ...]`.

Networks made for long runs keep their statistics at momentum 0.01: a new batch moves them by a hundredth. After a short
run they are still those of weights long gone. Training does not see them (it normalizes by the batch), so one course of
training is scored under the network's own momentum, under another, and with statistics counted anew over some augmented
training batches before each evaluation. One JSON line an epoch and way.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from fairface_core.config.train_config import make_config
from fairface_core.dataset.prepare import prepare_data
from fairface_core.files.folder import open_folder
from fairface_core.training import fit as trainer
from fairface_core.training.augment import augment, draw_params
from fairface_core.training.batches import train_batches
from fairface_core.training.schedule import epoch_lr
from fairface_core.trial.epoch_writer import EpochWriter
from fairface_core.trial.recorder import Recorder

_COUNTED_BATCHES = 20


def main(argv: list[str] | None = None) -> None:
    """Train once and print what validation says after every epoch under each kind of statistics."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--momentum", type=float, default=0.1, help="beside the network's own")
    parser.add_argument("fields", nargs="*", metavar="FIELD=VALUE", help="of TrainConfig")
    flags = parser.parse_args(argv)
    values: dict[str, Any] = {
        "root": flags.root, "out_dir": str(flags.work / "run"), "cache_dir": str(flags.work / "cache"), "seed": flags.seed,
        "backbone": "mobilenet_v3_small", "weights": "none", "image_size": 64, "epochs": 3, "batch_size": 64, "lr": 1e-3,
        "limit_train": 4000, "limit_val": 1250, "device": "cpu", "results_csv": None,
        **dict(field.split("=", 1) for field in flags.fields),
    }  # fmt: skip
    config = make_config(values)
    data = prepare_data(config)
    run = trainer.Run(
        config, Recorder(config, open_folder(config.out_dir), data), EpochWriter(), torch.device("cpu"), data
    )
    # The same network with other statistics: its norms are given what those of the trained one are given.
    other = copy.deepcopy(run.model)
    for own, beside in zip(_norms(run.model), _norms(other), strict=True):
        beside.momentum = flags.momentum
        own.register_forward_pre_hook(functools.partial(_follow, beside))
    for epoch in range(1, config.epochs + 1):
        loss = run.train(epoch, epoch_lr(config, epoch))
        statistics = dict(other.named_buffers())
        other.load_state_dict({**run.model.state_dict(), **statistics})
        anew = copy.deepcopy(other)
        update_bn(_augmented(run, epoch), anew)
        ways = {
            "own momentum": run.model,
            f"momentum {flags.momentum:g}": other,
            f"anew, {_COUNTED_BATCHES} batches": anew,
        }
        for way, model in ways.items():
            run.scored = model
            _tell(run, epoch, loss, way)


def _norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def _follow(beside: nn.BatchNorm2d, own: nn.Module, inputs: tuple[Tensor]) -> None:
    if own.training:
        with torch.no_grad():
            beside.train()(inputs[0].detach())


def _augmented(run: trainer.Run, epoch: int) -> Iterator[Tensor]:
    config = run.config
    generator = torch.Generator().manual_seed(epoch)
    batches = train_batches(
        run.data.cache, run.data.train, batch_size=config.batch_size, seed=config.seed, epoch=epoch + 1, device="cpu"
    )
    for _, batch in zip(range(_COUNTED_BATCHES), batches, strict=False):
        yield augment(batch.images, draw_params(len(batch.age), run.image_size, generator), run.image_size)
    batches.close()


def _tell(run: trainer.Run, epoch: int, loss: float, way: str) -> None:
    metrics = run.score(run.predict(run.data.val), run.data.val)
    shown = {key: round(metrics[key], 4) for key in ("mean_f1", "age_f1m", "gen_f1m", "gen_acc", "loss")}
    facts = {"backbone": run.config.backbone, "seed": run.config.seed, "epoch": epoch, "way": way}
    print(json.dumps({**facts, "train_loss": round(loss, 4), **shown}), flush=True)


if __name__ == "__main__":
    main()
