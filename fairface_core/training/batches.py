"""Batches for one epoch: order, gather, pin, copy ahead. One thread; no worker processes.

Rows of the mapped uint8 images are copied at memory speed (about 50,000 a second per core at 224 px), so one thread
feeds any GPU; it only has to run ahead, so that neither a page fault nor a copy to the device is waited for.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fairface_core.labels import GENDERS
from fairface_core.training.seeding import balanced_order, epoch_order

if TYPE_CHECKING:
    from fairface_core.dataset.prepare import Split
    from fairface_core.images.cache import ImageCache

# Batches on their way beyond the one in use.
_AHEAD = 2


class Batch(NamedTuple):
    """One batch on the device.

    Attributes:
        images: uint8 [B, 3, H, W], RGB: a view of [B, H, W, 3] memory, so already channels_last.
        age: int64 [B], 0..8.
        gender: int64 [B], 0..1.
        index: int64 [B], positions in the split.
    """

    images: Tensor
    age: Tensor
    gender: Tensor
    index: Tensor  # type: ignore[assignment]  # hides tuple.index


def train_batches(
    cache: ImageCache,
    split: Split,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    device: torch.device | str,
    balanced: bool = False,
) -> Generator[Batch, None, None]:
    """Yield every image once, in the order of this epoch; or as many images, all classes alike often.

    The last batch may be smaller, as in the original. A last batch of one image joins the one before it: batch
    normalization cannot take the variance of one.

    Args:
        cache: Where the images are.
        split: Which of them, and their labels.
        batch_size: Images per batch.
        seed: With `epoch`, decides the order.
        epoch: Counted from any number.
        device: Where the batches shall be.
        balanced: Whether every pair of age group and gender is drawn alike often.
    """
    bounds = parts(len(split), batch_size, join_single=True)
    if balanced:
        order = balanced_order(split.rows.age * len(GENDERS) + split.rows.gender, seed=seed, epoch=epoch)
    else:
        order = epoch_order(len(split), seed=seed, epoch=epoch)
    return _batches(cache, split, order, bounds, device)


def eval_batches(
    cache: ImageCache, split: Split, *, batch_size: int, device: torch.device | str
) -> Generator[Batch, None, None]:
    """Yield every image once, in the order given; see `train_batches`."""
    bounds = parts(len(split), batch_size, join_single=False)
    return _batches(cache, split, np.arange(len(split)), bounds, device)


def parts(num_rows: int, batch_size: int, *, join_single: bool) -> list[tuple[int, int]]:
    """Cut rows into parts of `batch_size`, as (start, stop); a last one of a single row may join the one before it."""
    bounds = [(start, min(start + batch_size, num_rows)) for start in range(0, num_rows, batch_size)]
    if join_single and len(bounds) > 1 and bounds[-1][0] == num_rows - 1:
        bounds[-2:] = [(bounds[-2][0], num_rows)]
    return bounds


def gather(images: np.ndarray, rows: np.ndarray, out: np.ndarray) -> None:
    """Copy rows of the mapped images into memory.

    Args:
        images: uint8 [M, S, S, 3].
        rows: int64 [B]; every row must exist.
        out: uint8 [B, S, S, 3].
    """
    assert len(rows) == 0 or (rows.min() >= 0 and rows.max() < len(images)), (rows.min(), rows.max(), len(images))
    # mode="raise" would copy through a buffer of its own; the line above checks instead.
    np.take(images, rows, axis=0, out=out, mode="clip")


def _batches(
    cache: ImageCache,
    split: Split,
    order: np.ndarray,
    bounds: Sequence[tuple[int, int]],
    device: torch.device | str,
) -> Generator[Batch, None, None]:
    rows, age, gender = split.cache_rows, split.rows.age, split.rows.gender
    assert len(rows) == len(age) == len(gender) == len(order), "one age and one gender per row"
    device = torch.device(device)
    # All labels of the epoch go over at once; those of a batch are a slice.
    index = torch.from_numpy(np.asarray(order, dtype=np.int64)).to(device)
    ages = torch.from_numpy(np.asarray(age, dtype=np.int64)[order]).to(device)
    genders = torch.from_numpy(np.asarray(gender, dtype=np.int64)[order]).to(device)
    ordered = np.asarray(rows, dtype=np.int64)[order]
    row_parts = [ordered[start:stop] for start, stop in bounds]
    load = _PinnedLoader(cache.images, device) if device.type == "cuda" else _Loader(cache.images, device)
    with closing(_ahead(load, row_parts)) as images:
        for (start, stop), loaded in zip(bounds, images, strict=True):
            yield Batch(loaded.wait(), ages[start:stop], genders[start:stop], index[start:stop])


def _ahead(load: Callable[[np.ndarray], _Loaded], parts: Sequence[np.ndarray]) -> Generator[_Loaded, None, None]:
    """Load parts in order on one thread, `_AHEAD` of them in advance. Closing the iterator ends the thread."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="fairface-batches")
    pending: deque[Future[_Loaded]] = deque()
    try:
        for part in parts:
            pending.append(pool.submit(load, part))
            if len(pending) > _AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True)
class _Loaded:
    images: Tensor
    copied: torch.cuda.Event | None = None

    def wait(self) -> Tensor:
        """Return uint8 [B, 3, S, S]; on CUDA the current stream waits for the copy, the host does not."""
        if self.copied is not None:
            stream = torch.cuda.current_stream(self.images.device)
            stream.wait_event(self.copied)
            # Allocated on the copying stream: its memory must outlive the work queued here.
            self.images.record_stream(stream)
        return self.images.permute(0, 3, 1, 2)


class _Loader:
    """Gathers rows into fresh memory, and copies it to the device if that is not the CPU."""

    def __init__(self, images: np.ndarray, device: torch.device) -> None:
        self.images = images
        self.device = device

    def __call__(self, rows: np.ndarray) -> _Loaded:
        host = torch.empty((len(rows), *self.images.shape[1:]), dtype=torch.uint8)
        gather(self.images, rows, host.numpy())
        return _Loaded(host.to(self.device))


@functools.cache
def _copying_stream(device: torch.device) -> torch.cuda.Stream:
    # The allocator keeps a pool of memory for each stream: a new one every pass held 5 GiB after 40 passes.
    return torch.cuda.Stream(device)


class _PinnedLoader:
    """Gathers rows into pinned memory and copies them to a CUDA device on a stream of its own."""

    def __init__(self, images: np.ndarray, device: torch.device) -> None:
        self.images = images
        self.stream = _copying_stream(device)
        self.device = device
        self.buffers: deque[tuple[Tensor, torch.cuda.Event]] = deque()

    def __call__(self, rows: np.ndarray) -> _Loaded:
        host = self._buffer(len(rows))
        gather(self.images, rows, host.numpy())
        copied = torch.cuda.Event()
        with torch.cuda.stream(self.stream):
            images = host.to(self.device, non_blocking=True)
            copied.record(self.stream)
        self.buffers.append((host, copied))
        return _Loaded(images, copied)

    def _buffer(self, num_rows: int) -> Tensor:
        if len(self.buffers) > _AHEAD:
            host, copied = self.buffers.popleft()
            copied.synchronize()
            if len(host) >= num_rows:
                return host[:num_rows]
        return torch.empty((num_rows, *self.images.shape[1:]), dtype=torch.uint8, pin_memory=True)
