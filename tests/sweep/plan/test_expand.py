"""The plan: which trials, in which order, under which ids, and what they can cost."""

from __future__ import annotations

import itertools
import json
import math
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fairface_core.backbones import BACKBONES, relative_cost
from fairface_core.config.train_config import TrainConfig, make_config
from fairface_core.errors import ConfigError
from sweep.plan.expand import MAX_TRIALS_EVER, count_trials, make_plan
from sweep.plan.extend import adopt
from sweep.plan.plan import Plan, space_difference
from tests.sweep.spaces import DESIGN_SPACE, RANDOM_SPACE, plan_of, space

PROJECT = Path(__file__).resolve().parents[3]


def ids(plan: Plan) -> list[str]:
    return [trial.trial_id for trial in plan.trials]


def test_the_space_of_the_design(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, DESIGN_SPACE)
    assert (len(plan.trials), plan.epochs, plan.group_by, plan.worst_case_epochs()) == (36, 20, "backbone", 720)
    readable = [name.rpartition("-")[0] for name in ids(plan)]
    assert readable[:10] == [
        *(f"vit_b_16-lr{lr}-s{seed}" for seed in (41, 42, 43) for lr in ("1e-5", "3e-5", "1e-4")),
        "efficientnet_v2_s-lr1e-4-s41",
    ]
    by_id = {trial.trial_id.rpartition("-")[0]: trial for trial in plan.trials}
    trial = by_id["resnet50-lr3e-4-s42"]
    assert trial.config == {
        "backbone": "resnet50", "batch_size": 128, "epochs": 20, "lr": 3e-4, "seed": 42, "weight_decay": 1e-4,
    }  # fmt: skip
    assert (trial.group, trial.seed, trial.explores, trial.cpu, trial.gpu) == ("resnet50", 42, True, 4, 0.5)
    assert trial.config_id.startswith("resnet50-lr3e-4-")
    assert by_id["vit_b_16-lr3e-5-s42"].gpu == 1


def test_all_seeds_of_a_configuration_share_its_id_and_nothing_else_does(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, DESIGN_SPACE)
    configurations = Counter(trial.config_id for trial in plan.trials)
    assert set(configurations.values()) == {3}
    assert len(configurations) == 12
    for trials in plan.groups().values():
        lrs = {(trial.config_id, trial.config["lr"]) for trial in trials}
        assert len(lrs) == 3


# Order.


def test_the_longest_trials_start_first_and_seeds_take_turns(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, DESIGN_SPACE)
    costs = [relative_cost(trial.config) for trial in plan.trials]
    assert costs == sorted(costs, reverse=True)
    for trials in plan.groups().values():
        assert [trial.seed for trial in trials] == [41] * 3 + [42] * 3 + [43] * 3


def test_seeds_that_do_not_explore_come_last(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, DESIGN_SPACE, sets=["scheduler.explore_seeds=1", "space.seed.grid=[43, 41, 42]"])
    assert [trial.explores for trial in plan.trials] == [True] * 12 + [False] * 24
    assert {trial.seed for trial in plan.trials if trial.explores} == {43}, "the first of the space, not the smallest"
    # 12 explore; then the two other seeds of one configuration of each of 4 backbones.
    assert plan.worst_case_epochs() == (12 + 4 * 2) * 20


def test_settling_may_add_seeds_for_the_best_alone(tmp_path: Path) -> None:
    sets = ["scheduler.confirm=settle", "scheduler.seeds.up_to=5", "space.seed.grid=[43, 7, 42]"]
    for kind in ("race", "asha"):
        plan = plan_of(tmp_path, DESIGN_SPACE, sets=sets, scheduler=kind)
        assert (len(plan.trials), len(plan.grid), plan.most_seeds) == (60, 36, 5)
        assert {trial.seed for trial in plan.trials if trial.explores} == {43, 7, 42}
        assert {trial.seed for trial in plan.trials if not trial.explores} == {44, 45}
        assert plan.worst_case_epochs() == (36 + 4 * 2) * 20
        assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    assert plan_of(tmp_path, DESIGN_SPACE).most_seeds is None
    # What a run that began before there was such a key holds.
    assert "seeds" not in plan_of(tmp_path, DESIGN_SPACE).space["scheduler"]


def test_within_a_group_the_larger_images_start_first(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "space: {image_size: {grid: [64, 128, 96]}, seed: {grid: [1, 2]}}")
    assert [(trial.seed, trial.config["image_size"]) for trial in plan.trials] == [
        (1, 128), (1, 96), (1, 64), (2, 128), (2, 96), (2, 64),
    ]  # fmt: skip


def test_grouping_by_another_key(tmp_path: Path) -> None:
    plan = plan_of(
        tmp_path,
        "space: {lr: {grid: [1e-4, 1e-3]}, image_size: {grid: [null, 64]}, backbone: {grid: [resnet18, resnet50]}}\n"
        "scheduler: {group_by: image_size}",
    )
    assert {name: len(trials) for name, trials in plan.groups().items()} == {"null": 4, "64": 4}


# Ids.


def test_ids_depend_on_the_configuration_alone(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, DESIGN_SPACE)
    shuffled = yaml.safe_load(DESIGN_SPACE)
    shuffled = {key: shuffled[key] for key in reversed(shuffled)}
    shuffled["space"] = {
        key: {"grid": values["grid"][::-1] if key != "seed" else values["grid"]}
        for key, values in reversed(shuffled["space"].items())
    }
    shuffled["fixed"] |= {"dropout": 0.2, "num_workers": 1}
    shuffled["data"] = {"root": "/elsewhere"}
    other = plan_of(tmp_path, json.dumps(shuffled), name="other")
    assert ids(other) == ids(plan)
    assert other.space_digest == plan.space_digest


def test_ids_do_not_depend_on_the_process(tmp_path: Path) -> None:
    space(tmp_path, DESIGN_SPACE)
    code = (
        "from pathlib import Path; from sweep.space.load import load_space; from sweep.plan.expand import make_plan\n"
        "print(*(t.trial_id for t in make_plan(load_space(Path('space.yaml')), auto_gpu=0).trials))"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True,
            env={"PYTHONHASHSEED": hash_seed, "PATH": "", "LC_ALL": "C", "PYTHONPATH": str(PROJECT)},
        ).stdout.split()
        for hash_seed in ("1", "2")
    ]  # fmt: skip
    assert runs[0] == runs[1] == ids(plan_of(tmp_path, DESIGN_SPACE))


def test_a_new_value_leaves_the_other_ids_alone(tmp_path: Path) -> None:
    larger = plan_of(tmp_path, DESIGN_SPACE, sets=["space.lr.grid=[1e-4, 3e-4, 1e-3, 3e-3]"])
    assert set(ids(plan_of(tmp_path, DESIGN_SPACE))) < set(ids(larger))


def test_what_is_constant_within_each_group_is_in_no_id_and_runs_with_other_ids_keep_them(tmp_path: Path) -> None:
    plan = plan_of(
        tmp_path,
        "space: {backbone: {grid: [resnet18, resnet50]}, lr: {grid: [1e-4, 1e-3]}}\n"
        "per_backbone: {resnet18: {weights: none}, resnet50: {dropout: {grid: [0.1, 0.3]}}}",
    )
    assert [name.rpartition("-")[0] for name in ids(plan)] == [
        *(f"resnet50-dropout{share}-lr{lr}-s42" for share in (0.1, 0.3) for lr in ("1e-4", "1e-3")),
        *(f"resnet18-dropout0.2-lr{lr}-s42" for lr in ("1e-4", "1e-3")),
    ]
    named = [
        trial.model_copy(update={"trial_id": f"old-{trial.trial_id}", "config_id": f"old-{trial.config_id}"})
        for trial in plan.trials
    ]
    older = plan.model_copy(update={"trials": tuple(named)})
    assert adopt(older, plan) == older


def test_values_that_are_equal_make_one_trial(tmp_path: Path) -> None:
    plan = plan_of(
        tmp_path,
        "space: {lr: {grid: [1e-4]}, dropout: {choice: [0.1, '0.10', 1e-1]}}\nnum_samples: 5\nscheduler: {kind: fifo}",
    )
    assert len(plan.trials) == 1
    assert plan.notes == ("4 of 5 trials equal another one; each is run once",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "space: {age_loss: {grid: [cross_entropy, coral]}, mixup: {grid: [0, 0.2]}}",
            "mixup = 0.2: age_loss = coral needs one true age group an image; use cross_entropy or soft_labels, or mixup 0 "
            "(the trial with age_loss coral, backbone resnet50, mixup 0.2, seed 42; grids are crossed: values that do not go "
            "together need two spaces, or per_backbone)",
        ),
        (
            "space: {lr: {grid: [1e-4, 1e-3]}}\nfixed: {age_loss: coral, mixup: 0.2}",
            "mixup = 0.2: age_loss = coral needs one true age group an image; use cross_entropy or soft_labels, or mixup 0 "
            "(the trial with backbone resnet50, lr 0.0001, seed 42, and 1 more)",
        ),
    ],
)
def test_values_that_do_not_go_together_are_named_with_the_cure(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        plan_of(tmp_path, text)
    (line,) = refused.value.problems
    assert line.endswith(f"space.yaml: {said}")


# Draws.


def drawn(plan: Plan) -> dict[str, set[tuple[float, int]]]:
    return {
        group: {(trial.config["lr"], trial.config["batch_size"]) for trial in trials}
        for group, trials in plan.groups().items()
    }


def test_draws_are_stable_shared_by_all_seeds_and_differ_between_groups(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, RANDOM_SPACE)
    assert plan == plan_of(tmp_path, RANDOM_SPACE)
    assert len(plan.trials) == 2 * 6 * 2
    assert set(Counter(trial.config_id for trial in plan.trials).values()) == {2}
    draws = drawn(plan)
    assert [len(values) for values in draws.values()] == [6, 6]
    assert not draws["resnet18"] & draws["resnet50"]


def test_more_samples_and_more_backbones_leave_the_draws_alone(tmp_path: Path) -> None:
    few = drawn(plan_of(tmp_path, RANDOM_SPACE))
    more = drawn(plan_of(tmp_path, RANDOM_SPACE, sets=["num_samples=9"]))
    assert all(few[group] < more[group] for group in few)
    wider = drawn(plan_of(tmp_path, RANDOM_SPACE, sets=["space.backbone.grid=[vit_b_16, resnet50, resnet18]"]))
    assert {group: wider[group] for group in few} == few


def test_another_sample_seed_draws_other_values(tmp_path: Path) -> None:
    other = drawn(plan_of(tmp_path, RANDOM_SPACE, sets=["sample_seed=1"]))
    assert not any(other[group] & values for group, values in drawn(plan_of(tmp_path, RANDOM_SPACE)).items())


def test_draws_fill_their_range_evenly(tmp_path: Path) -> None:
    text = "space: {lr: {loguniform: [1e-5, 1e-2]}, batch_size: {randint: [16, 20]}}\nnum_samples: 900"
    plan = plan_of(tmp_path, text)
    decades = Counter(math.floor(math.log10(trial.config["lr"])) for trial in plan.trials)
    sizes = Counter(trial.config["batch_size"] for trial in plan.trials)
    # Binomial: 300 +- 14 in each decade and 225 +- 13 of each size; these are 4 standard deviations.
    assert decades.keys() == {-5, -4, -3}
    assert all(abs(count - 300) < 57 for count in decades.values())
    assert sizes.keys() == {16, 17, 18, 19}
    assert all(abs(count - 225) < 52 for count in sizes.values())


# Counting.


@pytest.mark.parametrize("samples", [500, 10**6, 10**12])
def test_a_space_too_large_is_counted_not_made(tmp_path: Path, samples: int) -> None:
    started = time.process_time()
    with pytest.raises(ConfigError) as refused:
        plan_of(tmp_path, RANDOM_SPACE, sets=[f"num_samples={samples}"])
    assert f"the space makes {samples * 4:,} trials (backbone 2 x seed 2 x num_samples {samples:,})" in str(
        refused.value
    )
    assert "1,000 is the most that is accepted without --yes" in str(refused.value)
    assert time.process_time() - started < 5, "measured: 0.01 s"


def test_yes_plans_more_up_to_a_ceiling(tmp_path: Path) -> None:
    spec = space(tmp_path, RANDOM_SPACE, sets=["num_samples=300"])
    assert len(make_plan(spec, yes=True, auto_gpu=0).trials) == 1200
    with pytest.raises(ConfigError, match=r"the space makes 1,200 trials .*; 100 is the most that is accepted without"):
        make_plan(spec, limit=100, auto_gpu=0)
    endless = space(tmp_path, RANDOM_SPACE, sets=[f"num_samples={10**12}"])
    with pytest.raises(ConfigError, match=f"; {MAX_TRIALS_EVER:,} is the most that a sweep can hold; take values out"):
        make_plan(endless, yes=True, auto_gpu=0)


def test_gpus_auto_is_what_the_machine_has(tmp_path: Path) -> None:
    spec = space(tmp_path, "space: {lr: {grid: [1e-4, 1e-3]}}\nresources: {per_backbone: {resnet50: {gpu: auto}}}")
    assert {trial.gpu for trial in make_plan(spec, auto_gpu=1).trials} == {1.0}
    on_cpu = space(tmp_path, "space: {lr: {grid: [1e-4, 1e-3]}}\nfixed: {device: cpu}")
    assert {trial.gpu for trial in make_plan(on_cpu).trials} == {0.0}


def test_a_note_says_where_asha_has_nothing_to_compare(tmp_path: Path) -> None:
    plan = plan_of(
        tmp_path, "space: {backbone: {grid: [resnet18, resnet50]}}\nper_backbone: {resnet18: {lr: {grid: [1, 2]}}}"
    )
    assert plan.notes == ("ASHA stops nothing in resnet50: a single trial has nothing to be compared with",)


# Anything that is right.

LRS = st.lists(st.sampled_from([1e-5, 1e-4, 3e-4, 1e-3]), min_size=1, max_size=4, unique=True)
GRIDS = {
    "lr": LRS,
    "dropout": st.lists(st.sampled_from([0.0, 0.1, 0.5]), min_size=1, max_size=3, unique=True),
    "batch_size": st.lists(st.integers(2, 512), min_size=1, max_size=3, unique=True),
    "seed": st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=3, unique=True),
    "backbone": st.lists(st.sampled_from(sorted(BACKBONES)), min_size=1, max_size=3, unique=True),
    "no_amp": st.lists(st.booleans(), min_size=1, max_size=2, unique=True),
}
GRID_SPACES = st.fixed_dictionaries({}, optional=GRIDS).filter(bool)


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(GRID_SPACES, LRS, st.randoms(use_true_random=False))
def test_a_plan_is_the_product_of_its_grids(
    tmp_path: Path, grids: dict[str, list[Any]], own: list[float], shuffler: random.Random
) -> None:
    document = {
        "space": {key: {"grid": values} for key, values in grids.items()},
        "per_backbone": {"vit_b_16": {"lr": {"grid": own}}},
        "fixed": {"epochs": 2},
    }
    plan = plan_of(tmp_path, json.dumps(document))
    seeds = grids.get("seed", [42])
    expected = set()
    for backbone in grids.get("backbone", ["resnet50"]):
        lrs = {"lr": own} if backbone == "vit_b_16" else {}
        here = {key: values for key, values in ({**grids, **lrs}).items() if key not in ("seed", "backbone")}
        for point in itertools.product(*here.values(), seeds):
            *values, seed = point
            given = {**dict(zip(here, values, strict=True)), "backbone": backbone, "seed": seed, "epochs": 2}
            expected.add(make_config(given).digest())
    assert {make_config(trial.config).digest() for trial in plan.trials} == expected
    assert (
        len(plan.trials) == len(set(ids(plan))) == len(expected) == count_trials(space(tmp_path, json.dumps(document)))
    )
    assert {trial.seed for trial in plan.trials} == set(seeds)
    assert all(trial.trial_id.endswith(make_config(trial.config).digest()[:8]) for trial in plan.trials)
    assert all(len(trials) % len(seeds) == 0 for trials in plan.groups().values())
    assert Plan.from_json(plan.to_json()) == plan
    # The order of keys and of values means nothing, but for the seeds.
    for key in document["space"]:
        if key != "seed":
            shuffler.shuffle(document["space"][key]["grid"])
    document["space"] = dict(shuffler.sample(list(document["space"].items()), len(document["space"])))
    again = plan_of(tmp_path, json.dumps(document))
    assert (ids(again), again.space_digest) == (ids(plan), plan.space_digest)
    assert space_difference(plan, again) == []


def test_every_tunable_key_can_be_swept_with_no_change_here(tmp_path: Path) -> None:
    defaults = {name: TrainConfig.model_fields[name].default for name in TrainConfig.model_fields}
    for key in sorted(set(GRIDS) | {"weight_decay", "age_loss_weight", "weights"}):
        values = {bool: [True, False], float: [0.25, 0.5], int: [64, 128], str: ["resnet18", "vit_b_16"]}
        grid = values[type(defaults[key])] if key != "weights" else ["none", "imagenet"]
        plan = plan_of(tmp_path, json.dumps({"space": {key: {"grid": grid}}}))
        assert sorted(str(trial.config[key]) for trial in plan.trials) == sorted(map(str, grid))
