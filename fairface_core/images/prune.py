"""Finds and deletes caches of decoded images that no run can open any more, for caches are never changed, only added."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from fairface_core.errors import CacheError
from fairface_core.files.locks import locked_file
from fairface_core.images.build import BUILDING, META, PATHS
from fairface_core.images.cache import cache_name, lock_path

_CACHE = re.compile(r"\d+px-[0-9a-f]{24}")
USABLE = "its images are as they were"


@dataclass(frozen=True)
class CacheFacts:
    """One cache folder.

    Attributes:
        directory: Where it lies.
        num_bytes: Its size on disk.
        state: `USABLE`, or why no run opens it any more.
    """

    directory: Path
    num_bytes: int
    state: str

    @property
    def usable(self) -> bool:
        """Whether a run may still open it."""
        return self.state == USABLE


def list_caches(cache_dir: Path) -> list[CacheFacts]:
    """Return every cache in a folder, by name. The drawn faces beside them are none."""
    folders = [path for path in sorted(cache_dir.glob("*px-*")) if _CACHE.fullmatch(path.name) and path.is_dir()]
    return [CacheFacts(path, _size(path), _state(path)) for path in folders if not path.is_symlink()]


def remove_cache(directory: Path) -> None:
    """Delete one cache. A run that has it open keeps it until it ends; nobody else ever sees a part of it.

    Raises:
        CacheError: If it cannot be deleted.
    """
    gone = directory.with_name(BUILDING + directory.name.rpartition("-")[2])
    try:
        with locked_file(lock_path(directory)):
            shutil.rmtree(gone, ignore_errors=True)
            directory.rename(gone)
            shutil.rmtree(gone)
    except OSError as error:
        raise CacheError(f"{directory}: cannot be deleted ({error.strerror or error})") from error


def _size(directory: Path) -> int:
    return sum(path.lstat().st_size for path in directory.iterdir())


def _state(directory: Path) -> str:
    try:
        size_px = json.loads((directory / META).read_text())["size_px"]
        paths = json.loads((directory / PATHS).read_text())
        expected = cache_name(paths, size_px)
    except (OSError, ValueError, KeyError, TypeError):
        return "it is damaged"
    return (
        USABLE if expected == directory.name else "its images changed, moved or are gone, or Pillow has another version"
    )
