"""Everything that stands beside the leaderboard, and what of it was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fairface_core.trial.stored import Stored, read_stored
from sweep.results.beside.candidates import read_candidates
from sweep.results.beside.ensembles import Ensemble, ensembles_of
from sweep.results.beside.floors import Floor, FloorAnswer, answer_floor
from sweep.results.beside.outsiders import Outsider, read_outsiders
from sweep.results.beside.suspects import Image, Seen, Suspect, find_suspects, worst_and_doubtful
from sweep.results.leaderboard import Board


@dataclass(frozen=True)
class Asked:
    """What a report was asked for beyond the run folder.

    Attributes:
        others: Files of other models' answers.
        floors: What every group must reach.
        num_faces: Photographs in each list of the page; 0 for none.
        root: The data folder that they lie in; None with `num_faces` 0.
    """

    others: Sequence[Path] = ()
    floors: Sequence[Floor] = ()
    num_faces: int = 0
    root: Path | None = None


@dataclass(frozen=True)
class Beside:
    """What stands beside the leaderboard.

    Attributes:
        ensembles: The best trial alone, each winner's seeds together, the greedy ensemble.
        outsiders: Other models' answers, scored.
        floors: One answer for each floor.
        suspects: Labels that may be wrong, the most doubtful first.
        num_groups: Groups (backbones) whose trials spoke of them.
        worst: Test images whose labels the winner thinks least likely; empty unless photographs were asked for.
        doubtful: Those that it is least sure of; the same.
    """

    ensembles: tuple[Ensemble, ...] = ()
    outsiders: tuple[Outsider, ...] = ()
    floors: tuple[FloorAnswer, ...] = ()
    suspects: tuple[Suspect, ...] = ()
    num_groups: int = 0
    worst: tuple[Seen, ...] = ()
    doubtful: tuple[Seen, ...] = ()

    def images(self, most: int) -> list[Image]:
        """Return the images of its lists, so many suspects among them."""
        seen = [one.image for one in (*self.worst, *self.doubtful)]
        return seen + [one.image for one in self.suspects[:most]]


def gather(board: Board, asked: Asked) -> Beside:
    """Work out what stands beside a leaderboard.

    Raises:
        ConfigError: If there is nothing that others, or a floor, could be compared with.
        DataError: If a file of answers cannot be scored.
    """
    candidates = read_candidates(board)
    worst: list[Seen] = []
    doubtful: list[Seen] = []
    best = board.ranked[0].best if board.ranked else None
    if asked.num_faces and best is not None:
        # It is no candidate where another seed of its configuration has lost its predictions.
        stored = next((one.test for one in candidates if one.record is best), None) or read_stored(
            board.run.folder.sub("trials", best.trial_id), "test"
        )
        if isinstance(stored, Stored):
            worst, doubtful = worst_and_doubtful(stored, asked.num_faces)
    return Beside(
        ensembles_of(board, candidates),
        read_outsiders(board, asked.others),
        tuple(answer_floor(board, candidates, floor) for floor in asked.floors),
        find_suspects(candidates),
        len({one.record.group for one in candidates}),
        tuple(worst),
        tuple(doubtful),
    )
