"""The folder of an export: written beside its place, every file proved, and shown whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fairface_core.config.train_config import TrainConfig
from fairface_core.dataset.prepare import Data, Split
from fairface_core.errors import CheckpointError, ConfigError, StorageError
from fairface_core.exporting.card import card_of, config_of, hub_results, json_text
from fairface_core.exporting.formats import (
    CONFIG,
    FORMATS,
    ONNX_PACKAGES,
    check_packages,
    open_onnx,
    run_graph,
    write_half,
    write_int8,
)
from fairface_core.exporting.graph import Graph, Kind, graph_of
from fairface_core.exporting.proof import TOLERANCE, Scored, check_cost, check_equal, score
from fairface_core.prediction.models import Member
from fairface_core.prediction.scored import further_facts
from fairface_core.scoring.audit import subgroup_audit
from fairface_core.scoring.metrics import Logits, split_metrics

# Validation images that show the ranges of 8-bit numbers.
_CALIBRATION_IMAGES, _CALIBRATION_BATCH = 256, 32


@dataclass(frozen=True)
class Wish:
    """What to export.

    Attributes:
        out: The folder; it must not be there yet.
        formats: Keys of `FORMATS`.
        kind: What the graphs take.
        half: Whether to write float16 weights too.
        int8: Whether to write 8-bit weights too.
        max_loss: How much of mean_f1 either of these may cost.
    """

    out: Path
    formats: Sequence[str]
    kind: Kind = "uint8"
    half: bool = False
    int8: bool = False
    max_loss: float = 0.01


def check_wish(wish: Wish) -> None:
    """Raise ConfigError for packages that are not installed, and for a folder that is there: nothing is written over."""
    packages = [name for kind in wish.formats for name in FORMATS[kind].packages]
    check_packages([*packages, *(ONNX_PACKAGES if wish.half or wish.int8 else ())])
    if wish.out.exists() and (not wish.out.is_dir() or any(wish.out.iterdir())):
        raise ConfigError(f"--out {wish.out}: is already there and not empty; name a new folder")


def export(member: Member, config: TrainConfig, data: Data, wish: Wish, *, tell: Callable[[str], None]) -> Path:
    """Write every wished file, and prove each with its own runtime on the test images.

    Args:
        member: The model, on the CPU.
        config: How it is scored: backbone, dropout and protocol are told in config.json.
        data: Its test images, and validation for 8-bit ranges.
        wish: What to write.
        tell: Gets a line for each file.

    Returns:
        The folder.

    Raises:
        ExportError: If a file does not answer as the model does, or costs too much; nothing is then left behind.
        StorageError: If the folder cannot be written.
    """
    check_wish(wish)
    part = wish.out.with_name(f".{wish.out.name}.part{os.getpid()}")
    try:
        part.mkdir(parents=True)
        _Exporter(member, config, data, wish, part, tell).write_all()
        if wish.out.is_dir():
            wish.out.rmdir()
        part.rename(wish.out)
    except OSError as error:
        raise StorageError(f"cannot write {wish.out}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return wish.out


class _Exporter:
    def __init__(
        self, member: Member, config: TrainConfig, data: Data, wish: Wish, folder: Path, tell: Callable[[str], None]
    ) -> None:
        # The caller may have named another --cache_px than that of the training.
        member = replace(member, decoded_px=data.cache.size_px)
        self.member, self.config, self.data = member, config, data
        self.wish, self.folder, self.tell = wish, folder, tell
        self.graph: Graph = graph_of(member, wish.kind)
        self.expected = self._score(run_graph(self.graph))
        if not np.isfinite(self.expected.age).all() or not np.isfinite(self.expected.gender).all():
            raise CheckpointError(
                f"{member.where}: its outputs are not finite; it is damaged, or training had diverged"
            )
        self.proved: dict[str, str] = {}

    def _score(self, run: Any) -> Scored:
        return score(run, self.data.cache, self.data.test, self.wish.kind)

    def write_all(self) -> None:
        config = config_of(self.member, self.config.backbone, self.config.dropout, self.wish.kind, self._facts())
        # First: what reads the weights again builds the network from it.
        self._write(CONFIG, json_text(config))
        for name in self.wish.formats:
            kind = FORMATS[name]
            kind.write(self.graph, self.folder / kind.file)
            gap = check_equal(
                kind.file,
                self._score(kind.open(self.folder / kind.file, self.wish.kind)),
                self.expected,
                self.data.test,
            )
            self._note(kind.file, f"every answer is the model's; largest difference of a probability {gap:.1e}")
        if self.wish.half:
            self._smaller("model_half.onnx", "float16 weights", lambda path: write_half(self.graph, path))
        if self.wish.int8:
            images = _calibration(self.data)
            self._smaller("model_int8.onnx", "8-bit", lambda path: write_int8(self.graph, path, images))
        self._write("README.md", card_of(self.wish.out.name, config, self.proved))
        results = hub_results(config)
        if results is not None:
            (self.folder / ".eval_results").mkdir()
            self._write(".eval_results/fairface.yaml", results)

    def _smaller(self, file: str, what: str, write: Callable[[Path], None]) -> None:
        path = self.folder / file
        write(path)
        found = self._score(open_onnx(path, self.wish.kind))
        cost, low, high = check_cost(file, found, self.expected, self.data.test, self.wish.max_loss)
        self._note(file, f"{what}; costs {cost:+.4f} of mean_f1 (95 % interval {low:+.4f} to {high:+.4f})")

    def _note(self, file: str, what: str) -> None:
        size = (self.folder / file).stat().st_size / 2**20
        self.proved[file] = f"{size:,.1f} MiB; {what}"
        self.tell(f"{file}: {self.proved[file]}")

    def _write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text, encoding="utf-8")

    def _facts(self) -> dict[str, Any]:
        test, (age, gender) = self.data.test, self.expected.answers
        return {
            "protocol": self.config.protocol,
            "split_seed": self.config.split_seed,
            "num_images": len(test),
            "data_digest": self.data.digest,
            "metrics": _metrics(self.expected, test),
            **further_facts(age, gender, test.rows, "", "test"),
            "subgroups": subgroup_audit(age, gender, test.rows.age, test.rows.gender, test.rows.race),
            "tolerance": TOLERANCE,
            "refit": self.member.report.get("refit"),
        }


def _metrics(expected: Scored, split: Split) -> dict[str, float]:
    # Only the order of a row's values counts, but for the loss, which without the training labels has no class weights.
    logits = Logits(expected.age, expected.gender)
    metrics = split_metrics(logits, split.rows, class_weights=None, age_loss_weight=0.5, batch_size=len(split))
    del metrics["loss"]
    return metrics


def _calibration(data: Data) -> list[np.ndarray]:
    rows = data.val.cache_rows[:_CALIBRATION_IMAGES]
    return [
        data.cache.images[rows[i : i + _CALIBRATION_BATCH].tolist()] for i in range(0, len(rows), _CALIBRATION_BATCH)
    ]
