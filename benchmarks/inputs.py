"""The folders that benchmarks train on: the real sample where it is, else drawn faces, and one of full size."""

from __future__ import annotations

import csv
import os
import shutil
from pathlib import Path

from fairface_core.demo.folder import draw_faces

SAMPLE = Path(__file__).resolve().parents[2] / "shared" / "data" / "fairface_sample"
# FairFace's own row counts.
FULL_TRAIN, FULL_VAL = 86_744, 10_954


def data_root(given: str | None, work: Path, *, num_train: int = 256, num_val: int = 90, image_px: int = 224) -> Path:
    """Return the folder that was named, else the real sample, else drawn faces below `work`.

    Args:
        given: A folder, `demo` for drawn faces, or None.
        work: Where faces are drawn.
        num_train: Drawn training images.
        num_val: Drawn images of the val CSV.
        image_px: Side of drawn images, pixels.
    """
    if given not in (None, "demo"):
        return Path(str(given)).expanduser().absolute()
    if given is None and SAMPLE.is_dir():
        return SAMPLE
    root = work / f"faces-{num_train}x{num_val}-{image_px}px"
    if not root.is_dir():
        draw_faces(root, num_train=num_train, num_val=num_val, image_px=image_px)
    return root


def full_size_root(source: Path, out: Path, *, num_train: int = FULL_TRAIN, num_val: int = FULL_VAL) -> Path:
    """Return a folder with as many rows as asked for: the source's rows over and over, its images as hard links.

    Each image has a name of its own, so that every path is looked up, named and mapped as in the real data set.

    Args:
        source: A data folder in FairFace's layout.
        out: Where to make it; one that is complete is used again.
        num_train: Rows of the train CSV.
        num_val: Rows of the val CSV.
    """
    done = out / "fairface_label_val.csv"
    for split, count in (("train", num_train), ("val", num_val)):
        table = out / f"fairface_label_{split}.csv"
        if done.is_file() and table.is_file():
            continue
        (out / split).mkdir(parents=True, exist_ok=True)
        with (source / table.name).open(encoding="utf-8", newline="") as file:
            header, *rows = list(csv.reader(file))
        at = header.index("file")
        lines = []
        for number in range(count):
            row = list(rows[number % len(rows)])
            target = out / split / f"{number + 1}.jpg"
            if not target.exists():
                _link(source / row[at], target)
            row[at] = f"{split}/{number + 1}.jpg"
            lines.append(row)
        with table.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([header, *lines])
    return out


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)
