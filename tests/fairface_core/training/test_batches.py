"""Order, gathering, the thread that runs ahead, and what reaches the device."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from fairface_core.dataset.prepare import Split
from fairface_core.dataset.rows import Rows
from fairface_core.images.cache import ImageCache
from fairface_core.training.batches import _AHEAD, Batch, eval_batches, gather, train_batches
from fairface_core.training.seeding import epoch_order

NUM_IMAGES, SIZE_PX = 50, 8


@pytest.fixture
def cache() -> ImageCache:
    images = np.random.default_rng(0).integers(0, 256, (NUM_IMAGES, SIZE_PX, SIZE_PX, 3), dtype=np.uint8)
    images.flags.writeable = False
    return ImageCache(images, SIZE_PX, {}, Path())


def split_of(num_rows: int) -> Split:
    """Rows of the cache, with labels that tell them apart."""
    number = np.arange(num_rows)
    name = np.array([f"{i}.jpg" for i in number], dtype=object)
    rows = Rows("labels.csv", line=number + 2, file=name, path=name, age=number % 9, gender=number % 2, race=None)
    return Split(rows, (number * 7 + 3) % NUM_IMAGES)


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("fairface-batches")]


def test_the_order_is_a_permutation_that_seed_and_epoch_decide() -> None:
    order = epoch_order(1000, seed=1, epoch=2)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(1000))
    np.random.seed(0)  # noqa: NPY002 - the global state must not matter
    assert np.array_equal(order, epoch_order(1000, seed=1, epoch=2))
    for seed, epoch in ((1, 3), (2, 2), (2, 1)):
        assert not np.array_equal(order, epoch_order(1000, seed=seed, epoch=epoch))


def test_the_order_is_frozen() -> None:
    """A change here changes every trained model."""
    assert epoch_order(10, seed=42, epoch=1).tolist() == [1, 2, 8, 5, 3, 9, 6, 0, 4, 7]


def test_no_place_of_the_order_is_favored() -> None:
    first = np.array([epoch_order(10, seed=5, epoch=epoch)[0] for epoch in range(3000)])
    counts = np.bincount(first, minlength=10)
    # 5 standard deviations of a binomial count.
    assert np.abs(counts - 300).max() < 5 * np.sqrt(3000 * 0.1 * 0.9)


@pytest.mark.parametrize(
    ("num_rows", "batch_size", "sizes"),
    [(20, 8, [8, 8, 4]), (16, 8, [8, 8]), (17, 8, [8, 9]), (5, 8, [5]), (1, 8, [1]), (18, 8, [8, 8, 2]), (0, 8, [])],
)
def test_a_last_batch_of_one_joins_the_one_before(
    cache: ImageCache, num_rows: int, batch_size: int, sizes: list[int]
) -> None:
    split = split_of(num_rows)
    batches = train_batches(cache, split, batch_size=batch_size, seed=0, epoch=0, device="cpu")
    assert [len(batch.images) for batch in batches] == sizes


def test_evaluation_keeps_the_order_and_a_last_batch_of_one(cache: ImageCache) -> None:
    split = split_of(17)
    batches = list(eval_batches(cache, split, batch_size=8, device="cpu"))
    assert [len(batch.images) for batch in batches] == [8, 8, 1]
    assert torch.cat([batch.index for batch in batches]).tolist() == list(range(17))


@pytest.mark.parametrize("training", [True, False])
def test_every_image_comes_once_with_its_own_labels(cache: ImageCache, training: bool) -> None:
    split = split_of(40)
    if training:
        batches = list(train_batches(cache, split, batch_size=7, seed=3, epoch=1, device="cpu"))
    else:
        batches = list(eval_batches(cache, split, batch_size=7, device="cpu"))
    index = torch.cat([batch.index for batch in batches]).numpy()
    assert sorted(index.tolist()) == list(range(40))
    expected_order = epoch_order(40, seed=3, epoch=1) if training else np.arange(40)
    assert np.array_equal(index, expected_order)
    for batch in batches:
        where = batch.index.numpy()
        assert np.array_equal(batch.images.permute(0, 2, 3, 1).numpy(), cache.images[split.cache_rows[where]])
        assert np.array_equal(batch.age.numpy(), split.rows.age[where])
        assert np.array_equal(batch.gender.numpy(), split.rows.gender[where])


def test_types_and_memory_layout(cache: ImageCache) -> None:
    split = split_of(9)
    batch = next(train_batches(cache, split, batch_size=9, seed=0, epoch=0, device="cpu"))
    assert isinstance(batch, Batch)
    assert batch.images.dtype == torch.uint8
    assert batch.images.shape == (9, 3, SIZE_PX, SIZE_PX)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.age.dtype == batch.gender.dtype == batch.index.dtype == torch.int64


def test_batches_own_their_memory(cache: ImageCache) -> None:
    """A batch that is kept must not change when later ones are gathered, nor may writing to it reach the cache."""
    split = split_of(40)
    before = cache.images.copy()
    batches = list(eval_batches(cache, split, batch_size=8, device="cpu"))
    batches[0].images.zero_()
    assert np.array_equal(cache.images, before)
    assert all(batch.images.any() for batch in batches[1:])


def test_closing_early_ends_the_thread(cache: ImageCache) -> None:
    split = split_of(40)
    batches = train_batches(cache, split, batch_size=2, seed=0, epoch=0, device="cpu")
    next(batches)
    assert len(threads()) == 1
    batches.close()
    assert threads() == []


def test_finishing_ends_the_thread(cache: ImageCache) -> None:
    split = split_of(40)
    assert len(list(eval_batches(cache, split, batch_size=8, device="cpu"))) == 5
    assert threads() == []


def test_an_error_in_the_thread_reaches_the_loop_and_ends_the_thread(cache: ImageCache) -> None:
    split = split_of(40)
    split.cache_rows[30] = NUM_IMAGES
    batches = eval_batches(cache, split, batch_size=8, device="cpu")
    seen = 0
    with pytest.raises(AssertionError):
        for _ in batches:
            seen += 1
    assert seen == 3
    assert threads() == []


def test_a_bad_row_is_never_read_as_the_last_image(cache: ImageCache) -> None:
    out = np.empty((1, SIZE_PX, SIZE_PX, 3), np.uint8)
    with pytest.raises(AssertionError):
        gather(cache.images, np.array([-1]), out)


def test_the_thread_runs_ahead_but_not_away() -> None:
    taken: list[int] = []
    arrived = threading.Condition()

    class Watched(np.ndarray):
        def take(self, indices, *args, **kwargs):  # type: ignore[no-untyped-def,override]
            with arrived:
                taken.append(len(indices))
                arrived.notify_all()
            return np.asarray(self).take(indices, *args, **kwargs)

    images = np.zeros((NUM_IMAGES, SIZE_PX, SIZE_PX, 3), np.uint8).view(Watched)
    split = split_of(40)
    batches = eval_batches(ImageCache(images, SIZE_PX, {}, Path()), split, batch_size=2, device="cpu")
    next(batches)
    with arrived:
        assert arrived.wait_for(lambda: len(taken) == 1 + _AHEAD, timeout=30)
    next(batches)
    with arrived:
        assert arrived.wait_for(lambda: len(taken) == 2 + _AHEAD, timeout=30)
        # Nothing more comes while nobody asks.
        assert not arrived.wait_for(lambda: len(taken) > 2 + _AHEAD, timeout=0.2)
    batches.close()


@pytest.mark.gpu
def test_cuda_batches_equal_the_cpu_ones(cache: ImageCache) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    split = split_of(50)
    for _ in range(20):
        on_cpu = train_batches(cache, split, batch_size=4, seed=1, epoch=1, device="cpu")
        on_cuda = train_batches(cache, split, batch_size=4, seed=1, epoch=1, device="cuda")
        for expected, got in zip(on_cpu, on_cuda, strict=True):
            assert got.images.is_cuda
            assert got.images.is_contiguous(memory_format=torch.channels_last)
            for one, other in zip(expected, got, strict=True):
                assert torch.equal(one, other.cpu())
