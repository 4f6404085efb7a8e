"""A sign of life: counted wherever work is done, read by whoever watches for hangs.

A thread cannot tell a slow batch from a dead one from outside. The loops over batches and images call `beat()`; a
watcher compares `beats()` with what it saw before. Both cost nanoseconds.
"""

from __future__ import annotations

_beats = 0


def beat() -> None:
    """Say that a batch, or a block of images, was finished in this process."""
    global _beats
    _beats += 1


def beats() -> int:
    """Return how often this process has said so; only a change means something."""
    return _beats
