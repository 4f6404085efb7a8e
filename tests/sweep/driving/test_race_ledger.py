"""A race from its folders alone: any order of legs, killed between any two writes, ends as the one left alone. No Ray."""

from __future__ import annotations

import itertools
import json
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import sweep.driving.ledger as ledger_module
from fairface_core.config.train_config import make_config
from fairface_core.files.folder import open_folder
from fairface_core.trial.reports import EpochReport
from sweep.driving.ledger import STATE_FILES, Ledger
from sweep.driving.placement import Placement
from sweep.driving.trials import Leg
from sweep.driving.worker import Ending
from sweep.plan.expand import make_plan
from sweep.run_folder.records import read_run
from sweep.run_folder.request import write_new
from sweep.space.load import load_space
from tests.sweep import fake_fit, fake_sweeps

EPOCHS = 6
RACE = {"kind": "race", "grace_epochs": 1, "reduction_factor": 2}
SPACE = {"backbone": {"grid": ["resnet18", "mobilenet_v3_small"]}, "lr": {"grid": [1e-4, 3e-4, 1e-3]},
         "seed": {"grid": [41, 42]}}  # fmt: skip
SETTLED = {"scheduler": {**RACE, "confirm": "settle", "seeds": {"up_to": 4}}, "space": SPACE,
           "fixed": {"epochs": EPOCHS, "batch_size": 64}}  # fmt: skip


class Killed(BaseException):
    """The driver is gone."""


class Switch(BaseException):
    """Another leg's turn: what SIGKILL would leave of a worker after an epoch."""


class Sweep:
    """A run folder and whichever driver works on it, with the fake fit in this process, one epoch at a time."""

    def __init__(self, storage: Path, curves: dict[str, list[float]] | None = None, **changes: Any) -> None:
        storage.mkdir(exist_ok=True)
        asked = {"scheduler": RACE, "space": SPACE, "fixed": {"epochs": EPOCHS, "batch_size": 64}, **changes}
        self.spec = load_space(fake_sweeps.write_space(storage, **asked))
        self.plan = make_plan(self.spec, auto_gpu=0.0)
        (storage / "fake.json").write_text(json.dumps({"curves": self.named(curves or {}), "order": "order.txt"}))
        self.storage, self.run = storage, open_folder(storage / "run")
        write_new(self.run, self.spec, self.plan)
        self.open()

    def named(self, curves: dict[str, list[float]]) -> dict[str, list[float]]:
        """Give the curves, which count trials, their trials' names."""
        return {trial.trial_id: curves[str(i)] for i, trial in enumerate(self.plan.trials) if str(i) in curves}

    def open(self) -> None:
        """Start a driver on what the folders say."""
        self.ledger = Ledger(self.run, self.plan, confirm=True, max_retries=0, record=read_run(self.run))
        self.ledger.open_for_resume()
        self.ledger.settle()
        self.placement, self.legs = Placement(cpus=64, gpus=0), list[Leg]()

    def hand_out(self, most: int) -> None:
        while len(self.legs) < most and (leg := self.ledger.next_leg(self.placement)) is not None:
            self.placement.started(leg.trial.needs)
            self.ledger.began(leg)
            self.legs.append(leg)

    def step(self, leg: Leg) -> None:
        """Train one epoch of a leg, and end the leg where the race says so."""
        trial = leg.trial
        config = make_config({**trial.planned.config, "out_dir": trial.folder.uri, "root": "/", "results_csv": None})
        told: list[EpochReport] = []

        def on_epoch(report: EpochReport) -> None:
            told.append(report)
            raise Switch

        with pytest.raises(Switch):
            fake_fit.fit(config, on_epoch=on_epoch)
        figures = {**vars(told[0])}
        goes_on = self.ledger.goes_on(trial.trial_id, figures)
        if told[0].epoch == EPOCHS or not goes_on:
            self.legs.remove(leg)
            self.placement.ended(trial.needs, had_started=True)
            self.ledger.ended(leg, Ending("completed") if told[0].epoch == EPOCHS else None)

    def go(self, chance: random.Random, *, most: int, epochs: int | None = None) -> bool:
        """Run epochs of random legs; whether the sweep is over."""
        for _ in itertools.count() if epochs is None else range(epochs):
            self.hand_out(most)
            if not self.legs:
                assert self.ledger.finished
                return True
            self.step(chance.choice(self.legs))
        return False

    def facts(self) -> dict[str, Any]:
        """Everything that must not depend on order and kills, read back from the folders."""
        record = read_run(self.run)
        assert not any(one.problems for one in record.records)
        return {
            one.trial_id: (
                one.status, one.epochs_trained, [epoch["mean_f1"] for epoch in one.history],
                sorted((d.rung, d.epoch, d.stop, d.score, d.value, d.cutoff) for d in one.decisions),
                [(d.rung, d.stop, d.score, d.value, d.cutoff) for d in one.looks], one.reason if one.left else "",
                [name for name in STATE_FILES if self.run.sub("trials", one.trial_id).exists(name)],
            )
            for one in record.records
        }  # fmt: skip

    def trained(self) -> list[str]:
        """Each epoch that was trained, as often as it was."""
        return [" ".join(line.split()[:2]) for line in (self.storage / "order.txt").read_text().splitlines()]


scores = st.lists(st.integers(4, 40).map(lambda x: x / 50), min_size=EPOCHS, max_size=EPOCHS)
curve_sets = st.dictionaries(st.sampled_from([str(i) for i in range(12)]), scores, min_size=9)


@st.composite
def settled_curves(draw: st.DrawFn) -> dict[str, list[float]]:
    """Curves of a race whose groups' winners lie anywhere between a tie and far apart; seeds 41 to 44."""
    levels = {name: draw(st.sampled_from([0.5, 0.6, 0.7])) for name in SPACE["backbone"]["grid"]}
    luck = draw(st.lists(st.integers(-3, 3), min_size=24, max_size=24))
    with tempfile.TemporaryDirectory() as folder:
        plan = make_plan(load_space(fake_sweeps.write_space(Path(folder), **SETTLED)), auto_gpu=0.0)
    return {
        str(i): [levels[t.group] - 0.1 * (t.config["lr"] != 3e-4) + luck[i] / 500] * EPOCHS
        for i, t in enumerate(plan.trials)
    }


# Without shrinking: an example takes seconds, of fsyncs.
@settings(max_examples=6, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(curve_sets, st.integers(0, 2**32), st.integers(1, 12), st.lists(st.integers(0, 9), max_size=5))
def test_any_order_and_any_kills_end_as_the_race_left_alone(
    curves: dict[str, list[float]], seed: int, most: int, kills: list[int]
) -> None:
    _killed_ends_as_alone(curves, seed, most, kills)


@pytest.mark.slow
@settings(max_examples=5, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(settled_curves(), st.integers(0, 2**32), st.integers(1, 12), st.lists(st.integers(0, 25), max_size=5))
def test_any_order_and_any_kills_end_as_the_settling_left_alone(
    curves: dict[str, list[float]], seed: int, most: int, kills: list[int]
) -> None:
    _killed_ends_as_alone(curves, seed, most, kills, **SETTLED)


def ended_after(
    sweep: Sweep,
    kills: list[int],
    chance: random.Random,
    patch: pytest.MonkeyPatch,
    *,
    most: int,
    writers: tuple[ModuleType, ...] = (ledger_module,),
    on_write: Callable[[str, Any], None] = lambda name, value: None,
) -> bool:
    """Run a sweep whose driver is killed at random epochs, or a few writes later, between two of them; whether it is over then."""
    left, write = -1, ledger_module.write_json

    def write_or_die(folder: Any, name: str, value: Any) -> None:
        nonlocal left
        if left == 0:
            raise Killed
        left -= 1
        write(folder, name, value)
        on_write(name, value)

    for module in writers:
        patch.setattr(module, "write_json", write_or_die)
    for moment in kills:
        try:
            left = -1
            sweep.go(chance, most=most, epochs=moment)
            left = chance.randrange(4)
            sweep.go(chance, most=most)
        except Killed:
            pass
        left = -1
        sweep.open()
    return sweep.go(chance, most=most)


def _killed_ends_as_alone(
    curves: dict[str, list[float]], seed: int, most: int, kills: list[int], **changes: Any
) -> None:
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        alone = Sweep(Path(folder, "alone"), curves, **changes)
        assert alone.go(chance, most=1)
        sweep = Sweep(Path(folder, "killed"), curves, **changes)
        assert ended_after(sweep, kills, chance, patch, most=most)
        assert sweep.facts() == alone.facts()
        assert sorted(sweep.trained()) == sorted(alone.trained())
        assert len(set(alone.trained())) == len(alone.trained()), "no epoch is trained twice"


def test_while_one_group_waits_for_its_last_seed_the_other_one_runs(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path / "s")
    sweep.hand_out(2)
    first = sweep.legs[0].trial.group
    laggard = sweep.legs[0]
    for _ in range(4):
        others = [leg for leg in sweep.legs if leg is not laggard]
        sweep.step(others[0])
        sweep.hand_out(2)
        assert len(sweep.legs) == 2, "no slot is idle"
    assert {leg.trial.group for leg in sweep.legs if leg is not laggard} != {first}
    waiting = [t for t in sweep.ledger.groups[first] if t.scores and t.leg is None]
    assert [(t.status, t.reason) for t in waiting] == [("planned", "waits at epoch 1 for others of its group")] * 2


def test_a_trial_that_failed_runs_again_on_resume_and_what_was_decided_stays(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path / "s")
    sweep.hand_out(12)
    victim = sweep.legs[0]
    sweep.legs.remove(victim)
    sweep.placement.ended(victim.trial.needs, had_started=True)
    sweep.ledger.ended(victim, Ending("error", "a bug"))
    assert sweep.go(random.Random(0), most=12)
    before = {one.trial_id: one.decisions for one in read_run(sweep.run).records}
    sweep.open()
    assert sweep.go(random.Random(0), most=12)
    after = {one.trial_id: one for one in read_run(sweep.run).records}
    assert all(after[name].decisions[: len(decisions)] == decisions for name, decisions in before.items())
    assert after[victim.trial.trial_id].status in ("completed", "stopped", "skipped")


def test_what_settling_leaves_says_so_and_its_state_is_gone(tmp_path: Path) -> None:
    # With one seed to a rung each, seed 41 of the bad backbone's winner is run in full, then 42, then none.
    plan = Sweep(tmp_path / "plan", **SETTLED).plan
    curves = {
        str(i): [(0.7 if t.group == "resnet18" else 0.3) - 0.05 * (t.config["lr"] != 3e-4)] * EPOCHS
        for i, t in enumerate(plan.trials)
    }
    sweep = Sweep(tmp_path / "s", curves, **SETTLED)
    assert sweep.go(random.Random(0), most=3)
    records = {(r.group, r.config["lr"], r.seed): r for r in read_run(sweep.run).records}
    for group in ("resnet18", "mobilenet_v3_small"):
        seeds = [records[group, 3e-4, seed] for seed in (41, 42, 43, 44)]
        assert [r.status for r in seeds] == ["completed", "completed", "skipped", "skipped"]
        assert [r.left for r in seeds] == [False, False, True, True]
        assert [d.rung for r in seeds for d in r.looks] == [2.0]
        assert not any(sweep.run.sub("trials", r.trial_id).exists(name) for r in seeds for name in STATE_FILES)
        others = [r for (g, lr, seed), r in records.items() if g == group and lr != 3e-4]
        assert not any(r.left or r.looks for r in others) and {r.status for r in others} <= {"stopped", "skipped"}
    left = records["mobilenet_v3_small", 3e-4, 43]
    assert left.reason.startswith("mobilenet_v3_small after 2 seeds: cannot be the best any more; mean mean_f1 0.3")
    assert records["resnet18", 3e-4, 43].reason == "settled: no further seed is needed"
    sweep.open()
    assert sweep.ledger.finished, "a resume has nothing to do"


def test_a_look_stays_when_a_seed_that_failed_runs_again(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path / "s", **SETTLED)
    chance = random.Random(0)
    while not any(trial.state().looks for trial in sweep.ledger.trials.values()):
        assert not sweep.go(chance, most=3, epochs=1)
        confirmed = [leg for leg in sweep.legs if leg.phase == "confirm" and leg.trial.planned.seed == 41]
        if confirmed and not any(t.status == "failed" for t in sweep.ledger.trials.values()):
            sweep.legs.remove(confirmed[0])
            sweep.placement.ended(confirmed[0].trial.needs, had_started=True)
            sweep.ledger.ended(confirmed[0], Ending("error", "a bug"))
    failed = [t.trial_id for t in sweep.ledger.trials.values() if t.status == "failed"]
    assert len(failed) == 1
    before = {one.trial_id: one.looks for one in read_run(sweep.run).records if one.looks}
    sweep.open()
    assert sweep.go(chance, most=3)
    after = {one.trial_id: one for one in read_run(sweep.run).records}
    assert all(after[name].looks[: len(looks)] == looks for name, looks in before.items())
    assert after[failed[0]].status in ("completed", "stopped", "skipped")
