"""Somebody else's model beside the leaderboard: its answers for the same test images, compared in pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fairface_core.errors import ConfigError
from fairface_core.prediction.given import read_answers
from fairface_core.scoring.published import PUBLISHED, Published
from fairface_core.trial.stored import Stored, read_stored
from sweep.results.bootstrap import Predictions
from sweep.results.leaderboard import Board
from sweep.results.stats import Comparison, Interval, compare, score_interval


@dataclass(frozen=True)
class Outsider:
    """One file of answers.

    Attributes:
        name: Its file name without the ending.
        test: Test mean_f1 with its 95 % interval over images.
        age_acc: Accuracy of the age group.
        gen_acc: Accuracy of gender.
        against: Itself (a) against the leader of the leaderboard (b).
    """

    name: str
    test: Interval
    age_acc: float
    gen_acc: float
    against: Comparison


def read_outsiders(board: Board, paths: Sequence[Path]) -> tuple[Outsider, ...]:
    """Score files of answers on the test images of the leader, and compare them with it.

    Args:
        board: The leaderboard.
        paths: CSVs; see `fairface_core.prediction.given.read_answers`. Every test image must be answered.

    Raises:
        ConfigError: If the leaderboard has no leader whose predictions can be used.
        DataError: With one line for each problem of a file.
    """
    if not paths:
        return ()
    leader = board.ranked[0] if board.ranked else None
    stored: Stored | str = "no configuration is ranked"
    if leader is not None:
        stored = "the predictions of its leader cannot be used"
        if leader.scored:
            stored = read_stored(board.run.folder.sub("trials", leader.full[0].trial_id), "test")
    if leader is None or isinstance(stored, str):
        raise ConfigError(f"--with: nothing to compare with in {board.run.location}: {stored}")
    found = []
    lent = [other.test_scores() for other in board.lenders(leader)]
    for path in paths:
        answers = read_answers(path, stored.file, img_col="file", allow_missing=False)
        one = Predictions(stored.age, stored.gender, answers.age, answers.gender)
        leading = [scored.test for scored in leader.scored]
        against = compare([one], leading, names=(path.stem, leader.group), lenders=lent)
        found.append(Outsider(path.stem, score_interval([one]), one.score("age_acc"), one.score("gen_acc"), against))
    return tuple(found)


def published_beside(board: Board) -> tuple[Published, ...]:
    """Return published results if every ranked configuration was scored by the official protocol; none otherwise."""
    reports = [one.best.report for one in board.ranked if one.best is not None]
    official = bool(reports) and all(report is not None and report["protocol"] == "official" for report in reports)
    return PUBLISHED if official else ()
