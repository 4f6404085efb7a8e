"""Looks at the whole data set without changing it: what the labels say, what the files are, what is copied twice."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fairface_core.config.train_config import TrainConfig
from fairface_core.dataset.manifest import Labels, Manifest, absent_classes, check_overlap, divide, read_labels
from fairface_core.dataset.near import NearSummary, image_hash, near_pairs, summarize, told, write_pairs
from fairface_core.dataset.rows import LabelFile, Rows, note_unreadable
from fairface_core.errors import DataError, Problems
from fairface_core.images.decode import ImageError, LargeImage, Raw, bytes_of, image_from_bytes
from fairface_core.images.places import ahead, batches
from fairface_core.labels import AGE_GROUPS, GENDERS

SCHEMA_VERSION = 1
_BLOCK = 64  # images a thread takes at a time
_MAX_EXAMPLES = 10
# Larger images are not searched for gray pixels: the check would need a second copy of them.
_MAX_GRAY_PIXELS = 2**22


@dataclass(frozen=True)
class ImageSummary:
    """What one pass over all images found. Images are counted once for each row that names them.

    Attributes:
        checked: Rows whose image was opened.
        sizes: "width x height" -> rows, most frequent first.
        modes: "format mode", such as "JPEG RGB" -> rows.
        gray_stored_as_rgb: Rows whose image has R = G = B in every pixel and is not stored in a gray mode.
        exif_rotated: Rows whose EXIF asks for a rotation; it is not applied, as in the original script.
        animated: Rows whose file holds several frames; the first is the image.
        unreadable: Rows whose image cannot be decoded.
        identical_groups: Groups of rows with byte-identical files.
        identical_rows: Rows in those groups.
        identical_within_train: Groups with two rows or more of the train CSV.
        identical_within_val: The same for the val CSV.
        identical_across: Groups with rows of both CSVs.
        identical_with_other_age: Groups whose rows do not agree on the age group.
        identical_with_other_gender: Groups whose rows do not agree on the gender.
        examples: The first groups: across first, then conflicting, then the others.
        near: Pairs that are nearly the same, identical ones left out.
    """

    checked: int
    sizes: dict[str, int]
    modes: dict[str, int]
    gray_stored_as_rgb: int
    exif_rotated: int
    animated: int
    unreadable: int
    identical_groups: int
    identical_rows: int
    identical_within_train: int
    identical_within_val: int
    identical_across: int
    identical_with_other_age: int
    identical_with_other_gender: int
    examples: list[list[str]]
    near: NearSummary


@dataclass(frozen=True)
class DataSummary:
    """What `data check` reports.

    Attributes:
        root: The data folder.
        csvs: `train` and `val` -> rows, columns, encoding, repairs, missing images.
        classes: `train` and `val` -> rows of each age group and gender, [9][2].
        races: `train` and `val` -> race -> rows of each gender, [2]; empty without such a column.
        counts: The manifest's facts (rows of each split, protocol, digest, ...); empty where there are problems.
        images: None where only the labels were asked for.
        problems: The first problems, one line each, and one line that counts the others.
        problem_counts: Kind of problem -> how many.
        notes: Findings that stop nothing but should be known.
    """

    root: str
    csvs: dict[str, dict[str, Any]]
    classes: dict[str, list[list[int]]]
    races: dict[str, dict[str, list[int]]]
    counts: dict[str, Any]
    images: ImageSummary | None
    problems: tuple[str, ...]
    problem_counts: dict[str, int]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the summary as JSON-able values, with a schema version."""
        return {"schema_version": SCHEMA_VERSION, **dataclasses.asdict(self)}


def check_data(
    config: TrainConfig,
    *,
    images: bool = True,
    pairs_csv: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> DataSummary:
    """Check a data set and summarize it.

    Args:
        config: Its data fields are used; `num_workers` threads decode.
        images: Open every image. Without it only CSVs, labels and paths are looked at (about 1 s for all of FairFace):
            enough before a run, whose cache decodes every image anyway.
        pairs_csv: Where to write the pairs of images that are nearly the same.
        progress: Called with (images done, images in all).

    Returns:
        The summary; what is wrong is in its `problems`.

    Raises:
        DataError: If the root or a CSV cannot be read at all.
    """
    if pairs_csv is not None and not pairs_csv.absolute().parent.is_dir():
        raise DataError(
            f"--pairs_csv {pairs_csv}: the folder {pairs_csv.absolute().parent} does not exist; make it first"
        )
    problems = Problems()
    labels = read_labels(config, problems)
    if labels is None:
        problems.raise_if_any()
    assert labels is not None
    check_overlap(config, labels, problems)
    found = _look_at_images(config, labels, problems, pairs_csv, progress) if images else None
    manifest = None
    if not problems:
        try:
            manifest = divide(config, labels)
        except DataError as error:
            for line in error.problems:
                problems.add("splits without rows", line)
    named = {"train": labels.train, "val": labels.val}
    return DataSummary(
        root=config.root,
        csvs={name: _csv_facts(file) for name, file in named.items()},
        classes={name: _class_counts(file.rows) for name, file in named.items()},
        races={name: _race_counts(file.rows) for name, file in named.items()},
        counts={} if manifest is None else manifest.counts,
        images=found,
        problems=tuple(problems.lines()),
        problem_counts=dict(problems.counts),
        notes=tuple(_notes(config, manifest, found)),
    )


def _csv_facts(file: LabelFile) -> dict[str, Any]:
    return {
        "file": file.rows.csv_name,
        "rows": file.num_csv_rows,
        "rows_accepted": len(file.rows),
        "columns": file.columns,
        "encoding": file.encoding,
        "delimiter": file.delimiter,
        "repaired": dict(sorted(file.repaired.items())),
        "repeated_rows": file.repeated_rows,
        "blank_rows": file.blank_rows,
        "missing": dict(sorted(file.missing.items())),
        "absent": absent_classes(file.rows),
    }


def _class_counts(rows: Rows) -> list[list[int]]:
    counts = np.zeros((len(AGE_GROUPS), len(GENDERS)), dtype=np.int64)
    np.add.at(counts, (rows.age, rows.gender), 1)
    return [[int(n) for n in row] for row in counts]


def _race_counts(rows: Rows) -> dict[str, list[int]]:
    if rows.race is None:
        return {}
    counts = Counter(zip(rows.race.tolist(), rows.gender.tolist(), strict=True))
    return {race: [counts[race, gender] for gender in range(len(GENDERS))] for race in sorted(set(rows.race.tolist()))}


@dataclass(frozen=True)
class _Seen:
    """What one image file is; `error` is "" where it can be decoded."""

    content: bytes
    likeness: bytes = b""
    size: str = ""
    mode: str = ""
    gray: bool = False
    rotated: bool = False
    animated: bool = False
    error: str = ""


def _look_at_images(
    config: TrainConfig,
    labels: Labels,
    problems: Problems,
    pairs_csv: Path | None,
    progress: Callable[[int, int], None] | None,
) -> ImageSummary:
    files = (labels.train.rows, labels.val.rows)
    paths = list(dict.fromkeys(path for rows in files for path in rows.path if path))
    seen = dict(_see_all(paths, max(1, config.num_workers), progress))
    if config.on_bad_image == "error":
        reasons = {path: fact.error for path, fact in seen.items() if fact.error}
        for rows in files:
            note_unreadable(rows, reasons, problems)
    by_content: dict[bytes, list[tuple[int, int]]] = defaultdict(list)
    sizes: Counter[str] = Counter()
    modes: Counter[str] = Counter()
    likeness: dict[bytes, bytes] = {}
    gray = rotated = animated = unreadable = checked = 0
    for csv, rows in enumerate(files):
        for index, path in enumerate(rows.path):
            if not path:
                continue
            fact = seen[path]
            checked += 1
            if fact.content:
                by_content[fact.content].append((csv, index))
            if fact.error:
                unreadable += 1
                continue
            likeness[fact.content] = fact.likeness
            sizes[fact.size] += 1
            modes[fact.mode] += 1
            gray, rotated, animated = gray + fact.gray, rotated + fact.rotated, animated + fact.animated
    pairs = near_pairs([(digest, by_content[content]) for content, digest in likeness.items()])
    if pairs_csv is not None:
        write_pairs(pairs_csv, pairs, files)
    return ImageSummary(
        checked=checked,
        sizes=dict(sizes.most_common()),
        modes=dict(modes.most_common()),
        gray_stored_as_rgb=gray,
        exif_rotated=rotated,
        animated=animated,
        unreadable=unreadable,
        near=summarize(pairs, files),
        **_identical(files, [group for group in by_content.values() if len(group) > 1]),
    )


def _see_all(
    places: list[str], num_workers: int, progress: Callable[[int, int], None] | None
) -> Iterator[tuple[str, _Seen]]:
    done = 0
    with ThreadPoolExecutor(num_workers) as pool:
        for block in ahead(pool, _see_block, batches(places, _BLOCK), 2 * num_workers):
            for place, (fact, raw) in block.items():
                # Large images are decoded here, one at a time, so that memory stays bounded.
                fact = fact or _see(place, raw, allow_large=True)
                assert fact is not None
                yield place, fact
            done += len(block)
            if progress:
                progress(done, len(places))


def _see_block(block: list[tuple[str, Raw]]) -> dict[str, tuple[_Seen | None, Raw]]:
    seen = {}
    for place, raw in block:
        fact = _see(place, raw, allow_large=False)
        seen[place] = fact, raw if fact is None else None
    return seen


def _see(place: str, given: Raw, *, allow_large: bool) -> _Seen | None:
    """Decode one image; None for a large image where those are not allowed."""
    content = b""
    try:
        raw = bytes_of(place, given)
        content = hashlib.sha256(raw).digest()
        image, facts = image_from_bytes(raw, place, allow_large=allow_large)
    except LargeImage:
        return None
    except ImageError as error:
        return _Seen(content, error=error.reason)
    return _Seen(
        content,
        likeness=image_hash(image),
        size=f"{facts.width} x {facts.height}",
        mode=f"{facts.format} {facts.mode}",
        gray=facts.mode not in ("1", "L", "LA") and _is_gray(image),
        rotated=facts.orientation != 1,
        animated=facts.animated,
    )


def _is_gray(image: Image.Image) -> bool:
    if image.width * image.height > _MAX_GRAY_PIXELS:
        return False
    pixels = np.asarray(image)
    # A few pixels tell for nearly every image: the full comparison is left to the others.
    for part in (pixels[::16, ::16], pixels):
        if not ((part[..., 0] == part[..., 1]).all() and (part[..., 1] == part[..., 2]).all()):
            return False
    return True


def _identical(files: tuple[Rows, Rows], groups: list[list[tuple[int, int]]]) -> dict[str, Any]:
    """Count groups of byte-identical images; members are (0 train or 1 val, row)."""
    facts = []
    for group in groups:
        in_train = sum(csv == 0 for csv, _ in group)
        in_val = len(group) - in_train
        ages = {int(files[csv].age[row]) for csv, row in group}
        genders = {int(files[csv].gender[row]) for csv, row in group}
        across, other_age, other_gender = bool(in_train and in_val), len(ages) > 1, len(genders) > 1
        facts.append((across, other_age, other_gender, in_train > 1, in_val > 1))
    flags = np.array(facts, dtype=np.int64).reshape(-1, 5)
    order = sorted(range(len(groups)), key=lambda i: tuple(not flag for flag in facts[i][:3]))
    return {
        "identical_groups": len(groups),
        "identical_rows": sum(len(group) for group in groups),
        "identical_within_train": int(flags[:, 3].sum()),
        "identical_within_val": int(flags[:, 4].sum()),
        "identical_across": int(flags[:, 0].sum()),
        "identical_with_other_age": int(flags[:, 1].sum()),
        "identical_with_other_gender": int(flags[:, 2].sum()),
        "examples": [[told(files, place) for place in groups[i]] for i in order[:_MAX_EXAMPLES]],
    }


def _notes(config: TrainConfig, manifest: Manifest | None, images: ImageSummary | None) -> Iterator[str]:
    if images and images.identical_across and config.drop_duplicates == "none":
        yield (
            f"identical images are in both CSVs (groups: {images.identical_across}): "
            "--drop_duplicates cross_split removes them from training"
        )
    if images and images.near.across:
        yield (
            f"pairs of images that are nearly the same are in both CSVs (pairs: {images.near.across}): look at them "
            "with --pairs_csv FILE; a model is scored on what it was trained on"
        )
    if images and images.identical_with_other_age + images.identical_with_other_gender:
        yield "some identical images carry different labels: label noise that no model can learn"
    for part, absent in (manifest.counts["absent"] if manifest else {}).items():
        yield f"{part}: no row of {', '.join(absent)}; their F1 counts as 0"
