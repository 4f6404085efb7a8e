"""The `data:` section of a search space: which images the trials see, and what is done with bad ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fairface_core.config import TrainConfig, unknown_key
from sweep.strict_yaml import Node
from sweep.values import BAD, check_value

# TrainConfig fields that say which images the trials see. The limits are found by their prefix.
_DATA = (
    "train_csv",
    "val_csv",
    "img_col",
    "image_root",
    "protocol",
    "split_seed",
    "on_bad_image",
    "drop_duplicates",
)
DATA_FIELDS = tuple(name for name in TrainConfig.model_fields if name in _DATA or name.startswith("limit_"))
# Arguments of fairface_core.demo.demo_root, with their least and largest value.
DEMO_SIZES = {
    "num_train": (18, 1_000_000),
    "num_val": (18, 1_000_000),
    "image_px": (16, 1024),
    "seed": (0, 2**32 - 1),
}


def read_data(node: Node | None, problems: list[str]) -> dict[str, Any]:
    """Return the section's values; every problem becomes a line in `problems`.

    Returns:
        `root` (absolute folder or None), `demo` (sizes of the built-in faces, or None), and the data policies that the
        section names, by TrainConfig field.
    """
    out: dict[str, Any] = {"root": None, "demo": None}
    if node is None or node.value is None:
        return out
    if node.value == "demo":
        return {**out, "demo": {}}
    if not isinstance(node.value, dict):
        problems.append(f"{node.where}: data is {node.kind}; accepted: demo, or a mapping such as {{root: DIR}}")
        return out
    for key, child in node.value.items():
        if key == "root":
            out["root"] = _root(child, problems)
        elif key == "demo":
            out["demo"] = _demo(child, problems)
        elif key not in DATA_FIELDS:
            problems.append(unknown_key(f"{child.where}: data", key, ("root", "demo", *DATA_FIELDS)))
        elif (value := check_value(key, child, problems)) is not BAD:
            # Trials run in a working folder of their own, so paths are made absolute here.
            out[key] = tuple(map(_absolute, value)) if isinstance(value, tuple) else value
    if out["root"] is not None and out["demo"] is not None:
        problems.append(
            f"{node.where}: data holds root and demo; keep root for images of your own, demo for the built-in faces"
        )
    return out


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute())


def _root(node: Node, problems: list[str]) -> str | None:
    if node.value is None:
        return None
    if not isinstance(node.value, str) or not node.value.strip():
        problems.append(f"{node.where}: data.root is {node.kind}; accepted: a folder, or null to give --root DIR later")
        return None
    return _absolute(node.value)


def _demo(node: Node, problems: list[str]) -> dict[str, int] | None:
    if node.value is False:
        return None
    if node.value is None or node.value is True:
        return {}
    if not isinstance(node.value, dict):
        problems.append(f"{node.where}: data.demo is {node.kind}; accepted: true, or sizes such as {{num_train: 2000}}")
        return {}
    sizes: dict[str, int] = {}
    for key, child in node.value.items():
        if key not in DEMO_SIZES:
            problems.append(unknown_key(f"{child.where}: data.demo", key, DEMO_SIZES))
            continue
        least, most = DEMO_SIZES[key]
        value = child.value
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            problems.append(
                f"{child.where}: data.demo.{key} = {child.kind}; accepted: a whole number from {least:,} to {most:,}"
            )
        else:
            sizes[key] = value
    return sizes
