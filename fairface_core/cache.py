"""Decode once per node: every image at one size in one read-only file, shared by all trials through the page cache."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from filelock import FileLock
from PIL import Image

from fairface_core.errors import CacheError, DataError
from fairface_core.images import ImageError, decode_image

__all__ = [
    "BadImage",
    "ImageCache",
    "cache_size_px",
    "decode_image",
    "open_cache",
    "verify_cache",
]

SCHEMA_VERSION = 1
# FairFace's own size: larger inputs are enlarged from it on the device (DESIGN 6).
MAX_CACHED_PX = 224
RESIZE_RULE = "pillow-bilinear"
_IMAGES = "images.npy"
_CHECKSUMS = "checksums.npy"
_META = "meta.json"


@dataclass(frozen=True)
class BadImage:
    """A file that is not in the cache, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class ImageCache:
    """The decoded images of one list of files.

    Attributes:
        images: uint8 [M, S, S, 3], RGB, read-only, mapped from disk. Row order is that of the sorted paths.
        size_px: S, pixels.
        position: Resolved path -> row of `images`; files that could not be decoded are not in it.
        directory: Where it lies.
        bad: The files that could not be decoded; empty unless `on_bad_image="skip"`.
    """

    images: np.ndarray
    size_px: int
    position: dict[str, int] = field(repr=False)
    directory: Path
    bad: tuple[BadImage, ...] = ()

    def rows(self, paths: Sequence[str] | np.ndarray) -> np.ndarray:
        """Return the row of each path, int64 [N]; -1 where the file is bad or unknown."""
        position = self.position
        return np.fromiter((position.get(path, -1) for path in paths), dtype=np.int64, count=len(paths))


def cache_size_px(image_size: int) -> int:
    """Return the cached size for an input size, pixels: FairFace's 224, or less."""
    return min(image_size, MAX_CACHED_PX)


def open_cache(
    paths: Sequence[str] | np.ndarray,
    size_px: int,
    *,
    cache_dir: Path,
    num_workers: int,
    on_bad_image: str = "error",
    progress: Callable[[int, int], None] | None = None,
) -> ImageCache:
    """Open the cache of these files, and build it first if it is not there.

    The cache is named by what it holds: the paths, their sizes and modification times, the size in pixels, the resize
    rule and Pillow's version. Whatever differs has another name. One process builds, the others wait for it.

    Args:
        paths: Image files, in any order, doubled ones allowed.
        size_px: Square size, pixels.
        cache_dir: Folder of all caches on this node.
        num_workers: Threads that decode; 0 and 1 are one.
        on_bad_image: `error` or `skip`.
        progress: Called with (images done, images in all) now and then while building.

    Raises:
        DataError: With one line per image that cannot be decoded, unless `on_bad_image="skip"`.
        CacheError: If the cache cannot be written or is damaged.
    """
    unique = sorted({str(path) for path in paths})
    directory = Path(cache_dir) / _name(unique, size_px)
    if not (directory / _META).is_file():
        Path(cache_dir).mkdir(parents=True, exist_ok=True)
        with FileLock(f"{directory}.lock"):
            if not (directory / _META).is_file():
                _build(unique, size_px, directory, max(1, num_workers), progress)
    cache = _open(unique, size_px, directory)
    if cache.bad and on_bad_image == "error":
        raise DataError([f"{bad.path}: {bad.reason}" for bad in cache.bad])
    return cache


def verify_cache(directory: Path) -> list[str]:
    """Compare every image with its checksum; return one line per problem, none if the cache is whole."""
    meta = json.loads((directory / _META).read_text())
    images = np.load(directory / _IMAGES, mmap_mode="r")
    checksums = np.load(directory / _CHECKSUMS)
    return [
        f"{directory / _IMAGES}: image {row} of {meta['num_images']} does not match its checksum"
        for row in range(len(images))
        if zlib.crc32(images[row]) != checksums[row]
    ]


def _name(paths: Sequence[str], size_px: int) -> str:
    digest = hashlib.sha256(f"{SCHEMA_VERSION}\0{size_px}\0{RESIZE_RULE}\0{PIL.__version__}\0".encode())
    for path in paths:
        try:
            status = os.stat(path)  # noqa: PTH116 - 100,000 of them: pathlib doubles the time
            digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\0".encode("utf-8", "surrogateescape"))
        except (OSError, ValueError):
            digest.update(f"{path}\0-\0-\0".encode("utf-8", "surrogateescape"))
    return f"{size_px}px-{digest.hexdigest()[:24]}"


def _build(
    paths: Sequence[str],
    size_px: int,
    directory: Path,
    num_workers: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    temp = directory.with_name(f"{directory.name}.building")
    shutil.rmtree(temp, ignore_errors=True)
    temp.mkdir()
    checksums = np.zeros(len(paths), np.uint32)
    header = _npy_header((len(paths), size_px, size_px, 3))
    bytes_each = size_px * size_px * 3
    bad: list[dict[str, str]] = []
    with (temp / _IMAGES).open("wb") as file:
        file.write(header)
        file.truncate(len(header) + bytes_each * len(paths))
        handle = file.fileno()

        def work(row: int) -> BadImage | None:
            try:
                image = decode_image(paths[row])
            except ImageError as error:
                return BadImage(error.path, error.reason)
            raw = image.resize((size_px, size_px), Image.Resampling.BILINEAR).tobytes()
            checksums[row] = zlib.crc32(raw)
            os.pwrite(handle, raw, len(header) + row * bytes_each)
            return None

        with ThreadPoolExecutor(num_workers) as pool:
            for done, result in enumerate(pool.map(work, range(len(paths))), 1):
                if result:
                    bad.append({"path": result.path, "reason": result.reason})
                if progress and (done % 256 == 0 or done == len(paths)):
                    progress(done, len(paths))
        file.flush()
        os.fsync(handle)
    np.save(temp / _CHECKSUMS, checksums)
    meta: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "size_px": size_px,
        "num_images": len(paths),
        "resize_rule": RESIZE_RULE,
        "pillow": PIL.__version__,
        "bad": bad,
    }
    (temp / _META).write_text(json.dumps(meta, indent=2, sort_keys=True) + "\n")
    temp.rename(directory)


def _npy_header(shape: tuple[int, ...]) -> bytes:
    import io

    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def _open(paths: Sequence[str], size_px: int, directory: Path) -> ImageCache:
    meta = json.loads((directory / _META).read_text())
    images = np.load(directory / _IMAGES, mmap_mode="r")
    if images.shape != (len(paths), size_px, size_px, 3):
        raise CacheError(f"{directory}: damaged; delete it and start again")
    bad = tuple(BadImage(entry["path"], entry["reason"]) for entry in meta["bad"])
    refused = {entry.path for entry in bad}
    position = {path: row for row, path in enumerate(paths) if path not in refused}
    return ImageCache(images, size_px, position, directory, bad)
