"""Byte-identical image files: found by their sha256, read once, and remembered beside the image cache."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from fairface_core.files.folder import open_folder
from fairface_core.images.decode import ImageError, Raw, bytes_of
from fairface_core.images.places import ahead, batches, states

_BLOCK = 256  # files a thread takes at a time: less queueing, and still a progress bar that moves
_DIGEST_BYTES = 32


def file_digests(
    paths: Sequence[str],
    *,
    cache_dir: Path,
    num_workers: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[bytes]:
    """Return the sha256 of each file; b"" for a file that cannot be read (decoding will say why).

    The answer is kept in `cache_dir` under a name made of the paths, sizes and modification times, so that the
    trials of a sweep read the images once.

    Args:
        paths: Image files, or other places of images; each once.
        cache_dir: Where the decoded images are kept too.
        num_workers: Threads that read.
        progress: Called with (files done, files in all).
    """
    folder, name = open_folder(cache_dir), f"sha256-{_state(paths)}"
    kept = _load(folder.read(name) if folder.exists(name) else b"", len(paths))
    if kept is not None:
        return kept
    found: dict[str, bytes] = {}
    with ThreadPoolExecutor(max(1, num_workers)) as pool:
        for block in ahead(pool, _hash_block, batches(paths, _BLOCK), 2 * max(1, num_workers)):
            found |= block
            if progress:
                progress(len(found), len(paths))
    digests = [found[path] for path in paths]
    payload = b"".join(digest.ljust(_DIGEST_BYTES, b"\0") for digest in digests)
    folder.write(name, payload + hashlib.sha256(payload).digest())
    return digests


def kept_of_duplicates(
    parts: Mapping[str, np.ndarray], digest_of: Mapping[str, bytes], *, across_only: bool
) -> dict[str, np.ndarray]:
    """Choose which of several byte-identical images stay.

    Args:
        parts: Part -> image path of each of its rows, object (str) [N]. Of copies in two parts the one in the part
            named first stays.
        digest_of: Path -> sha256; b"" is no copy of anything.
        across_only: Keep copies within one part, drop only those that two parts share.

    Returns:
        Part -> positions that stay, int64, ascending.
    """
    owner: dict[bytes, str] = {}
    kept: dict[str, np.ndarray] = {}
    for name, paths in parts.items():
        stay = []
        for index, path in enumerate(paths):
            content = digest_of[path]
            if not content:
                stay.append(index)
                continue
            copied = content in owner and not (across_only and owner[content] == name)
            if not copied:
                owner.setdefault(content, name)
                stay.append(index)
        kept[name] = np.array(stay, dtype=np.int64)
    return kept


def _hash_block(block: list[tuple[str, Raw]]) -> dict[str, bytes]:
    digests = {}
    for path, raw in block:
        try:
            digests[path] = hashlib.sha256(bytes_of(path, raw)).digest()
        except ImageError:
            digests[path] = b""
    return digests


def _state(paths: Sequence[str]) -> str:
    """Name the content of the files without reading them."""
    state = hashlib.sha256()
    for path, facts in zip(paths, states(paths), strict=True):
        text = f"{path}\0-\0" if facts == "absent" else f"{path}\0{facts}\0"
        state.update(text.encode("utf-8", "surrogateescape"))
    return state.hexdigest()[:24]


def _load(content: bytes, num_files: int) -> list[bytes] | None:
    """Return the digests of a kept answer; None where it is absent or damaged."""
    payload, check = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
    if len(payload) != num_files * _DIGEST_BYTES or hashlib.sha256(payload).digest() != check:
        return None
    parts = [payload[start : start + _DIGEST_BYTES] for start in range(0, len(payload), _DIGEST_BYTES)]
    return [b"" if part == bytes(_DIGEST_BYTES) else part for part in parts]
