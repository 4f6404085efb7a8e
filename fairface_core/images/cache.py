"""Decoded images, shared by all trials: one read-only file per node, which the page cache keeps once for everyone."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL

from fairface_core.errors import CACHE_ADVICE, CacheError, DataError
from fairface_core.files.locks import locked_file
from fairface_core.images.build import (
    BUILDING,
    IMAGES,
    META,
    RESIZE_RULE,
    SCHEMA_VERSION,
    build_cache,
)
from fairface_core.images.places import sort_key, states
from fairface_core.images.worker import bytes_per_image

__all__ = ["BadImage", "ImageCache", "cache_size_px", "open_cache"]

# FairFace's own size: larger inputs are enlarged from it on the device (docs/architecture.md, Facts about speed).
MAX_CACHED_PX = 224


@dataclass(frozen=True)
class BadImage:
    """A file that cannot be decoded, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class ImageCache:
    """The decoded images of one set of files.

    Attributes:
        images: uint8 [M, S, S, 3], RGB, read-only, mapped from disk; in the order of the sorted paths.
        size_px: S, pixels.
        position: Path -> row of `images`; without the files that could not be decoded.
        directory: Where it lies.
        bad: The files that could not be decoded; the caller, who knows the CSV lines, decides.
    """

    images: np.ndarray = field(repr=False)
    size_px: int
    position: dict[str, int] = field(repr=False)
    directory: Path
    bad: tuple[BadImage, ...] = ()

    def rows(self, paths: Sequence[str] | np.ndarray) -> np.ndarray:
        """Return the row of each path, int64 [N]; -1 where the file is bad or unknown."""
        position = self.position
        return np.fromiter((position.get(path, -1) for path in paths), dtype=np.int64, count=len(paths))


def cache_size_px(image_size: int, cache_px: int | None = None) -> int:
    """Return the cached size for an input size, pixels: the one that was chosen, or FairFace's own 224, or less."""
    return cache_px or min(image_size, MAX_CACHED_PX)


def open_cache(
    paths: Sequence[str] | np.ndarray,
    size_px: int,
    *,
    cache_dir: Path,
    num_workers: int,
    progress: Callable[[int, int], None] | None = None,
) -> ImageCache:
    """Open the cache of these files; build it first if it is not there.

    A cache is named by what it holds: the paths, sizes and modification times of the files, the size in
    pixels, the resize rule and Pillow's version. Whatever differs has another name, so nothing stale is ever
    opened. One process builds; others that want the same wait for it.

    Args:
        paths: Image files, in any order; doubled ones count once.
        size_px: Square size, pixels.
        cache_dir: Folder of all caches on this node.
        num_workers: Processes that decode, at most.
        progress: Called with (images done, images in all) while the cache is built.

    Raises:
        DataError: If there are no images at all.
        CacheError: If the cache cannot be written, or is damaged.
    """
    unique = sorted({str(path) for path in paths}, key=sort_key)
    if not unique:
        raise DataError("no images: there is nothing to decode")
    directory = Path(cache_dir) / cache_name(unique, size_px)
    if not directory.is_dir():
        _build_once(unique, size_px, directory, num_workers, progress)
    meta = _read_meta(directory)
    images = _map_images(directory, meta)
    if len(images) != len(unique) or meta["size_px"] != size_px:
        raise _damaged(directory, "it does not hold what its name says")
    bad = tuple(BadImage(path, reason) for path, reason in meta["bad"])
    position = {path: row for row, path in enumerate(unique)}
    for image in bad:
        position.pop(image.path, None)
    return ImageCache(images, size_px, position, directory, bad)


def cache_name(paths: Sequence[str], size_px: int) -> str:
    """Return the folder name of the cache of these files, sorted, as they are now."""
    facts = [f"{SCHEMA_VERSION}\0{size_px}\0{RESIZE_RULE}\0{PIL.__version__}"]
    facts += [f"{path}\0{state}" for path, state in zip(paths, states(paths), strict=True)]
    digest = hashlib.sha256("\0".join(facts).encode("utf-8", "surrogatepass")).hexdigest()
    return f"{size_px}px-{digest[:24]}"


def _build_once(
    paths: Sequence[str],
    size_px: int,
    directory: Path,
    num_workers: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with locked_file(lock_path(directory)):
            _remove_leftovers(directory.parent)
            if not directory.is_dir():
                build_cache(paths, size_px, directory, num_workers=num_workers, progress=progress)
    except OSError as error:
        raise CacheError(
            f"cannot write the image cache in {directory.parent}: {error.strerror or error}; " + CACHE_ADVICE
        ) from error


def lock_path(directory: Path) -> Path:
    """Return the lock that guards the making and the end of a cache."""
    return directory.with_name(f"{BUILDING}{directory.name.rpartition('-')[2]}.lock")


def _remove_leftovers(cache_dir: Path) -> None:
    """Delete what builders left that were killed: their locks are free."""
    for temp in cache_dir.glob(f"{BUILDING}*"):
        if temp.is_dir():
            try:
                with locked_file(f"{temp}.lock", timeout_s=0):
                    shutil.rmtree(temp, ignore_errors=True)
            except TimeoutError:
                continue


def _read_meta(directory: Path) -> dict[str, Any]:
    try:
        meta = json.loads((directory / META).read_text())
        shape = meta["num_images"], meta["size_px"], meta["schema_version"]
        if not all(isinstance(value, int) for value in shape) or meta["schema_version"] != SCHEMA_VERSION:
            raise _damaged(directory, f"{META} is of another version")
        meta["bad"] = [(str(path), str(reason)) for path, reason in meta["bad"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(directory, f"{META} cannot be read ({error})") from error
    return dict(meta)


def _map_images(directory: Path, meta: dict[str, Any]) -> np.ndarray:
    path = directory / IMAGES
    num_images, size_px = meta["num_images"], meta["size_px"]
    try:
        found = path.stat().st_size
    except OSError as error:
        raise _damaged(directory, f"{IMAGES} cannot be read ({error.strerror})") from error
    expected = num_images * bytes_per_image(size_px)
    if found != expected:
        # Reading beyond the end of a mapped file would kill the process.
        raise _damaged(directory, f"{IMAGES} has {found:,} bytes, expected {expected:,}")
    return np.asarray(np.memmap(path, np.uint8, "r", shape=(num_images, size_px, size_px, 3)))


def _damaged(directory: Path, what: str) -> CacheError:
    return CacheError(f"image cache {directory}: damaged: {what}; delete this folder, the next run builds it again")
