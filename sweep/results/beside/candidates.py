"""The full-budget trials whose stored probabilities can be put together: scored on the leader's images."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from fairface_core.trial.stored import Stored, read_stored
from sweep.results.leaderboard import Board
from sweep.run_folder.records import TrialRecord

# The best on validation: of more, each further one costs time and says little.
MAX_CANDIDATES = 40
_READERS = 8


@dataclass(frozen=True)
class Candidate:
    """One trial and what it stored.

    Attributes:
        record: The trial.
        val: Of validation.
        test: Of the test images.
    """

    record: TrialRecord
    val: Stored
    test: Stored


def read_candidates(board: Board) -> tuple[Candidate, ...]:
    """Return the full-budget trials that were scored on the leader's images, best on validation first."""
    records = [record for one in board.ranked if one.scored for record in one.full]
    records.sort(key=lambda record: (-(record.best_mean_f1 or 0.0), record.trial_id))

    def read(record: TrialRecord) -> Candidate | None:
        folder = board.run.folder.sub("trials", record.trial_id)
        val, test = read_stored(folder, "val"), read_stored(folder, "test")
        return Candidate(record, val, test) if isinstance(val, Stored) and isinstance(test, Stored) else None

    with ThreadPoolExecutor(_READERS) as pool:
        found = [one for one in pool.map(read, records[:MAX_CANDIDATES]) if one is not None]
    return tuple(
        one for one in found if (one.val.images, one.test.images) == (found[0].val.images, found[0].test.images)
    )
