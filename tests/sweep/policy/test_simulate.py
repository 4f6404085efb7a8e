"""Simulated sweeps: what is counted, who gets a slot, and that the policy's order is what makes ASHA save."""

from __future__ import annotations

import math

from sweep.policy.simulate import Curve, Outcome, plan_states, simulate

EPOCHS = 20
RULE = {"grace_epochs": 3, "reduction_factor": 3}


def curve(trial_id: str, level: float, *, group: str = "g", epoch_s: float = 1.0) -> Curve:
    """`a1` is seed 1 of configuration `a`; levels keep their order at every epoch."""
    scores = tuple(level * (1 - math.exp(-epoch / 4)) for epoch in range(1, EPOCHS + 1))
    return Curve(f"{group}-{trial_id}", group, f"{group}-{trial_id[0]}", int(trial_id[1]), scores, epoch_s)


def grid(levels: dict[str, float], *, num_seeds: int = 3, **changes: object) -> list[Curve]:
    return [
        curve(f"{config}{seed}", level + 0.001 * seed, **changes)
        for seed in range(num_seeds)
        for config, level in levels.items()
    ]


def trained(out: Outcome) -> dict[str, int]:
    return {state.trial_id.removeprefix("g-"): len(state.scores) for state in out.states}


def test_a_lone_trial_runs_to_its_budget() -> None:
    out = simulate([curve("a0", 0.7)], plan_states([curve("a0", 0.7)]), **RULE)
    assert (out.num_epochs, out.duration) == (EPOCHS, EPOCHS)
    assert out.states[0].status == "completed"
    assert out.choices["g"].done and out.choices["g"].winner == "g-a"


def test_a_falling_order_stops_all_but_the_best_at_the_first_rung() -> None:
    curves = grid({"a": 0.5, "b": 0.7, "c": 0.6}, num_seeds=1)
    out = simulate(curves, plan_states(curves), **RULE)
    assert trained(out) == {"a0": 3, "b0": EPOCHS, "c0": 3}
    assert out.num_epochs == EPOCHS + 6


def test_confirm_brings_every_seed_of_the_winner_to_the_budget_and_skips_the_rest() -> None:
    curves = grid({"a": 0.5, "b": 0.7, "c": 0.6})
    out = simulate(curves, plan_states(curves, explore_seeds=1), **RULE)
    assert trained(out) == {"a0": 3, "b0": EPOCHS, "c0": 3} | {f"b{s}": EPOCHS for s in (1, 2)} | {
        f"{c}{s}": 0 for c in "ac" for s in (1, 2)
    }
    assert {s.trial_id: s.status for s in out.states if not s.scores} == {
        f"g-{c}{s}": "skipped" for c in "ac" for s in (1, 2)
    }
    without = simulate(curves, plan_states(curves, explore_seeds=1), **RULE, confirm=False)
    assert without.num_epochs == EPOCHS + 6


def test_slots_are_shared_and_the_longest_group_goes_first() -> None:
    short, long = grid({"a": 0.5}, num_seeds=1), grid({"a": 0.6}, num_seeds=1, group="h", epoch_s=3.0)
    curves = short + long
    assert simulate(curves, plan_states(curves), **RULE, num_slots=2).duration == 3 * EPOCHS
    assert simulate(curves, plan_states(curves), **RULE, num_slots=1).duration == 4 * EPOCHS
    cut = simulate(curves, plan_states(curves), **RULE, max_epochs=2)
    assert [(s.group, s.status, len(s.scores)) for s in cut.states] == [("g", "planned", 0), ("h", "running", 2)]


def test_wherever_the_best_lies_on_a_grid_the_policys_order_saves_half() -> None:
    spent: dict[str, list[int]] = {"policy": [], "plan": []}
    for best in range(5):
        levels = {name: 0.7 - 0.02 * (i - best) ** 2 for i, name in enumerate("abcde")}
        curves = grid(levels)
        for order, in_plan_order in (("policy", False), ("plan", True)):
            out = simulate(curves, plan_states(curves), **RULE, in_plan_order=in_plan_order)
            assert out.choices["g"].winner == f"g-{'abcde'[best]}"
            spent[order].append(out.num_epochs)
    full = len(curves) * EPOCHS
    assert max(spent["policy"]) < full / 2
    # Where scores arrive in rising order, each passes the rungs that its predecessors left.
    assert max(spent["plan"]) > 1.5 * max(spent["policy"])
