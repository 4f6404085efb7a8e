"""The race: who runs to which rung, who falls by what, and that neither order nor kills nor retries change it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from sweep.policy.asha import GroupedASHA
from sweep.policy.confirm import GroupChoice
from sweep.policy.gap import FULL_GAP_ERRORS, GAP_ERRORS, sampling_error
from sweep.policy.race import RaceRule, choose_race, rung_epochs
from sweep.policy.simulate import Curve, plan_states, simulate
from sweep.policy.states import RungDecision, TrialState, decisions_from_json, decisions_to_json

EPOCHS = 9
RULE = RaceRule(EPOCHS, 1, 3)  # rungs 1 and 3
Curves = Mapping[str, tuple[float, ...]]


class Course:
    """One group's race on known curves, run trial by trial and epoch by epoch, in whatever order a test asks for."""

    def __init__(self, curves: Curves, *, rule: RaceRule = RULE, constant: float = 0.0) -> None:
        self.curves, self.rule = dict(curves), rule
        self.states = {
            name: TrialState(name, "g", name[0], int(name[1]), True, constant=constant, val_images=2_000)
            for name in curves
        }

    @property
    def choice(self) -> GroupChoice:
        """Ask, and take every new decision to the states, as the driver does."""
        order = sum(len(state.decisions) for state in self.states.values())
        choice = choose_race(list(self.states.values()), self.rule, next_order=order)
        if not choice.decisions:
            return choice
        for decision in choice.decisions:
            self.change(decision.trial_id, decisions=(*self.states[decision.trial_id].decisions, decision))
        return self.choice

    def change(self, name: str, **changes: object) -> None:
        self.states[name] = replace(self.states[name], **changes)

    def wanted(self) -> tuple[str, ...]:
        choice = self.choice
        return (*choice.explore, *choice.confirm)

    def epoch(self, name: str) -> None:
        """Train one epoch of a trial; a score that is not finite is a divergence."""
        scores = self.states[name].scores
        score = self.curves[name][len(scores)]
        if not math.isfinite(score):
            self.change(name, status="diverged")
            return
        self.change(name, scores=(*scores, score), status="completed" if len(scores) + 1 == EPOCHS else "running")

    def run(self, pick: Callable[[tuple[str, ...]], str] = lambda wanted: wanted[0]) -> Course:
        while wanted := self.wanted():
            self.epoch(pick(wanted))
        return self

    def run_to(self, depths: Mapping[str, int]) -> Course:
        for name, depth in depths.items():
            for _ in range(depth - len(self.states[name].scores)):
                self.epoch(name)
        return self

    def depths(self) -> dict[str, int]:
        return {name: len(state.scores) for name, state in self.states.items()}

    def story(self) -> set[tuple[object, ...]]:
        """All decisions, but for their order."""
        return {
            (d.trial_id, d.rung, d.epoch, d.score, d.cutoff, d.stop, d.value)
            for state in self.states.values()
            for d in state.decisions
        }


def flat(**levels: float) -> dict[str, tuple[float, ...]]:
    """Curves that never rise, `a=0.5` for three seeds of configuration `a`."""
    return {f"{config}{seed}": (level,) * EPOCHS for seed in range(3) for config, level in levels.items()}


def test_the_rungs_are_ashas() -> None:
    for epochs, grace, factor in [(20, 3, 3), (9, 1, 2), (60, 2, 2.5), (5, 1, 2.2), (4, 4, 3), (3, 7, 3)]:
        asha = GroupedASHA(epochs=epochs, grace_epochs=grace, reduction_factor=factor)
        asha.on_epoch("t", "g", 1, 0.5)
        assert list(rung_epochs(grace, factor, epochs)) == sorted(asha._group("g").rung_at), (epochs, grace, factor)


def test_one_seed_of_each_configuration_runs_to_the_first_rung() -> None:
    course = Course(flat(a=0.3, b=0.5, c=0.4))
    assert course.choice.explore == ("a0", "b0", "c0")
    course.run_to({"b0": 1})
    # It waits for the others; nobody goes higher.
    assert course.choice.explore == ("a0", "c0")
    assert course.choice.stopped == ()


def test_whoever_is_behind_the_gap_falls_and_the_winner_runs_in_full_with_all_seeds() -> None:
    # Half of what b has gained since the start is as far as one that is behind may hope.
    course = Course({**flat(a=0.05, b=0.5), "c0": (0.45,) * EPOCHS, "c1": (0.3,) * EPOCHS})
    course.run()
    assert course.choice.winner == "b"
    assert course.depths() == {"a0": 1, "b0": 9, "a1": 0, "b1": 9, "a2": 0, "b2": 9, "c0": 3, "c1": 0}
    a, c = course.states["a0"].stop, course.states["c0"].stop
    assert a is not None and c is not None
    assert (a.rung, a.kind, c.rung) == (1, "race", 3)
    assert course.choice.stopped == ("a0", "c0")
    assert course.choice.skipped == ("a1", "a2", "c1")
    assert "b won g" in course.choice.skip_reason
    assert course.choice.done
    assert set(course.choice.prune) == {"a0", "b0", "b1", "b2", "c0"}


def test_the_gap_is_half_a_standard_error_of_the_difference() -> None:
    # At the last rung, with nothing rising: values are scores; only the images speak of chance.
    for behind, falls_at_once in ((0.9, False), (1.1, True)):
        error = math.hypot(1.5, 0.5) * sampling_error(0.5, 2_000) * math.sqrt(2)
        course = Course(flat(a=0.5, b=0.5 - behind * GAP_ERRORS * error), rule=RaceRule(EPOCHS, 1, 3))
        course.run_to({"a0": 3, "b0": 3})
        assert course.choice.explore == (() if falls_at_once else ("a1", "b1"))


def test_seeds_that_scatter_widen_the_gap() -> None:
    def gap(*second: float) -> float:
        course = Course({**flat(a=0.50, b=0.495), "a1": (second[0],) * EPOCHS, "b1": (second[1],) * EPOCHS})
        course.run_to({"a0": 3, "b0": 3})
        assert course.choice.explore == ("a1", "b1")
        course.run()
        (fallen,) = {(d.value, d.cutoff) for d in decisions_in(course.states.values()) if d.stop}
        (best,) = {d.value for d in decisions_in(course.states.values()) if d.rung == 3 and not d.stop}
        assert fallen[1] is not None and best is not None
        return best - fallen[1]

    assert gap(0.58, 0.44) > 1.5 * gap(0.54, 0.49)


def test_who_still_climbs_is_given_time() -> None:
    rule = RaceRule(EPOCHS, 2, 2)  # rungs 2, 4 and 8
    late, even = (0.20, 0.34, *(0.1 * 7,) * 7), (0.45, 0.45, *(0.45,) * 7)
    climbing = Course({"a0": even, "b0": late}, rule=rule).run_to({"a0": 2, "b0": 2})
    assert climbing.choice.explore == ("a0", "b0")
    still = Course({"a0": even, "b0": (0.34,) * EPOCHS}, rule=rule).run_to({"a0": 2, "b0": 2})
    assert (still.choice.winner, still.choice.confirm) == ("a", ("a0",))


def test_a_rung_at_which_nobody_has_learned_anything_decides_nothing() -> None:
    noise = {"a0": 0.216, "b0": 0.16, "c0": 0.17}
    course = Course({name: (score,) * EPOCHS for name, score in noise.items()}, constant=0.2)
    course.run_to(dict.fromkeys(noise, 1))
    assert course.choice.explore == ("a0", "b0", "c0")
    assert {d.cutoff for state in course.states.values() for d in state.decisions} == {None}
    assert "nobody had learned anything yet" in course.states["a0"].decisions[0].reason()
    # Nothing at the second rung either: they race on over the full budget.
    course.run_to(dict.fromkeys(noise, 3))
    assert course.choice.explore == ("a0", "b0", "c0")
    course.run()
    assert course.choice.winner == "a"
    assert set(course.depths().values()) == {9}


def test_at_the_full_budget_those_that_cannot_be_told_apart_run_their_other_seeds() -> None:
    rule = RaceRule(EPOCHS, 9, 3)  # no rung before it
    error = sampling_error(0.5, 2_000) * math.sqrt(2)
    close = Course(flat(a=0.5, b=0.5 - 0.5 * FULL_GAP_ERRORS * error), rule=rule).run()
    assert set(close.depths().values()) == {9}
    far = Course(flat(a=0.5, b=0.5 - 1.1 * FULL_GAP_ERRORS * error), rule=rule).run()
    assert far.depths() == {"a0": 9, "b0": 9, "a1": 9, "b1": 0, "a2": 9, "b2": 0}


def test_equal_values_go_to_the_smaller_name() -> None:
    assert Course(flat(b=0.5, a=0.5)).run().choice.winner == "a"


def test_a_failed_seed_is_replaced_and_its_retry_changes_nothing_that_was_decided() -> None:
    course = Course(flat(a=0.50, b=0.45))
    course.change("a0", status="failed")
    assert course.choice.explore == ("a1", "b0")
    course.run()
    assert course.choice.winner == "a"
    before = course.story()
    course.change("a0", status="planned")
    assert course.wanted() == ("a0",)
    course.curves["a0"] = (0.01,) * EPOCHS
    course.run()
    assert course.choice.winner == "a"
    assert before < course.story()
    assert course.states["b0"].stop is not None


def test_a_configuration_that_diverged_falls_while_there_are_others() -> None:
    nan = math.nan
    course = Course({**flat(a=0.5, b=0.45), "a0": (0.5, nan, *(0.5,) * 7)}).run()
    assert course.choice.winner == "b"
    assert Course({"a0": (0.5, nan), "a1": (0.4,) * EPOCHS}).run().choice.winner == "a"
    alone = Course({"a0": (nan,), "b0": (nan,)}).run()
    assert (alone.choice.winner, alone.choice.done) == (None, True)
    assert alone.choice.skip_reason == ""


def test_when_the_winner_loses_all_its_seeds_the_next_one_runs() -> None:
    course = Course(flat(a=0.5, b=0.2, c=0.45))
    while course.choice.winner is None:
        course.epoch(course.wanted()[0])
    assert course.choice.winner == "a"
    for seed in range(3):
        course.change(f"a{seed}", status="failed")
    assert course.choice.winner == "c", "who came furthest"
    course.run()
    assert {name for name, depth in course.depths().items() if depth == 9} == {"c0", "c1", "c2"}


def test_a_late_configuration_races_against_what_was_decided() -> None:
    course = Course(flat(a=0.5, b=0.05)).run()
    before = course.story()
    course.curves |= flat(d=0.6)
    for seed in range(3):
        course.states[f"d{seed}"] = replace(course.states["a0"], trial_id=f"d{seed}", config_id="d", seed=seed,
                                            status="planned", scores=(), decisions=())  # fmt: skip
    assert course.wanted() == ("d0",)
    course.run()
    assert before <= course.story()
    assert course.choice.winner == "d"
    assert course.depths()["b1"] == 0, "who fell stays out"


def test_a_seed_that_a_larger_space_puts_first_takes_no_value_away() -> None:
    curves = flat(a=0.5, b=0.3, c=0.2)
    course = Course({name: curves[name] for name in ("a1", "b1", "a2", "b2")}).run()
    larger = Course(curves)
    larger.states |= course.states
    larger.states = {name: larger.states[name] for name in curves}
    larger.run()
    assert larger.choice.winner == "a"
    assert larger.depths() == {"a0": 9, "b0": 0, "c0": 1, "a1": 9, "b1": 1, "c1": 0, "a2": 9, "b2": 0, "c2": 0}


def test_decisions_survive_their_file() -> None:
    course = Course(flat(a=0.5, b=0.05)).run()
    for state in course.states.values():
        assert decisions_from_json(decisions_to_json(state.decisions)) == state.decisions
    fallen = course.states["b0"].stop
    assert fallen is not None
    assert fallen.detail()["kind"] == "race"
    assert fallen.reason().startswith("fell in the race at rung 1: value 0.0")


# Scores from a coarse grid, so that ties happen; 0 is a divergence.
score_lists = st.lists(st.lists(st.integers(0, 40), min_size=EPOCHS, max_size=EPOCHS), min_size=9, max_size=9)
NAMES = [f"{config}{seed}" for seed in range(3) for config in "abc"]


def curves_of(lists: list[list[int]], *, diverge: bool = True) -> dict[str, tuple[float, ...]]:
    least = math.nan if diverge else 0.01
    return {name: tuple(least if x == 0 else x / 40 for x in xs) for name, xs in zip(NAMES, lists, strict=True)}


@given(score_lists, st.randoms(use_true_random=False), st.sampled_from([(1, 3), (2, 2), (1, 2), (4, 3), (9, 3)]))
@settings(max_examples=60, deadline=None)
def test_no_order_of_arrival_changes_a_decision(lists: list[list[int]], random, shape: tuple[int, int]) -> None:
    rule = RaceRule(EPOCHS, *shape)
    # A divergence that comes earlier or later is news that comes earlier or later; without one, nothing is.
    first = Course(curves_of(lists, diverge=False), rule=rule, constant=0.2).run()
    other = Course(curves_of(lists, diverge=False), rule=rule, constant=0.2).run(random.choice)
    assert first.story() == other.story()
    assert first.depths() == other.depths()
    assert (first.choice.winner, first.choice.winner_score) == (other.choice.winner, other.choice.winner_score)


@given(score_lists, st.randoms(use_true_random=False), st.lists(st.integers(0, 15), max_size=8))
@settings(max_examples=60, deadline=None)
def test_kills_between_any_two_writes_change_nothing(lists: list[list[int]], random, kills: list[int]) -> None:
    undisturbed = Course(curves_of(lists, diverge=False)).run()
    course = Course(curves_of(lists, diverge=False))
    for epochs in kills:
        for _ in range(epochs):
            wanted = course.wanted()
            if not wanted:
                break
            course.epoch(random.choice(wanted))
        # The driver dies while it stores what it has just decided: some decisions are on disk, some are not.
        choice = choose_race(list(course.states.values()), course.rule)
        for decision in choice.decisions[: random.randint(0, len(choice.decisions))]:
            course.change(decision.trial_id, decisions=(*course.states[decision.trial_id].decisions, decision))
        for name, state in course.states.items():
            if state.status == "running":
                course.change(name, status="planned")
    course.run(random.choice)
    assert course.story() == undisturbed.story()
    assert course.depths() == undisturbed.depths()
    assert course.choice.winner == undisturbed.choice.winner


events = st.lists(st.tuples(st.integers(0, 8), st.sampled_from(["epoch"] * 9 + ["fail", "retry"])), max_size=90)


@given(score_lists, events)
@settings(max_examples=60, deadline=None)
def test_whatever_happens_decisions_stay_and_the_race_ends(
    lists: list[list[int]], happenings: list[tuple[int, str]]
) -> None:
    course = Course(curves_of(lists))
    told: set[tuple[object, ...]] = set()
    pruned: set[str] = set()

    def check() -> GroupChoice:
        nonlocal told
        choice = course.choice
        assert told <= course.story(), "a decision was taken back"
        told = course.story()
        for state in course.states.values():
            rungs = [d.rung for d in state.decisions]
            assert len(set(rungs)) == len(rungs)
            assert sum(d.stop for d in state.decisions) <= 1
        named = {*choice.explore, *choice.confirm}
        assert not named & {*choice.stopped, *choice.skipped}
        assert not pruned & named
        pruned.update(choice.prune)
        assert choice.done == (choice.over and not choice.confirm)
        for name in named:
            assert course.states[name].status not in ("completed", "failed", "diverged")
        for name in choice.explore:
            assert course.states[name].stop is None, "who fell runs again only as the winner's substitute"
        return choice

    for number, event in happenings:
        choice = check()
        named = (*choice.explore, *choice.confirm)
        if event == "retry":
            failed = [name for name, state in course.states.items() if state.status == "failed"]
            if failed and not pruned & {*failed}:
                course.change(failed[number % len(failed)], status="planned")
        elif named:
            name = named[number % len(named)]
            course.change(name, status="failed") if event == "fail" else course.epoch(name)
    while named := (*check().explore, *check().confirm):
        course.epoch(named[0])
    assert check().done


def test_a_simulated_sweep_asks_the_same_rule() -> None:
    curves = [
        Curve(f"{group}{name}", group, f"{group}{name[0]}", int(name[1]), scores, val_images=2_000)
        for group in "gh"
        for name, scores in flat(a=0.05, b=0.5, c=0.45).items()
    ]
    out = simulate(curves, plan_states(curves), grace_epochs=1, reduction_factor=3, race=True, num_slots=3)
    alone = Course(flat(a=0.05, b=0.5, c=0.45)).run()
    assert {s.trial_id: len(s.scores) for s in out.states} == {
        f"{group}{name}": depth for group in "gh" for name, depth in alone.depths().items()
    }
    assert out.num_epochs == 2 * sum(alone.depths().values())
    assert {s.status for s in out.states} == {"completed", "stopped", "skipped"}


def decisions_in(states: Iterable[TrialState]) -> list[RungDecision]:
    return [decision for state in states for decision in state.decisions]


@given(score_lists, st.lists(st.integers(0, 25), max_size=6), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_a_simulated_race_that_is_killed_ends_as_the_undisturbed_one(
    lists: list[list[int]], kills: list[int], num_slots: int
) -> None:
    curves = [
        Curve(name, "g", name[0], int(name[1]), scores) for name, scores in curves_of(lists, diverge=False).items()
    ]
    rule = {"grace_epochs": 1, "reduction_factor": 3, "race": True}
    undisturbed = simulate(curves, plan_states(curves), **rule)
    states, spent = plan_states(curves), 0
    for epochs in [*kills, None]:
        cut = simulate(curves, states, **rule, max_epochs=epochs, num_slots=num_slots)
        states, spent = cut.states, spent + cut.num_epochs
    assert {s.trial_id: (s.status, s.scores) for s in states} == {
        s.trial_id: (s.status, s.scores) for s in undisturbed.states
    }
    assert spent == undisturbed.num_epochs
    assert {replace(d, order=0) for d in decisions_in(states)} == {
        replace(d, order=0) for d in decisions_in(undisturbed.states)
    }
