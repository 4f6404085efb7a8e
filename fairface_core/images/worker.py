"""A process that decodes images into a cache: answers requests on stdin, a line each, on stdout.

It starts in 0.1 s because it imports next to nothing: `fairface_core.images.build` starts and asks it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fairface_core.images.decode import ImageError, LargeImage, Raw, bytes_of, decode_into

# Bytes of one write: some images of 224 px, few enough to be written while a core's own cache still holds them.
_BYTES_PER_WRITE = 2**19


def bytes_per_image(size_px: int) -> int:
    """Return the bytes of one uint8 [size_px, size_px, 3] image."""
    return size_px * size_px * 3


def place(size_px: int) -> np.ndarray:
    """Return memory for `decode_rows`, uint8 [n, size_px, size_px, 3]; keep it, for new pages cost time."""
    return np.zeros((max(1, _BYTES_PER_WRITE // bytes_per_image(size_px)), size_px, size_px, 3), np.uint8)


def decode_rows(
    items: Sequence[tuple[int, str, Raw]], pixels: np.ndarray, handle: int, *, allow_large: bool = False
) -> dict[str, Any]:
    """Decode images and write them into their places.

    Args:
        items: Row, place and bytes of each image; without bytes it is a file, which is read here.
        pixels: Where to decode them, uint8 [n, S, S, 3], from `place`; what it holds afterwards is of no use.
        handle: Open file of the images.
        allow_large: Decode large images too; without it they are left out and named.

    Returns:
        `written`: number of images written; `bad`: [row, reason] of each one refused; `large`: rows left out.
    """
    reply: dict[str, Any] = {"written": 0, "bad": [], "large": []}
    size_px, waiting, next_row = pixels.shape[1], 0, 0
    for row, path, raw in items:
        if waiting and (row != next_row or waiting == len(pixels)):
            _write(handle, next_row - waiting, pixels[:waiting])
            waiting = 0
        try:
            decode_into(bytes_of(path, raw), path, size_px, pixels[waiting], allow_large=allow_large)
        except LargeImage:
            reply["large"].append(row)
        except ImageError as error:
            reply["bad"].append([row, error.reason])
        else:
            waiting, next_row = waiting + 1, row + 1
            reply["written"] += 1
    _write(handle, next_row - waiting, pixels[:waiting])
    return reply


def _write(handle: int, first_row: int, pixels: np.ndarray) -> None:
    """Write images of consecutive rows, uint8 [n, S, S, 3]."""
    # A view of no elements cannot be cast.
    left = pixels.data.cast("B") if len(pixels) else memoryview(b"")
    offset = first_row * bytes_per_image(pixels.shape[1])
    while left:
        # A disk that runs full takes a part; the next call then says so.
        written = os.pwrite(handle, left, offset)
        left, offset = left[written:], offset + written


def _serve(target: str, size_px: int) -> None:
    """Answer the requests on stdin until it closes, as it does when the parent is killed."""
    # Ctrl-C reaches the whole group; the parent ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pixels = place(size_px)
    with Path(target).open("r+b", buffering=0) as file, contextlib.suppress(BrokenPipeError):
        for line in sys.stdin.buffer:
            items = [
                (row, path, None if length is None else sys.stdin.buffer.read(length))
                for row, path, length in json.loads(line)
            ]
            try:
                reply = decode_rows(items, pixels, file.fileno())
            except OSError as error:
                reply = {"errno": error.errno, "error": error.strerror or str(error)}
            # Not through sys.stdout, which would try again at exit.
            os.write(1, (json.dumps(reply) + "\n").encode())


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]))
