"""Reads tensor files that may come from a stranger: tensors and plain values, or a refusal. No code of theirs runs.

`torch.load(weights_only=True)` runs no code, but it can be made to take any amount of memory: it unpacks compressed
records, and it calls `bytearray(n)` or `torch.FloatTensor(n)` for a file of a few bytes. torch.save itself compresses
nothing and names a dozen functions; whatever else a file asks for is refused before torch sees it.
"""

from __future__ import annotations

import io
import pickletools
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from fairface_core.errors import FairfaceError
from fairface_core.files.regular import read_regular

# What files keep a state dict under: our own name, and those of Lightning and of many scripts.
STATE_DICT_KEYS = ("model", "state_dict", "model_state_dict")
MAX_BYTES = 16 * 2**30  # the largest training state of this project has 1 GiB
_MAX_PICKLE_BYTES = 4 * 2**20  # theirs has 0.2 MiB: names, shapes and plain values; the tensors lie beside it
_STORAGES = ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
_ACCEPTED = frozenset(
    (
        "collections.OrderedDict", "torch.Size", "torch._utils._rebuild_parameter", "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2", *(f"torch.{kind}Storage" for kind in _STORAGES),
    )
)  # fmt: skip
# DataParallel and DistributedDataParallel, torch.compile, Lightning; and what AveragedModel adds to its `module.`
_WRAPPERS = ("module.", "_orig_mod.", "model.")
_WRAPPERS_OWN = ("n_averaged",)
# Other ways to name a function. torch.save writes none of them.
_FOREIGN_OPCODES = frozenset(("STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"))
_ZIP_END = struct.Struct("<4s4H2LH")
_ZIP64_LOCATOR = struct.Struct("<4sLQL")
_ZIP64_END_BYTES = 56
# Of the format before torch 1.6: a number, a version, facts of the machine, the objects, the keys of the storages.
_OLD_PICKLES = 5


class TensorFileError(FairfaceError):
    """Why a file was not read; its message begins with what the caller calls the file."""


def read_tensors(path: Path, where: str, *, old_format: bool = False) -> Any:
    """Read one file; see `load_tensors`.

    Raises:
        TensorFileError: If it cannot be read or is refused.
    """
    try:
        raw = read_regular(path, limit=MAX_BYTES)
    except OSError as error:
        raise TensorFileError(f"{where}: cannot be read ({error.strerror or error})") from error
    return load_tensors(raw, where, old_format=old_format)


def load_tensors(raw: bytes, where: str, *, old_format: bool = False) -> Any:
    """Unpack tensors and plain values.

    Args:
        raw: What torch.save wrote.
        where: What to call the file in messages.
        old_format: Accept the format before torch 1.6 too, in which many weights are still shared.

    Raises:
        TensorFileError: For anything else.
    """
    try:
        if old_format and not raw.startswith(b"PK"):
            old = io.BytesIO(raw)
            for _ in range(_OLD_PICKLES):
                _check_pickle(old, where)
        else:
            _check_pickle(io.BytesIO(_pickle_of(raw, where)), where)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError, struct.error) as error:
        raise TensorFileError(f"{where}: not a file that torch.save wrote, or cut short ({_line(error)})") from error
    try:
        return torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    except Exception as error:
        # Not narrower: torch raises nearly every kind for a damaged file.
        raise TensorFileError(
            f"{where}: holds something other than tensors and plain values, or is damaged; "
            f"nothing in it was executed ({_line(error)})"
        ) from error


def unwrap(state: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Take off what a wrapper of a model puts in front of each name.

    Returns:
        The entries, and what was taken off (`_orig_mod.module.`), empty if nothing was.
    """
    kept, taken = {key: value for key, value in state.items() if key not in _WRAPPERS_OWN}, ""
    while prefix := next((one for one in _WRAPPERS if kept and all(str(key).startswith(one) for key in kept)), ""):
        kept = {key.removeprefix(prefix): value for key, value in kept.items()}
        taken += prefix
    return (kept, taken) if taken else (dict(state), "")


def _pickle_of(raw: bytes, where: str) -> bytes:
    """Return the pickle of torch's zip, after checks that it can be unpacked without harm."""
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        entries = archive.infolist()
        if any(e.compress_type != zipfile.ZIP_STORED for e in entries) or sum(e.file_size for e in entries) > len(raw):
            raise TensorFileError(f"{where}: holds compressed records, which torch.save never writes; refused unread")
        _check_directory(raw, archive.start_dir)
        pickles = [entry for entry in entries if entry.filename.rpartition("/")[2] == "data.pkl"]
        if len(pickles) != 1:
            raise zipfile.BadZipFile(f"{len(pickles)} records of the name data.pkl")
        if pickles[0].file_size > _MAX_PICKLE_BYTES:
            raise TensorFileError(
                f"{where}: its data.pkl has {pickles[0].file_size:,} bytes, accepted are {_MAX_PICKLE_BYTES:,}; "
                "it holds more than the names and shapes of tensors"
            )
        return archive.read(pickles[0])


def _check_directory(raw: bytes, start: int) -> None:
    """Make sure that torch finds the same list of records as Python: a zip can be built to show each another one."""
    at = len(raw) - _ZIP_END.size
    mark, *_, offset, comment = _ZIP_END.unpack_from(raw, at)
    if mark != b"PK\x05\x06" or comment:
        raise zipfile.BadZipFile("bytes after the end of the archive")
    if raw[at - _ZIP64_LOCATOR.size :].startswith(b"PK\x06\x07"):
        end = at - _ZIP64_LOCATOR.size - _ZIP64_END_BYTES
        if _ZIP64_LOCATOR.unpack_from(raw, at - _ZIP64_LOCATOR.size)[2] != end:
            raise zipfile.BadZipFile("two ends of the archive")
        (offset,) = struct.unpack_from("<Q", raw, end + 48)
    if offset != start:
        raise zipfile.BadZipFile("bytes before the start of the archive")


def _check_pickle(stream: BinaryIO, where: str) -> None:
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name == "GLOBAL":
            name = str(argument).replace(" ", ".")
            if name in _ACCEPTED:
                continue
            asked = f"asks for {name[:80]!r}"
        elif opcode.name in _FOREIGN_OPCODES:
            asked = f"asks for a function of its own (opcode {opcode.name})"
        else:
            continue
        raise TensorFileError(
            f"{where}: {asked}, which no weights need; nothing in it was executed; accepted: tensors and plain values"
        )


def _line(error: BaseException) -> str:
    # torch's own words advise `weights_only=False`; only what follows them says what is wrong.
    text = str(error).rpartition("WeightsUnpickler error:")[2].strip()
    return ascii((text.splitlines() or [type(error).__name__])[0][:160])[1:-1]
