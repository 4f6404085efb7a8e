"""What each look of `confirm: settle` saw and said."""

from __future__ import annotations

from sweep.policy.spending import spent_level
from sweep.policy.states import RungDecision
from sweep.run_folder.records import RunRecord


def looks_of(run: RunRecord) -> list[tuple[int, float, list[RungDecision]]]:
    """Return each look: its number, which is that of the seeds compared, its level, and what it said of whom, best first.

    Empty for a sweep that settles nothing, or has not looked yet.
    """
    said: dict[int, list[RungDecision]] = {}
    for record in run.records:
        for decision in record.looks:
            said.setdefault(round(decision.rung), []).append(decision)
    most = run.plan.most_seeds
    if most is None:
        return []
    return [
        (look, spent_level(look, most), sorted(said[look], key=lambda d: (-(d.value or 0.0), d.group)))
        for look in sorted(said)
    ]
