"""Builds one image cache: decodes every file once, in several processes, straight into one file.

Processes and not threads: Pillow holds Python's lock for about a third of the time that a 224 px JPEG takes. They are
started as `python -m fairface_core.cache_build`, because multiprocessing would run the user's own script again, and
they import neither numpy nor torch (0.1 s to start).
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import zlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import PIL
from PIL import Image, ImageFile

from fairface_core.errors import CacheError
from fairface_core.images import ImageError, LargeImage, decode_image
from fairface_core.processors import local_cpus
from fairface_core.pulse import beat

SCHEMA_VERSION = 1
RESIZE_RULE = "pillow bilinear"
IMAGES, CHECKSUMS, PATHS, META = "images.bin", "checksums.bin", "paths.json", "meta.json"
BUILDING = "building-"

# A process takes 0.1 s to start, the time in which one core decodes 300 images.
_IMAGES_PER_PROCESS = 512
# Images that a process is asked for at a time: 20 ms of work, so all end together.
_SPAN = 64
# One write for so many images takes two thirds of the time of one write each (ext4, 224 px).
_IMAGES_PER_WRITE = 16
# glibc maps and unmaps each block of 128 KiB and more, and the kernel clears its pages anew: packing an image of 224 px
# takes 90 us that way and 30 us in memory that is kept, decoding it 10 us less.
_KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(2**24),
    "MALLOC_TRIM_THRESHOLD_": str(2**26),
    "MALLOC_TOP_PAD_": str(2**22),
}


def bytes_per_image(size_px: int) -> int:
    """Return the bytes of one uint8 [size_px, size_px, 3] image."""
    return size_px * size_px * 3


def build_cache(
    paths: Sequence[str],
    size_px: int,
    directory: Path,
    *,
    num_workers: int,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Decode images into a new folder that appears whole or not at all. The caller holds the lock of its name.

    Args:
        paths: The files; row i of the cache is paths[i].
        size_px: Square size, pixels.
        directory: The folder to make; must not exist.
        num_workers: Processes that decode, at most; no more are started than there are cores or work for.
        progress: Called with (images done, images in all).

    Raises:
        CacheError: If the disk is too small, or a write is refused.
    """
    temp = directory.with_name(BUILDING + directory.name.rpartition("-")[2])
    try:
        shutil.rmtree(temp, ignore_errors=True)
        temp.mkdir()
        _check_space(temp, len(paths) * bytes_per_image(size_px))
        decoded = _decode_all(paths, size_px, temp / IMAGES, num_workers, progress)
        (temp / CHECKSUMS).write_bytes(decoded.checksums.tobytes())
        (temp / PATHS).write_text(json.dumps(list(paths)))
        meta = {
            "schema_version": SCHEMA_VERSION,
            "size_px": size_px,
            "num_images": len(paths),
            "resize_rule": RESIZE_RULE,
            "pillow": PIL.__version__,
            "byteorder": sys.byteorder,
            "bad": [[paths[row], reason] for row, reason in sorted(decoded.bad)],
        }
        (temp / META).write_text(json.dumps(meta, indent=2, sort_keys=True) + "\n")
        # Without this a power cut could leave a folder of the right name with zeros in its files.
        for name in (IMAGES, CHECKSUMS, PATHS, META, "."):
            _fsync(temp / name)
        temp.rename(directory)
        _fsync(directory.parent)
    except OSError as error:
        raise CacheError(
            f"cannot write the image cache {directory}: {error.strerror or error}; "
            "free some space or name another folder with --cache_dir"
        ) from error
    finally:
        shutil.rmtree(temp, ignore_errors=True)


def decode_rows(
    paths: Sequence[str], first_row: int, size_px: int, handle: int, *, allow_large: bool = False
) -> dict[str, Any]:
    """Decode files and write them into their places.

    Args:
        paths: Files of consecutive rows.
        first_row: Row of the first one.
        size_px: Square size, pixels.
        handle: Open file of the images.
        allow_large: Decode large images too; without it they are left out and named.

    Returns:
        `crc`: [row, crc32] of each image written; `bad`: [row, reason] of each one refused; `large`: rows left out.
    """
    reply: dict[str, Any] = {"crc": [], "bad": [], "large": []}
    waiting: list[bytes] = []
    for row, path in enumerate(paths, first_row):
        try:
            image = decode_image(path, allow_large=allow_large)
        except ImageError as error:
            _write_before(handle, row, waiting)
            if isinstance(error, LargeImage):
                reply["large"].append(row)
            else:
                reply["bad"].append([row, error.reason])
            continue
        if image.size != (size_px, size_px):
            # What torchvision's Resize((S, S)) does to a PIL image.
            image = image.resize((size_px, size_px), Image.Resampling.BILINEAR)
        pixels = image.tobytes()
        reply["crc"].append([row, zlib.crc32(pixels)])
        waiting.append(pixels)
        if len(waiting) == _IMAGES_PER_WRITE:
            _write_before(handle, row + 1, waiting)
    _write_before(handle, first_row + len(paths), waiting)
    return reply


@dataclass
class _Decoded:
    checksums: array[int]
    bad: list[tuple[int, str]] = field(default_factory=list)
    large: list[int] = field(default_factory=list)
    num_done: int = 0

    def add(self, reply: dict[str, Any]) -> None:
        for row, value in reply["crc"]:
            self.checksums[row] = value
        self.bad += [(row, reason) for row, reason in reply["bad"]]
        self.large += reply["large"]
        self.num_done += len(reply["crc"]) + len(reply["bad"])


def _decode_all(
    paths: Sequence[str],
    size_px: int,
    target: Path,
    num_workers: int,
    progress: Callable[[int, int], None] | None,
) -> _Decoded:
    decoded = _Decoded(array("I", bytes(4 * len(paths))))
    assert decoded.checksums.itemsize == 4
    spans = [range(start, min(start + _SPAN, len(paths))) for start in range(0, len(paths), _SPAN)]
    num_processes = min(num_workers, local_cpus(), len(paths) // _IMAGES_PER_PROCESS)
    # Written, not mapped: a full disk is then an error with a name and not a SIGBUS.
    with target.open("wb") as file, ExitStack() as stack:
        file.truncate(bytes_per_image(size_px) * len(paths))
        handle = file.fileno()

        def here(rows: Sequence[int], *, allow_large: bool = False) -> dict[str, Any]:
            return decode_rows([paths[row] for row in rows], rows[0], size_px, handle, allow_large=allow_large)

        def count(reply: dict[str, Any]) -> None:
            decoded.add(reply)
            beat()
            if progress:
                progress(decoded.num_done, len(paths))

        if num_processes >= 1:
            crew = stack.enter_context(_Crew(num_processes, size_px, target))
            for reply in crew.map(paths, spans):
                count(reply)
        else:
            for span in spans:
                count(here(span))
        # One at a time, whatever the number of processes: each may take 0.5 GiB.
        for row in decoded.large.copy():
            count(here([row], allow_large=True))
    return decoded


class _Crew:
    """Processes that decode spans of rows; each has one thread here that asks it and waits."""

    def __init__(self, num_processes: int, size_px: int, target: Path) -> None:
        package_root = str(Path(__file__).resolve().parents[1])
        python_path = os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH")]))
        environment = _KEEP_MEMORY | os.environ | {"PYTHONPATH": python_path}
        command = [sys.executable, "-m", "fairface_core.cache_build", str(target), str(size_px)]
        self._stack = ExitStack()
        self._idle: queue.SimpleQueue[subprocess.Popen[str]] = queue.SimpleQueue()
        with ExitStack() as stack:
            for _ in range(num_processes):
                process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
                )
                stack.callback(_end, process)
                self._idle.put(process)
            self._pool = stack.enter_context(ThreadPoolExecutor(num_processes))
            stack.callback(self._pool.shutdown, cancel_futures=True)
            self._stack = stack.pop_all()

    def __enter__(self) -> _Crew:
        return self

    def __exit__(self, *raised: object) -> None:
        self._stack.close()

    def map(self, paths: Sequence[str], spans: Sequence[range]) -> Iterator[dict[str, Any]]:
        """Decode every span; the replies come in order."""

        def ask(span: range) -> dict[str, Any]:
            process = self._idle.get()
            try:
                return _ask(process, span.start, paths[span.start : span.stop])
            finally:
                self._idle.put(process)

        return self._pool.map(ask, spans)


def _ask(process: subprocess.Popen[str], first_row: int, paths: Sequence[str]) -> dict[str, Any]:
    assert process.stdin is not None and process.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(json.dumps([first_row, list(paths)]) + "\n")
        process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        raise CacheError(
            f"a process that decodes images ended with code {process.wait()} somewhere between {paths[0]} and "
            f"{paths[-1]}; a code of -9 means that memory ran out: use a smaller --num_workers"
        )
    reply: dict[str, Any] = json.loads(line)
    if "error" in reply:
        raise OSError(reply["errno"], reply["error"])
    return reply


def _end(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None and process.stdout is not None
    process.kill()
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    process.stdout.close()
    process.wait()


def _serve(target: str, size_px: int) -> None:
    """Answer the requests on stdin until it closes, as it does when the parent is killed."""
    # Ctrl-C reaches the whole group; the parent ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # `tobytes` packs so many bytes at a time and joins them.
    ImageFile.MAXBLOCK = max(ImageFile.MAXBLOCK, bytes_per_image(size_px))
    with Path(target).open("r+b", buffering=0) as file, contextlib.suppress(BrokenPipeError):
        for line in sys.stdin:
            first_row, paths = json.loads(line)
            try:
                reply = decode_rows(paths, first_row, size_px, file.fileno())
            except OSError as error:
                reply = {"errno": error.errno, "error": error.strerror or str(error)}
            # Not through sys.stdout, which would try again at exit.
            os.write(1, (json.dumps(reply) + "\n").encode())


def _write_before(handle: int, row: int, waiting: list[bytes]) -> None:
    """Write consecutive images that end before a row, and forget them."""
    if not waiting:
        return
    offset = (row - len(waiting)) * len(waiting[0])
    parts = [memoryview(pixels) for pixels in waiting]
    waiting.clear()
    while parts:
        written = os.pwritev(handle, parts, offset)
        offset += written
        # A disk that runs full takes a part; the next call then says so.
        while parts and written >= len(parts[0]):
            written -= len(parts.pop(0))
        if written:
            parts[0] = parts[0][written:]


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise CacheError(
            f"the image cache needs {needed / 2**30:.1f} GiB, {folder.parent} has {free / 2**30:.1f} GiB free; "
            "free some space or name another folder with --cache_dir"
        )


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]))
