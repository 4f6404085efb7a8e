"""A search from its folders alone: killed between any two writes, with one trial at a time, it proposes what an undisturbed one does."""

from __future__ import annotations

import json
import random
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import sweep.driving.ledger as ledger_module
import sweep.driving.search_ledger as search_ledger_module
from fairface_core.files.folder import read_json
from sweep.driving.placement import Placement
from sweep.driving.search_ledger import SearchLedger
from sweep.driving.trials import Leg
from sweep.driving.worker import Ending
from sweep.plan.expand import make_plan
from sweep.plan.extend import adopt
from sweep.plan.plan import Plan
from sweep.plan.search import grown
from sweep.policy.asha import GroupedASHA
from sweep.policy.states import TrialState
from sweep.run_folder.records import read_run
from sweep.run_folder.request import check_same
from tests.sweep.driving.test_race_ledger import EPOCHS, Sweep, ended_after

ONE, TWO = ["resnet18"], ["resnet18", "mobilenet_v3_small"]
FIFO, ASHA = {"kind": "fifo"}, {"kind": "asha", "grace_epochs": 1, "reduction_factor": 2}
SEARCH, BUDGET = {"kind": "tpe", "startup": 2}, 5


class Searching(Sweep):
    """As Sweep, of a search: each driver begins with a plan made anew from the space and plan.json."""

    def __init__(self, storage: Path, scheduler: dict[str, Any], seeds: list[int], backbones: list[str] = TWO) -> None:
        space = {"backbone": {"grid": backbones}, "lr": {"loguniform": [1e-5, 1e-2]}, "seed": {"grid": seeds}}
        super().__init__(storage, scheduler=scheduler, space=space, num_samples=BUDGET, search=SEARCH)

    def open(self) -> None:
        record = read_run(self.run)
        plan = adopt(record.plan, make_plan(self.spec, auto_gpu=0.0, held=record.plan))
        assert plan == record.plan and check_same(record, plan, force=False) == []
        confirm = plan.scheduler.kind == "asha"
        self.ledger = SearchLedger(self.run, plan, confirm=confirm, max_retries=0, record=record, grow=self.grow)
        self.ledger.open_for_resume()
        self.asha = GroupedASHA(
            epochs=EPOCHS, grace_epochs=1 if confirm else EPOCHS, reduction_factor=2, on_decision=self.ledger.decided
        )
        self.asha.refill(self.ledger.states())
        self.ledger.settle()
        self.placement, self.legs = Placement(cpus=64, gpus=0, max_legs=None), list[Leg]()

    def hand_out(self, most: int) -> None:
        self.placement.max_legs = most
        super().hand_out(most)

    def grow(self, plan: Plan, group: str, states: list[TrialState]) -> Plan:
        mine = self.ledger.groups[group]
        assert all(t.leg or t.scores or t.status == "failed" for t in mine if t.planned.explores), "no trial waits"
        larger = grown(self.spec, plan, group, states, auto_gpu=0.0)
        assert larger == grown(self.spec, plan, group, random.sample(list(states), len(states)), auto_gpu=0.0)
        assert {t.trial_id for t in plan.trials} < {t.trial_id for t in larger.trials}
        return larger

    def step(self, leg: Leg) -> None:
        if leg.phase == "confirm" or self.ledger.plan.scheduler.kind == "fifo":
            super().step(leg)
            return
        self.ledger.goes_on = self.judged  # type: ignore[method-assign]
        super().step(leg)

    def judged(self, trial_id: str, figures: dict[str, Any]) -> bool:
        trial = self.ledger.trials[trial_id]
        assert trial.leg is not None
        self.ledger.epoch(trial.leg, figures)
        if trial.leg.phase == "confirm":
            return True
        return self.asha.on_epoch(trial_id, trial.group, figures["epoch"], figures["mean_f1"]) == "continue"

    def plan_json(self) -> Any:
        return read_json(self.run, "plan.json")


# Without shrinking: an example takes seconds, of fsyncs.
@pytest.mark.slow
@pytest.mark.parametrize(("scheduler", "seeds"), [(FIFO, [41, 42]), (ASHA, [41])], ids=["fifo", "asha"])
@settings(max_examples=2, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(seed=st.integers(0, 2**32), kills=st.lists(st.integers(0, 30), min_size=1, max_size=4))
def test_killed_anywhere_it_proposes_what_it_would_have(
    scheduler: dict[str, Any], seeds: list[int], seed: int, kills: list[int]
) -> None:
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        alone = Searching(Path(folder, "alone"), scheduler, seeds, ONE)
        assert alone.go(chance, most=1)
        killed = Searching(Path(folder, "killed"), scheduler, seeds, ONE)
        _kill(killed, kills, chance, patch, most=1)
        assert killed.plan_json() == alone.plan_json() == alone.ledger.plan.to_json()
        assert killed.facts() == alone.facts()
        assert sorted(killed.trained()) == sorted(alone.trained())
        assert {t.config_id for t in alone.ledger.plan.trials} == {t.config_id for t in killed.ledger.plan.trials}


@pytest.mark.slow
@settings(max_examples=2, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(seed=st.integers(0, 2**32), most=st.integers(2, 7), kills=st.lists(st.integers(0, 20), max_size=3))
def test_with_any_number_of_machines_and_kills_what_was_planned_stays_and_the_budget_is_kept(
    seed: int, most: int, kills: list[int]
) -> None:
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        killed = Searching(Path(folder, "s"), ASHA, [41, 42])
        _kill(killed, kills, chance, patch, most=most)
        plan = killed.ledger.plan
        assert plan.to_come == dict.fromkeys(TWO, 0)
        assert len({t.config_id for t in plan.trials}) == 2 * BUDGET and len(plan.trials) == 4 * BUDGET
        assert len(set(killed.trained())) == len(killed.trained()), "no epoch is trained twice"
        for trials in killed.ledger.groups.values():
            full = [
                t.status == "completed"
                for t in trials
                if t.planned.config_id == killed.ledger.choices()[t.group].winner
            ]
            assert full == [True, True], "the winner is run in full"


def _kill(sweep: Searching, kills: list[int], chance: random.Random, patch: pytest.MonkeyPatch, *, most: int) -> None:
    """Run to the end, with kills at random epochs, or a few writes later; no entry of plan.json is ever lost."""
    planned: list[str] = []

    def check(name: str, value: Any) -> None:
        nonlocal planned
        if name == "plan.json":
            ids = [trial["trial_id"] for trial in value["trials"]]
            assert set(planned) < set(ids)
            planned = ids

    writers = (ledger_module, search_ledger_module)
    assert ended_after(sweep, kills, chance, patch, most=most, writers=writers, on_write=check)


def test_a_proposal_waits_until_a_machine_is_free_for_it(tmp_path: Path) -> None:
    sweep = Searching(tmp_path / "s", FIFO, [41])
    sweep.hand_out(3)
    assert len(sweep.legs) == 3 and len(sweep.ledger.plan.trials) == 4, "all that is planned comes first"
    sweep.hand_out(4)
    assert len(sweep.ledger.plan.trials) == 4
    sweep.hand_out(5)
    assert len(sweep.ledger.plan.trials) == 5 and len(sweep.legs) == 5
    last = sweep.legs[-1].trial
    assert json.loads(sweep.run.read("plan.json"))["trials"] == [
        t.model_dump(mode="json") for t in sweep.ledger.plan.trials
    ]
    assert last.planned in sweep.ledger.plan.trials and not last.folder.exists("status.json")
    sweep.placement.cpus = 5
    assert sweep.ledger.next_leg(sweep.placement) is None, "one more could wait in Ray, but would follow from less"


def test_what_failed_says_nothing_and_the_search_goes_on(tmp_path: Path) -> None:
    sweep = Searching(tmp_path / "s", FIFO, [41])
    chance = random.Random(0)
    while not sweep.ledger.finished:
        sweep.hand_out(1)
        leg = sweep.legs[0]
        if leg.trial.group == "resnet18":
            sweep.legs.remove(leg)
            sweep.placement.ended(leg.trial.needs, had_started=True)
            sweep.ledger.ended(leg, Ending("error", "a bug"))
        else:
            sweep.go(chance, most=1, epochs=1)
    assert sweep.ledger.count("failed") == sweep.ledger.count("completed") == BUDGET
