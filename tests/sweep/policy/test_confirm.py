"""The confirm policy: who explores, who wins, who is confirmed, skipped and pruned, in whatever state the sweep is."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sweep.policy.confirm import GroupChoice, choose_group
from sweep.policy.simulate import Curve, plan_states, simulate
from sweep.policy.states import RungDecision, TrialState, decisions_from_json, decisions_to_json

EPOCHS = 6


def trial(
    name: str, status: str, scores: tuple[float, ...] = (), *, stop: int | None = None, **changes: Any
) -> TrialState:
    """`a1` is seed 1 of configuration `a`; `stop` is the epoch at which a rung stopped it."""
    decisions = (RungDecision(name, "g", stop, stop, scores[stop - 1], 1.0, True, 0),) if stop else ()
    fields = {"group": "g", "config_id": name[0], "seed": int(name[1]), "explores": True, **changes}
    return TrialState(name, status=status, scores=scores, decisions=decisions, **fields)


def full(*scores: float) -> tuple[float, ...]:
    return (0.0,) * (EPOCHS - len(scores)) + scores


def test_at_the_start_every_trial_explores() -> None:
    states = [trial(name, "planned") for name in ("a0", "a1", "b0", "b1")]
    choice = choose_group(states)
    assert sorted(choice.explore) == ["a0", "a1", "b0", "b1"]
    assert (choice.over, choice.winner, choice.confirm, choice.skipped, choice.prune, choice.done) == (
        False, None, (), (), (), False,
    )  # fmt: skip


def test_exploration_starts_in_the_middle_and_then_follows_the_best() -> None:
    states = [trial(f"{c}{s}", "planned") for c in "abcde" for s in (0, 1)]
    first_seeds = ["c0", "b0", "d0", "a0", "e0"]
    assert list(choose_group(states).explore[:5]) == first_seeds
    ran = [
        trial("a0", "stopped", (0.2, 0.3), stop=2), trial("b0", "completed", full(0.5)),
        trial("c0", "completed", full(0.4)), trial("d0", "running", (0.6,)), trial("e0", "planned"),
    ]  # fmt: skip
    now = [next((t for t in ran if t.trial_id == s.trial_id), s) for s in states]
    assert choose_group(now).explore == ("d0", "e0", "d1", "b1", "c1", "a1", "e1")


def test_the_winner_has_the_best_mean_over_its_furthest_seeds_of_the_best_epoch_so_far() -> None:
    states = [
        # One seed got furthest: 0.60 counts, neither its last epoch nor the seed that stopped.
        trial("a0", "completed", full(0.60, 0.30)),
        trial("a1", "stopped", (0.9, 0.9, 0.1), stop=3),
        # Both seeds got as far: (0.66 + 0.56) / 2 = 0.61.
        trial("b0", "stopped", (0.1, 0.66, 0.5), stop=3),
        trial("b1", "stopped", (0.1, 0.2, 0.56), stop=3),
        trial("c0", "stopped", (0.1, 0.2), stop=2),
        trial("c1", "stopped", (0.1, 0.2), stop=2),
    ]
    choice = choose_group(states)
    assert choice.over and not choice.done
    assert choice.winner == "b" and choice.winner_score == pytest.approx(0.61)
    assert choice.confirm == ("b0", "b1")
    assert choice.stopped == ("a1", "c0", "c1")
    # b has no full run yet: should both its seeds fail, a is confirmed, and a1 needs its state. c never is.
    assert choice.prune == ("a0", "c0", "c1")


def test_equal_means_go_to_the_smaller_config_id_in_any_order() -> None:
    states = [trial(f"{c}0", "completed", full(0.5)) for c in "bca"]
    assert choose_group(states).winner == choose_group(states[::-1]).winner == "a"


def test_the_seeds_that_did_not_explore_run_for_the_winner_alone() -> None:
    states = [
        trial("a0", "completed", full(0.7)), trial("a1", "planned", explores=False),
        trial("b0", "stopped", (0.1, 0.2), stop=2), trial("b1", "planned", explores=False),
    ]  # fmt: skip
    early = choose_group([replace(states[0], status="running"), *states[1:]])
    assert early.explore == ("a0",) and early.confirm == early.skipped == ()
    choice = choose_group(states)
    assert (choice.winner, choice.confirm, choice.skipped) == ("a", ("a1",), ("b1",))
    assert choice.skip_reason == "a won g with mean_f1 0.7000; only its seeds are run to the full budget"
    assert choice.prune == ("a0", "b0")
    ended = [replace(t, status={"a1": "completed", "b1": "skipped"}.get(t.trial_id, t.status)) for t in states]
    assert choose_group(ended).done
    assert choose_group(ended).skipped == ("b1",)


def test_nothing_is_confirmed_when_confirm_is_off() -> None:
    states = [
        trial("a0", "stopped", (0.1, 0.2), stop=2), trial("b0", "stopped", (0.1, 0.3), stop=2),
        trial("b1", "planned", explores=False),
    ]  # fmt: skip
    choice = choose_group(states, confirm=False)
    assert (choice.winner, choice.confirm, choice.done) == ("b", (), True)
    assert choice.stopped == choice.prune == ("a0", "b0")
    assert choice.skipped == ("b1",) and choice.skip_reason.startswith("confirm is off")


@pytest.mark.parametrize("status", ["failed", "diverged"])
def test_a_winner_that_lost_a_seed_is_confirmed_with_the_others(status: str) -> None:
    states = [
        trial("a0", status, (0.1, 0.2)),
        trial("a1", "completed", full(0.7)),
        trial("a2", "stopped", (0.2, 0.3), stop=2),
    ]
    choice = choose_group(states)
    assert (choice.winner, choice.winner_score, choice.confirm) == ("a", pytest.approx(0.7), ("a2",))
    assert not choose_group([*states[:2], replace(states[2], status="completed")]).confirm


def test_a_configuration_that_diverged_for_one_seed_comes_after_those_that_did_not() -> None:
    a = [trial("a0", "completed", full(0.9)), trial("a1", "diverged", (0.8,))]
    b = [trial("b0", "completed", full(0.5)), trial("b1", "failed", (0.4,))]
    assert choose_group([*a, *b]).winner == "b"
    assert choose_group(a).winner == "a"
    # Divergence while it is being confirmed comes too late to change the winner.
    late = [trial("a0", "completed", full(0.9)), trial("a1", "diverged", (0.8, 0.1, 0.1), stop=1)]
    assert choose_group([*late, *b]).winner == "a"


def test_when_every_seed_of_the_winner_is_lost_the_next_configuration_is_confirmed() -> None:
    states = [
        trial("a0", "stopped", (0.1, 0.5), stop=2), trial("a1", "planned", explores=False),
        trial("b0", "stopped", (0.1, 0.4), stop=2), trial("b1", "planned", explores=False),
    ]  # fmt: skip
    before = choose_group(states)
    assert (before.winner, before.confirm) == ("a", ("a0", "a1"))
    assert before.skipped == () and before.prune == ()
    after = choose_group([replace(t, status="failed") if t.config_id == "a" else t for t in states])
    assert (after.winner, after.confirm, after.done) == ("b", ("b0", "b1"), False)


def test_a_group_that_is_lost_altogether_has_no_winner_and_is_done() -> None:
    states = [
        trial("a0", "diverged"), trial("a1", "planned", explores=False),
        trial("b0", "diverged", (math.nan,)), trial("b1", "planned", explores=False), trial("c0", "failed", (0.3,)),
    ]  # fmt: skip
    choice = choose_group(states)
    assert choice.done and choice.winner is None and choice.winner_score is None
    assert choice.skipped == ("a1", "b1")
    assert choice.skip_reason == "no configuration of g survived exploration (2 diverged, 1 failed)"


def test_states_are_pruned_as_soon_as_their_configuration_cannot_win() -> None:
    done = trial("a0", "completed", full(0.7))
    states = [
        done, trial("a1", "stopped", (0.1, 0.2), stop=2),
        trial("b0", "stopped", (0.1, 0.5), stop=2),
        trial("c0", "running", (0.1,)),
        trial("d0", "failed", (0.1,)), trial("d1", "stopped", (0.1, 0.3), stop=2),
    ]  # fmt: skip
    # c goes on exploring; b is beaten for certain. d's failed seed may be retried on resume and d may win then.
    assert choose_group(states).prune == ("a0", "b0")
    # With a failed seed a's own standing may fall on a retry: nothing is certain.
    assert choose_group([*states, trial("a2", "failed", (0.1,))]).prune == ("a0",)


def test_groups_are_never_mixed() -> None:
    states = [trial("a0", "completed", full(0.2)), trial("b0", "planned", group="h")]
    with pytest.raises(AssertionError, match="one group"):
        choose_group(states)


def test_decisions_survive_their_file() -> None:
    decisions = (
        RungDecision("t", "g", 2.5, 3, 0.123456789012345, None, False, 7),
        RungDecision("t", "g", 6.25, 7, 0.1, 0.2, True, 9),
        RungDecision("t", "g", 15.625, 16, 0.15, 0.18, False, 11, constant=0.2),
    )
    assert decisions_from_json(decisions_to_json(decisions)) == decisions
    assert decisions[1].detail() == {
        "kind": "asha", "rung": 6.25, "epoch": 7, "score": 0.1, "cutoff": 0.2, "phase": "explore",
    }  # fmt: skip
    assert decisions[0].reason() == "goes on by ASHA at epoch 3 (rung 2.5): mean_f1 0.1235, first in its rung"
    assert decisions[1].reason() == "stopped by ASHA at epoch 7 (rung 6.25): mean_f1 0.1000, cutoff 0.2000"


def test_decisions_of_earlier_versions_are_read() -> None:
    (decision,) = decisions_from_json({"schema_version": 1, "decisions": [GOOD]})
    assert decision == RungDecision("t", "g", 3, 3, 0.1, None, False, 0, constant=0.0)


GOOD = {"trial_id": "t", "group": "g", "rung": 3, "epoch": 3, "score": 0.1, "cutoff": None, "stop": False, "order": 0}


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ([], 'a list "decisions"'),
        ({"schema_version": 1}, 'a list "decisions"'),
        ({"schema_version": 2, "decisions": []}, "schema_version 2"),
        ({"schema_version": 1, "decisions": [{"rung": 3}]}, "decision 0: expected exactly the keys"),
        ({"schema_version": 1, "decisions": [GOOD, {**GOOD, "stop": 1}]}, "decision 1: stop = 1"),
        ({"schema_version": 1, "decisions": [{**GOOD, "epoch": True}]}, "decision 0: epoch = True"),
        ({"schema_version": 1, "decisions": [{**GOOD, "score": "0.1"}]}, "decision 0: score = '0.1'"),
        ({"schema_version": 1, "decisions": [{**GOOD, "constant": None}]}, "decision 0: constant = None"),
    ],
)
def test_a_damaged_decisions_file_says_what_is_wrong(value: object, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        decisions_from_json(value)


# A sweep in which anything can happen next: an epoch, a stop, a crash, a divergence, a retry of what failed.
events = st.lists(
    st.tuples(
        st.integers(0, 8),
        st.sampled_from(["epoch"] * 12 + ["stop", "fail", "diverge", "retry"]),
        st.integers(0, 20),
    ),
    max_size=120,
)  # fmt: skip


class Rough:
    """Applies such events to trial states, running only what `choose_group` names, and watches its promises."""

    def __init__(self, explore_seeds: int, *, confirm: bool) -> None:
        self.confirm = confirm
        self.states = {
            f"{c}{s}": trial(f"{c}{s}", "planned", explores=s < explore_seeds) for c in "abc" for s in range(3)
        }
        self.pruned: set[str] = set()
        self.choice = self.choose()

    def choose(self) -> GroupChoice:
        choice = choose_group(list(self.states.values()), confirm=self.confirm)
        self.pruned |= set(choice.prune)
        # What was pruned is never run again; what runs is never called stopped, skipped or done.
        named = {*choice.explore, *choice.confirm}
        assert not self.pruned & named
        assert not named & {*choice.stopped, *choice.skipped}
        assert choice.done == (choice.over and not choice.confirm)
        assert not (choice.explore and choice.confirm)
        for trial_id in (*choice.explore, *choice.confirm):
            assert self.states[trial_id].status not in ("completed", "failed", "diverged")
        return choice

    def set(self, trial_id: str, **changes: Any) -> None:
        # A new value, as if read from its folder: nothing worked out before is kept.
        self.states[trial_id] = replace(self.states[trial_id], **changes)
        before = self.choice
        self.choice = self.choose()
        lost = changes.get("status") in ("failed", "diverged", "planned")
        if before.winner and not lost:
            assert (self.choice.winner, self.choice.winner_score) == (before.winner, before.winner_score)

    def happen(self, number: int, event: str, score: int) -> None:
        if event == "retry":
            failed = [t for t, s in self.states.items() if s.status == "failed"]
            if failed:
                self.set(failed[number % len(failed)], status="planned")
            return
        named = (*self.choice.explore, *self.choice.confirm)
        if not named:
            return
        trial_id = named[number % len(named)]
        state = self.states[trial_id]
        exploring = trial_id in self.choice.explore
        if event in ("fail", "diverge"):
            self.set(trial_id, status={"fail": "failed", "diverge": "diverged"}[event])
        elif event == "stop" and exploring and 0 < len(state.scores) < EPOCHS:
            epoch = len(state.scores)
            stop = RungDecision(trial_id, "g", epoch, epoch, state.scores[-1], 1.0, True, 0)
            self.set(trial_id, decisions=(stop,), status="stopped")
        elif event == "epoch":
            scores = (*state.scores, score / 20)[:EPOCHS]
            self.set(trial_id, scores=scores, status="completed" if len(scores) == EPOCHS else "running")


@given(events, st.integers(1, 3), st.booleans())
@example([(0, event, 0) for event in ("epoch", "stop", "fail", "fail", "epoch", "retry")], 1, True)
@settings(max_examples=300, deadline=None)
def test_whatever_happens_the_sweep_keeps_its_promises_and_ends(
    happenings: list[tuple[int, str, int]], explore_seeds: int, confirm: bool
) -> None:
    sweep = Rough(explore_seeds, confirm=confirm)
    for happening in happenings:
        sweep.happen(*happening)
    for _ in range(9 * EPOCHS + 9):
        if sweep.choice.done:
            break
        sweep.happen(0, "epoch", 10)
    assert sweep.choice.done
    for trial_id in sweep.choice.skipped:
        sweep.set(trial_id, status="skipped")
    # A seed that was being confirmed when a retry gave another winner.
    for trial_id in sweep.choice.stopped:
        sweep.set(trial_id, status="stopped")
    statuses = {state.status for state in sweep.states.values()}
    assert statuses <= {"completed", "stopped", "diverged", "failed", "skipped", "planned"}
    of_winner = [s for s in sweep.states.values() if s.config_id == sweep.choice.winner]
    if confirm and of_winner:
        assert {s.status for s in of_winner} <= {"completed", "failed", "diverged"}
        assert any(s.status == "completed" for s in of_winner)
        assert "planned" not in statuses


curve_lists = st.lists(st.lists(st.integers(0, 40), min_size=EPOCHS, max_size=EPOCHS), min_size=12, max_size=12)


def curves_of(lists: list[list[int]]) -> list[Curve]:
    return [
        Curve(f"{g}{c}{s}", g, f"{g}{c}", s, tuple(math.nan if x == 0 else x / 40 for x in lists[6 * i + 2 * j + s]))
        for i, g in enumerate("gh")
        for j, c in enumerate("abc")
        for s in (0, 1)
    ]


@given(curve_lists, st.lists(st.integers(0, 25), max_size=6), st.sampled_from([None, 1]))
@settings(max_examples=150, deadline=None)
def test_a_sweep_killed_after_any_epochs_ends_as_the_undisturbed_one(
    lists: list[list[int]], kills: list[int], explore_seeds: int | None
) -> None:
    curves = curves_of(lists)
    start = plan_states(curves, explore_seeds=explore_seeds)
    rule = {"grace_epochs": 1, "reduction_factor": 2}
    undisturbed = simulate(curves, start, **rule)
    states, spent = start, 0
    for epochs in kills:
        cut = simulate(curves, states, **rule, max_epochs=epochs)
        states, spent = cut.states, spent + cut.num_epochs
    end = simulate(curves, states, **rule)
    assert end.states == undisturbed.states
    assert spent + end.num_epochs == undisturbed.num_epochs
    assert {g: (c.winner, c.winner_score) for g, c in end.choices.items()} == {
        g: (c.winner, c.winner_score) for g, c in undisturbed.choices.items()
    }


@given(curve_lists, st.lists(st.integers(0, 25), max_size=6), st.integers(2, 5))
@settings(max_examples=100, deadline=None)
def test_with_trials_side_by_side_a_killed_sweep_still_ends_whole(
    lists: list[list[int]], kills: list[int], num_slots: int
) -> None:
    curves = curves_of(lists)
    states, rule = plan_states(curves), {"grace_epochs": 1, "reduction_factor": 2, "num_slots": num_slots}
    spent = 0
    for epochs in [*kills, None]:
        cut = simulate(curves, states, **rule, max_epochs=epochs)
        stops = {s.trial_id: s.stop for s in states if s.stop}
        states, spent = cut.states, spent + cut.num_epochs
        assert stops.items() <= {s.trial_id: s.stop for s in states}.items()
    assert all(choice.done for choice in cut.choices.values())
    assert spent == sum(len(s.scores) + (s.status == "diverged") for s in states)
    assert {s.status for s in states} <= {"completed", "stopped", "diverged"}
    for choice in cut.choices.values():
        seeds = [s for s in states if s.config_id == choice.winner]
        assert all(s.status in ("completed", "diverged") for s in seeds)
