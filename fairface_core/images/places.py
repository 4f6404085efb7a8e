"""Where the bytes of an image lie: in a file of its own, in a zip archive, or in a row of a Parquet file.

A place is one text, so that it can be a key, stand in a JSON file and be sorted:

    /data/train/1.jpg
    /data/faces.zip//train/1.jpg                 a member of an archive
    /data/train-00000.parquet//17//train/1.jpg   row 17; what follows is the name that the row gives its image, if any

A path that was looked up holds no doubled slash, so no file is taken for a member. Archives and Parquet files are opened
once and read from front to back, a few images at a time, by one reader: those who decode need neither library, and
memory stays bounded whatever the size of a row group.
"""

from __future__ import annotations

import os
import re
import threading
import zipfile
import zlib
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from typing import TypeVar

from fairface_core.files.regular import open_regular
from fairface_core.images.decode import MAX_FILE_BYTES, ImageError, Raw, read_bytes

_INSIDE = re.compile(r"(.+?\.(?:zip|parquet))//(.+)", re.DOTALL | re.IGNORECASE)
# Rows of a Parquet file that are decoded at a time, and bytes that wait to be decoded: 2 MB of FairFace.
_ROWS_AT_A_TIME = 64
_MAX_WAITING_BYTES = 2**25
# What the hub's copies call the column of images.
IMAGE_COLUMNS = ("image", "file")
# Archives that a thread holds open for `read_place`.
_own = threading.local()
_MAX_OPEN = 4
A = TypeVar("A")
B = TypeVar("B")


def in_zip(archive: str, member: str) -> str:
    """Return the place of a member of a zip archive."""
    return f"{archive}//{member}"


def in_parquet(file: str, row: int, name: str) -> str:
    """Return the place of a row of a Parquet file, counted from 0; `name` may be empty."""
    return f"{file}//{row}//{name}"


def sort_key(place: str) -> tuple[str, str]:
    """Order images by their names, so that a folder, an archive and a Parquet file of one data set make one cache."""
    container, inside = _parts(place)
    name = inside.partition("//")[2] if container.lower().endswith(".parquet") else inside
    return name or place, place


def states(places: Iterable[str]) -> Iterator[str]:
    """Say of each place what its file is now: size and modification time, or that it is absent.

    An image is replaced, or a label edited, in an archive or a Parquet file by writing that file: its own size and
    time tell of it, as a file's do.
    """
    known: dict[str, str] = {}
    for place in places:
        container, inside = _parts(place)
        if not inside:
            yield _state(place)
            continue
        if container not in known:
            known[container] = _state(container)
        yield known[container]


def batches(places: Sequence[str], most: int) -> Iterator[list[tuple[str, Raw]]]:
    """Yield the images in the order that is cheap to read, some at a time.

    Args:
        places: In any order.
        most: Images in a batch.

    Yields:
        Place and bytes. Images with a file of their own come without bytes: who decodes them reads them.
    """
    files = [place for place in places if not _parts(place)[1]]
    for start in range(0, len(files), most):
        yield [(place, None) for place in files[start : start + most]]
    batch: list[tuple[str, Raw]] = []
    waiting = 0
    for place, raw in _inside(places):
        batch.append((place, raw))
        waiting += len(raw) if isinstance(raw, bytes) else 0
        if len(batch) == most or waiting >= _MAX_WAITING_BYTES:
            yield batch
            batch, waiting = [], 0
    if batch:
        yield batch


def read_place(place: str) -> bytes:
    """Return the bytes of an image in a file of its own or in a zip archive, in any order.

    Each thread keeps the archives that it reads from open. Rows of Parquet files are read by `batches` alone.

    Raises:
        ImageError: Naming the place and the reason.
    """
    archive, member = _parts(place)
    if not member:
        return read_bytes(place)
    held: dict[str, zipfile.ZipFile] = _own.__dict__.setdefault("archives", {})
    try:
        if archive not in held:
            while len(held) >= _MAX_OPEN:
                held.pop(next(iter(held))).close()
            # Whoever made the place has opened it before: it is a regular file.
            held[archive] = zipfile.ZipFile(archive)
        raw = _member(held[archive], member, place)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ImageError(place, f"{archive} cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if isinstance(raw, ImageError):
        raise raw
    return raw


def members(archive: str) -> list[str]:
    """Return the names of an archive's files, in the order in which they lie there.

    Raises:
        OSError: If it cannot be read.
        zipfile.BadZipFile: If it is none.
    """
    with open_regular(archive) as file, zipfile.ZipFile(file) as opened:
        infos = sorted((info for info in opened.infolist() if not info.is_dir()), key=lambda info: info.header_offset)
        return [info.filename for info in infos]


def ahead(pool: Executor, function: Callable[[A], B], items: Iterable[A], most: int) -> Iterator[B]:
    """Map in order with at most so many items waiting: `pool.map` would read them all first."""
    waiting: deque[Future[B]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) >= most:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _parts(place: str) -> tuple[str, str]:
    """Return the file that holds the bytes and the part of it; the part is empty where the file is the image."""
    if place.find("//", 1) < 0:  # 100,000 files of a folder need no regular expression
        return place, ""
    match = _INSIDE.fullmatch(place)
    return (match[1], match[2]) if match else (place, "")


def _state(path: str) -> str:
    try:
        facts = os.stat(path)  # noqa: PTH116 - 100,000 of them: through pathlib they take twice as long
    except (OSError, ValueError):
        return "absent"
    return f"{facts.st_size}\0{facts.st_mtime_ns}"


def _inside(places: Iterable[str]) -> Iterator[tuple[str, Raw]]:
    wanted: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for place in places:
        container, inside = _parts(place)
        if inside:
            wanted[container].append((inside, place))
    for container, parts in sorted(wanted.items()):
        rest = {place for _, place in parts}
        read = _rows if container.lower().endswith(".parquet") else _members
        try:
            for place, raw in read(container, parts):
                rest.discard(place)
                yield place, raw
        # pyarrow's own errors are children of these two; zipfile's is none.
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            reason = f"{container} cannot be read ({getattr(error, 'strerror', None) or error})"
            for _, place in parts:
                if place in rest:
                    yield place, ImageError(place, reason)


def _members(archive: str, parts: list[tuple[str, str]]) -> Iterator[tuple[str, Raw]]:
    with open_regular(archive) as file, zipfile.ZipFile(file) as opened:
        known = opened.NameToInfo
        for member, place in sorted(parts, key=lambda part: getattr(known.get(part[0]), "header_offset", -1)):
            yield place, _member(opened, member, place)


def _member(opened: zipfile.ZipFile, member: str, place: str) -> bytes | ImageError:
    info = opened.NameToInfo.get(member)
    if info is None:
        return ImageError(place, "the archive has no such member")
    if info.file_size > MAX_FILE_BYTES:
        return ImageError(place, f"{info.file_size / 2**20:.0f} MiB; accepted up to {MAX_FILE_BYTES // 2**20} MiB")
    try:
        return opened.read(info) or ImageError(place, "empty file")
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        return ImageError(place, f"cannot be unpacked ({error}); download the archive again")


def _rows(path: str, parts: list[tuple[str, str]]) -> Iterator[tuple[str, Raw]]:
    import pyarrow.parquet as pq

    wanted = sorted((int(inside.partition("//")[0]), place) for inside, place in parts)
    with open_regular(path) as source, pq.ParquetFile(source, buffer_size=2**20, pre_buffer=False) as file:
        column = bytes_column(file.schema_arrow)
        start = 0
        turn = deque(wanted)
        for group in range(file.num_row_groups):
            end = start + file.metadata.row_group(group).num_rows
            if turn and turn[0][0] < end:
                yield from _group_rows(file, group, column, start, end, turn)
            start = end
        for _, place in turn:
            yield place, ImageError(place, "the file has no such row")


def _group_rows(
    file: object, group: int, column: str, start: int, end: int, turn: deque[tuple[int, str]]
) -> Iterator[tuple[str, Raw]]:
    """Yield the wanted rows of one row group, and take them off the front of `turn`."""
    at = start
    for batch in file.iter_batches(_ROWS_AT_A_TIME, row_groups=[group], columns=[column], use_threads=False):  # type: ignore[attr-defined]
        cells = batch.column(0)
        cells = cells.field("bytes") if column.endswith(".bytes") else cells
        while turn and turn[0][0] < at + len(cells):
            row, place = turn.popleft()
            raw = cells[row - at].as_py()
            if not raw:
                yield place, ImageError(place, "the row holds no bytes")
            elif len(raw) > MAX_FILE_BYTES:
                yield (
                    place,
                    ImageError(place, f"{len(raw) / 2**20:.0f} MiB; accepted up to {MAX_FILE_BYTES // 2**20} MiB"),
                )
            else:
                yield place, raw
        at += len(cells)
        if not turn or turn[0][0] >= end:
            return


def bytes_column(schema: object) -> str:
    """Return the Parquet column with the images' bytes: `image.bytes` of a struct, or `image` itself; "" if none."""
    import pyarrow as pa

    for name in IMAGE_COLUMNS:
        at = schema.get_field_index(name)  # type: ignore[attr-defined]
        if at < 0:
            continue
        kind = schema.field(at).type  # type: ignore[attr-defined]
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            kind, name = kind.field("bytes").type, f"{name}.bytes"
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            return name
    return ""
