"""The project's own training loop, and the same loop with its input taken away, ready to be timed in turn.

`real` is the epoch of `fairface_core.training.fit` itself: gather, copy, augmentation, step. `constant` is that very
function fed with one batch that is already on the device: what the loop would reach with a perfect input path.
`model_only` also takes the augmentation away: what the model alone allows. Evaluation and files are left out.

`Run` is the trainer's own, so that no second copy of the loop can drift from the first.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from benchmarks.measure import Sample, timed
from fairface_core.config.train_config import TrainConfig, make_config
from fairface_core.dataset.prepare import Data, prepare_data
from fairface_core.files.folder import open_folder
from fairface_core.machine.device import choose_device, set_determinism
from fairface_core.training import fit as trainer
from fairface_core.training import inference
from fairface_core.training.batches import Batch, train_batches
from fairface_core.training.seeding import derived_seed
from fairface_core.trial.epoch_writer import EpochWriter
from fairface_core.trial.recorder import Recorder

# Rows of the val CSV that are loaded beside the training rows: ten of each age x gender cell.
_VAL_ROWS = 180


@dataclasses.dataclass(frozen=True)
class Job:
    """What is timed.

    Attributes:
        root: Data folder.
        work: Folder for the cache and the run.
        backbone: Its name.
        steps: Optimizer steps of one timing.
        batch_size: Images per step.
        image_size: Square input, pixels; None for the backbone's own.
        device: `auto`, `cuda` or `cpu`.
        changes: Other fields of TrainConfig.
    """

    root: Path
    work: Path
    backbone: str
    steps: int
    batch_size: int
    image_size: int | None = None
    device: str = "auto"
    changes: dict[str, Any] = dataclasses.field(default_factory=dict)

    def config(self) -> TrainConfig:
        """Return the configuration: random weights, since speed does not depend on them."""
        return make_config(
            {
                "root": str(self.root),
                "backbone": self.backbone,
                "image_size": self.image_size,
                "batch_size": self.batch_size,
                "limit_train": max(18, self.steps * self.batch_size),
                "limit_val": _VAL_ROWS,
                "device": self.device,
                "weights": "none",
                "cache_dir": str(self.work / "cache"),
                "out_dir": str(self.work / "run"),
                "results_csv": None,
                **self.changes,
            }
        )


class Loops:
    """One model in memory and the loops around it.

    Attributes:
        data: The images, cached.
        run: The trainer's own run.
        batch: Its first batch.
        pixels: That batch, augmented: float32 [B, 3, S, S].
    """

    def __init__(self, job: Job, data: Data | None = None) -> None:
        self.job, self.config = job, job.config()
        self.device = choose_device(self.config.device)
        set_determinism(self.config.determinism)
        self.data = data or prepare_data(self.config)
        recorder = Recorder(self.config, open_folder(self.config.out_dir), self.data)
        self.run = trainer.Run(self.config, recorder, EpochWriter(), self.device, self.data)
        self._epoch = 0
        self.batch, self.pixels = self._first_batch()

    @property
    def num_images(self) -> int:
        """Training images of one timing."""
        return len(self.data.train)

    def real(self) -> Sample:
        """Time the loop as it is."""
        return self._timed_epoch()

    def constant(self) -> Sample:
        """Time the loop on one uint8 batch that is already on the device."""
        with mock.patch.object(trainer, "train_batches", self._constant_batches):
            return self._timed_epoch()

    def model_only(self) -> Sample:
        """Time the loop on one augmented batch that is already on the device."""
        with (
            mock.patch.object(trainer, "train_batches", self._constant_batches),
            mock.patch.object(trainer, "draw_params", lambda *_: None),
            mock.patch.object(trainer, "augment", lambda images, *_: self.pixels[: len(images)]),
        ):
            return self._timed_epoch()

    def evaluation(self) -> Sample:
        """Time the predictions on the validation and the test split."""

        def work() -> float:
            for split in (self.data.val, self.data.test):
                self.run.predict(split)
            return len(self.data.val) + len(self.data.test)

        return self._timed(work)

    def constant_evaluation(self) -> Sample:
        """Time the same on one uint8 batch that is already on the device."""

        def batches(cache: Any, split: Any, *, batch_size: int, device: Any) -> Iterator[Batch]:
            return self._constant_batches(num_images=len(split), batch_size=batch_size)

        with mock.patch.object(inference, "eval_batches", batches):
            return self.evaluation()

    def _timed_epoch(self) -> Sample:
        def work() -> float:
            self._epoch += 1
            # So small a learning rate that no number of rounds diverges; its size costs nothing.
            self.run.train(self._epoch, 1e-6)
            return self.num_images

        return self._timed(work)

    def _timed(self, work: Callable[[], float]) -> Sample:
        # The switches are global: another arm may have set them.
        set_determinism(self.config.determinism)
        self._synchronize()

        def synchronized() -> float:
            units = work()
            self._synchronize()
            return float(units)

        return timed(synchronized)

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _first_batch(self) -> tuple[Batch, torch.Tensor]:
        data, config = self.data, self.config
        batches = train_batches(
            data.cache, data.train, batch_size=config.batch_size, seed=config.seed, epoch=1, device=self.device
        )
        with contextlib.closing(batches):
            batch = next(batches)
        generator = torch.Generator().manual_seed(derived_seed(config.seed, 1, "augmentation"))
        params = trainer.draw_params(len(batch.age), self.run.image_size, generator)
        return batch, trainer.augment(batch.images, params, self.run.image_size, self.run.memory_format)

    def _constant_batches(
        self, *_: Any, num_images: int | None = None, batch_size: int | None = None, **__: Any
    ) -> Iterator[Batch]:
        total, batch = num_images or self.num_images, self.batch
        step = min(batch_size or self.config.batch_size, len(batch.age))
        for start in range(0, total, step):
            rows = slice(min(step, total - start))
            yield Batch(batch.images[rows], batch.age[rows], batch.gender[rows], batch.index[rows])
