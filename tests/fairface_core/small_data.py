"""A small data folder in FairFace's layout, for tests that spoil it, and a small run for those that train."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from fairface_core.config.train_config import TrainConfig, make_config
from fairface_core.images.decode import image_from_bytes, read_bytes
from fairface_core.labels import AGE_GROUPS, GENDERS

HEADER = "file,age,gender,race,service_test"
CELLS = tuple(itertools.product(AGE_GROUPS, GENDERS))


def decoded_file(path: str, **options: Any) -> Image.Image:
    return image_from_bytes(read_bytes(path), path, **options)[0]


@dataclass(frozen=True)
class DataRoot:
    """36 train and 90 val images of 8 px, two and five of each age x gender cell, and both label CSVs."""

    path: Path

    @property
    def train_csv(self) -> Path:
        return self.path / "fairface_label_train.csv"

    @property
    def val_csv(self) -> Path:
        return self.path / "fairface_label_val.csv"

    def config(self, **changes: Any) -> TrainConfig:
        values = {"root": str(self.path), "cache_dir": str(self.path.parent / "cache"), "num_workers": 2, **changes}
        return TrainConfig(**values)

    def edit_val(self, change: Callable[[list[str]], Iterable[str]]) -> None:
        """Rewrite the val CSV; `change` gets its lines, the header first."""
        self.val_csv.write_text("\n".join(change(self.val_csv.read_text().splitlines())) + "\n")

    def set_cell(self, row: int, column: int, text: str) -> None:
        """Put a text into the val CSV; row 1 stands on line 2."""

        def change(lines: list[str]) -> list[str]:
            cells = lines[row].split(",")
            cells[column] = text
            return [*lines[:row], ",".join(cells), *lines[row + 1 :]]

        self.edit_val(change)


def make_small_data(root: Path) -> None:
    """Draw it; every image has bytes of its own."""
    for split, (name, repeats) in enumerate({"train": 2, "val": 5}.items()):
        (root / name).mkdir(parents=True)
        lines = [HEADER]
        for number, (age, gender) in enumerate(CELLS * repeats, 1):
            Image.new("RGB", (8, 8), (number * 2, split * 99, 40)).save(root / name / f"{number}.jpg")
            lines.append(
                f"{name}/{number}.jpg,{age},{gender},{'White' if number % 2 else 'East Asian'},{number % 3 == 0}"
            )
        (root / f"fairface_label_{name}.csv").write_text("\n".join(lines) + "\n")


def training_config(root: Path, out: Path, **changes: Any) -> TrainConfig:
    """Three epochs of a small network on the drawn faces: a second on one core."""
    values = {
        "root": str(root), "out_dir": str(out), "backbone": "mobilenet_v3_small", "weights": "none", "image_size": 32,
        "epochs": 3, "batch_size": 16, "lr": 2e-3, "seed": 1, "limit_train": 96, "limit_val": 120, "device": "cpu",
        "results_csv": None, "num_workers": 2,
    }  # fmt: skip
    return make_config({**values, **changes})
