"""Search: which configurations are known from the start, what is proposed next, and that it follows from nothing but folders."""

from __future__ import annotations

import importlib.util
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sweep.plan.expand as expand
from fairface_core.errors import ConfigError
from sweep.plan.cells import Cell, cells
from sweep.plan.expand import make_plan
from sweep.plan.extend import adopt, no_extension
from sweep.plan.plan import Plan
from sweep.plan.search import at_random, grown, propose
from sweep.policy.confirm import Worth, worth_of
from sweep.policy.states import RungDecision, TrialState
from sweep.space.load import load_space
from sweep.space.scheduler import SearchSpec
from sweep.space.spec import SweepSpec

EPOCHS = 4
STARTUP = SearchSpec().startup
RANDOM_KEYS = {
    "lr": {"loguniform": [1e-5, 1e-2]}, "dropout": {"uniform": [0.3, 0.9]}, "batch_size": {"choice": [32, 64, 128]},
    "warmup_epochs": {"randint": [0, 3]},
}  # fmt: skip
ONE, SEEDS = {"backbone": {"grid": ["resnet18"]}}, {"seed": {"grid": [41, 42]}}
SPACE: dict[str, Any] = {
    "data": {"root": "/"},
    "space": {"backbone": {"grid": ["resnet18", "mobilenet_v3_small"]}, **SEEDS, **RANDOM_KEYS},
    "fixed": {"epochs": EPOCHS, "weights": "none"},
    "num_samples": 14,
    "search": {"kind": "tpe"},
    "scheduler": {"kind": "fifo"},
    "resources": {"gpu": 0},
}


def spec_of(folder: Path, **changes: Any) -> SweepSpec:
    path = folder / "space.yaml"
    path.write_text(json.dumps({**SPACE, **changes}))
    return load_space(path)


def over(plan: Plan, group: str, score: Any = lambda trial: 0.5) -> list[TrialState]:
    """Every trial of a group, run in full with a score of its own."""
    return [
        TrialState(t.trial_id, t.group, t.config_id, t.seed, t.explores, "completed", (score(t),) * EPOCHS)
        for t in plan.groups()[group]
    ]


def grown_to_the_end(spec: SweepSpec, plan: Plan, group: str, score: Any) -> Plan:
    while plan.to_come[group]:
        plan = grown(spec, plan, group, over(plan, group, score), auto_gpu=0.0)
    return plan


def test_what_is_known_from_the_start(tmp_path: Path) -> None:
    spec = spec_of(tmp_path)
    plan, drawn = make_plan(spec), make_plan(at_random(spec))
    assert plan.to_come == {"resnet18": 4, "mobilenet_v3_small": 4}
    assert plan.num_trials == len(drawn.trials) == 2 * 2 * 14
    assert plan.worst_case_epochs() == drawn.worst_case_epochs() == 2 * 2 * 14 * EPOCHS
    for group, trials in plan.groups().items():
        configs = list({trial.config_id: trial.config for trial in trials}.values())
        first, *others = configs
        # 3e-4 and 0 are the defaults; 0.2 lies outside, and 128 is a choice.
        assert (first["lr"], first["dropout"], first["batch_size"], first["warmup_epochs"]) == (3e-4, 0.6, 128, 0)
        assert len(others) == STARTUP - 1
        random_ones = [trial.config for trial in drawn.groups()[group]]
        assert all(config in random_ones for config in others if config["seed"] == 41)


def test_a_search_is_no_part_of_a_space_that_asks_for_none(tmp_path: Path) -> None:
    spec = spec_of(tmp_path)
    without = spec_of(tmp_path, search=None)
    assert "search" not in without.canonical() and make_plan(without).to_json().keys() == Plan.model_fields.keys() - {
        "to_come"
    }
    assert (
        spec.canonical()["search"] == {"kind": "tpe", "startup": STARTUP} and spec.digest() != at_random(spec).digest()
    )
    assert spec_of(tmp_path, search={"kind": "random"}).digest() == without.digest() == at_random(spec).digest()


def test_without_optuna_it_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_of(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"search.kind = tpe needs Optuna.*pip install 'fairface-sweep\[optuna\]', or search"
    ):
        make_plan(spec)
    assert make_plan(at_random(spec)).trials


@settings(max_examples=4, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(0, 3))
def test_proposals_follow_from_what_trials_say_in_whatever_order(
    tmp_path_factory: Any, chance: random.Random, extra: int
) -> None:
    spec = spec_of(tmp_path_factory.mktemp("s"), num_samples=STARTUP + 1 + extra)
    scores: dict[str, float] = {}
    plan = grown_to_the_end(spec, make_plan(spec), "resnet18", lambda t: scores.setdefault(t.trial_id, chance.random()))
    again = make_plan(spec)
    assert again.trials == tuple(t for t in plan.trials if t in again.trials)
    while again.to_come["resnet18"]:
        states = over(again, "resnet18", lambda t: scores[t.trial_id])
        chance.shuffle(states)
        # A resume makes the plan anew from the space and what plan.json holds.
        held = Plan.from_json(json.loads(json.dumps(again.to_json())))
        again = grown(spec, adopt(held, make_plan(spec, held=held)), "resnet18", states, auto_gpu=0.0)
    assert again == plan
    mine = [trial for trial in plan.trials if trial.group == "resnet18"]
    assert len({trial.config_id for trial in mine}) == STARTUP + 1 + extra and len(mine) == 2 * (STARTUP + 1 + extra)
    for trial in mine:
        assert all(one.holds(trial.config[key]) for key, one in spec.distributions("resnet18").items())


def test_seed_cell_and_number_make_another_proposal_and_results_too(tmp_path: Path) -> None:
    spec = spec_of(tmp_path)
    cell, other = cells(spec)
    told = [(values, Worth(0.1 * (i % 7), EPOCHS, True, False)) for i, values in enumerate(cell.known(None))]
    better = [(values, replace(worth, score=1 - (worth.score or 0))) for values, worth in told]
    asked = [
        propose(cell, told, EPOCHS), propose(Cell(other.values, cell.drawn, spec), told, EPOCHS),
        propose(replace(cell, spec=spec.model_copy(update={"sample_seed": 1})), told, EPOCHS),
        propose(cell, told[:-1], EPOCHS), propose(cell, better, EPOCHS),
    ]  # fmt: skip
    assert asked[0] == propose(cell, told, EPOCHS)
    assert len({str(one) for one in asked}) == len(asked)


def test_it_finds_the_good_end_of_a_range(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, space={**ONE, **SEEDS, "lr": {"loguniform": [1e-5, 1e-2]}}, num_samples=24)
    plan = grown_to_the_end(spec, make_plan(spec), "resnet18", lambda t: t.config["lr"])
    lrs = [trial.config["lr"] for trial in plan.trials if trial.seed == 41]
    assert sum(lr > 3e-3 for lr in lrs[STARTUP:]) > 7 > sum(lr > 3e-3 for lr in lrs[:STARTUP])


def test_what_a_study_is_told(tmp_path: Path) -> None:
    def state(status: str, *scores: float, stop: int | None = None, seed: int = 1) -> TrialState:
        rung = (RungDecision("t", "g", float(stop), stop, 0.1, 0.2, True, 0),) if stop else ()
        return TrialState("t", "g", "c", seed, True, status, scores, rung)

    assert worth_of([state("completed", 0.2, 0.6, 0.4), state("completed", 0.1, 0.2, 0.4, seed=2)]) == Worth(
        0.5, 3, True, False
    )
    assert worth_of([state("stopped", 0.3, 0.2, stop=2)]) == Worth(0.3, 2, True, False)
    # What a confirm run added is no part of it.
    assert worth_of([state("completed", 0.3, 0.2, 0.9, 0.9, stop=2)]) == Worth(0.3, 2, True, False)
    assert worth_of([state("completed", 0.3, 0.2), state("running", 0.9)]) == Worth(0.3, 2, False, False)
    assert worth_of([state("diverged", 0.9), state("completed", 0.2, 0.3)]) == Worth(0.3, 2, True, True)
    assert worth_of([state("failed", 0.9)]) == Worth(None, 0, True, False)

    spec = spec_of(tmp_path, space={**ONE, **SEEDS, "dropout": {"uniform": [0.0, 0.9]}})
    cell = Cell(cells(spec)[0].values, {"dropout": spec.space["dropout"]}, spec)
    values = [{"dropout": round(0.085 * i, 3)} for i in range(11)]

    def share_near_the_top(worth: Worth, times: int = 12) -> float:
        """How often a proposal lies near 0.85, where this is said of it and of nothing else that it is good."""
        near = 0
        for sample_seed in range(times):
            seeded = replace(cell, spec=spec.model_copy(update={"sample_seed": sample_seed}))
            told = [(v, Worth(0.3 + 0.01 * (i % 3), EPOCHS, True, False)) for i, v in enumerate(values[:-1])]
            near += propose(seeded, [*told, (values[-1], worth)], EPOCHS)["dropout"] > 0.7
        return near / times

    best = share_near_the_top(Worth(0.9, EPOCHS, True, False))
    for poor in (
        Worth(0.9, 1, True, False),
        Worth(0.9, EPOCHS, False, False),
        Worth(0.9, EPOCHS, True, True),
        Worth(None, 0, True, False),
    ):
        assert share_near_the_top(poor) < best


def test_a_space_that_is_used_up_ends_the_search(tmp_path: Path) -> None:
    three = {**ONE, **SEEDS, "batch_size": {"choice": [32, 64, 128, 64]}}
    plan = make_plan(spec_of(tmp_path, space=three, num_samples=9))
    assert plan.to_come == {"resnet18": 0} and sorted(t.config["batch_size"] for t in plan.trials) == [
        32,
        32,
        64,
        64,
        128,
        128,
    ]
    # min_lr above lr is refused; 1e-2 and 1e-3 go with every lr, 1 with none.
    spec = spec_of(tmp_path, space={**ONE, **SEEDS, "min_lr": {"choice": [0, 1e-3, 1.0]}}, num_samples=3)
    plan = make_plan(spec, held=None)
    assert plan.to_come == {"resnet18": 2}
    assert grown(spec, plan, "resnet18", over(plan, "resnet18"), auto_gpu=0.0).to_come == {"resnet18": 0}
    with pytest.raises(ConfigError, match=r"min_lr = 1\.5: above lr"):
        make_plan(spec_of(tmp_path, space={**ONE, **SEEDS, "min_lr": {"uniform": [1.0, 2.0]}}))


def test_each_combination_of_the_grids_has_its_own_study(tmp_path: Path) -> None:
    spec = spec_of(
        tmp_path, num_samples=11,
        space={**ONE, **SEEDS, "optimizer": {"grid": ["adamw", "sgd"]}, "lr": {"loguniform": [1e-5, 1e-2]}},
    )  # fmt: skip
    plan = grown_to_the_end(spec, make_plan(spec), "resnet18", lambda t: 0.5)
    counts = {name: sum(t.config["optimizer"] == name for t in plan.trials) for name in ("adamw", "sgd")}
    assert counts == {"adamw": 22, "sgd": 22}


def test_a_larger_space_keeps_what_was_proposed(tmp_path: Path) -> None:
    spec, more = (
        spec_of(tmp_path),
        spec_of(tmp_path, num_samples=16, space={**SPACE["space"], "seed": {"grid": [40, 41, 42]}}),
    )
    plan = grown_to_the_end(spec, make_plan(spec), "resnet18", lambda t: t.config["lr"])
    larger = adopt(plan, make_plan(more, held=plan))
    assert no_extension(plan, larger) == [] and larger.to_come == {"resnet18": 2, "mobilenet_v3_small": 6}
    assert {t.trial_id for t in plan.trials} < {t.trial_id for t in larger.trials}
    fewer = spec_of(tmp_path, num_samples=12)
    assert any(
        line.startswith("num_samples: was 14, is 12")
        for line in no_extension(plan, adopt(plan, make_plan(fewer, held=plan)))
    )


def test_a_random_search_can_be_gone_on_with_by_proposals_and_not_the_other_way_round(tmp_path: Path) -> None:
    spec = spec_of(tmp_path)
    drawn = make_plan(at_random(spec))
    wider = spec.model_copy(update={"num_samples": 20})
    larger = adopt(drawn, make_plan(wider, held=drawn))
    assert no_extension(drawn, larger) == [] and larger.to_come == {"resnet18": 6, "mobilenet_v3_small": 6}
    searched = make_plan(spec)
    assert 'search.kind: was "tpe", is not given any more' in no_extension(
        searched, adopt(searched, make_plan(at_random(wider)))
    )


def test_names_do_not_follow_from_what_was_tried(tmp_path: Path) -> None:
    plan = make_plan(spec_of(tmp_path, num_samples=1))
    assert all("-bs128-" in t.trial_id and "-lr3e-4-" in t.trial_id for t in plan.trials)
    assert expand.count_trials(spec_of(tmp_path)) == 2 * 2 * 14
