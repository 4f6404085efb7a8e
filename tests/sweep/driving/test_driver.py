"""The driver with known learning curves: what runs, what is retried, what is stopped, and what stands on disk then."""

from __future__ import annotations

import collections
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from fairface_core.trial.reports import STATE
from sweep.policy.states import decisions_from_json
from tests.sweep import fake_sweeps
from tests.sweep.fake_sweeps import run_sweep, status_of

pytestmark = pytest.mark.ray

ONE_BACKBONE = {"space": {"backbone": {"grid": ["resnet18"]}}}


@pytest.fixture(scope="module", autouse=True)
def ray_here() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        # A minute by default; `test_an_actor_that_cannot_be_used_again` would wait for it.
        patch.setenv("TUNE_FUNCTION_THREAD_TIMEOUT_S", "2")
        with fake_sweeps.held_ray(num_cpus=2):
            yield


def ids(ledger: fake_sweeps.Ledger) -> list[str]:
    return [trial.trial_id for trial in ledger.plan.trials]


def test_every_trial_runs_once_and_in_plan_order_in_one_actor_that_is_reused(tmp_path: Path) -> None:
    ledger, seen = run_sweep(tmp_path / "s", fake={"order": "order.txt"}, max_legs=1)
    assert [trial.status for trial in ledger.trials.values()] == ["completed"] * 12
    assert [name for name, _ in seen.began] == [
        *ledger_order(ledger, "resnet18"),
        *ledger_order(ledger, "mobilenet_v3_small"),
    ]
    assert collections.Counter(seen.epochs) == {(name, epoch): 1 for name in ids(ledger) for epoch in range(1, 5)}
    assert all(status_of(ledger.run, name)["status"] == "completed" for name in ids(ledger))
    processes = {line.split()[2] for line in (tmp_path / "s" / "order.txt").read_text().splitlines()}
    assert len(processes) == 1


def ledger_order(ledger: fake_sweeps.Ledger, group: str) -> list[str]:
    """The order that the confirm policy asks for in a group that nothing is known of: seeds last, lr from the middle."""
    lrs = (3e-4, 1e-4, 1e-3)
    trials = {(t.planned.seed, t.planned.config["lr"]): t.trial_id for t in ledger.groups[group]}
    return [trials[seed, lr] for seed in (41, 42) for lr in lrs]


def test_asha_stops_and_confirms(tmp_path: Path) -> None:
    asha = {"kind": "asha", "grace_epochs": 1, "reduction_factor": 3}
    ledger, seen = run_sweep(tmp_path / "s", scheduler=asha, fixed={"epochs": 9}, **ONE_BACKBONE)
    statuses = collections.Counter(trial.status for trial in ledger.trials.values())
    assert statuses["completed"] >= 2
    assert statuses["completed"] + statuses["stopped"] == 6
    winners = [t for t in ledger.trials.values() if t.planned.config["lr"] == 3e-4]
    assert [t.status for t in winners] == ["completed", "completed"]
    for trial in ledger.trials.values():
        assert collections.Counter(seen.epochs)[trial.trial_id, 1] == 1
        status = status_of(ledger.run, trial.trial_id)
        assert status["status"] == trial.status
        assert status["epochs_trained"] == len(trial.scores)
        if trial.status == "stopped":
            stored = decisions_from_json(json.loads(trial.folder.read("decisions.json")))
            assert stored == trial.decisions
            assert status["detail"] == trial.stop.detail()
            assert status["reason"] == trial.stop.reason()
            assert trial.folder.exists("report.json")
        if trial.status in ("completed", "stopped"):
            # Nothing can be confirmed any more, so no full state is kept.
            assert not trial.folder.exists(STATE)


RACE = {"kind": "race", "grace_epochs": 1, "reduction_factor": 3}


def test_a_race_confirms_one_winner_a_group_and_trains_no_epoch_twice(tmp_path: Path) -> None:
    ledger, seen = run_sweep(tmp_path / "s", scheduler=RACE, fixed={"epochs": 9})
    assert ledger.finished
    statuses = collections.Counter(trial.status for trial in ledger.trials.values())
    assert statuses["completed"] == 4, "two groups, two seeds of each winner"
    assert statuses["planned"] == statuses["failed"] == 0
    for trial in ledger.trials.values():
        assert (trial.status == "completed") == (trial.planned.config["lr"] == 3e-4)
    assert set(collections.Counter(seen.epochs).values()) == {1}, "no epoch is trained twice"
    assert all(again is False for _, _, again in seen.endings)
    for trial in ledger.trials.values():
        status = status_of(ledger.run, trial.trial_id)
        assert (status["status"], status["attempts"]) == (trial.status, 1)
        if trial.status == "stopped":
            assert trial.stop is not None
            assert (status["detail"]["kind"], status["reason"]) == ("race", trial.stop.reason())
            assert decisions_from_json(json.loads(trial.folder.read("decisions.json"))) == trial.decisions
            assert not trial.folder.exists(STATE)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["kill", "late_kill", "bug", "diverge"])
def test_a_race_goes_on_without_those_that_it_loses(tmp_path: Path, what: str) -> None:
    from sweep.plan.expand import make_plan
    from sweep.space.load import load_space

    storage = tmp_path / "s"
    storage.mkdir()
    plan = make_plan(load_space(fake_sweeps.write_space(storage, scheduler=RACE, **ONE_BACKBONE)), auto_gpu=0.0)
    victim = next(t.trial_id for t in plan.trials if (t.config["lr"], t.seed) == (3e-4, 41))
    ledger, seen = run_sweep(
        storage, fake={"faults": {victim: {"1": what}}}, scheduler=RACE, fixed={"epochs": 4}, **ONE_BACKBONE
    )
    assert ledger.finished
    assert set(collections.Counter(seen.epochs).values()) == {1}
    trial = ledger.trials[victim]
    full = {t.planned.config["lr"] for t in ledger.trials.values() if t.status == "completed"}
    if what in ("kill", "late_kill"):
        assert (trial.status, trial.attempts, full) == ("completed", 2, {3e-4})
    elif what == "bug":
        assert (trial.status, full) == ("failed", {3e-4}), "its other seed races in its place"
    else:
        assert trial.status == "diverged"
        assert 3e-4 not in full


@pytest.mark.slow
def test_an_actor_that_cannot_be_used_again_costs_no_trial(tmp_path: Path) -> None:
    """Ray sets the next trial of such an actor to ERROR and tells nobody."""
    asha = {"kind": "asha", "grace_epochs": 1, "reduction_factor": 3, "confirm": False}
    ledger, seen = run_sweep(
        tmp_path / "s", fake={"linger_s": 5.0}, scheduler=asha, fixed={"epochs": 3}, max_legs=1, **ONE_BACKBONE
    )
    assert {trial.status for trial in ledger.trials.values()} == {"completed", "stopped"}
    assert any(ending and ending.reason == "its worker could not be used again" for _, ending, _ in seen.endings)


def test_one_seed_explores_and_the_others_are_skipped(tmp_path: Path) -> None:
    asha = {"kind": "asha", "grace_epochs": 1, "reduction_factor": 3, "explore_seeds": 1}
    ledger, seen = run_sweep(tmp_path / "s", scheduler=asha, fixed={"epochs": 9}, **ONE_BACKBONE)
    by_seed = {(t.planned.seed, t.planned.config["lr"]): t for t in ledger.trials.values()}
    assert by_seed[41, 3e-4].status == by_seed[42, 3e-4].status == "completed"
    for lr in (1e-4, 1e-3):
        skipped = by_seed[42, lr]
        assert status_of(ledger.run, skipped.trial_id)["status"] == "skipped"
        assert "only its seeds are run" in skipped.reason
    assert (by_seed[42, 3e-4].trial_id, "confirm") in seen.began


SMALL = {"space": {"backbone": {"grid": ["resnet18"]}, "lr": {"grid": [1e-4, 3e-4]}, "seed": {"grid": [41]}}}


def run_with(storage: Path, what: str, **options: object) -> tuple[fake_sweeps.Ledger, fake_sweeps.Seen, str]:
    """Run two trials of which one has a fault in epoch 2; return its id too."""
    from sweep.plan.expand import make_plan
    from sweep.space.load import load_space

    storage.mkdir()
    plan = make_plan(load_space(fake_sweeps.write_space(storage, **SMALL)), auto_gpu=0.0)
    victim = next(t.trial_id for t in plan.trials if t.config["lr"] == 1e-4)
    ledger, seen = run_sweep(storage, fake={"faults": {victim: {"2": what}}}, **SMALL, **options)  # type: ignore[arg-type]
    others = [trial.status for trial in ledger.trials.values() if trial.trial_id != victim]
    assert others == ["completed"], "the other trial must not notice"
    return ledger, seen, victim


@pytest.mark.parametrize(
    ("what", "kind"), [("kill", "crash"), ("device", "device"), ("transient", "storage"), ("oom", "oom")]
)
def test_what_may_go_better_is_tried_again(tmp_path: Path, what: str, kind: str) -> None:
    ledger, seen, victim = run_with(tmp_path / "s", what)
    trial = ledger.trials[victim]
    assert trial.status == "completed"
    assert (trial.attempts, len(trial.scores)) == (2, 4)
    endings = [(ending.kind, again) for name, ending, again in seen.endings if name == victim and ending]
    assert endings == [(kind, True), ("completed", False)]
    # It went on from its own state: epoch 1 was not trained twice.
    assert collections.Counter(seen.epochs)[victim, 1] == 1
    assert status_of(ledger.run, victim)["attempts"] == 2


@pytest.mark.slow
def test_out_of_memory_halves_the_micro_batch_down_to_eight_images(tmp_path: Path) -> None:
    ledger, seen, victim = run_with(tmp_path / "s", "oom!")
    trial = ledger.trials[victim]
    assert trial.status == "failed"
    assert trial.reason.startswith("oom: CUDA out of memory")
    assert trial.folder.read("oom.txt") == b"8", "the fourth try has an eighth of the batch of 64"
    assert [again for name, _, again in seen.endings if name == victim] == [True, True, True, False]


@pytest.mark.parametrize(("what", "kind"), [("bug", "error"), ("disk", "storage")])
def test_what_would_only_repeat_fails_at_once(tmp_path: Path, what: str, kind: str) -> None:
    ledger, seen, victim = run_with(tmp_path / "s", what)
    status = status_of(ledger.run, victim)
    assert status["status"] == "failed"
    assert status["detail"]["kind"] == kind
    assert status["epochs_trained"] == 1
    assert {"bug": "ValueError: a bug in the model", "disk": "ENOSPC"}[what] in status["reason"]
    assert "Traceback" in ledger.trials[victim].folder.read("error.txt").decode()
    assert [again for name, _, again in seen.endings if name == victim] == [False]
    assert ledger.trials[victim].folder.exists(STATE), "its state is kept for a resume"


def test_retries_end(tmp_path: Path) -> None:
    ledger, seen, victim = run_with(tmp_path / "s", "kill!", max_retries=2)
    assert ledger.trials[victim].status == "failed"
    assert status_of(ledger.run, victim)["attempts"] == 3
    assert [again for name, _, again in seen.endings if name == victim] == [True, True, False]
    assert "(3 attempts)" in ledger.trials[victim].reason


def test_divergence_ends_a_trial_without_another_try(tmp_path: Path) -> None:
    ledger, seen, victim = run_with(tmp_path / "s", "diverge")
    status = status_of(ledger.run, victim)
    assert (status["status"], status["epochs_trained"], status["attempts"]) == ("diverged", 1, 1)
    assert "nan" in status["reason"]
    assert [again for name, _, again in seen.endings if name == victim] == [False]


@pytest.mark.parametrize("what", ["hang", "stop"])
def test_a_hung_worker_is_ended_and_its_trial_goes_on(tmp_path: Path, what: str) -> None:
    ledger, seen, victim = run_with(tmp_path / "s", what, stall_timeout_s=3.0)
    assert ledger.trials[victim].status == "completed"
    endings = [ending.kind for name, ending, _ in seen.endings if name == victim and ending]
    assert endings == ["stalled", "completed"]


def test_a_long_epoch_that_shows_life_is_not_a_hang(tmp_path: Path) -> None:
    ledger, seen = run_sweep(
        tmp_path / "s", fake={"epoch_s": 5.0}, stall_timeout_s=2.5, fixed={"epochs": 1}, **SMALL_SPACE
    )
    assert [trial.status for trial in ledger.trials.values()] == ["completed"]
    assert len(seen.endings) == 1


SMALL_SPACE = {"space": {"backbone": {"grid": ["resnet18"]}, "lr": {"grid": [1e-4]}, "seed": {"grid": [41]}}}


def test_resume_runs_what_is_left_and_nothing_else(tmp_path: Path) -> None:
    ledger, _, victim = run_with(tmp_path / "s", "bug")
    again, seen = run_sweep(tmp_path / "s", resume=True, **SMALL)
    assert [trial.status for trial in again.trials.values()] == ["completed", "completed"]
    assert [name for name, _ in seen.began] == [victim]
    assert seen.epochs == [(victim, 2), (victim, 3), (victim, 4)]
    assert status_of(ledger.run, victim)["attempts"] == 2


def test_a_resume_of_a_finished_sweep_runs_nothing(tmp_path: Path) -> None:
    run_sweep(tmp_path / "s", **SMALL)
    _, seen = run_sweep(tmp_path / "s", resume=True, **SMALL)
    assert (seen.began, seen.epochs) == ([], [])


def test_ray_stores_nothing_of_ours(tmp_path: Path) -> None:
    run_sweep(tmp_path / "s", **SMALL)
    stored = b"".join(path.read_bytes() for path in (tmp_path / "s" / "tune").glob("*") if path.is_file())
    assert b"tuner" in stored or stored
    for name in (b"Ledger", b"sweep.driving.ledger", b"Watcher", b"StopSignals"):
        assert name not in stored


def test_an_epoch_that_was_written_and_not_told_still_meets_its_rung(tmp_path: Path) -> None:
    """A worker dies between the write of an epoch and its report: the next attempt reports it before it trains."""
    from sweep.plan.expand import make_plan
    from sweep.space.load import load_space

    options = {**SMALL, "scheduler": {"kind": "asha", "grace_epochs": 2, "reduction_factor": 2, "confirm": False}}
    storage = tmp_path / "s"
    storage.mkdir()
    plan = make_plan(load_space(fake_sweeps.write_space(storage, **options)), auto_gpu=0.0)
    names = [trial.trial_id for trial in plan.trials]
    faults = {name: {"2": "late_kill"} for name in names}
    ledger, seen = run_sweep(storage, fake={"faults": faults, "order": "order.txt"}, max_legs=1, **options)
    trained = [tuple(line.split()[:2]) for line in (storage / "order.txt").read_text().splitlines()]
    assert len(trained) == len(set(trained)), "no epoch was trained twice"
    assert [epoch for name, epoch in seen.epochs if name == names[0]][:2] == [1, 2]
    assert {trial.trial_id: [d.epoch for d in trial.decisions] for trial in ledger.trials.values()} == {
        name: [2] for name in names
    }
    assert {trial.status for trial in ledger.trials.values()} <= {"completed", "stopped"}
    assert [trial.attempts for trial in ledger.trials.values()] == [2, 2]
