"""What the trials that are paid for give together: means of stored probabilities, chosen on validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fairface_core.scoring.intervals import mean_f1_difference, mean_f1_interval
from fairface_core.scoring.metrics import mean_probabilities
from fairface_core.trial.stored import Stored
from sweep.results.beside.candidates import Candidate
from sweep.results.bootstrap import Predictions
from sweep.results.leaderboard import Board
from sweep.run_folder.records import TrialRecord

MAX_ROUNDS = 20


@dataclass(frozen=True)
class Ensemble:
    """The mean of several trials' probabilities.

    Attributes:
        name: What it is.
        members: Its trials; one that counts twice stands here twice.
        val: Validation mean_f1.
        test: Test mean_f1, and the ends of its 95 % interval over images.
        gain: Test mean_f1 less that of the best single trial on validation, with its ends: paired, over images.
        images_per_s: Of all its trials one after another on the device where they were scored; None if not known.
    """

    name: str
    members: tuple[TrialRecord, ...]
    val: float
    test: tuple[float, float, float]
    gain: tuple[float, float, float]
    images_per_s: float | None

    @property
    def counted(self) -> dict[str, int]:
        """Trial id -> how often it counts."""
        ids = [record.trial_id for record in self.members]
        return {trial_id: ids.count(trial_id) for trial_id in ids}


def ensembles_of(board: Board, candidates: Sequence[Candidate]) -> tuple[Ensemble, ...]:
    """Return the best single trial, the ensemble of each group's best configuration, and the greedy one over all trials.

    Only full-budget trials take part, chosen on validation alone. Greedy: start with the best trial; add, again and again
    and with replacement, the one that helps validation most, until none does. Source: R. Caruana, A. Niculescu-Mizil, G.
    Crew and A. Ksikes, "Ensemble Selection from Libraries of Models", ICML 2004.

    Args:
        board: The leaderboard.
        candidates: Of its trials, those to take part, best on validation first.

    Returns:
        Empty if fewer than two trials have stored predictions of the same images.
    """
    if len(candidates) < 2:
        return ()
    best = candidates[0]
    found = [_ensemble("best single trial", [best], best)]
    for group, configuration in board.best_of_group.items():
        ids = {record.trial_id for record in configuration.full}
        seeds = [one for one in candidates if one.record.trial_id in ids]
        if len(seeds) > 1:
            found.append(_ensemble(f"{group}, {len(seeds)} seeds", seeds, best))
    greedy = _greedy(candidates)
    if len(greedy) > 1:
        found.append(_ensemble("greedy", greedy, best))
    return tuple(found)


def _greedy(candidates: Sequence[Candidate]) -> list[Candidate]:
    chosen = [candidates[0]]
    score = _mean_f1([one.val for one in chosen])
    while len(chosen) < MAX_ROUNDS:
        scores = [_mean_f1([one.val for one in (*chosen, candidate)]) for candidate in candidates]
        if max(scores) <= score:
            break
        score = max(scores)
        chosen.append(candidates[scores.index(score)])
    return chosen


def _answers(parts: Sequence[Stored]) -> tuple[np.ndarray, np.ndarray]:
    age = mean_probabilities([one.age_prob for one in parts]).argmax(axis=1)
    return age, mean_probabilities([one.gender_prob for one in parts]).argmax(axis=1)


def _mean_f1(parts: Sequence[Stored]) -> float:
    return Predictions(parts[0].age, parts[0].gender, *_answers(parts)).mean_f1


def _ensemble(name: str, members: Sequence[Candidate], best: Candidate) -> Ensemble:
    truth = best.test.age, best.test.gender
    answers = _answers([one.test for one in members])
    distinct = {one.record.trial_id: one.record for one in members}.values()
    rates = [(record.report or {}).get("timing", {}).get("eval_images_per_s") for record in distinct]
    known = [rate for rate in rates if rate]
    return Ensemble(
        name=name,
        members=tuple(one.record for one in members),
        val=_mean_f1([one.val for one in members]),
        test=mean_f1_interval(*answers, *truth),
        gain=mean_f1_difference(answers, _answers([best.test]), *truth),
        images_per_s=1 / sum(1 / rate for rate in known) if len(known) == len(rates) else None,
    )
