"""FairFace as the hub has it: Parquet files of images and labels, in shards, one or two margins in a folder.

Nothing but pyarrow reads them. The labels become the same table of texts that a CSV becomes, so they are repaired and
refused by the same rules; the images stay where they are.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from fairface_core.dataset.image_finder import Location
from fairface_core.dataset.sources.class_names import CARD, ORDERS, card_names, schema_names
from fairface_core.dataset.sources.margins import choose_margin, margin_of
from fairface_core.dataset.table import MAX_ROWS, Table
from fairface_core.errors import DataError, Problems, shown
from fairface_core.files.parquet_pages import page_sizes
from fairface_core.files.regular import open_regular
from fairface_core.images.places import IMAGE_COLUMNS, bytes_column, in_parquet

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

# Below the root, in this order; the last ones are the hub's converted branch and its cache.
_FOLDERS = ("", "0.25", "1.25", "margin025", "margin125", "data", "default")
_SPLITS = {"train": ("train",), "val": ("validation", "val")}
# train-00000-of-00002.parquet, the same with the hash that older uploads append, train.parquet
_SHARD = re.compile(r"(train|validation|val)(?:-(\d+)-of-(\d+)(?:-[0-9a-f]+)?|-(\d+))?\.parquet")
_NUMBERED = re.compile(r"(\d+)\.parquet")
# Of MAX_ROWS short texts; and of one page of images, which is unpacked as a whole (writers make pages of 1 MiB).
_MAX_TEXT_BYTES, _MAX_PAGE_BYTES = 2**29, 2**29
_POINTER = b"version https://git-lfs"
LABELS = ("age", "gender", "race", "service_test")


@dataclass(frozen=True)
class ParquetData:
    """The Parquet files of one data set.

    Attributes:
        root: The data folder.
        folder: Where they lie, at or below the root.
        shards: `train` and `val` -> files in order.
    """

    root: Path
    folder: Path
    shards: dict[str, list[Path]]


@dataclass(frozen=True)
class ParquetTable(Table):
    """The rows of one split. `lines` counts them from 0 over all shards; a row is told by its file and row there."""

    def where(self, row: int) -> str:
        """Return where a row stands, such as `0.25/train-00000-of-00002.parquet:17`."""
        return self.rows[row][0]

    row_name = where


def find_parquet(root: Path, margin: str | None, problems: Problems) -> ParquetData | None:
    """Find the Parquet files that are meant.

    Args:
        root: A folder, such as a download, a copy of the converted branch, or the hub's own cache of the data set.
        margin: The margin that the user named, if any.
        problems: Gets a line where shards are missing or the choice is not clear.

    Returns:
        The files; None where there are none, or after a problem.
    """
    found = {}
    for base in _bases(root):
        for folder in (base / name for name in _FOLDERS):
            shards = {split: _shards(folder, names) for split, names in _SPLITS.items()}
            if any(shards.values()):
                found[folder] = shards
    if not found:
        return None
    chosen = choose_margin(
        ((margin_of(folder.name) or margin_of(folder.parent.name), folder) for folder in found), margin, root, problems
    )
    if not chosen:
        return None
    if len(chosen) > 1:
        there = ", ".join(str(folder) for folder in chosen)
        problems.add("unclear folders", f"{root}: holds several sets of Parquet files: {there}; name one as --root")
        return None
    data = ParquetData(root, chosen[0], found[chosen[0]])
    for split, names in _SPLITS.items():
        if not data.shards[split]:
            problems.add(
                "missing files",
                f"{data.folder}: has no Parquet file of the {names[0]} split; accepted names: "
                f"{names[0]}-00000-of-00001.parquet, {names[0]}.parquet, {names[0]}/0000.parquet",
            )
        else:
            _check_complete(data.shards[split], problems)
    return None if problems else data


def _bases(root: Path) -> list[Path]:
    """Return the folders that may be a copy of the repository: the root, or the snapshots in the hub's cache."""
    snapshots = sorted(path for path in root.glob("snapshots/*") if path.is_dir())
    named = root / "refs" / "main"
    if len(snapshots) > 1 and named.is_file():
        current = root / "snapshots" / named.read_text(errors="replace").strip()[:100]
        snapshots = [current] if current in snapshots else snapshots
    return [root, *snapshots]


def _shards(folder: Path, names: tuple[str, ...]) -> list[Path]:
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if (match := _SHARD.fullmatch(path.name)) and match[1] in names]
    for name in names:
        if (folder / name).is_dir():
            found += [path for path in (folder / name).iterdir() if _NUMBERED.fullmatch(path.name)]
    return sorted(found)


def _check_complete(shards: list[Path], problems: Problems) -> None:
    """Note shards that are missing: half of a download would be trained on without a word."""
    numbers, totals = [], set()
    for path in shards:
        match = _SHARD.fullmatch(path.name)
        number = (match[2] or match[4]) if match else path.stem
        numbers.append(int(number or 0))
        totals.add(int(match[3]) if match and match[3] else None)
    total = totals.pop() if len(totals) == 1 else -1
    expected = len(numbers) if total is None else total
    doubled = [number for number, count in Counter(numbers).items() if count > 1]
    if total == -1 or doubled:
        there = ", ".join(path.name for path in shards[:6])
        problems.add("mixed files", f"{shards[0].parent}: holds files of more than one set: {there}; keep one set")
    elif missing := sorted(set(range(max(expected, max(numbers) + 1))) - set(numbers)):
        problems.add(
            "missing files",
            f"{shards[0].parent}: has {len(numbers)} of {max(expected, max(numbers) + 1)} files of "
            f"{shards[0].name.partition('-')[0]}; missing: {', '.join(f'number {n}' for n in missing[:6])}; "
            "complete the download",
        )


def read_parquet(data: ParquetData, problems: Problems) -> dict[str, tuple[ParquetTable, list[Location]]] | None:
    """Read the labels of both splits, and where the images are.

    Args:
        data: The files.
        problems: Gets one line for each file or column that cannot be accepted.

    Returns:
        `train` and `val` -> table of texts and locations, aligned; None after a problem.
    """
    parts: dict[str, list[_Shard]] = {"train": [], "val": []}
    refused: dict[str, list[Path]] = {}
    for split, shards in data.shards.items():
        for path in shards:
            try:
                parts[split].append(_Shard(path, data))
            except DataError as error:
                for reason in error.problems:
                    refused.setdefault(reason, []).append(path)
    for reason, paths in refused.items():
        others = f" (the same for {len(paths) - 1} more files)" if len(paths) > 1 else ""
        problems.add("unreadable Parquet files", f"{paths[0]}: {reason}{others}")
    if problems or not _agree([shard for shards in parts.values() for shard in shards], problems):
        return None
    names = _names({split: [name for shard in shards for name in shard.names] for split, shards in parts.items()})
    return {split: _join(split, shards, names[split]) for split, shards in parts.items()}


class _Shard:
    """One file: label columns as texts, image names, and the class names that came with it.

    Raises:
        DataError: With the reasons why it cannot be accepted, without its path.
    """

    def __init__(self, path: Path, data: ParquetData) -> None:
        self.path = path
        self.told = path.relative_to(data.root).as_posix()
        import pyarrow.parquet as pq

        try:
            with open_regular(path) as source:
                if source.read(len(_POINTER)) == _POINTER:
                    raise DataError("is a Git LFS pointer, not the file; fetch it with `git lfs pull`")
                source.seek(0)
                with pq.ParquetFile(source) as file:
                    self._read(source, file, data)
        except (OSError, ValueError) as error:  # pyarrow's own are children of these
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            raise DataError(f"is no whole Parquet file ({reason}); download it again") from None

    def _read(self, source: BinaryIO, file: pq.ParquetFile, data: ParquetData) -> None:
        schema = file.schema_arrow
        self.columns = {name.casefold(): name for name in schema.names}
        self.num_rows = file.metadata.num_rows
        if self.num_rows > MAX_ROWS:
            raise DataError(f"has {self.num_rows:,} rows, accepted are {MAX_ROWS:,}")
        missing = [name for name in ("age", "gender") if name not in self.columns]
        image = bytes_column(schema)
        if not image:
            missing.insert(0, f"images ({' or '.join(IMAGE_COLUMNS)}: bytes, or a struct that holds bytes)")
        if missing:
            there = ", ".join(f"{field.name}: {str(field.type)[:40]}" for field in schema)
            raise DataError(
                f"no column holds {', '.join(missing)}; needed are images, age and gender, the file has {shown(there, 300)}"
            )
        present = [self.columns[role] for role in LABELS if role in self.columns]
        struct, _, inner = image.partition(".")
        has_path = bool(inner) and schema.field(struct).type.get_field_index("path") >= 0
        asked = [*present, *([f"{struct}.path"] if has_path else [])]
        if sum(page_sizes(source, file.metadata, asked)) > _MAX_TEXT_BYTES:
            raise DataError(f"has labels and names of more than {_MAX_TEXT_BYTES // 2**20} MiB")
        if max(page_sizes(source, file.metadata, [image]), default=0) > _MAX_PAGE_BYTES:
            raise DataError(
                f"has pages of images of more than {_MAX_PAGE_BYTES // 2**20} MiB; write it with smaller pages"
            )
        table = file.read(columns=asked)
        names = schema_names(schema)
        config_name = margin_of(data.folder.name) or data.folder.name
        self.class_names: dict[str, list[str]] = {}
        self.texts: dict[str, list[str]] = {}
        nameless = []
        for role in LABELS:
            if role not in self.columns:
                continue
            name = self.columns[role]
            given = names.get(name) or card_names(self.path.parent, data.root, config_name).get(name)
            texts = self._column(role, table.column(name), given)
            if texts is None:
                nameless.append(f"{shown(name, 40)} ({ORDERS[role]})")
            else:
                self.texts[role] = texts
        if nameless:
            raise DataError(
                f"integers without names are no labels: column {', '.join(nameless)}; put the data set's own {CARD} "
                "beside the files, or use a copy whose schema names the classes"
            )
        paths = table.column(struct).combine_chunks().field("path").to_pylist() if has_path else []
        self.names = [name if isinstance(name, str) and "\0" not in name else "" for name in paths] or [
            ""
        ] * self.num_rows

    def _column(self, role: str, column: pa.ChunkedArray, names: list[str] | None) -> list[str] | None:
        """Return the cells as texts; None for integers without names."""
        import pyarrow as pa

        if role == "service_test" or not pa.types.is_integer(column.type):
            return ["" if value is None else str(value) for value in column.to_pylist()]
        if names is None:
            return None
        self.class_names[role] = names
        known = dict(enumerate(names))
        return ["" if n is None else known.get(n, f"class {n}, which has no name") for n in column.to_pylist()]


def _agree(shards: list[_Shard], problems: Problems) -> bool:
    """Whether all files name their classes alike and have the same columns."""
    first = shards[0]
    for shard in shards[1:]:
        for role in LABELS:
            if (role in first.texts) != (role in shard.texts):
                with_it, without = (first, shard) if role in first.texts else (shard, first)
                text = f"{without.path}: has no column {role}, {with_it.told} has one; use files of one data set"
            elif (one := first.class_names.get(role)) != (other := shard.class_names.get(role)):
                text = f"{shard.path}: {role} is {other or 'text'}, in {first.told} {one or 'text'}; use files of one data set"
            else:
                continue
            problems.add("unlike files", text)
            return False
    return True


def _names(found: dict[str, list[str]]) -> dict[str, list[str]]:
    """Return the name of each row's image, unique over both splits: what enters the digest of the data.

    Its own name in the file, as `data pack` keeps it; the hub's copies have bare names that repeat in both splits, or
    none: then with the split before it, or the number of the row.
    """
    for candidate in (found, {split: [f"{split}/{name}" for name in names] for split, names in found.items()}):
        flat = [name for names in candidate.values() for name in names]
        if all(name and not name.endswith("/") for name in flat) and len(set(flat)) == len(flat):
            return candidate
    return {split: [f"{split}/{row}" for row in range(len(names))] for split, names in found.items()}


def _join(split: str, shards: list[_Shard], names: list[str]) -> tuple[ParquetTable, list[Location]]:
    rows: list[tuple[str, ...]] = []
    locations: list[Location] = []
    roles = [role for role in LABELS if role in shards[0].texts]
    for shard in shards:
        columns = [shard.texts[role] for role in roles]
        for row in range(shard.num_rows):
            place = in_parquet(str(shard.path), row, names[len(rows)])
            locations.append(Location(names[len(rows)], place, place, None))
            rows.append((f"{shard.told}:{row}", *(column[row] for column in columns)))
    table = ParquetTable(split, ("row", *roles), 0, rows, list(range(len(rows))), 0, "Parquet", "")
    return table, locations
