"""Settling: who gets which seed when, who is left by what, and that neither order nor kills nor retries change it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweep.policy.confirm import GroupChoice, choose_group
from sweep.policy.settle import _Gap, settle
from sweep.policy.simulate import Curve, plan_states, simulate
from sweep.policy.spending import LEVEL, spent_level
from sweep.policy.states import SETTLE, RungDecision, TrialState, decisions_from_json, decisions_to_json

RULE = {"grace_epochs": 1, "reduction_factor": 3.0}
GROUPS = "abcd"


def curves_of(scores: Mapping[str, Sequence[float]], *, epochs: int = 3, val_images: int = 8_763) -> list[Curve]:
    """One good and one bad configuration a group; `scores` are those of the good one's seeds."""
    num_seeds = len(next(iter(scores.values())))
    return [
        Curve(f"{group}{config}{seed}", group, f"{group}{config}", seed,
              (values[seed] if config == "+" else 0.1,) * epochs, val_images=val_images)
        for seed in range(num_seeds)
        for group, values in scores.items()
        for config in "+-"
    ]  # fmt: skip


def run(
    scores: Mapping[str, Sequence[float]], *, race: bool = True, grid: int = 3, **changes: int
) -> dict[str, list[str]]:
    """Return the statuses of each group's good seeds."""
    curves = curves_of(scores)
    out = simulate(curves, plan_states(curves, explore_seeds=grid), **RULE, race=race, confirm=SETTLE, **changes)
    assert all(choice.done for choice in out.choices.values())
    return {g: [s.status for s in out.states if s.config_id == f"{g}+"] for g in scores}


FULL, LEFT = "completed", "skipped"


@pytest.mark.parametrize("race", [True, False])
def test_who_cannot_be_the_best_is_left_with_two_seeds_and_so_is_who_is_told_apart(race: bool) -> None:
    scores = {"a": (0.75, 0.751, 0.749), "b": (0.60, 0.601, 0.599), "c": (0.5, 0.501, 0.5), "d": (0.4, 0.401, 0.4)}
    # ASHA explores with one seed here: with all of them they would be run in full before anything is settled.
    assert run(scores, race=race, grid=3 if race else 1) == {group: [FULL, FULL, LEFT] for group in GROUPS}


def test_who_may_yet_be_told_apart_gets_another_seed_and_nobody_more_than_one_round_ahead() -> None:
    scores = {"a": (0.75, 0.74, 0.76), "b": (0.72, 0.725, 0.72), "c": (0.4, 0.401, 0.4)}
    assert run(scores) == {"a": [FULL] * 3, "b": [FULL] * 3, "c": [FULL, FULL, LEFT]}


def test_a_tie_that_no_seed_to_come_would_undo_is_left() -> None:
    tied = {"a": (0.75, 0.74, 0.76), "b": (0.74, 0.76, 0.75)}
    assert run(tied) == {g: [FULL, FULL, LEFT] for g in "ab"}
    curves = curves_of(tied)
    out = simulate(curves, plan_states(curves), **RULE, race=True, confirm=SETTLE)
    # The mean of the first two seeds is the higher of b.
    assert out.choices["a"].left_reason.startswith(
        "a after 2 seeds: more seeds would hardly tell it from the best; mean"
    )
    assert out.choices["b"].left_reason == "settled: no further seed is needed"


def test_nobody_is_left_by_the_last_look() -> None:
    curves = curves_of({"a": (0.75, 0.74, 0.76), "b": (0.72, 0.725, 0.77)})
    out = simulate(curves, plan_states(curves), **RULE, race=True, confirm=SETTLE)
    assert [(d.rung, d.stop) for s in out.states for d in s.looks] == [(2.0, False)] * 2 + [(3.0, False)] * 2


def test_contenders_get_seeds_beyond_the_grid_until_they_are_told_apart_or_will_not_be() -> None:
    shaky = [0.75 + 0.004 * (-1) ** i for i in range(10)]
    scores = {"a": shaky, "b": [x - 0.03 for x in shaky], "c": [x - 0.3 for x in shaky]}
    got = {group: statuses.count(FULL) for group, statuses in run(scores).items()}
    assert 3 < got["a"] == got["b"] < 10 and got["c"] < got["b"]
    unlike = [0.75 + 0.01 * (-1) ** i for i in range(10)]
    tied = {group: statuses.count(FULL) for group, statuses in run(dict.fromkeys("ab", unlike)).items()}
    assert 2 < tied["a"] == tied["b"] < 10
    # With so little luck ten seeds of both may show that they are equal for practical purposes.
    assert run(dict.fromkeys("ab", shaky)) == {g: [FULL] * 10 for g in "ab"}


@pytest.mark.parametrize(("size", "margin"), [(0.0, 0.01), (0.01, 0.01), (0.04, 0.01), (0.0, 0.05), (0.02, 0.05)])
def test_the_chance_of_a_verdict_is_what_seeds_to_come_bring(size: float, margin: float) -> None:
    deviation, level, draws = 0.01, 0.04, 100_000
    now = _Gap(size, deviation**2, images=1e-5, num_seeds=(2, 3), degrees=5)
    later = replace(now, num_seeds=(5, 6), degrees=12)
    rng = np.random.default_rng(0)
    # What flat priors leave: the deviation is known by so many degrees of freedom, and each mean by its seeds.
    sd = deviation * np.sqrt(now.known / rng.chisquare(now.known, draws))

    def mean(seen: float, before: int, after: int) -> np.ndarray:
        truth = seen + sd * rng.standard_normal(draws) / before**0.5
        new = truth + sd * rng.standard_normal(draws) / (after - before) ** 0.5
        return (before * seen + (after - before) * new) / after

    gap = np.abs(mean(size, 2, 5) - mean(0.0, 3, 6))
    told = (gap > later.half_width(level)) | (gap < margin - later.half_width(2 * level))
    assert now.chance(later, level, margin) == pytest.approx(told.mean(), abs=0.0065)  # four standard errors


def test_one_seed_shows_no_luck_so_there_is_no_look_before_the_second() -> None:
    curves = curves_of({"a": (0.75, 0.75), "b": (0.2, 0.2)})
    out = simulate(curves, plan_states(curves), **RULE, race=True, confirm=SETTLE)
    assert sorted(d.rung for s in out.states for d in s.looks) == [2.0, 2.0]


def test_a_look_waits_for_all_contenders_and_for_those_that_still_explore() -> None:
    states = {g: [TrialState(f"{g}{s}", g, g, s, s == 0, val_images=2_000) for s in range(3)] for g in "ab"}

    def ask() -> dict[str, GroupChoice]:
        return settle({g: choose_group(trials) for g, trials in states.items()}, states, margin=0.01)

    def finish(name: str, score: float) -> None:
        trials = states[name[0]]
        trials[int(name[1])] = replace(trials[int(name[1])], status="completed", scores=(score,))

    finish("a0", 0.7)
    # b still explores: there may be another winner, so a waits with its second seed.
    assert (ask()["a"].confirm, ask()["a"].later, ask()["a"].done) == ((), ("a1", "a2"), False)
    finish("b0", 0.6)
    assert {g: c.confirm for g, c in ask().items()} == {"a": ("a1",), "b": ("b1",)}
    finish("a1", 0.7)
    assert {g: c.confirm for g, c in ask().items()} == {"a": (), "b": ("b1",)}
    states["b"][1] = replace(states["b"][1], status="failed")
    assert ask()["b"].confirm == ("b2",), "the next seed takes the place of one that is lost"


def test_seeds_that_asha_ran_in_full_for_their_luck_are_not_compared_alone() -> None:
    # Seed 2 came through, seed 1 did not: the first two seeds alone would flatter nobody, the first and the third would.
    stop = RungDecision("a1", "a", 1.0, 1, 0.6, 0.65, stop=True, order=0)
    a = [
        TrialState("a0", "a", "a", 0, True, "completed", (0.6, 0.7)),
        TrialState("a1", "a", "a", 1, True, "stopped", (0.6,), (stop,)),
        TrialState("a2", "a", "a", 2, True, "completed", (0.7, 0.8)),
    ]
    b = [TrialState(f"b{s}", "b", "b", s, True, "completed", (0.5, 0.6)) for s in range(3)]
    states = {"a": a, "b": b}
    choices = settle({g: choose_group(trials) for g, trials in states.items()}, states, margin=0.01)
    assert choices["a"].confirm == ("a1",)


@pytest.mark.parametrize("most", [2, 3, 5, 10, 50])
def test_at_the_levels_of_all_looks_together_five_percent_cross(most: int) -> None:
    rng = np.random.default_rng(most)
    motion, crossed, before = np.zeros(40_000), np.zeros(40_000, dtype=bool), 0.0
    for n in range(2, most + 1):
        motion += rng.standard_normal(40_000) * (n / most - before) ** 0.5
        before = n / most
        crossed |= np.abs(motion) >= NormalDist().inv_cdf(1 - spent_level(n, most) / 2) * before**0.5
    assert crossed.mean() == pytest.approx(LEVEL, abs=0.0045)  # four standard errors
    assert spent_level(1, most) == spent_level(2, most)
    assert spent_level(most + 3, most) == spent_level(most, most)


def test_a_look_is_read_back_and_says_why() -> None:
    curves = curves_of({"a": (0.75, 0.75, 0.75), "b": (0.2, 0.2, 0.2)})
    out = simulate(curves, plan_states(curves), **RULE, race=True, confirm=SETTLE)
    looks = [d for s in out.states for d in s.looks]
    assert decisions_from_json(decisions_to_json(looks)) == tuple(looks)
    assert [d.group for d in looks if d.stop] == ["b"]
    assert out.choices["b"].left_reason.startswith("b after 2 seeds: cannot be the best any more; mean mean_f1 0.2000")
    assert out.choices["a"].left_reason == "settled: no further seed is needed"


def story(states: Sequence[TrialState]) -> set[tuple[object, ...]]:
    return {(d.trial_id, d.rung, d.score, d.cutoff, d.stop, d.value) for s in states for d in s.looks}


score = st.integers(0, 60).map(lambda x: 0.7 + x / 1000)
seeds = st.lists(score, min_size=5, max_size=5)


@given(st.lists(seeds, min_size=2, max_size=4), st.lists(st.integers(0, 30), max_size=6), st.booleans(), st.data())
@settings(max_examples=25, deadline=None)
def test_no_order_of_arrival_and_no_kill_changes_a_look(
    values: list[list[float]], kills: list[int], race: bool, data: st.DataObject
) -> None:
    curves = curves_of(dict(zip(GROUPS, values, strict=False)), val_images=50_000)
    rule = {**RULE, "race": race, "confirm": SETTLE}
    undisturbed = simulate(curves, plan_states(curves, explore_seeds=2 if race else 1), **rule)
    states = plan_states(curves, explore_seeds=2 if race else 1)
    for epochs in [*kills, None]:
        # The driver may die while it stores a look: some of what it said is on disk, some is not.
        states = tuple(
            replace(s, looks=s.looks[: len(s.looks) - (bool(s.looks) and data.draw(st.booleans()))])
            if epochs is not None and not any(t.scores and not t.looks and t.status == "running" for t in states)
            and _last_look(s, states) else s
            for s in states
        )  # fmt: skip
        paces = data.draw(st.permutations([1.0, 1.3, 2.1, 3.7]))
        timed = [replace(c, epoch_s=paces[GROUPS.index(c.group)]) for c in curves]
        cut = simulate(timed, states, **rule, max_epochs=epochs, num_slots=data.draw(st.integers(1, 4)))
        states = cut.states
    assert story(states) == story(undisturbed.states)
    assert {s.trial_id: (s.status, s.scores) for s in states} == {
        s.trial_id: (s.status, s.scores) for s in undisturbed.states
    }


def _last_look(state: TrialState, states: Sequence[TrialState]) -> bool:
    """Whether a state's last look is the newest of all, and no seed has begun since."""
    newest = max((d.rung for s in states for d in s.looks), default=0.0)
    begun = max((sum(bool(t.scores) for t in states if t.config_id == s.config_id) for s in states), default=0)
    return bool(state.looks) and state.looks[-1].rung == newest and begun <= newest


events = st.lists(st.tuples(st.integers(0, 20), st.sampled_from(["run"] * 6 + ["fail", "retry"])), max_size=40)


@given(st.lists(seeds, min_size=2, max_size=4), events)
@settings(max_examples=40, deadline=None)
def test_whatever_happens_what_was_said_stays_and_it_ends(
    values: list[list[float]], happenings: list[tuple[int, str]]
) -> None:
    scores = dict(zip(GROUPS, values, strict=False))
    states = {g: [TrialState(f"{g}{s}", g, g, s, True, val_images=50_000) for s in range(5)] for g in scores}
    told: set[tuple[object, ...]] = set()

    def change(name: str, **changes: object) -> None:
        trials = states[name[0]]
        trials[int(name[1])] = replace(trials[int(name[1])], **changes)

    def ask() -> dict[str, GroupChoice]:
        nonlocal told
        while True:
            alone = {g: _all(g, trials) for g, trials in states.items()}
            choices = settle(alone, states, margin=0.01)
            new = [d for choice in choices.values() for d in choice.decisions]
            for d in new:
                change(d.trial_id, looks=(*states[d.group][int(d.trial_id[1])].looks, d))
            if not new:
                break
        now = story([t for trials in states.values() for t in trials])
        assert told <= now, "a look was taken back"
        told = now
        for group, choice in choices.items():
            parts = [*choice.confirm, *choice.later, *choice.left]
            assert len(set(parts)) == len(parts)
            assert set(parts) == set(alone[group].confirm) or alone[group].winner is None
            assert not (choice.done and (choice.confirm or choice.later))
        return choices

    def wanted() -> list[str]:
        return [name for choice in ask().values() for name in choice.confirm]

    for number, event in happenings:
        names = wanted()
        lost = [t.trial_id for trials in states.values() for t in trials if t.status == "failed"]
        if event == "retry" and lost:
            change(lost[number % len(lost)], status="planned")
        elif names:
            name = names[number % len(names)]
            done = {"status": "completed", "scores": (scores[name[0]][int(name[1])],)}
            change(name, **({"status": "failed"} if event == "fail" else done))
    while names := wanted():
        change(names[0], status="completed", scores=(scores[names[0][0]][int(names[0][1])],))
    assert all(choice.done for choice in ask().values())


def _all(group: str, trials: Sequence[TrialState]) -> GroupChoice:
    left = tuple(t.trial_id for t in trials if t.status != "completed" and not t.lost)
    alive = any(not t.lost for t in trials)
    return GroupChoice(group, (), True, group if alive else None, None, left, (), (), "", (), not left)
