"""The names of integer labels, where they come with the file: in the Parquet schema, or in the data card beside it.

Nothing is ever guessed from the integers: copies of FairFace are in circulation with either order of gender and three
orders of race.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from fairface_core.errors import DataError
from fairface_core.files.regular import read_regular

if TYPE_CHECKING:
    import pyarrow as pa

CARD = "README.md"
_MAX_CARD_BYTES = 2**20
# Why integers without names are refused, by the role of their column.
ORDERS = {
    "age": "an integer may be an age in years or the number of a class",
    "gender": "two orders are in circulation, 0 = Male and 0 = Female (nateraw/fairface)",
    "race": "three orders are in circulation (the hub's from East Asian, the alphabetical one, the authors' own)",
}


def schema_names(schema: pa.Schema) -> dict[str, list[str]]:
    """Return column -> class names of the `huggingface` entry in a Parquet schema; {} where there is none."""
    raw = (schema.metadata or {}).get(b"huggingface")
    try:
        features = json.loads(raw)["info"]["features"] if raw else {}
        return {
            column: _texts(feature["names"])
            for column, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and feature.get("names")
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def card_names(folder: Path, root: Path, config_name: str) -> dict[str, list[str]]:
    """Return column -> class names of the data card (README.md) in the folder, or above it up to the root.

    Args:
        folder: Where the Parquet files lie.
        root: The data folder.
        config_name: Which of several configurations, such as `0.25`; where all agree, none needs to be known.

    Raises:
        DataError: If the configurations of the card disagree and none has this name.
    """
    for place in [folder, *folder.parents]:
        infos = _infos(place / CARD)
        if infos:
            chosen = [info for info in infos if str(info.get("config_name")) == config_name] or infos
            found = [names for info in chosen if (names := _card_features(info))]
            if any(names != found[0] for names in found):
                raise DataError(
                    f"{place / CARD}: its configurations name the classes differently, and none is {config_name!r}; keep the one of these files"
                )
            if found:
                return found[0]
        if place == root:
            break
    return {}


def _infos(card: Path) -> list[dict[str, Any]]:
    """Return the `dataset_info` entries of a data card's header."""
    try:
        text = read_regular(card, limit=_MAX_CARD_BYTES).decode("utf-8", "replace")
        header = yaml.safe_load(text.split("---")[1]) if text.startswith("---") else None
    except (OSError, IndexError, yaml.YAMLError):
        return []
    infos = header.get("dataset_info") if isinstance(header, dict) else None
    infos = infos if isinstance(infos, list) else [infos]
    return [info for info in infos if isinstance(info, dict)]


def _card_features(info: dict[str, Any]) -> dict[str, list[str]]:
    names = {}
    features = info.get("features")
    for feature in features if isinstance(features, list) else []:
        try:
            given = feature["dtype"]["class_label"]["names"]
            if isinstance(given, dict):
                numbered = {int(number): name for number, name in given.items()}
                given = [numbered[number] for number in range(len(numbered))]
            names[str(feature["name"])] = _texts(given)
        except (KeyError, TypeError, ValueError):
            continue
    return names


def _texts(names: Any) -> list[str]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise TypeError("class names are texts")
    return names
