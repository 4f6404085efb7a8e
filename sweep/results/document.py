"""The results of a sweep as one JSON object, for programs: `--json` of sweep.run and sweep.report; see docs/json.md."""

from __future__ import annotations

import dataclasses
from typing import Any

from sweep.results.leaderboard import Board, board_rows
from sweep.results.stats import Comparison
from sweep.results.verdict import Verdict
from sweep.run_folder.going_on import count_trials, state_of

SCHEMA_VERSION = 1
_OF_A_PAIR = (
    "a",
    "b",
    "difference",
    "low",
    "high",
    "p_value",
    "p_holm",
    "margin",
    "p_equal",
    "num_seeds",
    "num_images",
)


def document(board: Board, verdict: Verdict, files: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return what a sweep has found so far.

    Args:
        board: The leaderboard.
        verdict: The answer.
        files: Names of the files that were written.
    """
    run = board.run
    return {
        "schema_version": SCHEMA_VERSION,
        "run": run.name,
        "location": run.location,
        "state": state_of(run),
        "trials": count_trials(run),
        "epochs": {
            "trained": sum(record.epochs_trained for record in run.records),
            "worst_case": run.plan.worst_case_epochs(),
        },
        "verdict": {
            "kind": verdict.kind,
            "headline": verdict.headline,
            "sentence": verdict.sentence,
            "caveats": list(verdict.caveats),
        },
        "leaderboard": board_rows(board),
        "comparisons": [_pair(pair) for pair in verdict.comparisons],
        "lost": [
            {"trial_id": r.trial_id, "status": r.status, "reason": r.reason}
            for r in run.records
            if r.status in ("failed", "diverged")
        ],
        "damaged": [{"trial_id": "", "problem": text} for text in run.problems]
        + [{"trial_id": r.trial_id, "problem": text} for r in run.records for text in r.problems]
        + [{"trial_id": trial_id, "problem": text} for trial_id, text in board.problems],
        "files": [f"{run.location}/{name}" for name in files],
    }


def _pair(pair: Comparison) -> dict[str, Any]:
    found = {field.name: getattr(pair, field.name) for field in dataclasses.fields(pair)}
    return {**{name: found[name] for name in _OF_A_PAIR}, "outcome": pair.verdict()}
