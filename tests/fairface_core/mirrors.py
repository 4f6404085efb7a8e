"""The layouts in which FairFace is found, made small from a data folder: shards, class orders and columns of their own."""

from __future__ import annotations

import csv
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fairface_core.labels import AGE_GROUPS, GENDERS

HUB_RACES = ("East Asian", "Indian", "Black", "White", "Middle Eastern", "Latino_Hispanic", "Southeast Asian")
HUB = {"age": AGE_GROUPS, "gender": GENDERS, "race": HUB_RACES}
# nateraw/fairface: the same integers mean the other gender.
ALPHABETICAL = {"age": tuple(sorted(AGE_GROUPS)), "gender": ("Female", "Male"), "race": tuple(sorted(HUB_RACES))}


@dataclass(frozen=True)
class Kind:
    """How a copy writes its rows.

    Attributes:
        column: Name of the image column.
        classes: Column -> class names; integers. None for labels as text.
        named: Whether the schema holds the names.
        plain: Bytes instead of a struct of bytes and path.
        paths: `none`, `bare` (1.jpg) or `full` (train/1.jpg).
    """

    column: str = "image"
    classes: dict[str, Sequence[str]] | None = None
    named: bool = True
    plain: bool = False
    paths: str = "none"


def rows(root: Path, split: str) -> list[dict[str, Any]]:
    with (root / f"fairface_label_{split}.csv").open() as file:
        return list(csv.DictReader(file))


def write_shard(path: Path, root: Path, chosen: list[dict[str, Any]], kind: Kind, *, group: int = 7) -> None:
    """Write rows of a label CSV as one Parquet file."""
    images: list[Any] = [(root / row["file"]).read_bytes() for row in chosen]
    if not kind.plain:
        path_of = {"none": lambda name: None, "bare": lambda name: Path(name).name, "full": str}[kind.paths]
        images = [{"bytes": raw, "path": path_of(row["file"])} for raw, row in zip(images, chosen, strict=True)]
    image_type = pa.binary() if kind.plain else pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns: dict[str, Any] = {kind.column: pa.array(images, image_type)}
    features: dict[str, Any] = {kind.column: {"_type": "Image"}}
    for name in ("age", "gender", "race"):
        texts = [row[name] for row in chosen]
        if kind.classes is None:
            columns[name] = pa.array(texts)
            features[name] = {"dtype": "string", "_type": "Value"}
        else:
            columns[name] = pa.array([list(kind.classes[name]).index(text) for text in texts], pa.int64())
            features[name] = {"names": list(kind.classes[name]), "_type": "ClassLabel"}
    columns["service_test"] = pa.array([row["service_test"] == "True" for row in chosen])
    table = pa.table(columns)
    if kind.named:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=group)


def card(configs: dict[str, dict[str, Sequence[str]]]) -> str:
    """Return a data card as the hub writes it: config -> column -> class names."""
    lines = ["---", "license: cc-by-4.0", "dataset_info:"]
    for config, classes in configs.items():
        lines += [f"- config_name: '{config}'", "  features:", "  - name: image", "    dtype: image"]
        for name, names in classes.items():
            lines += [f"  - name: {name}", "    dtype:", "      class_label:", "        names:"]
            lines += [f"          '{number}': {text}" for number, text in enumerate(names)]
    return "\n".join([*lines, "---", "# FairFace", ""])


def hub(root: Path, out: Path, folder: str = "0.25", kind: Kind | None = None) -> Path:
    """HuggingFaceM4/FairFace: two train shards with hashes in their names, no file names, integers."""
    kind = kind or Kind(classes=HUB)
    train, val = rows(root, "train"), rows(root, "val")
    half = len(train) // 2
    write_shard(out / folder / "train-00000-of-00002-d405faba4f4b9b85.parquet", root, train[:half], kind)
    write_shard(out / folder / "train-00001-of-00002-dd3cb68164727418.parquet", root, train[half:], kind)
    write_shard(out / folder / "validation-00000-of-00001-951dbd63c8724ee1.parquet", root, val, kind)
    return out


def converted(root: Path, out: Path, folder: str = "0.25", kind: Kind | None = None) -> Path:
    """The hub's converted branch."""
    kind = kind or Kind(classes=HUB)
    for split, name in (("train", "train"), ("val", "validation")):
        write_shard(out / folder / name / "0000.parquet", root, rows(root, split), kind)
    return out


def ryanramos(root: Path, out: Path) -> Path:
    """ryanramos/fairface: the image column is `file`, the labels are texts."""
    kind = Kind(column="file", paths="bare")
    for split in ("train", "val"):
        write_shard(out / "margin025" / f"{split}-00000-of-00001.parquet", root, rows(root, split), kind)
    return out


def archives(root: Path, out: Path, *, margin: str = "025", top: str = "") -> Path:
    """The authors' download: label CSVs and an archive beside them."""
    out.mkdir(parents=True, exist_ok=True)
    for split in ("train", "val"):
        name = f"fairface_label_{split}.csv"
        (out / name).write_bytes((root / name).read_bytes())
    with zipfile.ZipFile(out / f"fairface-img-margin{margin}-trainval.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for split in ("val", "train"):
            for path in sorted((root / split).iterdir()):
                archive.write(path, f"{top}{split}/{path.name}")
    return out
