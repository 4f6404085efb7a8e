"""Builds one image cache: decodes every file once, in several processes, straight into one file.

Processes and not threads: Pillow holds Python's lock for about a third of the time that a 224 px JPEG takes. They are
started as `python -m fairface_core.images.worker`, because multiprocessing would run the user's own script again, and
they import no torch (0.1 s to start).
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import PIL

from fairface_core.console import tell
from fairface_core.errors import CACHE_ADVICE, CacheError
from fairface_core.images.decode import ImageError, Raw
from fairface_core.images.places import ahead, batches
from fairface_core.images.worker import bytes_per_image, decode_rows
from fairface_core.machine.pulse import beat
from fairface_core.machine.resources import local_cpus

SCHEMA_VERSION = 1
RESIZE_RULE = "pillow bilinear"
IMAGES, PATHS, META = "images.bin", "paths.json", "meta.json"
BUILDING = "building-"

# A process takes 0.1 s to start, the time in which one core decodes 500 images.
_IMAGES_PER_PROCESS = 512
# Images that a process is asked for at a time: 20 ms of work, so all end together.
_SPAN = 64
_WORTH_TELLING = 2**26  # bytes: what takes seconds
# glibc maps and unmaps each block of 128 KiB and more, and the kernel clears its pages anew. An image of 224 px that has
# to be resized is such a block: 37 us to decode it and 60 to pack it for Pillow are saved in memory that is kept.
_KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(2**24),
    "MALLOC_TRIM_THRESHOLD_": str(2**26),
    "MALLOC_TOP_PAD_": str(2**22),
}


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
        _check_space(temp, len(paths), size_px)
        decoded = _decode_all(paths, size_px, temp / IMAGES, num_workers, progress)
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
        for name in (IMAGES, PATHS, META, "."):
            _fsync(temp / name)
        temp.rename(directory)
        _fsync(directory.parent)
    except OSError as error:
        raise CacheError(
            f"cannot write the image cache {directory}: {error.strerror or error}; free some space or {CACHE_ADVICE}"
        ) from error
    finally:
        shutil.rmtree(temp, ignore_errors=True)


@dataclass
class _Decoded:
    bad: list[tuple[int, str]] = field(default_factory=list)
    large: list[int] = field(default_factory=list)
    num_done: int = 0

    def add(self, reply: dict[str, Any]) -> None:
        self.bad += [(row, reason) for row, reason in reply["bad"]]
        self.large += reply["large"]
        self.num_done += reply["written"] + len(reply["bad"])


def _decode_all(
    paths: Sequence[str],
    size_px: int,
    target: Path,
    num_workers: int,
    progress: Callable[[int, int], None] | None,
) -> _Decoded:
    decoded = _Decoded()
    row_of = {path: row for row, path in enumerate(paths)}

    def spans(chosen: Sequence[str], most: int) -> Iterator[list[tuple[int, str, Raw]]]:
        return ([(row_of[path], path, raw) for path, raw in batch] for batch in batches(chosen, most))

    num_processes = min(num_workers, local_cpus(), len(paths) // _IMAGES_PER_PROCESS)
    # Written, not mapped: a full disk is then an error with a name and not a SIGBUS.
    with target.open("wb") as file, ExitStack() as stack:
        file.truncate(bytes_per_image(size_px) * len(paths))
        handle = file.fileno()

        def count(reply: dict[str, Any]) -> None:
            decoded.add(reply)
            beat()
            if progress:
                progress(decoded.num_done, len(paths))

        if num_processes >= 1:
            crew = stack.enter_context(_Crew(num_processes, size_px, target))
            for reply in crew.map(spans(paths, _SPAN)):
                count(reply)
        else:
            for span in spans(paths, _SPAN):
                count(decode_rows(span, size_px, handle))
        # One at a time, whatever the number of processes: each may take 0.5 GiB.
        for span in spans([paths[row] for row in decoded.large], 1):
            count(decode_rows(span, size_px, handle, allow_large=True))
    return decoded


class _Crew:
    """Processes that decode spans of rows; each has one thread here that asks it and waits."""

    def __init__(self, num_processes: int, size_px: int, target: Path) -> None:
        package_root = str(Path(__file__).resolve().parents[2])
        python_path = os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH")]))
        environment = _KEEP_MEMORY | os.environ | {"PYTHONPATH": python_path}
        command = [sys.executable, "-m", "fairface_core.images.worker", str(target), str(size_px)]
        self._stack, self._num_processes = ExitStack(), num_processes
        self._idle: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()
        with ExitStack() as stack:
            for _ in range(num_processes):
                process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
                stack.callback(_end, process)
                self._idle.put(process)
            self._pool = stack.enter_context(ThreadPoolExecutor(num_processes))
            stack.callback(self._pool.shutdown, cancel_futures=True)
            self._stack = stack.pop_all()

    def __enter__(self) -> _Crew:
        return self

    def __exit__(self, *raised: object) -> None:
        self._stack.close()

    def map(self, spans: Iterable[list[tuple[int, str, Raw]]]) -> Iterator[dict[str, Any]]:
        """Decode every span; the replies come in order."""

        def ask(span: list[tuple[int, str, Raw]]) -> dict[str, Any]:
            process = self._idle.get()
            try:
                return _ask(process, span)
            finally:
                self._idle.put(process)

        return ahead(self._pool, ask, spans, 2 * self._num_processes)


def _ask(process: subprocess.Popen[bytes], span: list[tuple[int, str, Raw]]) -> dict[str, Any]:
    assert process.stdin is not None and process.stdout is not None
    unread = [[row, raw.reason] for row, _, raw in span if isinstance(raw, ImageError)]
    items = [(row, path, raw) for row, path, raw in span if not isinstance(raw, ImageError)]
    header = [(row, path, None if raw is None else len(raw)) for row, path, raw in items]
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write((json.dumps(header) + "\n").encode() + b"".join(raw or b"" for _, _, raw in items))
        process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        raise CacheError(
            f"a process that decodes images ended with code {process.wait()} somewhere between {span[0][1]} and "
            f"{span[-1][1]}; a code of -9 means that memory ran out: use a smaller --num_workers"
        )
    reply: dict[str, Any] = json.loads(line)
    if "error" in reply:
        raise OSError(reply["errno"], reply["error"])
    reply["bad"] += unread
    return reply


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None and process.stdout is not None
    process.kill()
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    process.stdout.close()
    process.wait()


def _check_space(folder: Path, num_images: int, size_px: int) -> None:
    needed, free = num_images * bytes_per_image(size_px), shutil.disk_usage(folder).free
    what = f"{num_images:,} images at {size_px} px take {_told(needed)}; {folder.parent} has {_told(free)} free"
    if needed > free:
        raise CacheError(
            f"the image cache does not fit: {what}; free some space, {CACHE_ADVICE}, or store smaller images with "
            "--cache_px"
        )
    if needed >= _WORTH_TELLING:
        tell(f"building the image cache: {what}")


def _told(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.1f} MiB"


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
