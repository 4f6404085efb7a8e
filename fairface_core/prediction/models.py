"""The models to ask: a checkpoint, a trial folder or a run folder, and what each promises of its prediction sets."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fairface_core.config.train_config import make_config
from fairface_core.errors import CheckpointError, ConfigError, StorageError, one_line
from fairface_core.files.folder import Folder, open_folder, read_json
from fairface_core.images.cache import cache_size_px
from fairface_core.machine.device import choose_memory_format, choose_scoring_dtype
from fairface_core.model.network import AgeGenderModel, load_weights
from fairface_core.training.inference import checkpoint_batch_size
from fairface_core.trial.checkpoint import BEST, load_checkpoint

DEFAULT_MARGIN = "0.25"


@dataclass(frozen=True)
class Member:
    """One trained model, ready to answer.

    Attributes:
        network: In evaluation mode, on its device.
        image_size: Its square input, pixels.
        decoded_px: The size to decode images to, pixels: the one that it was trained on.
        memory_format: The layout that its input is given in.
        amp_dtype: Autocast type, or None for float32; this and the next as in `evaluate`, so that both give the same bits.
        batch_size: Images at a time.
        margin: Around the faces that it was trained on: 0.25 unless its training named another.
        report: `report.json` beside the checkpoint, if it is of the same epoch; empty without one.
        where: The checkpoint's path.
        told: What it is, in words.
    """

    network: AgeGenderModel
    image_size: int
    decoded_px: int
    memory_format: torch.memory_format
    amp_dtype: torch.dtype | None
    batch_size: int
    margin: float
    report: Mapping[str, Any]
    where: Path
    told: str


def load_member(path: Path, device: torch.device) -> Member:
    """Load the model that a path stands for.

    Args:
        path: A checkpoint, ours or the original script's; a trial folder; or a run folder, for the best run of the
            configuration that leads its leaderboard.
        device: Where to put it.

    Raises:
        CheckpointError: If it is none of these, or damaged.
    """
    path = checkpoint_of(path)
    where = one_line(str(path))
    checkpoint = load_checkpoint(path)
    known = (
        "backbone",
        "image_size",
        "cache_px",
        "dropout",
        "age_loss",
        "batch_size",
        "channels_last",
        "no_amp",
        "amp_dtype",
        "margin",
    )
    try:
        config = make_config({key: checkpoint.cfg[key] for key in known if key in checkpoint.cfg}, where=where)
    except ConfigError as error:
        raise CheckpointError(error.problems) from error
    from fairface_core.backbones import input_size

    image_size = input_size(config.backbone, config.image_size)
    network = AgeGenderModel(
        config.backbone, image_size, config.dropout, age_loss=config.age_loss, normalization=checkpoint.normalization
    )
    load_weights(network, checkpoint.model, where=where)
    memory_format = choose_memory_format(config)
    network.to(device).to(memory_format=memory_format)
    network.eval()
    return Member(
        network, image_size, cache_size_px(image_size, config.cache_px), memory_format, choose_scoring_dtype(config, device),
        checkpoint_batch_size(config, device), float(config.margin or DEFAULT_MARGIN), _report_of(path, checkpoint.epoch), path,
        f"{config.backbone} at {image_size} px, epoch {checkpoint.epoch}",
    )  # fmt: skip


def checkpoint_of(path: Path) -> Path:
    """Return the checkpoint that a path stands for; see `load_member`.

    Raises:
        CheckpointError: If a folder is neither a trial's nor a run's.
    """
    if not path.is_dir():
        return path
    if (path / "plan.json").is_file():
        return path / "trials" / winner_of(open_folder(path)) / BEST
    if not (path / BEST).exists():
        raise CheckpointError(
            f"{path}: no {BEST} is in it; accepted: a {BEST}, the folder of a trial, or the folder of a sweep"
        )
    return path / BEST


def winner_of(run: Folder) -> str:
    """Return the trial to use of a sweep: the best run, on validation, of the first row of its leaderboard.

    Raises:
        CheckpointError: If there is no leaderboard yet, or nothing in it has a rank.
    """
    where = one_line(run.uri)
    try:
        rows = list(csv.DictReader(io.StringIO(run.read("leaderboard.csv").decode("utf-8", "replace"), newline="")))
        planned = read_json(run, "plan.json")["trials"]
        first = [row["config_id"] for row in rows if row["rank"] == "1"]
        scores = {}
        for trial in planned:
            name = trial["trial_id"]
            if first and trial["config_id"] == first[0] and isinstance(name, str) and name == Path(name).name:
                report = _read_report(run.sub("trials", name))
                if report.get("epochs_trained") == report.get("epochs"):
                    scores[name] = float(report.get("mean_f1", 0.0))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{where}: has no leaderboard.csv, which says who won; write it with: python -m sweep.report {where}"
        ) from error
    except (KeyError, TypeError, ValueError, StorageError) as error:
        raise CheckpointError(f"{where}: its leaderboard.csv or plan.json is damaged; give a trial folder") from error
    if not scores:
        raise CheckpointError(
            f"{where}: no trial in its leaderboard has had its full budget; give the folder of a trial, "
            f"{where}/trials/NAME"
        )
    return max(scores, key=scores.__getitem__)


def _read_report(folder: Folder) -> Mapping[str, Any]:
    try:
        report = read_json(folder, "report.json")
    except (FileNotFoundError, StorageError):
        return {}
    return report if isinstance(report, Mapping) else {}


def _report_of(checkpoint: Path, epoch: int) -> Mapping[str, Any]:
    """Return the report beside a checkpoint; empty if it is absent or of other weights."""
    report = _read_report(open_folder(checkpoint.absolute().parent))
    return report if report.get("best_epoch") == epoch else {}


def batch_size_of(members: Sequence[Member]) -> int:
    """Return how many images to take at a time."""
    return min(member.batch_size for member in members)
