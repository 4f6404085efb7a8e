"""The data of a run: two label CSVs become training, validation and test rows, checked and frozen.

Every problem is collected before one error reports them. Nothing is decoded here: an image that cannot be decoded is
found when the cache is built.
"""

# ruff: noqa: PTH110, PTH111, PTH112
# `os.path` says no to a name that cannot exist (too long, a NUL, a loop of links); `pathlib` raises.

from __future__ import annotations

import hashlib
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fairface_core.config.train_config import TrainConfig, data_fields, default_cache_dir
from fairface_core.dataset.columns import open_csv
from fairface_core.dataset.duplicates import file_digests, kept_of_duplicates
from fairface_core.dataset.rows import LabelFile, Rows, digest_lines, read_rows, rows_of_parquet
from fairface_core.dataset.sources.archives import finder_for
from fairface_core.dataset.sources.parquet import ParquetData, find_parquet, read_parquet
from fairface_core.dataset.split import strata, stratified_sample, stratified_split
from fairface_core.errors import DataError, Problems, shown
from fairface_core.labels import AGE_GROUPS, GENDERS

__all__ = ["Labels", "Manifest", "Rows", "load_manifest", "read_labels"]

TEST_SHARE = 0.2  # of the val CSV, protocol `seed`
VALIDATION_SHARE = 0.1  # of the train CSV, protocol `official`: as many rows as FairFace's val CSV has
PICKLES = (
    "is a pickle, which can run any program when it is opened, and nothing in it says what its integers mean (in "
    "nateraw/fairface 0 is Female); use the authors' archives or the Parquet files: see `data get`"
)
CSVS = ", ".join(TrainConfig.model_fields[name].default for name in ("train_csv", "val_csv"))
# A row that two parts share is kept where it is worth most: what is scored must not move.
_PRIORITY = ("test", "val", "train")


@dataclass(frozen=True)
class Labels:
    """Both label CSVs, read and repaired."""

    train: LabelFile
    val: LabelFile

    def csv(self, name: str) -> LabelFile:
        """Return the CSV `train` or `val`."""
        return self.train if name == "train" else self.val


@dataclass(frozen=True)
class Manifest:
    """The rows of a run.

    Attributes:
        train: Rows to train on, in the order of the CSV.
        val: Rows that choose the model.
        test: Rows that are only scored. `val` and `test` are in the order of the draw (`stratified_split`).
        digest: sha256 (hex) of names, labels and races after repair, of the protocol, the split and the policies, and
            of what was skipped: an accepted variant of a CSV has the digest of the clean one.
        protocol: `seed` or `official`.
        counts: Facts for `report.json["data"]`.
    """

    train: Rows
    val: Rows
    test: Rows
    digest: str
    protocol: str
    counts: dict[str, Any]


def load_manifest(config: TrainConfig) -> Manifest:
    """Read both CSVs, find the images, split, and apply the policies and limits.

    Args:
        config: Its data fields are used.

    Raises:
        DataError: With the first problems in full, one line each, and the count of the others.
    """
    problems = Problems()
    labels = read_labels(config, problems)
    if labels is not None:
        check_overlap(config, labels, problems)
    problems.raise_if_any()
    assert labels is not None
    return divide(config, labels)


def read_labels(config: TrainConfig, problems: Problems) -> Labels | None:
    """Read the labels of a data folder, from its CSVs or its Parquet files, and note every problem.

    Returns:
        What could be read; None where the root or a file is not there or has no readable header.
    """
    if not _check_folders(config, problems):
        return None
    root = _expand(config.root)
    paths = [_csv_path(config, name) for name in (config.train_csv, config.val_csv)]
    if not any(os.path.lexists(path) for path in paths) and _default_csvs(config):
        data = find_parquet(Path(os.path.realpath(root)), config.margin, problems)
        if data is not None:
            return _read_parquet(data, problems)
        if problems:
            return None
        if not any(root.glob("*.csv")):
            problems.add("missing files", _nothing_found(root))
            return None
    opened = [open_csv(path, problems, img_col=config.img_col) for path in paths]
    texts = [one.images() for one in opened if one is not None]
    finder = finder_for(root, [_expand(folder) for folder in config.image_root], config.margin, texts, problems)
    if finder is None:
        return None
    files = [
        read_rows(one, finder.find, problems, on_bad_image=config.on_bad_image) for one in opened if one is not None
    ]
    return Labels(*files) if len(files) == 2 else None


def _nothing_found(root: Path) -> str:
    """Say what a folder without label CSVs and Parquet files holds instead."""
    for path in (root / "train.pt", root / "val.pt"):
        if path.is_file():
            return f"{path}: {PICKLES}"
    there = sorted(path.name for path in root.iterdir())
    holds = f"it holds {', '.join(shown(name, 60) for name in there[:6])}{', ...' if len(there) > 6 else ''}"
    return (
        f"--root {shown(str(root), 300)}: has neither label CSVs ({CSVS}) nor Parquet files (train-*.parquet and "
        f"validation-*.parquet); {holds if there else 'it is empty'}; `data get --from hub --out DIR` downloads FairFace"
    )


def _read_parquet(data: ParquetData, problems: Problems) -> Labels | None:
    read = read_parquet(data, problems)
    return None if read is None else Labels(*(rows_of_parquet(*read[split], problems) for split in ("train", "val")))


def _default_csvs(config: TrainConfig) -> bool:
    return all(getattr(config, name) == TrainConfig.model_fields[name].default for name in ("train_csv", "val_csv"))


def _check_folders(config: TrainConfig, problems: Problems) -> bool:
    """Whether the folders that the user named are there."""
    if not config.root:
        problems.add("missing folders", "no data folder is named; give --root DIR with the label CSVs and images")
        return False
    folders = [("--root", config.root), *(("--image_root", folder) for folder in config.image_root)]
    for flag, folder in folders:
        if not os.path.isdir(_expand(folder)):
            reason = "is not a folder" if os.path.exists(_expand(folder)) else "does not exist"
            advice = "name a folder that is there"
            if folder.lower().endswith((".zip", ".parquet")) and reason == "is not a folder":
                advice = "name the folder that it lies in, with the label CSVs beside an archive"
            problems.add("missing folders", f"{flag} {shown(str(_expand(folder)), 300)} {reason}; {advice}")
    return not problems


def _expand(text: str) -> Path:
    """Return an absolute path. `~` is the user's own here: only flags and spaces come this way, never a CSV."""
    return Path(os.path.expanduser(text)).absolute()


def _csv_path(config: TrainConfig, name: str) -> Path:
    """Return the path of a CSV. A link in its place is followed: whoever owns the root made it."""
    return _expand(config.root) / Path(os.path.expanduser(name))


def check_overlap(config: TrainConfig, labels: Labels, problems: Problems) -> None:
    """Note every image that both CSVs name: it would be trained on and scored.

    A policy that drops copies settles it, but for bare names with two labels: those are two faces, both found in
    `train/`, and the wrong images would be scored.
    """
    drops = config.drop_duplicates != "none"
    advice = "the labels differ: correct one row" if drops else "remove one row, or use --drop_duplicates cross_split"
    train, val = labels.train.rows, labels.val.rows
    train_at = {place: index for index, place in enumerate(labels.train.places)}
    for index, place in enumerate(labels.val.places):
        at = train_at.get(place)
        if at is None:
            continue
        differ = (train.age[at], train.gender[at]) != (val.age[index], val.gender[index])
        if not drops or (differ and val.path[index] and "/" not in labels.val.names[index]):
            first = f"{train.csv_name} {train.row_name(at)}"
            problems.add(
                "images in both CSVs",
                f"{val.where(index)} is also in {first}; {advice} "
                "(bare names are looked for in root/ and root/train/ before root/val/: write val/NAME)",
                cause="both",
                row=val.row_name(index),
            )


def divide(config: TrainConfig, labels: Labels) -> Manifest:
    """Split checked labels, and apply the policies and limits; see `load_manifest`.

    Raises:
        DataError: If a part is left without rows.
    """
    source = {"train": "train", "val": "val" if config.protocol == "seed" else "train", "test": "val"}
    all_parts = _split(config, labels)
    _check_not_empty(all_parts, labels, "the split")
    parts = {name: rows.take(np.flatnonzero(rows.path != "")) for name, rows in all_parts.items()}
    missing = sum(len(all_parts[name]) - len(parts[name]) for name in parts)
    dropped: dict[str, int] = {}
    if config.drop_duplicates != "none":
        whole = {name: len(rows) for name, rows in parts.items()}
        parts = _drop_duplicates(config, parts)
        dropped = {name: whole[name] - len(rows) for name, rows in parts.items()}
    remaining = parts
    for csv, limit in (("train", config.limit_train), ("val", config.limit_val)):
        if limit is not None:
            parts = _limit({k: v for k, v in parts.items() if source[k] == csv}, limit, config.split_seed, parts)
    _check_not_empty(parts, labels, "the policies and limits")
    digest = _digest(config, labels, all_parts, remaining)
    counts: dict[str, Any] = {
        "protocol": config.protocol,
        "split_seed": config.split_seed,
        "rows": {name: len(rows) for name, rows in parts.items()},
        "csv_rows": {name: labels.csv(name).num_csv_rows for name in ("train", "val")},
        "columns": {name: labels.csv(name).columns for name in ("train", "val")},
        "repaired": dict(sorted((labels.train.repaired + labels.val.repaired).items())),
        "repeated_rows": labels.train.repeated_rows + labels.val.repeated_rows,
        "blank_rows": labels.train.blank_rows + labels.val.blank_rows,
        "on_bad_image": config.on_bad_image,
        "missing_images_skipped": missing,
        "drop_duplicates": config.drop_duplicates,
        "duplicates_dropped": dropped,
        "limits": {"train": config.limit_train, "val": config.limit_val},
        "absent": {name: absent for name, rows in parts.items() if (absent := absent_classes(rows))},
        "digest": digest,
    }
    return Manifest(parts["train"], parts["val"], parts["test"], digest, config.protocol, counts)


def _split(config: TrainConfig, labels: Labels) -> dict[str, Rows]:
    train, val = labels.train.rows, labels.val.rows
    if config.protocol == "seed":
        first, second = stratified_split(strata(val.age, val.gender), TEST_SHARE, config.split_seed)
        return {"train": train, "val": val.take(first), "test": val.take(second)}
    first, second = stratified_split(strata(train.age, train.gender), VALIDATION_SHARE, config.split_seed)
    return {"train": train.take(np.sort(first)), "val": train.take(second), "test": val}


def _check_not_empty(parts: dict[str, Rows], labels: Labels, after: str) -> None:
    names = {"train": "training", "val": "validation", "test": "test"}
    sizes = f"{len(labels.train.rows):,} train and {len(labels.val.rows):,} val rows"
    empty = [
        f"no {names[part]} row is left of {sizes} after {after}; more rows are needed"
        for part, rows in parts.items()
        if not len(rows)
    ]
    if empty:
        raise DataError(empty)


def _drop_duplicates(config: TrainConfig, parts: dict[str, Rows]) -> dict[str, Rows]:
    paths = sorted({path for rows in parts.values() for path in rows.path})
    cache_dir = _expand(config.cache_dir) if config.cache_dir else default_cache_dir()
    digests = file_digests(paths, cache_dir=cache_dir, num_workers=config.num_workers)
    kept = kept_of_duplicates(
        {name: parts[name].path for name in _PRIORITY},
        dict(zip(paths, digests, strict=True)),
        across_only=config.drop_duplicates == "cross_split",
    )
    return {name: rows.take(kept[name]) for name, rows in parts.items()}


def _limit(limited: dict[str, Rows], limit: int, seed: int, parts: dict[str, Rows]) -> dict[str, Rows]:
    """Share a CSV's limit among the parts that come from it, in proportion to their sizes."""
    total = sum(len(rows) for rows in limited.values())
    sizes = {name: round(limit * len(rows) / total) if limit < total else len(rows) for name, rows in limited.items()}
    chosen = {
        name: rows.take(stratified_sample(strata(rows.age, rows.gender), sizes[name], seed))
        for name, rows in limited.items()
    }
    return {**parts, **chosen}


def _digest(config: TrainConfig, labels: Labels, whole: dict[str, Rows], remaining: dict[str, Rows]) -> str:
    choices = [getattr(config, name) for name in data_fields("which") if not config.is_as_before(name)]
    gone = sorted(
        token for name, rows in whole.items() for token in rows.tokens(~np.isin(rows.line, remaining[name].line))
    )
    parts = [repr(choices), digest_lines(labels.train), digest_lines(labels.val), *gone]
    return hashlib.sha256("\x1e".join(parts).encode()).hexdigest()


def absent_classes(rows: Rows) -> list[str]:
    """Return the labels that no row has."""
    ages, genders = Counter(rows.age.tolist()), Counter(rows.gender.tolist())
    return [
        *(a for i, a in enumerate(AGE_GROUPS) if not ages[i]),
        *(g for i, g in enumerate(GENDERS) if not genders[i]),
    ]
