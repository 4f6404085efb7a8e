"""TensorBoard events of every trial: `tensorboard --logdir RUN_DIR` shows all curves, also while the sweep runs.

One file a trial, named without host or time, so that a retry replaces it. It is a view of history.csv, written by the
driver alone: a trial that is retried or resumed gets a new file with all its epochs. A view stops no sweep: where a disk
is full or read-only the trial's curve ends, and its next leg draws it whole again.

The format is written here, in 30 lines, because importing tensorboardX 2.6 imports torch and boto3: 2 s and 220 MB in a
driver that needs neither. Records: TensorFlow's `tsl/lib/io/record_writer.h`; messages: tensorboardX's `event.proto` and
`summary.proto`. tests/sweep/launch/test_tensorboard.py reads them back with tensorboardX.
"""

from __future__ import annotations

import contextlib
import math
import struct
import time
from collections.abc import Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import Any

from fairface_core.trial.reports import EPOCH_FIGURES

EVENTS_FILE = "events.out.tfevents.curves"
# Ray adds its own to what a trial reports (pid, done, timestamp, ...): 8 curves that say nothing.
# What never changes within a run, or is 0 in most, is no curve.
_FIGURES = frozenset(EPOCH_FIGURES) - {"epoch", "constant_mean_f1", "val_images", "raw_mean_f1"}
# TensorBoard groups by what stands before the slash.
_PREFIXES = (("train_", "train/"), ("val_", "val/"))
_SPEED = frozenset(("train_s", "eval_s", "images_per_s", "peak_memory_gib", "peak_reserved_gib", "write_wait_s"))
# CRC-32C (Castagnoli), reflected.
_POLYNOMIAL = 0x82F63B78


class Curves:
    """The open event files of the trials that run."""

    def __init__(self) -> None:
        self._files: dict[str, FileIO] = {}

    def begin(self, trial_id: str, folder: Path, history: Sequence[Mapping[str, Any]]) -> None:
        """Start a trial's file with the epochs it has trained so far; an older file is replaced."""
        self.end(trial_id)
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            # A new file, not an emptied one: TensorBoard may be reading the old one.
            (folder / EVENTS_FILE).unlink(missing_ok=True)
            # Unbuffered: what a full disk refused must not be written again by close.
            self._files[trial_id] = (folder / EVENTS_FILE).open("wb", buffering=0)
        start = _record(_double(1, time.time()) + _bytes(3, b"brain.Event:2"))
        self._append(trial_id, start + b"".join(_record(_event(epoch)) for epoch in history))

    def add(self, trial_id: str, epoch: Mapping[str, Any]) -> None:
        """Append an epoch's figures."""
        self._append(trial_id, _record(_event(epoch)))

    def end(self, trial_id: str) -> None:
        """Close a trial's file."""
        file = self._files.pop(trial_id, None)
        if file is not None:
            with contextlib.suppress(OSError):
                file.close()

    def close(self) -> None:
        """Close all files."""
        for trial_id in list(self._files):
            self.end(trial_id)

    def _append(self, trial_id: str, records: bytes) -> None:
        file = self._files.get(trial_id)
        if file is None:
            return
        try:
            whole = file.write(records) == len(records)
        except OSError:
            whole = False
        if not whole:
            # Nothing may follow half a record.
            self.end(trial_id)


def _tag(name: str) -> str:
    if name in _SPEED:
        return f"speed/{name}"
    for prefix, group in _PREFIXES:
        if name.startswith(prefix):
            return group + name.removeprefix(prefix)
    return name


def _event(epoch: Mapping[str, Any]) -> bytes:
    """Return an Event message: wall_time = 1, step = 2, summary = 5 with values (tag = 1, simple_value = 2) as 1."""
    values = b"".join(
        _bytes(1, _bytes(1, _tag(name).encode()) + _float(2, value))
        for name, value in epoch.items()
        if name in _FIGURES and isinstance(value, int | float) and math.isfinite(value)
    )
    return _double(1, time.time()) + _key(2, 0) + _varint(int(epoch["epoch"])) + _bytes(5, values)


def _record(message: bytes) -> bytes:
    length = struct.pack("<Q", len(message))
    return length + _masked_crc(length) + message + _masked_crc(message)


def _masked_crc(data: bytes) -> bytes:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _crc_of_byte(byte: int) -> int:
    for _ in range(8):
        byte = (byte >> 1) ^ (_POLYNOMIAL if byte & 1 else 0)
    return byte


_TABLE = tuple(map(_crc_of_byte, range(256)))


def _key(field: int, wire_type: int) -> bytes:
    return _varint(field << 3 | wire_type)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _bytes(field: int, data: bytes) -> bytes:
    return _key(field, 2) + _varint(len(data)) + data


def _double(field: int, value: float) -> bytes:
    return _key(field, 1) + struct.pack("<d", value)


def _float(field: int, value: float) -> bytes:
    return _key(field, 5) + struct.pack("<f", value)
