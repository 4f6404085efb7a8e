"""Every random draw of a run follows from (seed, epoch, purpose), so a resumed run needs no saved generator."""

from __future__ import annotations

import hashlib

import numpy as np


def derived_seed(seed: int, epoch: int, purpose: str) -> int:
    """Return a 63-bit seed that is unrelated for every other (seed, epoch, purpose)."""
    digest = hashlib.sha256(f"{seed}/{epoch}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def epoch_order(num_rows: int, *, seed: int, epoch: int) -> np.ndarray:
    """Return the order of one epoch, a permutation of 0..num_rows-1: int64 [N].

    A function of its arguments alone, on every machine and with every numpy: numpy keeps the raw stream of a bit
    generator fixed, which it does not promise of `permutation`.
    """
    bits = np.random.PCG64(np.random.SeedSequence([seed, epoch])).random_raw(num_rows)
    return np.argsort(bits, kind="stable")


def balanced_order(classes: np.ndarray, *, seed: int, epoch: int) -> np.ndarray:
    """Return rows of one epoch in which every class that occurs is drawn alike often, to one row: int64 [N].

    Of a class with more rows than its share, other ones are drawn in each epoch, none of them twice; the rows of a
    smaller class come round again and again.

    Args:
        classes: int64 [N], of each row.
        seed: With `epoch`, decides everything.
        epoch: Counted from any number.
    """
    shuffled = epoch_order(len(classes), seed=seed, epoch=epoch)
    present = np.unique(classes)
    shares = np.array_split(np.arange(len(classes)), len(present))
    drawn = [
        np.resize(shuffled[classes[shuffled] == one], len(share)) for one, share in zip(present, shares, strict=True)
    ]
    order = epoch_order(len(classes), seed=derived_seed(seed, epoch, "balanced"), epoch=epoch)
    return np.concatenate(drawn)[order]
