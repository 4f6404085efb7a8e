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

from PIL import ImageFile

from fairface_core.images.decode import ImageError, LargeImage, Raw, bytes_of, square_from_bytes


def bytes_per_image(size_px: int) -> int:
    """Return the bytes of one uint8 [size_px, size_px, 3] image."""
    return size_px * size_px * 3


def decode_rows(
    items: Sequence[tuple[int, str, Raw]], size_px: int, handle: int, *, allow_large: bool = False
) -> dict[str, Any]:
    """Decode images and write them into their places.

    Args:
        items: Row, place and bytes of each image; without bytes it is a file, which is read here.
        size_px: Square size, pixels.
        handle: Open file of the images.
        allow_large: Decode large images too; without it they are left out and named.

    Returns:
        `written`: number of images written; `bad`: [row, reason] of each one refused; `large`: rows left out.
    """
    reply: dict[str, Any] = {"written": 0, "bad": [], "large": []}
    for row, path, raw in items:
        try:
            image = square_from_bytes(bytes_of(path, raw), path, size_px, allow_large=allow_large)
        except LargeImage:
            reply["large"].append(row)
        except ImageError as error:
            reply["bad"].append([row, error.reason])
        else:
            _write(handle, row * bytes_per_image(size_px), image.tobytes())
            reply["written"] += 1
    return reply


def _write(handle: int, offset: int, pixels: bytes) -> None:
    left = memoryview(pixels)
    while left:
        # A disk that runs full takes a part; the next call then says so.
        written = os.pwrite(handle, left, offset)
        left, offset = left[written:], offset + written


def _serve(target: str, size_px: int) -> None:
    """Answer the requests on stdin until it closes, as it does when the parent is killed."""
    # Ctrl-C reaches the whole group; the parent ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Pillow hands out pixels in pieces of so many bytes, and joins them.
    ImageFile.MAXBLOCK = max(ImageFile.MAXBLOCK, bytes_per_image(size_px))
    with Path(target).open("r+b", buffering=0) as file, contextlib.suppress(BrokenPipeError):
        for line in sys.stdin.buffer:
            items = [
                (row, path, None if length is None else sys.stdin.buffer.read(length))
                for row, path, length in json.loads(line)
            ]
            try:
                reply = decode_rows(items, size_px, file.fileno())
            except OSError as error:
                reply = {"errno": error.errno, "error": error.strerror or str(error)}
            # Not through sys.stdout, which would try again at exit.
            os.write(1, (json.dumps(reply) + "\n").encode())


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]))
