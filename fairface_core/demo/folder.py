"""A folder of drawn faces in FairFace's exact layout, made once and kept: cartoons (`faces.py`)."""

from __future__ import annotations

import csv
import io
import secrets
import shutil
from pathlib import Path

import numpy as np

from fairface_core.demo.faces import draw_face
from fairface_core.errors import CACHE_ADVICE, CacheError, ConfigError, DataError, StorageError
from fairface_core.files.locks import locked_file
from fairface_core.labels import AGE_GROUPS, GENDERS

# Sized for a quickstart on 2 cores, where the slowest backbone trains 23 images/s at 64 px.
NUM_TRAIN = 270
NUM_VAL = 180
IMAGE_PX = 64
SEED = 0
# Part of a kept folder's name: raise it when the same seed draws other pixels.
_DRAWING_VERSION = 1
_JPEG_QUALITY = 90
_MAX_IMAGES = 1_000_000
# Share of each age group: half FairFace's own (its 10,954 val rows), half equal, so that no group is tiny.
_FAIRFACE_VAL = np.array([199, 1356, 1181, 3300, 2330, 1353, 796, 321, 118])
_AGE_SHARE = 0.5 * _FAIRFACE_VAL / _FAIRFACE_VAL.sum() + 0.5 / len(AGE_GROUPS)
# FairFace's own names. They are dealt out at random and show in no drawing.
RACES = ("Black", "East Asian", "Indian", "Latino_Hispanic", "Middle Eastern", "Southeast Asian", "White")
_COLUMNS = ("file", "age", "gender", "race", "service_test")
_SPLITS = ("train", "val")


def draw_faces(
    root: Path, *, num_train: int = NUM_TRAIN, num_val: int = NUM_VAL, image_px: int = IMAGE_PX, seed: int = SEED
) -> None:
    """Draw a data folder; it appears whole or not at all.

    The same arguments give the same pixels and CSVs (JPEG bytes depend on Pillow's libjpeg), and face N of a split does
    not depend on how many follow it, but for its label.

    Args:
        root: Folder to make. It may exist if it is empty.
        num_train: Images in `train/`, at least 18.
        num_val: Images in `val/`, at least 18.
        image_px: Side of the square images, pixels, 16..1024.
        seed: 0 .. 2**32 - 1.

    Raises:
        ConfigError: If a size is out of range.
        DataError: If `root` holds something already.
        StorageError: If the folder cannot be written.
    """
    _check_sizes(num_train, num_val, image_px, seed)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise DataError(f"{root} exists and is not an empty folder; name another, nothing was changed")
    unfinished = root.with_name(f".{root.name}.drawing-{secrets.token_hex(4)}")
    try:
        unfinished.mkdir(parents=True)
        for split, count in zip(_SPLITS, (num_train, num_val), strict=True):
            _draw_split(unfinished, split, count, image_px, seed)
        unfinished.rename(root)
    except OSError as error:
        raise StorageError(
            f"{root}: cannot be written ({error.strerror or error}); free or choose another place"
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def demo_root(
    cache_dir: Path,
    *,
    num_train: int = NUM_TRAIN,
    num_val: int = NUM_VAL,
    image_px: int = IMAGE_PX,
    seed: int = SEED,
) -> Path:
    """Return a data folder of drawn faces below `cache_dir`: drawn by the first caller, used by all.

    Args:
        cache_dir: Folder that keeps it; made if absent.
        num_train: As in `draw_faces`, like all that follow.
        num_val: Images in `val/`.
        image_px: Side of the images, pixels.
        seed: Seed of the drawing.

    Raises:
        CacheError: If the folder cannot be written.
    """
    root = cache_dir / f"demo-v{_DRAWING_VERSION}-{num_train}x{num_val}-{image_px}px-seed{seed}"
    if not root.is_dir():
        try:
            cache_dir.mkdir(parents=True, exist_ok=True)
            with locked_file(cache_dir / f"{root.name}.lock"):
                if not root.is_dir():
                    for left_behind in cache_dir.glob(f".{root.name}.drawing-*"):  # by a process that was killed
                        shutil.rmtree(left_behind, ignore_errors=True)
                    draw_faces(root, num_train=num_train, num_val=num_val, image_px=image_px, seed=seed)
        except (OSError, StorageError) as error:
            cause = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise CacheError(
                f"{cache_dir}: the built-in faces cannot be kept there ({cause}); {CACHE_ADVICE}"
            ) from error
    return root


def _check_sizes(num_train: int, num_val: int, image_px: int, seed: int) -> None:
    cells = len(AGE_GROUPS) * len(GENDERS)
    ranges = {
        "num_train": (num_train, cells, _MAX_IMAGES),
        "num_val": (num_val, cells, _MAX_IMAGES),
        "image_px": (image_px, 16, 1024),
        "seed": (seed, 0, 2**32 - 1),
    }
    problems = [
        f"{name} = {value}: accepted are {low} to {high:,}"
        for name, (value, low, high) in ranges.items()
        if not low <= value <= high
    ]
    if problems:
        raise ConfigError(problems)


def _draw_split(root: Path, split: str, count: int, image_px: int, seed: int) -> None:
    number = _SPLITS.index(split)
    deal = np.random.default_rng([seed, number])
    age, gender = _labels(count, deal)
    (root / split).mkdir()
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for index in range(count):
        name = f"{split}/{index + 1}.jpg"
        face = draw_face(int(age[index]), int(gender[index]), image_px, np.random.default_rng([seed, number, index]))
        face.save(root / name, quality=_JPEG_QUALITY)
        race, service = RACES[deal.integers(len(RACES))], bool(deal.integers(2))
        writer.writerow([name, AGE_GROUPS[age[index]], GENDERS[gender[index]], race, service])
    (root / f"fairface_label_{split}.csv").write_text(table.getvalue(), encoding="utf-8")


def _labels(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Deal out ages and genders: one of each age x gender cell, the others by share; int64 [count] each."""
    cells = np.arange(len(AGE_GROUPS) * len(GENDERS))
    share = np.repeat(_AGE_SHARE, len(GENDERS)) / len(GENDERS) * (count - len(cells))
    quota = np.floor(share).astype(np.int64)
    most_cut = np.argsort(quota - share, kind="stable")[: count - len(cells) - quota.sum()]
    quota[most_cut] += 1
    drawn = rng.permutation(np.repeat(cells, quota + 1))
    return drawn // len(GENDERS), drawn % len(GENDERS)
