"""Images that are nearly the same: told by perceptual hashes of 256 bits (pHash, the library ImageHash).

A copy that was compressed again, resized, brightened or turned gray has other bytes and nearly the same hash. Of 150
faces each, such copies differed in at most 12 bits, faces cut by 2 pixels at each side in at most 30 (26 for 99 of
100); the closest two of 4,000 FairFace faces that are no copies differed in 56.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fairface_core.dataset.rows import Rows
from fairface_core.errors import DataError
from fairface_core.labels import AGE_GROUPS, GENDERS

if TYPE_CHECKING:
    from PIL import Image

BITS = 256
MAX_DISTANCE = 24
# A set of nothing but copies has five thousand million pairs.
MAX_PAIRS = 100_000
_BLOCK = 2048
_MAX_EXAMPLES = 10
_SPLITS = ("train", "val")


@dataclass(frozen=True)
class NearSummary:
    """Pairs of images with different bytes and nearly the same hash; each row that names one counts.

    Attributes:
        pairs: How many, at most `MAX_PAIRS`.
        within_train: Both in train.
        within_val: Both in val.
        across: One in train, one in val: a model is scored on what it was trained on.
        with_other_age: Pairs that do not agree on the age group.
        with_other_gender: Pairs that do not agree on the gender.
        examples: The first ones, across first, in words.
    """

    pairs: int
    within_train: int
    within_val: int
    across: int
    with_other_age: int
    with_other_gender: int
    examples: list[str]


@dataclass(frozen=True)
class NearPair:
    """Two rows, (0 train or 1 val, index), and the bits in which the hashes of their images differ."""

    first: tuple[int, int]
    second: tuple[int, int]
    distance: int


def image_hash(image: Image.Image) -> bytes:
    """Return the perceptual hash of an image, 32 bytes."""
    import imagehash

    return np.packbits(imagehash.phash(image, hash_size=16).hash).tobytes()


def near_pairs(rows_of: Sequence[tuple[bytes, Sequence[tuple[int, int]]]]) -> list[NearPair]:
    """Find the pairs, those across train and val first, then by distance.

    Args:
        rows_of: For each distinct content its hash, and the rows that have it.
    """
    bits = np.unpackbits(np.frombuffer(b"".join(digest for digest, _ in rows_of), np.uint8)).reshape(-1, BITS)
    pairs: list[NearPair] = []
    for one, other, distance in _close(bits):
        for first in rows_of[one][1]:
            for second in rows_of[other][1]:
                pairs.append(NearPair(min(first, second), max(first, second), distance))
                if len(pairs) == MAX_PAIRS:
                    return _sorted(pairs)
    return _sorted(pairs)


def _sorted(pairs: list[NearPair]) -> list[NearPair]:
    return sorted(pairs, key=lambda pair: (pair.first[0] == pair.second[0], pair.distance, pair.first, pair.second))


def _close(bits: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """Yield every two rows of uint8 [N, 256] that differ in at most `MAX_DISTANCE` places, with the count.

    As products of blocks of signs, whose places that agree count +1 and those that differ -1.
    """
    signs = bits.astype(np.float32) * 2 - 1
    for start in range(0, len(signs), _BLOCK):
        block = signs[start : start + _BLOCK]
        for at in range(start, len(signs), _BLOCK):
            agreement = block @ signs[at : at + _BLOCK].T
            for row, column in np.argwhere(agreement >= BITS - 2 * MAX_DISTANCE).tolist():
                if start + row < at + column:
                    yield start + row, at + column, int(BITS - agreement[row, column]) // 2


def summarize(pairs: Sequence[NearPair], files: tuple[Rows, Rows]) -> NearSummary:
    """Count pairs by where they lie and whether their labels agree."""
    labels = [
        tuple((int(files[csv].age[index]), int(files[csv].gender[index])) for csv, index in (pair.first, pair.second))
        for pair in pairs
    ]
    places = [(pair.first[0], pair.second[0]) for pair in pairs]
    return NearSummary(
        pairs=len(pairs),
        within_train=places.count((0, 0)),
        within_val=places.count((1, 1)),
        across=places.count((0, 1)),
        with_other_age=sum(one[0] != other[0] for one, other in labels),
        with_other_gender=sum(one[1] != other[1] for one, other in labels),
        examples=[
            f"{told(files, pair.first)}; {told(files, pair.second)}; {pair.distance} of {BITS} bits differ"
            for pair in pairs[:_MAX_EXAMPLES]
        ],
    )


def told(files: tuple[Rows, Rows], place: tuple[int, int]) -> str:
    """Return where a row stands, (0 train or 1 val, index), what it names and its labels."""
    rows, index = files[place[0]], place[1]
    where = "" if rows.in_parquet else f"{rows.csv_name} {rows.row_name(index)}: "
    return f"{where}{rows.file[index]} ({AGE_GROUPS[rows.age[index]]}, {GENDERS[rows.gender[index]]})"


def write_pairs(path: Path, pairs: Sequence[NearPair], files: tuple[Rows, Rows]) -> None:
    """Write a CSV with one pair a line: split, row, file, age and gender of both, and the bits that differ.

    Raises:
        DataError: If it cannot be written.
    """
    names = ("split", "row", "file", "age", "gender")
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([*(f"{name}_1" for name in names), *(f"{name}_2" for name in names), "bits"])
            for pair in pairs:
                writer.writerow([*_cells(files, pair.first), *_cells(files, pair.second), pair.distance])
    except OSError as error:
        raise DataError(f"--pairs_csv {path}: cannot be written ({error.strerror or error})") from error


def _cells(files: tuple[Rows, Rows], place: tuple[int, int]) -> list[str]:
    rows, index = files[place[0]], place[1]
    label = [AGE_GROUPS[rows.age[index]], GENDERS[rows.gender[index]]]
    return [_SPLITS[place[0]], rows.row_name(index), str(rows.file[index]), *label]
