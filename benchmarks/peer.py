"""The original's loop on the images, the model and the batch size of a `Loops`, ready to be timed in turn with it."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.inputs import FULL_TRAIN
from benchmarks.loops import Loops
from benchmarks.measure import Sample, timed
from benchmarks.original import (
    NUM_WORKERS,
    FaceDataset,
    OriginalLoop,
    class_weights,
    eval_transform,
    train_transform,
)
from fairface_core.dataset.prepare import Split
from fairface_core.machine.device import set_determinism
from fairface_core.model.network import build_model


class _Nothing(Dataset[int]):
    """One item for each worker and no work in it."""

    def __len__(self) -> int:
        return NUM_WORKERS

    def __getitem__(self, index: int) -> int:
        return index


class Peer:
    """The original's model and loop.

    Its worker processes start again each epoch. A timing here is a short epoch, so that start would weigh more than in
    a real one: it is timed on its own each round, and all but its share of a FairFace epoch is taken off.
    """

    def __init__(self, loops: Loops, *, num_workers: int = NUM_WORKERS) -> None:
        size, rows = loops.run.image_size, loops.data.train.rows
        self.device, self.num_images, self.num_workers = loops.device, len(rows), num_workers
        self.respawns: list[Sample] = []
        with _quiet_workers():
            self.loop = OriginalLoop(
                model=build_model(loops.config.backbone, image_size=size, dropout=loops.config.dropout, weights="none"),
                train=_dataset(loops.data.train, train_transform(size)),
                evaluation=_dataset(loops.data.val, eval_transform(size)),
                batch_size=loops.config.batch_size,
                device=self.device,
                lr=1e-6,
                num_workers=num_workers,
                age_weights=class_weights(np.bincount(rows.age, minlength=9)),
                gender_weights=class_weights(np.bincount(rows.gender, minlength=2)),
            )

    def train(self) -> Sample:
        """Time one epoch over the images."""
        with _quiet_workers():
            respawn = self._respawn()
            epoch = self._timed(self.loop.train_epoch, self.num_images)
        excess = max(0.0, 1.0 - self.num_images / FULL_TRAIN)
        return Sample(self.num_images, epoch.wall_s - excess * respawn.wall_s, epoch.cpu_s - excess * respawn.cpu_s)

    def evaluation(self) -> Sample:
        """Time the evaluation of the validation split, in float32."""
        assert self.loop.evaluation is not None
        with _quiet_workers():
            return self._timed(self.loop.evaluate, len(self.loop.evaluation))

    def _respawn(self) -> Sample:
        if not self.num_workers:
            return Sample(1, 0.0, 0.0)
        loader = DataLoader(_Nothing(), num_workers=self.num_workers, pin_memory=self.loop.amp)
        sample = timed(lambda: float(sum(len(item) for item in loader)))
        self.respawns.append(sample)
        return sample

    def _timed(self, work: Callable[[], Any], num_images: int) -> Sample:
        # What the original sets, and torch's defaults beside it.
        set_determinism("seeded")
        torch.backends.cudnn.deterministic = True

        def synchronized() -> float:
            work()
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            return num_images

        return timed(synchronized)


@contextlib.contextmanager
def _quiet_workers() -> Iterator[None]:
    """Silence what torch and Python say of eight workers on few cores: they are the original's."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        warnings.filterwarnings("ignore", message=".*multi-threaded, use of fork", category=DeprecationWarning)
        yield


def _dataset(split: Split, transform: Callable[[Any], torch.Tensor]) -> FaceDataset:
    rows = split.rows
    return FaceDataset(rows.path.tolist(), rows.age.tolist(), rows.gender.tolist(), transform)
