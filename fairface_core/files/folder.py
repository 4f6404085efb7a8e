"""Folders that show a file whole or not at all, on a disk or in an object store.

On a disk a file is written beside its place, fsynced, renamed, and the folder is fsynced; in an object store it
is one PUT (pyarrow's file systems). Nothing here knows what the files mean.
"""

from __future__ import annotations

import csv
import errno
import io
import json
import math
import os
import re
import secrets
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from fairface_core.errors import StorageError
from fairface_core.files.regular import read_regular, too_large

Payload = bytes | Callable[[BinaryIO], object]

_URI = re.compile(r"^[a-z][a-z0-9+.-]*://")
# Left by a writer that was killed; `names()` hides them and the next write of the same file removes them.
_TEMP_MARK = ".tmp-"
# The plan of 10,000 trials, the largest file of ours that is read whole beside a training state, has 10 MiB.
MAX_READ_BYTES = 256 * 2**20


def is_remote(uri: str | Path) -> bool:
    """Whether a location is an object-store URI (`s3://...`) and not a local path."""
    return bool(_URI.match(str(uri))) and not str(uri).startswith("file://")


@dataclass(frozen=True)
class Folder:
    """A folder on disk or in an object store: a value that can be pickled and sent to a worker.

    Attributes:
        uri: Absolute local path, or an object-store URI without a trailing slash; `?options` at its end are pyarrow's.
    """

    uri: str

    def path(self) -> Path | None:
        """Return the local path, or None on an object store."""
        return None if is_remote(self.uri) else Path(self.uri)

    def sub(self, *parts: str) -> Folder:
        """Return a folder below this one. It need not exist yet."""
        assert all(part not in ("", ".", "..") and "/" not in part for part in parts), parts
        return Folder(self.uri_of("/".join(parts)))

    def uri_of(self, name: str) -> str:
        """Return the path or URI of a file in this folder."""
        # An object-store URI may end in options: `s3://bucket/runs?region=eu-west-1`.
        location, mark, options = self.uri.partition("?") if is_remote(self.uri) else (self.uri, "", "")
        return f"{location}/{name}{mark}{options}"

    def write(self, name: str, payload: Payload, *, previous: str | None = None) -> None:
        """Write a file so that a reader sees the old content or the new, never a part.

        Args:
            name: File name in this folder.
            payload: The bytes, or a function that writes them to a binary file.
            previous: Name that the old content, if any, gets just before the new one takes its place.

        Raises:
            StorageError: Naming the file and the cause (disk full, read-only, refused by the store).
        """
        with _named_errors("write", self.uri, name):
            path = self.path()
            if path is None:
                self._put(name, payload, previous)
            else:
                _write_local(path, name, payload, previous)

    def read(self, name: str, *, limit: int = MAX_READ_BYTES) -> bytes:
        """Return a file's bytes. A link is not followed: in a folder from a stranger it may lead anywhere.

        Args:
            name: File name in this folder.
            limit: Most bytes that are read.

        Raises:
            FileNotFoundError: If it is not there.
            StorageError: If it is there and cannot be read: a link, no regular file, larger than `limit`, ...
        """
        with _named_errors("read", self.uri, name):
            path = self.path()
            if path is not None:
                return read_regular(path / name, limit=limit, follow_links=False)
            filesystem, prefix = self._remote()
            with filesystem.open_input_stream(f"{prefix}/{name}") as stream:
                content = bytes(stream.read(limit + 1))
                if len(content) > limit:
                    raise too_large(limit)
                return content

    def exists(self, name: str) -> bool:
        """Whether a file or folder of that name is there."""
        path = self.path()
        if path is not None:
            return (path / name).exists()
        filesystem, prefix = self._remote()
        from pyarrow import fs

        return bool(filesystem.get_file_info(f"{prefix}/{name}").type != fs.FileType.NotFound)

    def names(self) -> list[str]:
        """Return the names of direct children, sorted; an absent folder has none."""
        path = self.path()
        if path is not None:
            found = [p.name for p in path.iterdir()] if path.is_dir() else []
        else:
            from pyarrow import fs

            filesystem, prefix = self._remote()
            selector = fs.FileSelector(prefix, allow_not_found=True)
            found = [info.base_name for info in filesystem.get_file_info(selector)]
        return sorted(name for name in found if _TEMP_MARK not in name)

    def remove(self, name: str) -> None:
        """Delete a file; a file that is not there is fine."""
        with _named_errors("remove", self.uri, name):
            path = self.path()
            if path is not None:
                (path / name).unlink(missing_ok=True)
            elif self.exists(name):
                filesystem, prefix = self._remote()
                filesystem.delete_file(f"{prefix}/{name}")

    def link(self, source: str, target: str) -> None:
        """Make `target` the same content as `source`, replacing it: a hard link where possible, else a copy."""
        with _named_errors("link", self.uri, target):
            path = self.path()
            if path is None:
                filesystem, prefix = self._remote()
                filesystem.copy_file(f"{prefix}/{source}", f"{prefix}/{target}")
                return
            _link_local(path, source, target)
            _fsync_folder(path)

    def _put(self, name: str, payload: Payload, previous: str | None) -> None:
        buffer = io.BytesIO()
        _emit(payload, buffer)
        filesystem, prefix = self._remote()
        fail_point(name, "before_write")
        if previous and self.exists(name):
            filesystem.copy_file(f"{prefix}/{name}", f"{prefix}/{previous}")
        with filesystem.open_output_stream(f"{prefix}/{name}") as stream:
            stream.write(buffer.getbuffer())
        fail_point(name, "after_rename")

    def _remote(self) -> tuple[Any, str]:
        from pyarrow import fs

        try:
            filesystem, prefix = fs.FileSystem.from_uri(self.uri)
        except (OSError, ValueError) as error:
            raise StorageError(
                f"cannot open {self.uri}: {error}; accepted: what pyarrow's file systems take"
            ) from error
        return filesystem, prefix.rstrip("/")


def open_folder(uri: str | Path) -> Folder:
    """Return the folder at a path or URI; a relative path becomes absolute now."""
    text = str(uri)
    if text.startswith("file://"):
        text = text.removeprefix("file://")
    if is_remote(text):
        location, mark, options = text.partition("?")
        return Folder(location.rstrip("/") + mark + options)
    return Folder(str(Path(text).expanduser().absolute()))


def write_json(folder: Folder, name: str, value: Any) -> None:
    """Write JSON that is equal, byte for byte, for equal values; NaN and infinities become null."""
    text = json.dumps(_finite(value), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    folder.write(name, (text + "\n").encode())


def read_json(folder: Folder, name: str) -> Any:
    """Read a JSON file.

    Raises:
        FileNotFoundError: If it is not there.
        StorageError: If it is not JSON, or cannot be read.
    """
    raw = folder.read(name)
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise StorageError(f"{folder.uri}/{name}: not valid JSON ({error}); it is damaged") from error


def fail_point(name: str, stage: str) -> None:
    """Kill this process here if a fault test asked for it.

    `FAIRFACE_FAIL_POINT=NAME:STAGE:N` sends SIGKILL at the N-th time that file NAME reaches STAGE (before_write,
    after_write, after_fsync, after_rename), counted in this process.
    """
    wanted = os.environ.get("FAIRFACE_FAIL_POINT")
    if not wanted or wanted.rpartition(":")[0] != f"{name}:{stage}":
        return
    _fail_counts[wanted] = _fail_counts.get(wanted, 0) + 1
    if _fail_counts[wanted] == int(wanted.rpartition(":")[2]):
        os.kill(os.getpid(), signal.SIGKILL)


_fail_counts: dict[str, int] = {}


def _link_local(folder: Path, source: str, target: str) -> None:
    temp = folder / f".{target}{_TEMP_MARK}{secrets.token_hex(4)}"
    try:
        temp.hardlink_to(folder / source)
    except OSError as error:
        # exFAT, some network shares, and containers that forbid links.
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.EXDEV):
            raise
        shutil.copyfile(folder / source, temp)
    temp.replace(folder / target)
    # rename(2) does nothing when both names are links to the same file: then the temp name remains.
    temp.unlink(missing_ok=True)


def _write_local(folder: Path, name: str, payload: Payload, previous: str | None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob(f".{name}{_TEMP_MARK}*"):
        stale.unlink(missing_ok=True)
    temp = folder / f".{name}{_TEMP_MARK}{secrets.token_hex(4)}"
    fail_point(name, "before_write")
    try:
        with temp.open("xb") as file:
            _emit(payload, file)
            file.flush()
            fail_point(name, "after_write")
            os.fsync(file.fileno())
        fail_point(name, "after_fsync")
        if previous and (folder / name).exists():
            _link_local(folder, name, previous)
        temp.replace(folder / name)
    except BaseException:
        # A full disk stays full if the part that did fit is left lying.
        temp.unlink(missing_ok=True)
        raise
    fail_point(name, "after_rename")
    _fsync_folder(folder)


def _emit(payload: Payload, file: BinaryIO) -> None:
    if callable(payload):
        payload(file)
    else:
        file.write(payload)


def _fsync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _named_errors(verb: str, uri: str, name: str) -> Iterator[None]:
    place = f"{uri}/{name}" if name else uri
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        cause = errno.errorcode.get(error.errno or 0, type(error).__name__)
        hint = {
            "ENOSPC": "; free some space and resume",
            "EFBIG": "; raise the file size limit and resume",
            "EROFS": "; make the storage writable and resume",
            "EACCES": "; make it writable and resume",
            "EDQUOT": "; free some quota and resume",
            "ELOOP": "; it is a link, which is not followed here: put the file itself in its place",
        }.get(cause, "")
        raise StorageError(f"cannot {verb} {place}: {cause}: {error.strerror or error}{hint}") from error


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def csv_bytes(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Return CSV text (UTF-8, LF) whose floats read back to the same bits; None and absent are empty."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([["" if row.get(name) is None else row[name] for name in names] for row in rows])
    return buffer.getvalue().encode()
