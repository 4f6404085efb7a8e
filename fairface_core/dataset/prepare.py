"""Joins the manifest and the image cache: what a run trains on and is scored on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fairface_core.backbones import input_size
from fairface_core.config.train_config import TrainConfig, data_fields, default_cache_dir
from fairface_core.dataset.manifest import Manifest, load_manifest
from fairface_core.dataset.rows import Rows, note_unreadable
from fairface_core.errors import DataError, Problems
from fairface_core.images.cache import ImageCache, cache_size_px, open_cache

MIN_TRAIN_ROWS = 2


@dataclass(frozen=True)
class Split:
    """One split, aligned arrays of length N.

    Attributes:
        rows: The CSV rows.
        cache_rows: int64 [N], row of each image in the cache.
    """

    rows: Rows
    cache_rows: np.ndarray

    def __len__(self) -> int:
        """Return N."""
        return len(self.rows)


@dataclass(frozen=True)
class Data:
    """Everything that a run reads.

    Attributes:
        cache: The decoded images, shared by all runs on this node.
        digest: sha256 of labels, split and policies, and of what was skipped; equal digests mean equal data sets.
        counts: Facts for `report.json["data"]`.
    """

    manifest: Manifest
    cache: ImageCache
    train: Split
    val: Split
    test: Split
    digest: str
    counts: dict[str, Any]


def prepare_data(config: TrainConfig, *, progress: Callable[[int, int], None] | None = None) -> Data:
    """Read and check the label CSVs, decode the images once per node, and join the two.

    Args:
        config: Its data fields, `backbone` and `image_size` are used.
        progress: Called with (images done, images in all) while the cache is built.

    Raises:
        DataError: With one line for each problem found.
    """
    manifest = load_manifest(config)
    splits = {"train": manifest.train, "val": manifest.val, "test": manifest.test}
    paths = np.concatenate([rows.path for rows in splits.values()])
    cache = open_cache(
        list(dict.fromkeys(paths.tolist())),
        cache_size_px(input_size(config.backbone, config.image_size), config.cache_px),
        cache_dir=Path(config.cache_dir).expanduser().absolute() if config.cache_dir else default_cache_dir(),
        num_workers=config.num_workers,
        progress=progress,
    )
    if config.on_bad_image == "error":
        problems, reasons = Problems(), {bad.path: bad.reason for bad in cache.bad}
        for rows in splits.values():
            note_unreadable(rows, reasons, problems)
        problems.raise_if_any()
    joined, skipped = {}, []
    for name, rows in splits.items():
        position = cache.rows(rows.path)
        skipped += rows.tokens(position < 0)
        joined[name] = Split(rows.take(np.flatnonzero(position >= 0)), position[position >= 0])
    empty = [name for name, split in joined.items() if len(split) < (MIN_TRAIN_ROWS if name == "train" else 1)]
    if empty:
        raise DataError([f"{name}: too few images are left to go on ({len(joined[name])})" for name in empty])
    digest = manifest.digest if not skipped else _digest_with_skips(manifest.digest, skipped)
    counts = {
        **manifest.counts,
        "rows": {name: len(split) for name, split in joined.items()},
        "unreadable_images_skipped": len(skipped),
        "digest": digest,
    }
    return Data(manifest, cache, joined["train"], joined["val"], joined["test"], digest, counts)


def data_key(config: TrainConfig) -> str:
    """Return a text that is equal for configs whose runs read the same rows from the same cache."""
    size_px = cache_size_px(input_size(config.backbone, config.image_size), config.cache_px)
    return repr((size_px, *(getattr(config, name) for name in data_fields())))


def _digest_with_skips(digest: str, skipped: list[str]) -> str:
    import hashlib

    return hashlib.sha256("\n".join([digest, *skipped]).encode()).hexdigest()
