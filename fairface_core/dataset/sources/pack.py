"""Writes a data set as Parquet in the hub's layout: images as they are, labels as they were repaired, splits as they are."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fairface_core.config.train_config import TrainConfig
from fairface_core.dataset.manifest import read_labels
from fairface_core.dataset.rows import LabelFile
from fairface_core.errors import DataError, Problems, StorageError
from fairface_core.images.decode import ImageError, bytes_of
from fairface_core.images.places import batches
from fairface_core.labels import AGE_GROUPS, GENDERS

# The hub's order; other races follow by name.
RACES = ("East Asian", "Indian", "Black", "White", "Middle Eastern", "Latino_Hispanic", "Southeast Asian")
_SPLITS = {"train": "train", "val": "validation"}
# A row group is what a reader holds; a shard what a download repeats after a break.
_GROUP_ROWS, _GROUP_BYTES = 256, 2**26
_SHARD_BYTES = 2**29


def pack_data(config: TrainConfig, out: Path, *, progress: Callable[[int, int], None] | None = None) -> dict[str, int]:
    """Write the data set of a config; the folder appears whole or not at all.

    Args:
        config: Its data fields are used. With `on_bad_image: skip`, rows whose image is missing are left out.
        out: Folder to make. It may exist if it is empty.
        progress: Called with (images done, images in all).

    Returns:
        Rows written of each split.

    Raises:
        DataError: With one line for each problem of the data, or if `out` holds something already.
        StorageError: If the folder cannot be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} exists and is not an empty folder; name another, nothing was changed")
    problems = Problems()
    labels = read_labels(config, problems)
    problems.raise_if_any()
    assert labels is not None
    files = {"train": labels.train, "val": labels.val}
    races = sorted({race for file in files.values() for race in _races(file)} - {""})
    names = [*(race for race in RACES if race in races), *(race for race in races if race not in RACES)]
    total = sum(int((file.rows.path != "").sum()) for file in files.values())
    unfinished = out.with_name(f".{out.name}.packing-{secrets.token_hex(4)}")
    done, rows = 0, {}
    try:
        unfinished.mkdir(parents=True)
        for split, file in files.items():
            rows[split] = 0
            writer = _Writer(unfinished, _SPLITS[split], _schema(file, names))
            for group in _groups(file, names):
                writer.write(group)
                rows[split] += len(group["image"])
                done += len(group["image"])
                if progress:
                    progress(done, total)
            writer.end()
        if out.exists():
            out.rmdir()
        unfinished.rename(out)
    except OSError as error:
        raise StorageError(
            f"{out}: cannot be written ({error.strerror or error}); free some space or choose another place"
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return rows


def _races(file: LabelFile) -> list[str]:
    return [] if file.rows.race is None else file.rows.race.tolist()


def _schema(file: LabelFile, races: list[str]) -> pa.Schema:
    """Return the hub's columns, with the class names where its own loader looks for them."""
    classes: dict[str, Any] = {"age": list(AGE_GROUPS), "gender": list(GENDERS)}
    if file.rows.race is not None:
        classes["race"] = races
    features: dict[str, Any] = {"image": {"_type": "Image"}}
    features |= {name: {"names": names, "_type": "ClassLabel"} for name, names in classes.items()}
    fields = [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))]
    fields += [(name, pa.int64()) for name in classes]
    if file.rows.service_test is not None:
        features["service_test"] = {"dtype": "bool", "_type": "Value"}
        fields.append(("service_test", pa.bool_()))
    return pa.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": features}})})


def _groups(file: LabelFile, races: list[str]) -> Iterator[dict[str, list[Any]]]:
    """Yield the rows in their order, as columns, a row group at a time."""
    rows = file.rows
    number = {race: index for index, race in enumerate(races)}
    group: dict[str, list[Any]] = {}
    size = 0
    for index, raw in _images_in_order(file):
        values: dict[str, Any] = {
            "image": {"bytes": raw, "path": file.names[index]},
            "age": int(rows.age[index]),
            "gender": int(rows.gender[index]),
        }
        if rows.race is not None:
            values["race"] = number.get(rows.race[index])
        if rows.service_test is not None:
            values["service_test"] = {1: True, 0: False}.get(int(rows.service_test[index]))
        for name, value in values.items():
            group.setdefault(name, []).append(value)
        size += len(raw)
        if len(group["image"]) == _GROUP_ROWS or size >= _GROUP_BYTES:
            yield group
            group, size = {}, 0
    if group:
        yield group


def _images_in_order(file: LabelFile) -> Iterator[tuple[int, bytes]]:
    """Yield row and bytes of each image that is there; archives are read front to back within a block of rows."""
    rows, problems = file.rows, Problems()
    there = np.flatnonzero(rows.path != "").tolist()
    for start in range(0, len(there), _GROUP_ROWS):
        block = there[start : start + _GROUP_ROWS]
        found: dict[str, bytes] = {}
        for batch in batches([rows.path[index] for index in block], _GROUP_ROWS):
            for place, raw in batch:
                try:
                    found[place] = bytes_of(place, raw)
                except ImageError as error:
                    problems.add("unreadable images", str(error), cause=error.reason)
        problems.raise_if_any()
        for index in block:
            yield index, found[rows.path[index]]


class _Writer:
    """Writes one split in shards, whose number is known, and said in their names, at the end."""

    def __init__(self, folder: Path, split: str, schema: pa.Schema) -> None:
        self.folder, self.split, self.schema = folder, split, schema
        self.files: list[Path] = []
        self.open: pq.ParquetWriter | None = None

    def write(self, group: dict[str, list[Any]]) -> None:
        if self.open is None:
            self.files.append(self.folder / f"{self.split}-{len(self.files):05d}")
            # The images are compressed already.
            self.open = pq.ParquetWriter(self.files[-1], self.schema, compression="none", use_dictionary=False)
        self.open.write_table(pa.table(group, schema=self.schema))
        if self.files[-1].stat().st_size >= _SHARD_BYTES:
            self.close()

    def close(self) -> None:
        if self.open is not None:
            self.open.close()
            self.open = None

    def end(self) -> None:
        self.close()
        for file in self.files:
            file.rename(f"{file}-of-{len(self.files):05d}.parquet")
