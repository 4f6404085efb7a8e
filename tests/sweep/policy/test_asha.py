"""ASHA per group: equal to Ray's own, equal after any interruption, and deaf to scores that are not numbers."""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
from hypothesis import given, settings
from hypothesis import strategies as st
from ray import cloudpickle, tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler
from ray.tune.schedulers.async_hyperband import _Bracket

from sweep.policy.asha import GroupedASHA, _NotingBracket
from sweep.policy.simulate import Curve, plan_states, simulate
from sweep.policy.states import RungDecision, TrialState

EPOCHS = 20


def ray_trial(trial_id: str, *, group: str = "g", phase: str = "explore") -> Trial:
    config = {"trial_id": trial_id, "group": group, "phase": phase}
    return Trial("stub", config=config, trial_id=f"ray-{trial_id}", stub=True)


def asha(**changes: Any) -> GroupedASHA:
    return GroupedASHA(**{"epochs": EPOCHS, "grace_epochs": 3, "reduction_factor": 3, **changes})


@settings(max_examples=200)
@given(st.lists(st.floats(0, 1, allow_nan=False), min_size=1, max_size=60), st.floats(1.1, 6.0))
def test_cutoffs_are_those_of_ray_to_the_bit(values: list[float], factor: float) -> None:
    own, rays = _NotingBracket(1, 10, factor, 0), _Bracket(1, 10, factor, 0)
    rung = own.milestones()[-1]
    recorded = own._rungs[-1][1]
    assert own.cutoff(recorded) is None
    for number, value in enumerate(values):
        recorded[str(number)] = value
        # Not at every size: several scores may be new at once, as after a resume.
        if number % 3 != 1:
            assert own.cutoff(recorded) == rays.cutoff(recorded) == own.last_cutoff
    assert own.cutoff(recorded) == rays.cutoff(recorded)
    assert own.scores(rung) is recorded


@given(st.lists(st.floats(0, 1, allow_nan=False), min_size=1, max_size=20), st.floats(0, 1))
def test_a_cutoff_that_a_constant_answer_reaches_stops_nothing(values: list[float], constant: float) -> None:
    """Every decision is Ray's, but for those whose cutoff is not above the constant answer; the rungs are always Ray's."""
    told, plain = asha(), asha()
    for number, value in enumerate(values):
        told.on_epoch(f"t{number}", "g", 3, value, constant)
        plain.on_epoch(f"t{number}", "g", 3, value)
        (mine,), (rays,) = told.decisions_of(f"t{number}"), plain.decisions_of(f"t{number}")
        assert (mine.score, mine.cutoff, mine.constant) == (rays.score, rays.cutoff, constant)
        learned = mine.cutoff is not None and mine.cutoff > constant
        assert mine.stop == (rays.stop and learned)
        assert mine.spared == (rays.stop and not learned)
    assert told.rungs() == plain.rungs()


def test_ray_is_told_by_the_epochs_own_figure() -> None:
    scheduler = asha()
    trials = [ray_trial(f"t{number}") for number in range(3)]
    report = {"epoch": 3, "constant_mean_f1": 0.2}
    answers = [
        scheduler.on_trial_result(None, trial, {**report, "mean_f1": score})
        for trial, score in zip(trials, (0.19, 0.18, 0.17), strict=True)
    ]
    assert answers == [TrialScheduler.CONTINUE] * 3
    told = scheduler.decisions_of("t2")[0].reason()
    assert told == (
        "goes on by ASHA at epoch 3 (rung 3): mean_f1 0.1700, cutoff 0.1867, not above a constant answer's 0.2000"
    )
    assert scheduler.on_trial_result(None, ray_trial("t3"), {**report, "mean_f1": 0.4}) == TrialScheduler.CONTINUE
    assert scheduler.on_trial_result(None, ray_trial("t4"), {**report, "mean_f1": 0.41}) == TrialScheduler.CONTINUE
    # Two have learned something: now the cutoff means something.
    assert scheduler.on_trial_result(None, ray_trial("t5"), {**report, "mean_f1": 0.19}) == TrialScheduler.STOP


# A sweep's reports, in the order in which they reach the driver: which trial reports its next epoch, and its score.
Arrivals = list[tuple[int, float]]
scores = st.floats(0, 1, allow_nan=False).map(lambda x: round(x, 2))  # Two decimals: ties happen.
arrivals = st.lists(st.tuples(st.integers(0, 5), scores), max_size=90)
rules = st.tuples(st.integers(4, 30), st.integers(1, 4), st.sampled_from([2, 2.5, 3, 4]))


class Recorded:
    """A sweep of one trial per number, whose trial folders are plain lists."""

    def __init__(self, rule: tuple[int, int, float], constant: float = 0.0) -> None:
        self.constant = constant
        self.epochs, grace, factor = rule
        self.rule = {"epochs": self.epochs, "grace_epochs": grace, "reduction_factor": factor}
        self.scheduler = GroupedASHA(**self.rule, on_decision=self.store)
        self.history: dict[str, list[float]] = {f"t{i}": [] for i in range(6)}
        self.stored: dict[str, list[RungDecision]] = {trial_id: [] for trial_id in self.history}
        self.answers: list[tuple[str, int, str]] = []

    def store(self, decision: RungDecision) -> None:
        self.stored[decision.trial_id].append(decision)

    def states(self) -> list[TrialState]:
        return [
            TrialState(
                trial_id, f"g{i % 2}", trial_id, 0, True, self.status(trial_id), tuple(self.history[trial_id]),
                tuple(self.stored[trial_id]), self.constant,
            )
            for i, trial_id in enumerate(self.history)
        ]  # fmt: skip

    def status(self, trial_id: str) -> str:
        if any(decision.stop for decision in self.stored[trial_id]):
            return "stopped"
        return "completed" if len(self.history[trial_id]) == self.epochs else "running"

    def report(self, number: int, score: float, *, killed_before_the_scheduler: bool = False) -> None:
        trial_id = f"t{number}"
        if self.status(trial_id) != "running":
            return
        self.history[trial_id].append(score)
        if not killed_before_the_scheduler:
            epoch = len(self.history[trial_id])
            answer = self.scheduler.on_epoch(trial_id, f"g{number % 2}", epoch, score, self.constant)
            self.answers.append((trial_id, epoch, answer))

    def kill_and_resume(self) -> None:
        self.scheduler = GroupedASHA(**self.rule, on_decision=self.store)
        self.scheduler.refill(self.states())


def filled(scheduler: GroupedASHA) -> dict[tuple[str, float], dict[str, float]]:
    """Return the rungs that hold anything."""
    rungs = scheduler.rungs().items()
    return {(group, rung): held for group, at in rungs for rung, held in at.items() if held}


@given(arrivals, rules)
@settings(max_examples=150, deadline=None)
def test_one_group_decides_as_rays_own_asha(events: Arrivals, rule: tuple[int, int, float]) -> None:
    epochs, grace, factor = rule
    own = GroupedASHA(epochs=epochs, grace_epochs=grace, reduction_factor=factor)
    rays = AsyncHyperBandScheduler("epoch", "mean_f1", "max", max(epochs, grace), grace, factor)
    trials = {number: ray_trial(f"t{number}") for number in range(6)}
    for trial in trials.values():
        rays.on_trial_add(None, trial)
    epoch = dict.fromkeys(trials, 0)
    for number, score in events:
        if epoch[number] >= epochs - 1:
            continue  # The last epoch is ours: Ray stops there, a full run returns here.
        epoch[number] += 1
        result = {"epoch": epoch[number], "mean_f1": score}
        answer = own.on_trial_result(None, trials[number], result)
        assert answer == rays.on_trial_result(None, trials[number], result)
        if answer == TrialScheduler.STOP:
            epoch[number] = epochs


@given(arrivals, rules, st.sets(st.integers(0, 89)), st.sets(st.integers(0, 89)), st.sampled_from([0.0, 0.4, 0.7]))
@settings(max_examples=300, deadline=None)
def test_decisions_after_any_interruptions_equal_undisturbed_ones(
    events: Arrivals, rule: tuple[int, int, float], after: set[int], before_decided: set[int], constant: float
) -> None:
    undisturbed, killed = Recorded(rule, constant), Recorded(rule, constant)
    for position, (number, score) in enumerate(events):
        undisturbed.report(number, score)
        killed.report(number, score, killed_before_the_scheduler=position in before_decided)
        if position in after | before_decided:
            killed.kill_and_resume()
    assert killed.stored == undisturbed.stored
    killed.kill_and_resume()
    assert filled(killed.scheduler) == filled(undisturbed.scheduler)
    lost = {(f"t{events[i][0]}") for i in before_decided if i < len(events)}
    assert [a for a in killed.answers if a[0] not in lost] == [a for a in undisturbed.answers if a[0] not in lost]


@given(arrivals, rules)
@settings(max_examples=100, deadline=None)
def test_histories_alone_refill_every_rung(events: Arrivals, rule: tuple[int, int, float]) -> None:
    run = Recorded(rule)
    for number, score in events:
        run.report(number, score)
    # Without stored decisions a trial at a rung's epoch would be judged again; one that ended is not.
    bare = [replace(s, decisions=(), status="failed" if s.exploring else s.status) for s in run.states()]
    again = GroupedASHA(**run.rule)
    assert again.refill(bare) == []
    assert filled(again) == filled(run.scheduler)


@given(arrivals, rules)
@settings(max_examples=100, deadline=None)
def test_stored_decisions_replayed_in_their_order_come_out_the_same(
    events: Arrivals, rule: tuple[int, int, float]
) -> None:
    run = Recorded(rule)
    for number, score in events:
        run.report(number, score)
    recorded = sorted((d for ds in run.stored.values() for d in ds), key=lambda d: d.order)
    assert [d.order for d in recorded] == list(range(len(recorded)))
    replayed: list[RungDecision] = []
    again = GroupedASHA(**run.rule, on_decision=replayed.append)
    for decision in recorded:
        again.on_epoch(decision.trial_id, decision.group, decision.epoch, decision.score)
    assert replayed == recorded


def test_several_unjudged_trials_are_judged_in_plan_order() -> None:
    states = [
        TrialState(f"t{i}", "g", f"c{i}", 0, True, "running", (0.1, 0.2, s)) for i, s in enumerate([0.5, 0.4, 0.6])
    ]
    stored: list[RungDecision] = []
    new = asha(on_decision=stored.append).refill(states)
    assert new == stored
    assert [(d.trial_id, d.cutoff, d.stop) for d in new] == [
        ("t0", None, False), ("t1", 0.5, True), ("t2", pytest.approx(0.4 + 2 / 3 * 0.1), False),
    ]  # fmt: skip


def test_only_live_exploring_trials_are_judged_on_resume() -> None:
    kept = RungDecision("told", "g", 3, 3, 0.3, None, False, 4)
    states = [
        TrialState("told", "g", "a", 0, True, "running", (0.1, 0.2, 0.3), (kept,)),
        TrialState("failed", "g", "b", 0, True, "failed", (0.1, 0.2, 0.2)),
        TrialState("diverged", "g", "c", 0, True, "diverged", (0.1, 0.2, 0.2)),
        TrialState("confirms", "g", "d", 1, False, "running", (0.1, 0.2, 0.1)),
        TrialState("young", "g", "e", 1, True, "running", (0.1, 0.2)),
    ]
    scheduler = asha()
    assert scheduler.refill(states) == []
    assert filled(scheduler) == {("g", 3): {"told": 0.3, "failed": 0.2, "diverged": 0.2}}
    assert scheduler.on_epoch("young", "g", 3, 0.25) == "continue"
    assert scheduler.decisions_of("young")[0].order == 5


def test_epochs_trained_while_confirming_enter_no_rung() -> None:
    stop = RungDecision("t", "g", 3, 3, 0.3, 0.4, True, 0)
    scheduler = asha()
    scheduler.refill([TrialState("t", "g", "c", 0, True, "running", (0.1,) * 12, (stop,))])
    assert filled(scheduler) == {("g", 3): {"t": 0.3}}
    assert scheduler.stop_of("t") == stop
    trial = ray_trial("t", phase="confirm")
    for epoch in range(13, EPOCHS + 1):
        result = {"epoch": epoch, "mean_f1": 0.0}
        assert scheduler.on_trial_result(None, trial, result) == TrialScheduler.CONTINUE
    assert filled(scheduler) == {("g", 3): {"t": 0.3}}


def test_a_decision_of_other_rungs_is_refused() -> None:
    foreign = RungDecision("t", "g", 4, 4, 0.3, None, False, 0)
    with pytest.raises(ValueError, match=r"t: stored decision at rung 4, epoch 4; the rungs .* are 3, 9"):
        asha().refill([TrialState("t", "g", "c", 0, True, "running", (0.1,) * 4, (foreign,))])


def slow_starter(grouped: bool) -> list[Curve]:
    """The model that would have won is behind at the first epoch (docs/architecture.md, Facts about Ray)."""
    shapes = {"fast": (0.60, 0.66), "slow": (0.45, 0.76)}
    return [
        Curve(
            f"{name}-s{seed}", name if grouped else "all", name, seed,
            tuple(first + (last - first) * epoch / (EPOCHS - 1) + 0.01 * seed for epoch in range(EPOCHS)),
        )
        for name, (first, last) in shapes.items()
        for seed in (0, 1)
    ]  # fmt: skip


def test_one_bracket_over_mixed_backbones_stops_the_slow_starter_and_a_bracket_each_does_not() -> None:
    mixed, grouped = slow_starter(grouped=False), slow_starter(grouped=True)
    rule = {"grace_epochs": 1, "reduction_factor": 3}
    one = simulate(mixed, plan_states(mixed), **rule)
    stops = {state.trial_id: state.stop for state in one.states}
    assert stops["slow-s0"].epoch == stops["slow-s1"].epoch == 1
    assert one.choices["all"].winner == "fast"
    each = simulate(grouped, plan_states(grouped), **rule)
    assert each.choices["slow"].winner_score > 0.75
    assert each.choices["slow"].winner_score > each.choices["fast"].winner_score + 0.09


@pytest.mark.parametrize("epochs", [1, 3, 9, 10, 27])
def test_the_last_epoch_is_a_normal_end(epochs: int) -> None:
    scheduler = asha(epochs=epochs)
    for trial_id, score in (("good", 0.9), ("bad", 0.1)):
        answer = scheduler.on_trial_result(None, ray_trial(trial_id), {"epoch": epochs, "mean_f1": score})
        assert answer == TrialScheduler.CONTINUE
        assert scheduler.decisions_of(trial_id) == ()


@pytest.mark.parametrize("kind", ["fifo", "grace beyond the budget"])
def test_without_a_rung_below_the_budget_nothing_stops(kind: str) -> None:
    scheduler = asha(grace_epochs=EPOCHS if kind == "fifo" else EPOCHS + 5)
    for number in range(20):
        for epoch in range(1, EPOCHS + 1):
            assert scheduler.on_epoch(f"t{number}", "g", epoch, 1 - number / 20) == "continue"


@pytest.mark.parametrize("phase", ["explore", "confirm"])
@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_ends_its_trial_and_no_rung_notices(score: float, phase: str) -> None:
    with_it, without = asha(), asha()
    answers = []
    for scheduler in (with_it, without):
        assert scheduler.on_epoch("first", "g", 3, 0.5) == "continue"
        if scheduler is with_it:
            result = {"epoch": 3, "mean_f1": score}
            assert scheduler.on_trial_result(None, ray_trial("sick", phase=phase), result) == TrialScheduler.STOP
            assert scheduler.stop_of("sick") is None
        answers.append([scheduler.on_epoch(f"t{i}", "g", 3, s) for i, s in enumerate([0.4, 0.6, 0.45, 0.5])])
    assert answers[0] == answers[1]
    assert with_it.rungs() == without.rungs()


def test_groups_do_not_touch_each_other() -> None:
    scheduler = asha()
    assert scheduler.on_epoch("a0", "a", 3, 0.9) == "continue"
    assert scheduler.on_epoch("b0", "b", 3, 0.1) == "continue"
    assert scheduler.on_epoch("a1", "a", 3, 0.5) == "stop"
    assert scheduler.stop_of("a1") == RungDecision("a1", "a", 3, 3, 0.5, 0.9, True, 2)
    assert scheduler.rungs() == {"a": {3: {"a0": 0.9, "a1": 0.5}, 9: {}}, "b": {3: {"b0": 0.1}, 9: {}}}
    assert scheduler.debug_string().splitlines()[1] == "a: 2 in rung 3, 0 in rung 9"


def test_a_repeated_epoch_gets_its_first_answer() -> None:
    stored: list[RungDecision] = []
    scheduler = asha(on_decision=stored.append)
    assert scheduler.on_epoch("early", "g", 3, 0.2) == "continue"
    assert scheduler.on_epoch("good", "g", 3, 0.9) == "continue"
    assert scheduler.on_epoch("late", "g", 3, 0.3) == "stop"
    # "early" was let through by an empty rung; its worker died in epoch 4 and epoch 3 is repeated.
    assert scheduler.on_epoch("early", "g", 3, 0.2) == "continue"
    assert scheduler.on_epoch("late", "g", 3, 0.95) == "stop"
    assert scheduler.on_epoch("late", "g", 4, 0.95) == "stop"
    assert len(stored) == 3


def test_a_trial_that_missed_a_rung_is_not_judged_by_a_later_epoch() -> None:
    scheduler = asha()
    scheduler.on_epoch("first", "g", 3, 0.9)
    # Ray's bracket would hold epoch 5's score against scores of epoch 3.
    assert scheduler.on_epoch("late", "g", 5, 0.1) == "continue"
    assert filled(scheduler) == {("g", 3): {"first": 0.9}}


def test_a_decision_that_cannot_be_stored_is_not_made() -> None:
    full = True

    def store(decision: RungDecision) -> None:
        if full:
            raise OSError(28, "No space left on device")

    scheduler = asha(on_decision=store)
    with pytest.raises(OSError, match="No space left"):
        scheduler.on_epoch("t0", "g", 3, 0.5)
    assert scheduler.decisions_of("t0") == ()
    full = False
    assert scheduler.on_epoch("t1", "g", 3, 0.4) == "continue"
    assert scheduler.on_epoch("t0", "g", 3, 0.5) == "continue"
    assert scheduler.decisions_of("t0") == (RungDecision("t0", "g", 3, 3, 0.5, 0.4, False, 1),)


def test_reports_of_no_epoch_pass_and_epochs_without_a_score_do_not() -> None:
    assert asha().on_trial_result(None, ray_trial("t"), {"ending/kind": "completed"}) == TrialScheduler.CONTINUE
    with pytest.raises(KeyError, match="mean_f1"):
        asha().on_trial_result(None, ray_trial("t"), {"epoch": 3})


def test_ray_may_name_our_metric_and_no_other() -> None:
    assert asha().metric is None
    assert asha().set_search_properties(None, None)
    assert asha().set_search_properties("mean_f1", "max")
    assert not asha().set_search_properties("loss", "max")
    assert not asha().set_search_properties("mean_f1", "min")


def test_tuner_pkl_holds_no_callback() -> None:
    lock = threading.Lock()

    def store(decision: RungDecision) -> None:
        with lock:
            pass

    with pytest.raises(TypeError):
        cloudpickle.dumps(store)
    scheduler = asha(on_decision=store)
    scheduler.on_epoch("t", "g", 3, 0.5)
    copy = cloudpickle.loads(cloudpickle.dumps(scheduler))
    assert copy.decisions_of("t") == scheduler.decisions_of("t")


def test_a_decision_takes_less_than_a_millisecond_with_thousands_in_the_rung() -> None:
    scheduler = asha()
    took = []
    for number in range(3000):
        begin = time.perf_counter()
        scheduler.on_epoch(f"t{number}", "g", 3, (number * 7919 % 3000) / 3000)
        took.append(time.perf_counter() - begin)
    assert statistics.median(took[-500:]) < 1e-3


@pytest.fixture
def local_ray() -> Iterator[None]:
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.mark.ray
def test_under_ray_full_runs_return_and_stopped_ones_do_not(local_ray: None, tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> None:
        for epoch in range(1, 10):
            tune.report({"epoch": epoch, "mean_f1": config["level"] + epoch / 100})
        (tmp_path / config["trial_id"]).touch()
        # A last report without a score: Ray refuses it where a scheduler names a metric.
        tune.report({"ending": {"kind": "completed", "reason": ""}})

    stored: list[RungDecision] = []
    levels = {"a0": 0.5, "a1": 0.1, "b0": 0.1, "a2": 0.6, "confirmed": 0.0}
    scheduler = GroupedASHA(epochs=9, grace_epochs=3, reduction_factor=3, on_decision=stored.append)
    trials = [
        {"trial_id": i, "group": i[0], "phase": "confirm" if i == "confirmed" else "explore", "level": level}
        for i, level in levels.items()
    ]
    results = tune.Tuner(
        train,
        param_space=tune.grid_search(trials),
        tune_config=tune.TuneConfig(scheduler=scheduler, max_concurrent_trials=1, reuse_actors=True),
        run_config=tune.RunConfig(name="ray", storage_path=str(tmp_path), verbose=0),
    ).fit()
    assert results.num_errors == 0
    returned = {name for name in levels if (tmp_path / name).exists()}
    assert returned == {"a0", "b0", "a2", "confirmed"}
    assert {(d.trial_id, d.rung, d.stop) for d in stored} == {
        ("a0", 3, False), ("a1", 3, True), ("b0", 3, False), ("a2", 3, False),
    }  # fmt: skip
    assert scheduler.stop_of("a1").cutoff == pytest.approx(0.53)
