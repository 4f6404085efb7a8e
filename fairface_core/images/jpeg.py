"""Plain JPEGs straight into memory of three bytes a pixel, in half of Pillow's time and with its pixels.

Pillow decodes into four bytes a pixel, in memory of its own, and packs them afterwards: for a face of 224 px 15 us to
open, 160 to decode, 30 to 90 to pack, where libjpeg-turbo decodes in place in 97. Pillow still decides what is accepted
and what the pixels are: a file with more than the bare tables before its scan, or one that makes libjpeg-turbo as much
as warn, is left to it, and a process in which the two decoders differ on a probe leaves everything to it.
"""

from __future__ import annotations

import functools
import io

import numpy as np
import simplejpeg
from PIL import Image

_START = b"\xff\xd8"
_SCAN = 0xDA
# Marker: the lengths it may have. Pillow accepts every file made of these; all of FairFace is.
_PLAIN: dict[int, tuple[int, ...] | None] = {
    0xE0: (16,),  # JFIF without a thumbnail
    0xDB: (67, 132),  # one or two quantization tables of 8 bits
    0xC4: None,  # Huffman tables: libjpeg checks them
    0xDD: (4,),  # restart interval
    0xC0: (11, 17),  # baseline frame of one or three channels
    0xC2: (11, 17),  # progressive frame
}
_FRAMES = (0xC0, 0xC2)


def plain_size(raw: bytes) -> tuple[int, int] | None:
    """Return (width, height) in pixels of a JPEG that has nothing but a JFIF header and tables before its scan.

    Args:
        raw: A file. Whether it can be decoded is not known yet.
    """
    if raw[:2] != _START:
        return None
    at, size = 2, None
    while len(raw) >= at + 10:
        marker, length = raw[at + 1], int.from_bytes(raw[at + 2 : at + 4], "big")
        if raw[at] != 0xFF:
            return None
        if marker == _SCAN:
            return size
        if marker not in _PLAIN or length not in (_PLAIN[marker] or (length,)) or length < 2:
            return None
        if marker in _FRAMES:
            channels = 1 if length == 11 else 3
            if size or raw[at + 4] != 8 or raw[at + 9] != channels:
                return None
            size = int.from_bytes(raw[at + 7 : at + 9], "big"), int.from_bytes(raw[at + 5 : at + 7], "big")
        at += 2 + length
    return None


def decode(raw: bytes, size: tuple[int, int], out: np.ndarray | None = None) -> np.ndarray | None:
    """Decode a plain JPEG, if it has no flaw.

    Args:
        raw: The file.
        size: What `plain_size` says of it.
        out: Where to put the pixels: uint8 [height, width, 3], C-contiguous; None for a new array.

    Returns:
        The pixels: uint8 [height, width, 3], RGB, equal to `PIL.Image.open(raw).convert("RGB")`. None if Pillow has to
        decode it; `out` may then hold anything.
    """
    return _decode(raw, size, out) if _agrees_with_pillow() else None


def _decode(raw: bytes, size: tuple[int, int], out: np.ndarray | None) -> np.ndarray | None:
    try:
        pixels: np.ndarray = simplejpeg.decode_jpeg(raw, "RGB", buffer=out)
    except ValueError:
        # It raises for warnings too: data that ends early, bytes between markers.
        return None
    return pixels if pixels.shape == (size[1], size[0], 3) else None


@functools.cache
def _agrees_with_pillow() -> bool:
    """Compare the two on noise, once a process: a Pillow built upon another libjpeg rounds differently."""
    noise = np.random.default_rng(0).integers(0, 256, (35, 51, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    for kind, subsampling in ((image, 0), (image, 1), (image, 2), (image.convert("L"), 0)):
        file = io.BytesIO()
        kind.save(file, "JPEG", quality=90, subsampling=subsampling)
        with Image.open(file) as opened:
            expected = np.asarray(opened.convert("RGB"))
        pixels = _decode(file.getvalue(), image.size, None)
        if pixels is None or not np.array_equal(pixels, expected):
            return False
    return True
