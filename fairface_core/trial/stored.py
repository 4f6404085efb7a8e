"""The probabilities that a trial stored: read within bounds, for its folder may come from a stranger."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np

from fairface_core.errors import StorageError
from fairface_core.files.folder import Folder
from fairface_core.files.parquet_pages import page_sizes
from fairface_core.labels import AGE_GROUPS, GENDERS

# Ten times FairFace, both splits; a few bytes of Parquet can stand for any number of rows.
_MAX_ROWS, _MAX_COLUMN_BYTES = 2_000_000, 2**29
_TEXTS = ("csv", "file", "race")
_FOREIGN = "predictions.parquet: not the columns of a trial"


@dataclass(frozen=True)
class Stored:
    """One split of a trial's `predictions.parquet`, aligned arrays of N images.

    Attributes:
        file: What the label CSV calls the images, N texts.
        csv: The CSV that each stands in, N texts.
        line: int64 [N], its line there.
        age_prob: float32 [N, 9].
        gender_prob: float32 [N, 2].
        age: int64 [N], the truth, 0..8.
        gender: int64 [N], the truth, 0..1.
        race: What the CSV says of race, N texts; None without such a column.
        images: Names the images, their order and their labels: equal for two trials that were scored alike.
    """

    file: list[str]
    csv: list[str]
    line: np.ndarray
    age_prob: np.ndarray
    gender_prob: np.ndarray
    age: np.ndarray
    gender: np.ndarray
    race: list[str] | None
    images: bytes

    def prob(self, task: str) -> np.ndarray:
        """Return the probabilities of `age` or `gender`."""
        return self.age_prob if task == "age" else self.gender_prob

    def truth(self, task: str) -> np.ndarray:
        """Return the labels of `age` or `gender`."""
        return self.age if task == "age" else self.gender


def read_stored(folder: Folder, split: str) -> Stored | str:
    """Return the stored probabilities of a split, or what is wrong with them.

    Args:
        folder: The trial folder.
        split: `val` or `test`.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    shares = {
        "age": [f"age_prob_{k}" for k in range(len(AGE_GROUPS))],
        "gender": [f"gender_prob_{k}" for k in range(len(GENDERS))],
    }
    columns = ["split", "csv", "file", "line", "age_true", "gender_true", *shares["age"], *shares["gender"]]
    try:
        raw = folder.read("predictions.parquet")
        with pq.ParquetFile(io.BytesIO(raw), read_dictionary=["split", *_TEXTS]) as file:
            has_race = "race" in file.schema_arrow.names
            columns += ["race"] if has_race else []
            pages = page_sizes(io.BytesIO(raw), file.metadata, columns)
            if _too_large(file.metadata) or sum(pages) > _MAX_COLUMN_BYTES:
                return f"predictions.parquet: larger than {_MAX_ROWS:,} rows"
            table = file.read(columns=columns, use_threads=False)
        rows = table.filter(pc.equal(pc.cast(table["split"], pa.string()), split))
        line, age, gender = (rows[name].to_numpy().astype(np.int64) for name in ("line", "age_true", "gender_true"))
        if sum(_text_bytes(rows[name]) for name in _TEXTS if name in columns) > _MAX_COLUMN_BYTES:
            return _FOREIGN
        file_names, csv_names = ([str(name) for name in rows[column].to_pylist()] for column in ("file", "csv"))
        race = [str(name) for name in rows["race"].to_pylist()] if has_race else None
        prob = {
            task: np.stack([rows[name].to_numpy().astype(np.float32) for name in names], axis=1)
            for task, names in shares.items()
        }
    except FileNotFoundError:
        return "predictions.parquet: missing"
    except (StorageError, pa.ArrowException, OSError) as error:
        return f"predictions.parquet: damaged ({(str(error).splitlines() or [type(error).__name__])[0][:80]})"
    except (KeyError, ValueError, TypeError):
        return _FOREIGN
    sound = len(age) and all(
        truth.min() >= 0 and truth.max() < k and np.isfinite(shares).all()
        for truth, k, shares in ((age, len(AGE_GROUPS), prob["age"]), (gender, len(GENDERS), prob["gender"]))
    )
    if not sound:
        return _FOREIGN
    images = b"".join(part.tobytes() for part in (line, age, gender))
    return Stored(file_names, csv_names, line, prob["age"], prob["gender"], age, gender, race, images)


def _text_bytes(column: Any) -> int:
    """Return how long the texts of a column are together: one of a million bytes may stand in every row."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_dictionary(column.type):
        return int(column.nbytes)
    lengths = (pc.binary_length(chunk.dictionary).take(chunk.indices) for chunk in column.chunks)
    return sum(pc.sum(pc.cast(each, "int64")).as_py() or 0 for each in lengths)


def _too_large(metadata: Any) -> bool:
    groups = [metadata.row_group(k) for k in range(metadata.num_row_groups)]
    sizes = [group.column(k).total_uncompressed_size for group in groups for k in range(group.num_columns)]
    return metadata.num_rows > _MAX_ROWS or max(sizes, default=0) > _MAX_COLUMN_BYTES
