"""A ledger whose plan grows: where a machine is free and a group has configurations to come, one is proposed, stored, and run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fairface_core.files.folder import write_json
from sweep.driving.ledger import Ledger
from sweep.driving.placement import Placement
from sweep.driving.trials import Leg, Trial
from sweep.plan.plan import Plan
from sweep.policy.states import TrialState

# The plan, a group of it and what its trials say -> the plan with one more configuration of that group.
Grow = Callable[[Plan, str, Sequence[TrialState]], Plan]


class SearchLedger(Ledger):
    """All trials of a sweep that searches.

    A configuration is proposed as late as can be: when nothing that is planned can be handed over and a machine is free for it, so that it
    follows from as many results as there can be. The group with the fewest legs in Ray's hands comes first.

    Args:
        *given: As of Ledger.
        grow: Proposes.
        **more: As of Ledger.
    """

    def __init__(self, *given: Any, grow: Grow, **more: Any) -> None:
        super().__init__(*given, **more)
        self._grow = grow

    def next_leg(self, placement: Placement) -> Leg | None:
        """Return the leg to hand to Ray now, or None while nothing may be handed over."""
        leg = super().next_leg(placement)
        while leg is None and (group := self._group_to_grow(placement)) is not None:
            self._take(self._grow(self.plan, group, self._states(group)))
            leg = super().next_leg(placement)
        return leg

    def _group_to_grow(self, placement: Placement) -> str | None:
        owing = [group for group, number in self.plan.to_come.items() if number and self._has_room(group, placement)]
        return min(owing, key=lambda group: sum(trial.leg is not None for trial in self.groups[group]), default=None)

    def _has_room(self, group: str, placement: Placement) -> bool:
        """Whether a machine is free for one more trial of a group, all of whose others have one or are over."""
        choice, needs = self._choice(group), self.groups[group][0].needs
        if any(self.trials[name].leg is None for name in choice.explore):
            return False
        idle = not placement.waiting.total() + placement.running.total()
        return placement.may_submit(needs) and (idle or placement.fitting(needs) >= 1)

    def _take(self, plan: Plan) -> None:
        """Store a larger plan; only then is anything of it run."""
        self._store(lambda: write_json(self.run, "plan.json", plan.to_json()))
        self.plan = plan
        self.trials = {
            planned.trial_id: self.trials.get(planned.trial_id)
            or Trial(planned, self.run.sub("trials", planned.trial_id))
            for planned in plan.trials
        }
        self.groups = {
            group: tuple(self.trials[planned.trial_id] for planned in members)
            for group, members in plan.groups().items()
        }
        self._choices = dict.fromkeys(self.groups)
