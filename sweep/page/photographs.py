"""Small copies of images for the page: found through the label CSVs that the trials were scored with."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping
from pathlib import Path

from PIL import Image as Picture

from fairface_core.config.train_config import data_fields, make_config
from fairface_core.dataset.manifest import read_labels
from fairface_core.errors import ConfigError, DataError, Problems, shown
from fairface_core.images.decode import ImageError, bytes_of, image_from_bytes
from fairface_core.images.places import batches
from sweep.results.beside.suspects import Image
from sweep.run_folder.records import TrialRecord

# Twice what the page shows, for dense screens; 3 kB each.
_SIDE_PX = 112
_QUALITY = 80


def photographs(images: Iterable[Image], record: TrialRecord, root: Path) -> Mapping[Image, str]:
    """Return `data:` URIs of small JPEG copies; an image that cannot be read has none.

    Args:
        images: What to show.
        record: A trial that was scored on them: it knows its CSVs.
        root: The data folder.

    Raises:
        ConfigError: If the data settings of the trial cannot be used.
        DataError: If the folder's CSVs cannot be read, or are not those that the trial was scored with.
    """
    wanted = dict.fromkeys(images)
    settings = {**(record.report or {}).get("config", {}), **record.config}
    known = {name: settings[name] for name in data_fields() if name in settings}
    config = make_config({**known, "root": str(root), "on_bad_image": "skip"}, where=record.trial_id)
    problems = Problems()
    labels = read_labels(config, problems)
    problems.raise_if_any()
    assert labels is not None
    places = {
        (rows.csv_name, int(line)): (str(file), str(path))
        for rows in (labels.train.rows, labels.val.rows)
        for line, file, path in zip(rows.line, rows.file, rows.path, strict=True)
    }
    paths: dict[str, list[Image]] = {}
    for image in wanted:
        file, path = places.get((image.csv, image.line), ("", ""))
        if file != image.file:
            raise DataError(
                f"--root {shown(str(root), 300)}: {image.csv} line {image.line} names {shown(file, 200)}, and the trials "
                f"were scored on {shown(image.file, 200)}; give the data folder of this sweep"
            )
        if path:
            paths.setdefault(path, []).append(image)
    found: dict[Image, str] = {}
    for batch in batches(list(paths), 64):
        for path, raw in batch:
            try:
                decoded = image_from_bytes(bytes_of(path, raw), path)[0]
            except ImageError:
                continue
            uri = _uri(decoded)
            found |= dict.fromkeys(paths[path], uri)
    return found


def check_count(faces: int | None, root: Path | None) -> None:
    """Refuse a number of photographs that is no number of them, or that lies nowhere.

    Raises:
        ConfigError: One or the other.
    """
    if faces is not None and not 1 <= faces <= 500:
        raise ConfigError(f"--faces {faces}: accepted are 1 to 500 photographs in each list")
    if (faces is None) != (root is None):
        raise ConfigError("--faces N and --root DIR go together: how many photographs, and the data folder they lie in")


def _uri(image: Picture.Image) -> str:
    out = io.BytesIO()
    image.resize((_SIDE_PX, _SIDE_PX), Picture.Resampling.LANCZOS).save(out, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"
