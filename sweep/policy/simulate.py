"""A sweep without training: known learning curves through the real scheduler and the real confirm policy.

It answers what early stopping saves and what it costs for given curves, in milliseconds, and lets tests stop a
sweep after any epoch and go on from what its trial folders would hold.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from sweep.policy.asha import GroupedASHA
from sweep.policy.confirm import GroupChoice, choose_group
from sweep.policy.race import RaceRule, choose_race
from sweep.policy.settle import settle
from sweep.policy.states import SETTLE, RungDecision, TrialState


@dataclass(frozen=True)
class Curve:
    """One trial and the validation mean_f1 it would reach at each epoch.

    Attributes:
        trial_id: Stable id.
        group: What it is compared within.
        config_id: The same for all seeds of a configuration.
        seed: Its seed.
        scores: Score after each epoch, at full budget; a score that is not finite ends the trial as diverged.
        epoch_s: Duration of an epoch, in any unit; decides the order in which trials reach a rung.
        constant: What the best constant answer scores.
        val_images: Validation images behind each score; 0 where it is not known.
    """

    trial_id: str
    group: str
    config_id: str
    seed: int
    scores: tuple[float, ...]
    epoch_s: float = 1.0
    constant: float = 0.0
    val_images: int = 0

    @property
    def best(self) -> float:
        """Best finite score at full budget; -inf where none is."""
        return max((score for score in self.scores if math.isfinite(score)), default=-math.inf)


@dataclass(frozen=True)
class Outcome:
    """How a simulated sweep ended, or stood when it was cut off.

    Attributes:
        states: One for each curve, in the same order, as the trial folders would tell.
        choices: What every group needs next; all are done unless the sweep was cut off.
        num_epochs: Epochs trained in this call.
        duration: From start to end, in the unit of `Curve.epoch_s`.
    """

    states: tuple[TrialState, ...]
    choices: dict[str, GroupChoice]
    num_epochs: int
    duration: float


def plan_states(curves: Sequence[Curve], *, explore_seeds: int | None = None) -> tuple[TrialState, ...]:
    """Return the states of a sweep that has not begun.

    Args:
        curves: All trials, in plan order.
        explore_seeds: How many seeds explore, in the order in which they appear; None for all.
    """
    seeds = list(dict.fromkeys(curve.seed for curve in curves))[:explore_seeds]
    return tuple(
        TrialState(
            curve.trial_id,
            curve.group,
            curve.config_id,
            curve.seed,
            curve.seed in seeds,
            constant=curve.constant,
            val_images=curve.val_images,
        )
        for curve in curves
    )


def simulate(
    curves: Sequence[Curve],
    states: Iterable[TrialState],
    *,
    grace_epochs: int,
    reduction_factor: float,
    confirm: bool | Literal["settle"] = True,
    num_slots: int = 1,
    max_epochs: int | None = None,
    in_plan_order: bool = False,
    race: bool = False,
    margin: float = 0.01,
) -> Outcome:
    """Run a sweep, or go on with one that was cut off.

    Whenever a slot is free, the group with the longest epochs that has something to run gets it.

    Args:
        curves: All trials, in plan order.
        states: Where they stand, in the same order; `plan_states` for a fresh sweep.
        grace_epochs: As in `GroupedASHA`.
        reduction_factor: As in `GroupedASHA`.
        confirm: Whether winners are brought to the full budget, or get their seeds in rounds.
        num_slots: Trials that run at the same time.
        max_epochs: Cut the sweep off after this many epochs; running ones are lost, as after a kill.
        in_plan_order: Start exploring trials in plan order and not in the policy's, for comparison.
        race: Whether configurations race; else ASHA stops trials.
        margin: As in `settle`.
    """
    known = {curve.trial_id: curve for curve in curves}
    now = {state.trial_id: state for state in states}
    assert list(known) == list(now), "states and curves name the same trials in the same order"
    epochs = len(curves[0].scores)
    assert all(len(curve.scores) == epochs for curve in curves), "all curves have the full budget"
    scheduler = GroupedASHA(epochs=epochs, grace_epochs=grace_epochs, reduction_factor=reduction_factor)
    rule = RaceRule(epochs, grace_epochs, reduction_factor)

    def note(decisions: Iterable[RungDecision]) -> None:
        for decision in decisions:
            state = now[decision.trial_id]
            if decision.kind == SETTLE:
                now[decision.trial_id] = replace(state, looks=(*state.looks, decision))
            else:
                now[decision.trial_id] = replace(state, decisions=(*state.decisions, decision))

    if not race:
        note(scheduler.refill(now.values()))

    members: dict[str, list[str]] = {}
    for curve in curves:
        members.setdefault(curve.group, []).append(curve.trial_id)
    # Longest epochs first, so that nothing long is left for the end.
    groups = sorted(members, key=lambda name: -max(known[t].epoch_s for t in members[name]))
    position = {trial_id: place for place, trial_id in enumerate(known)}
    running: list[tuple[float, int, str]] = []
    ticket = itertools.count()
    clock, num_epochs = 0.0, 0

    fresh: dict[str, GroupChoice] = {}
    settled: dict[str, GroupChoice] = {}

    def choice_of(group: str) -> GroupChoice:
        """Ask the policies and write down what they say of trials that are not to run."""
        if confirm != SETTLE:
            return alone(group)
        if not settled:
            settled.update(settle({name: alone(name) for name in members}, states_of(), margin=margin))
            while made := [d for choice in settled.values() for d in choice.decisions]:
                note(made)
                settled.update(settle({name: alone(name) for name in members}, states_of(), margin=margin))
            for choice in settled.values():
                for trial_id in choice.left:
                    now[trial_id] = replace(now[trial_id], status="stopped" if now[trial_id].scores else "skipped")
        return settled[group]

    def states_of() -> dict[str, list[TrialState]]:
        return {name: [now[t] for t in trials] for name, trials in members.items()}

    def alone(group: str) -> GroupChoice:
        """Ask for one group as if its winner were to run with all its seeds."""
        if race and group in fresh:
            return fresh[group]
        if race:
            choice = choose_race([now[t] for t in members[group]], rule)
            while choice.decisions:
                note(choice.decisions)
                choice = choose_race([now[t] for t in members[group]], rule)
        else:
            choice = choose_group([now[t] for t in members[group]], confirm=confirm is not False)
        for trial_id in choice.stopped:
            now[trial_id] = replace(now[trial_id], status="stopped")
        for trial_id in choice.skipped:
            now[trial_id] = replace(now[trial_id], status="skipped")
        fresh[group] = choice
        return choice

    def start() -> bool:
        """Give a free slot to the first trial that waits for one."""
        busy = {trial_id for _, _, trial_id in running}
        for group in groups:
            choice = choice_of(group)
            explore = sorted(choice.explore, key=position.__getitem__) if in_plan_order else choice.explore
            trial_id = next((t for t in (*explore, *choice.confirm) if t not in busy), None)
            if trial_id is not None:
                if trial_id in choice.confirm:
                    confirming.add(trial_id)
                now[trial_id] = replace(now[trial_id], status="running")
                heapq.heappush(running, (clock + known[trial_id].epoch_s, next(ticket), trial_id))
                return True
        return False

    confirming: set[str] = set()
    while max_epochs is None or num_epochs < max_epochs:
        while len(running) < num_slots and start():
            pass
        if not running:
            break
        clock, _, trial_id = heapq.heappop(running)
        curve, state = known[trial_id], now[trial_id]
        fresh.pop(curve.group, None)
        settled.clear()
        epoch = len(state.scores) + 1
        assert epoch <= epochs, f"{trial_id} was run past its budget"
        score = curve.scores[epoch - 1]
        num_epochs += 1
        if not math.isfinite(score):
            now[trial_id] = replace(state, status="diverged")
        elif race:
            now[trial_id] = replace(
                state, scores=(*state.scores, score), status="completed" if epoch == epochs else "running"
            )
            choice = choice_of(curve.group)
            if trial_id in (*choice.explore, *choice.confirm):
                heapq.heappush(running, (clock + curve.epoch_s, next(ticket), trial_id))
            elif now[trial_id].status == "running":
                now[trial_id] = replace(now[trial_id], status="planned")
        else:
            go_on = True
            if trial_id not in confirming:
                go_on = scheduler.on_epoch(trial_id, curve.group, epoch, score, curve.constant) == "continue"
            now[trial_id] = state = replace(
                state, scores=(*state.scores, score), decisions=scheduler.decisions_of(trial_id)
            )
            if go_on and epoch < epochs:
                heapq.heappush(running, (clock + curve.epoch_s, next(ticket), trial_id))
                continue
            now[trial_id] = replace(state, status="completed" if go_on else "stopped")
    choices = {group: choice_of(group) for group in members}
    return Outcome(tuple(now.values()), choices, num_epochs, clock)
