"""TensorBoard events of every trial: `tensorboard --logdir RUN_DIR` shows all curves, also while the sweep runs.

One file a trial, named without host or time, so that a retry replaces it. It is a view of history.csv, written by the
driver alone: a trial that is retried or resumed gets a new file with all its epochs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

EVENTS_FILE = "events.out.tfevents.curves"
# TensorBoard groups by what stands before the slash.
_PREFIXES = (("train_", "train/"), ("val_", "val/"))
_SPEED = frozenset(("train_s", "eval_s", "images_per_s", "peak_memory_gib"))


class Curves:
    """The open event files of the trials that run."""

    def __init__(self) -> None:
        self._writers: dict[str, Any] = {}

    def begin(self, trial_id: str, folder: Path, history: Sequence[Mapping[str, Any]]) -> None:
        """Start a trial's file with the epochs it has trained so far; an older file is replaced."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.record_writer import RecordWriter

        self.end(trial_id)
        folder.mkdir(parents=True, exist_ok=True)
        # A new file, not an emptied one: TensorBoard may be reading the old one.
        (folder / EVENTS_FILE).unlink(missing_ok=True)
        writer = self._writers[trial_id] = RecordWriter(str(folder / EVENTS_FILE))
        writer.write(Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())
        for epoch in history:
            self.add(trial_id, epoch)
        writer.flush()

    def add(self, trial_id: str, epoch: Mapping[str, Any]) -> None:
        """Append an epoch's figures."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        writer = self._writers.get(trial_id)
        if writer is None:
            return
        values = [
            Summary.Value(tag=_tag(name), simple_value=value)
            for name, value in epoch.items()
            if name != "epoch" and isinstance(value, int | float) and math.isfinite(value)
        ]
        event = Event(wall_time=time.time(), step=int(epoch["epoch"]), summary=Summary(value=values))
        writer.write(event.SerializeToString())
        writer.flush()

    def end(self, trial_id: str) -> None:
        """Close a trial's file."""
        writer = self._writers.pop(trial_id, None)
        if writer is not None:
            writer.close()

    def close(self) -> None:
        """Close all files."""
        for trial_id in list(self._writers):
            self.end(trial_id)


def _tag(name: str) -> str:
    if name in _SPEED:
        return f"speed/{name}"
    for prefix, group in _PREFIXES:
        if name.startswith(prefix):
            return group + name.removeprefix(prefix)
    return name
