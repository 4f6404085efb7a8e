"""Where and when legs start: the rule alone, then with Ray's logical GPUs on a machine that has none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sweep.driving.placement import Needs, Placement
from tests.sweep import fake_sweeps
from tests.sweep.fake_sweeps import run_sweep

HALF, WHOLE = Needs(1, 0.5), Needs(1, 1.0)


def test_as_many_as_fit_and_one_more_of_each_kind() -> None:
    placement = Placement(cpus=16, gpus=2)
    submitted = 0
    while placement.may_submit(WHOLE):
        placement.submitted(WHOLE)
        submitted += 1
    assert submitted == 2, "two fit; before they have started no third one may wait"
    placement.started(WHOLE)
    placement.started(WHOLE)
    assert placement.may_submit(WHOLE), "one may wait, to take over at once"
    placement.submitted(WHOLE)
    assert not placement.may_submit(WHOLE)
    assert placement.may_submit(HALF), "one of another kind may wait too"
    placement.ended(WHOLE, had_started=True)
    placement.started(WHOLE)
    assert placement.may_submit(WHOLE)


def test_a_big_leg_that_waits_keeps_no_small_one_out() -> None:
    placement = Placement(cpus=16, gpus=1)
    placement.submitted(HALF)
    placement.started(HALF)
    placement.submitted(WHOLE)  # does not fit beside it
    assert placement.fitting(HALF) == 1
    assert placement.may_submit(HALF)


def test_fractions_add_up_exactly() -> None:
    tenth = Needs(0.1, 0.1)
    placement = Placement(cpus=1, gpus=1)
    for _ in range(10):
        assert placement.fitting(tenth) >= 1
        placement.submitted(tenth)
        placement.started(tenth)
    assert placement.fitting(tenth) == 0


def test_a_limit_counts_what_waits() -> None:
    placement = Placement(cpus=16, gpus=0, max_legs=2)
    for _ in range(2):
        assert placement.may_submit(Needs(1, 0))
        placement.submitted(Needs(1, 0))
    assert not placement.may_submit(Needs(1, 0))
    placement.ended(Needs(1, 0), had_started=False)
    assert placement.may_submit(Needs(1, 0))


# With Ray.

NUM_GPUS = 2


@pytest.fixture(scope="module")
def ray_with_gpus() -> Iterator[None]:
    with fake_sweeps.held_ray(num_cpus=8, num_gpus=NUM_GPUS):
        yield


@dataclass(frozen=True)
class Run:
    """A trial from its first epoch's start to its last epoch's end, seconds."""

    trial_id: str
    group: str
    gpu: float
    began: float
    ended: float


def run_and_time(storage: Path, fake: dict[str, Any], **changes: Any) -> list[Run]:
    """Run a sweep of one-epoch trials and return when each ran."""
    ledger, _ = run_sweep(
        storage,
        fake={"order": "order.txt", **fake},
        fixed={"epochs": 1, "batch_size": 64, "weights": "none"},
        **changes,
    )
    assert {trial.status for trial in ledger.trials.values()} == {"completed"}
    runs = []
    for line in (storage / "order.txt").read_text().splitlines():
        name, _, _, began, ended = line.split()
        trial = ledger.trials[name]
        runs.append(Run(name, trial.group, trial.planned.gpu, float(began), float(ended)))
    return sorted(runs, key=lambda run: run.began)


def busy(runs: list[Run], moment: float) -> float:
    """GPUs in use at a moment."""
    return sum(run.gpu for run in runs if run.began <= moment < run.ended)


@pytest.mark.slow
@pytest.mark.ray
def test_fractions_and_overrides_fill_the_gpus_and_no_more(ray_with_gpus: None, tmp_path: Path) -> None:
    runs = run_and_time(
        tmp_path / "s",
        {"epoch_s": 2.0},
        space={"backbone": {"grid": ["resnet50", "resnet18"]}, "lr": {"grid": [3e-4]}, "seed": {"grid": [1, 2, 3, 4]}},
        resources={"cpu": 0.5, "gpu": 1, "per_backbone": {"resnet18": {"gpu": 0.5, "cpu": 0.25}}},
    )
    assert {(run.group, run.gpu) for run in runs} == {("resnet50", 1.0), ("resnet18", 0.5)}
    moments = [run.began for run in runs] + [run.ended - 1e-3 for run in runs]
    assert max(busy(runs, moment) for moment in moments) == NUM_GPUS
    assert all(busy(runs, moment) <= NUM_GPUS + 1e-9 for moment in moments)


@pytest.mark.ray
def test_longest_first_and_nothing_idle_while_a_trial_that_fits_waits(ray_with_gpus: None, tmp_path: Path) -> None:
    """Each of two GPUs has 0.4 left beside a long trial of 0.6: the short ones of 0.4 do not wait behind the next."""
    runs = run_and_time(
        tmp_path / "s",
        # Long is as long as it takes the short ones to end: were one of them made to wait, so would be all.
        {"epoch_s": {"mobilenet_v3_small": 0.2}, "until": {"vit_b_16": 3}},
        space={
            "backbone": {"grid": ["mobilenet_v3_small", "vit_b_16"]},
            "lr": {"grid": [3e-4]},
            "seed": {"grid": [1, 2, 3]},
        },
        resources={"cpu": 0.25, "gpu": 0.6, "per_backbone": {"mobilenet_v3_small": {"gpu": 0.4}}},
    )
    long, short = ([run for run in runs if run.group == name] for name in ("vit_b_16", "mobilenet_v3_small"))
    assert len(long) == len(short) == 3
    first_end = min(run.ended for run in long)
    assert sum(run.began < first_end for run in long) == NUM_GPUS, "one long trial on each GPU"
    assert all(run.began < first_end for run in short), "all short ones fit beside them"
    assert long[NUM_GPUS].began >= first_end
    assert max(busy(runs, run.began) for run in short) > NUM_GPUS * 0.6


@pytest.mark.ray
def test_equal_trials_start_in_plan_order(ray_with_gpus: None, tmp_path: Path) -> None:
    """Among trials that wait in Ray for a reused actor Ray picks any; so no more wait there than can start together."""
    ledger, seen = run_sweep(
        tmp_path / "s",
        max_legs=None,
        fake={"epoch_s": 0.3},
        space={"backbone": {"grid": ["resnet18"]}, "lr": {"grid": [3e-4]}, "seed": {"grid": list(range(1, 9))}},
        fixed={"epochs": 1, "batch_size": 64, "weights": "none"},
        resources={"cpu": 1, "gpu": 1},
    )
    begun = [name for name, _ in seen.began]
    planned = [trial.trial_id for trial in ledger.plan.trials]
    assert sorted(begun[:NUM_GPUS]) == sorted(planned[:NUM_GPUS]), "those that start together may overtake each other"
    # Trials that end in the same tick make room for as many at once.
    assert all(abs(begun.index(name) - place) < NUM_GPUS for place, name in enumerate(planned)), begun


@pytest.mark.slow
@pytest.mark.ray
def test_a_limit_is_kept(ray_with_gpus: None, tmp_path: Path) -> None:
    _, seen = run_sweep(tmp_path / "s", max_legs=3, fixed={"epochs": 1})
    assert seen.most_running <= 3
    assert len(seen.began) == 12
