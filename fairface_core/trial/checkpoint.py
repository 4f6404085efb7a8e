"""Full training state each epoch, best weights, and loading that either works or says why not.

Files that may come from a stranger are read by files/tensors.py: with `weights_only=True` and never otherwise.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

from fairface_core.backbones import Normalization, spec_of
from fairface_core.console import tell
from fairface_core.errors import CheckpointError, one_line, shown
from fairface_core.files.folder import Folder
from fairface_core.files.tensors import MAX_BYTES, STATE_DICT_KEYS, TensorFileError, load_tensors, read_tensors, unwrap
from fairface_core.trial.reports import PREVIOUS_STATE, STATE, STATE_FILES

BEST = "best.pt"
STATE_SCHEMA = 1
# Key of a checkpoint's cfg, where it was trained on training and validation images together.
REFIT_KEY = "trained_on_validation"

# state.pt = torch's zip + this trailer, so that the digest is computed while the file is streamed out.
_TRAILER = b"\nfairface-state-1 "
_TRAILER_LENGTH = len(_TRAILER) + 64


@dataclass(frozen=True)
class Checkpoint:
    """A `best.pt`: `{"model": state_dict, "cfg": {...}, "epoch": int}`, ours or the original script's.

    Attributes:
        normalization: What its backbone's images were normalized by, whatever is known of that backbone today; None
            where the file does not say, as the original script's.
    """

    model: Mapping[str, Any]
    cfg: Mapping[str, Any]
    epoch: int
    normalization: Normalization | None = None


def save_best(folder: Folder, model: Mapping[str, Any], cfg: Mapping[str, Any], epoch: int, *, alias: str) -> None:
    """Write `best.pt` and the same content as `alias` (a hard link where the file system has them).

    Equal weights and configuration give equal bytes: `cfg` holds no path of this machine.
    """
    # Pickle writes a string that it has met before as a reference: equal values must not now and then be one object.
    content = {"model": dict(model), "cfg": json.loads(json.dumps(dict(cfg))), "epoch": epoch}
    folder.write(BEST, lambda file: _save(content, file))
    folder.link(BEST, alias)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint from disk.

    Raises:
        CheckpointError: If it is absent, damaged, hostile or not a checkpoint of this project.
    """
    where = one_line(str(path))
    try:
        content = read_tensors(path, where)
    except TensorFileError as error:
        raise CheckpointError(f"{error}; give a best.pt that this project, or the original script, wrote") from error
    weights = (
        next((content[k] for k in STATE_DICT_KEYS if k in content), None) if isinstance(content, Mapping) else None
    )
    if not isinstance(content, Mapping) or not isinstance(weights, Mapping):
        raise CheckpointError(f'{where}: not a checkpoint: expected {{"model": ..., "cfg": ..., "epoch": ...}}')
    cfg, epoch = content.get("cfg"), content.get("epoch")
    if not isinstance(cfg, Mapping) or not isinstance(cfg.get("backbone"), str):
        raise CheckpointError(f'{where}: its "cfg" names no backbone, so the model cannot be built')
    normalization = read_normalization(cfg, where)
    model, wrapped = unwrap(weights)
    if wrapped:
        tell(
            f"note: {where}: each weight's name began with {wrapped[:80]!r}, from a wrapper of the model; read without"
        )
    return Checkpoint(model, cfg, epoch if isinstance(epoch, int) else 0, normalization)


def normalization_facts(backbone: str) -> dict[str, Any]:
    """Return what a checkpoint's `cfg` says of a backbone's normalization: `mean` and `std`."""
    return {key: list(values) for key, values in spec_of(backbone).normalization._asdict().items()}


def read_normalization(cfg: Mapping[str, Any], where: str) -> Normalization | None:
    """Return what `normalization_facts` wrote, or None if it is not there.

    Raises:
        CheckpointError: If it is something else.
    """
    if not any(key in cfg for key in Normalization._fields):
        return None
    return Normalization(_three(cfg, "mean", -math.inf, where), _three(cfg, "std", 0.0, where))


def _three(cfg: Mapping[str, Any], key: str, low: float, where: str) -> tuple[float, float, float]:
    values = cfg.get(key)
    if isinstance(values, list | tuple) and len(values) == 3:
        red, green, blue = values
        if all(isinstance(one, float | int) and low < one < math.inf for one in values):
            return float(red), float(green), float(blue)
    raise CheckpointError(f"{where}: its {key} is {shown(values)}; accepted: three numbers, of std above 0")


def refuse_validation(cfg: Mapping[str, Any], split_name: str, *, where: str) -> None:
    """Refuse to score a model on images that it was trained on.

    Raises:
        CheckpointError: If the checkpoint says that it was trained on validation, and `split_name` is `val`.
    """
    if cfg.get(REFIT_KEY) and split_name == "val":
        raise CheckpointError(f"{where}: was trained on the validation images too; score it with --split test")


def save_state(folder: Folder, state: Mapping[str, Any]) -> None:
    """Write the training state; the one before it stays as `state.prev.pt`.

    A kill while the new state is written, which takes most of the time, leaves two different states: the names change
    hands only when it is whole.
    """
    whole = {"schema_version": STATE_SCHEMA, **state}
    folder.write(STATE, lambda file: _stream_state(whole, file), previous=PREVIOUS_STATE)


def load_state(folder: Folder, *, config_digest: str, data_digest: str) -> dict[str, Any] | None:
    """Return the newest whole training state, or None if none was ever written.

    A damaged newest state is named in a warning and removed, and the previous one is used.

    Raises:
        CheckpointError: If states exist and none is whole, or they belong to another configuration or data set.
    """
    problems: list[str] = []
    for name in STATE_FILES:
        where = f"{folder.uri}/{name}"
        try:
            state = _read_state(folder.read(name, limit=MAX_BYTES), where)
        except FileNotFoundError:
            continue
        except CheckpointError as error:
            problems += error.problems
            continue
        for key, mine, what in (
            ("config_digest", config_digest, "configuration"),
            ("data_digest", data_digest, "data set (labels, images, split or policies)"),
        ):
            if state.get(key) != mine:
                raise CheckpointError(
                    f"{where}: written by another {what} ({state.get(key)}, now {mine}); "
                    "go back to the old one, or choose another output folder"
                )
        if problems:
            # Otherwise the next save would push the damaged file over the good one.
            folder.remove(STATE)
            warnings.warn(f"{'; '.join(problems)}; going on from {name}, epoch {state.get('epoch')}", stacklevel=2)
        return state
    if problems:
        raise CheckpointError(
            [*problems, f"{folder.uri}: no whole training state is left; delete the folder to train it anew"]
        )
    return None


def remove_states(folder: Folder) -> None:
    """Delete the full states of a run that will not go on. Weights and reports stay."""
    for name in STATE_FILES:
        folder.remove(name)


class _Writer(io.RawIOBase):
    """A file that hashes what passes through, and remembers why it was refused. torch.save writes sequentially."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.refusal: OSError | None = None

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.digest.update(data)
        try:
            return self._file.write(data)
        except OSError as error:
            self.refusal = error
            raise


def _save(content: Mapping[str, Any], file: BinaryIO) -> str:
    """Write with torch.save; return the digest of what was written.

    Raises:
        OSError: The file system's own. torch 2.14 closes its zip on the way out, which fails again: a full disk would be
            told as `RuntimeError: unexpected pos 14081792 vs 14081684`.
    """
    writer = _Writer(file)
    try:
        torch.save(dict(content), cast(BinaryIO, writer))
    except RuntimeError as error:
        if writer.refusal is not None:
            raise writer.refusal from error
        raise
    return writer.digest.hexdigest()


def _stream_state(state: Mapping[str, Any], file: BinaryIO) -> None:
    digest = _save(state, file)
    file.write(_TRAILER + digest.encode())


def _read_state(raw: bytes, where: str) -> dict[str, Any]:
    body, trailer = memoryview(raw)[:-_TRAILER_LENGTH], raw[-_TRAILER_LENGTH:]
    if not trailer.startswith(_TRAILER) or hashlib.sha256(body).hexdigest().encode() != trailer[len(_TRAILER) :]:
        raise CheckpointError(f"{where}: damaged (cut short or changed: its checksum does not hold)")
    try:
        state = load_tensors(bytes(body), where)
    except TensorFileError as error:
        raise CheckpointError(error.problems) from error
    if not isinstance(state, dict) or state.get("schema_version") != STATE_SCHEMA:
        raise CheckpointError(f"{where}: not a training state of this version")
    return state
