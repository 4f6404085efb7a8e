"""The trial behind a group's detailed figures, and its confusion matrices."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import Any

from fairface_core.errors import StorageError
from fairface_core.labels import AGE_GROUPS, GENDERS
from sweep.results.leaderboard import Board, Configuration
from sweep.run_folder.records import RunRecord, TrialRecord


@dataclass(frozen=True)
class BestTrial:
    """The trial behind a group's detailed figures: the best seed, on validation, of its best configuration.

    Attributes:
        configuration: The configuration.
        record: The trial.
        matrices: Title and rows of each confusion matrix; a row is (label, counts, images).
    """

    configuration: Configuration
    record: TrialRecord
    matrices: tuple[tuple[str, tuple[str, ...], list[tuple[str, list[int], int]]], ...]

    @property
    def report(self) -> dict[str, Any]:
        """Its report.json."""
        assert self.record.report is not None
        return self.record.report

    @property
    def compared(self) -> bool:
        """Whether some of its subgroups have images enough to be compared."""
        gaps = (self.report.get("subgroups") or {}).get("largest_gap") or {}
        return any(metric for axis in gaps.values() for metric in (axis or {}).values())


def best_trials(board: Board) -> tuple[list[BestTrial], list[tuple[str, str]]]:
    """Return the best trial of each ranked group, best group first, and (trial id, what is damaged)."""
    best: list[BestTrial] = []
    problems: list[tuple[str, str]] = []
    for configuration in board.best_of_group.values():
        record = configuration.best
        assert record is not None, "a ranked configuration has full runs"
        matrices = []
        for task, labels in (("age", AGE_GROUPS), ("gender", GENDERS)):
            counts = read_matrix(board.run, record, task, len(labels))
            if isinstance(counts, str):
                problems.append((record.trial_id, counts))
            else:
                rows = [(label, row, sum(row)) for label, row in zip(labels, counts, strict=True)]
                matrices.append((task, labels, rows))
        best.append(BestTrial(configuration, record, tuple(matrices)))
    return best, problems


def read_matrix(run: RunRecord, record: TrialRecord, task: str, size: int) -> list[list[int]] | str:
    """Return a trial's confusion matrix (rows = truth), or what is wrong with the file."""
    name = f"confusion_matrix_{task}.csv"
    try:
        text = run.folder.sub("trials", record.trial_id).read(name).decode("ascii")
        rows = [[int(cell) for cell in row] for row in csv.reader(io.StringIO(text)) if row]
    except FileNotFoundError:
        return f"{name}: missing"
    except (StorageError, ValueError, csv.Error):
        return f"{name}: damaged; {size} x {size} whole numbers are expected"
    if len(rows) != size or any(len(row) != size or min(row) < 0 for row in rows):
        return f"{name}: damaged; {size} x {size} whole numbers are expected"
    return rows
