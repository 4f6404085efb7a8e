"""The driver's book, without Ray: what comes next, what is written, and what a resume finds."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from fairface_core.errors import StorageError
from fairface_core.files.folder import open_folder, read_json, write_json
from fairface_core.trial.reports import EpochReport
from fairface_core.trial.writing import write_history, write_status
from sweep.driving.ledger import Ledger
from sweep.driving.placement import Placement
from sweep.driving.trials import Leg, open_trial
from sweep.driving.worker import Ending
from sweep.plan.expand import make_plan
from sweep.plan.plan import Plan
from sweep.policy.states import RungDecision, decisions_from_json, decisions_to_json
from sweep.run_folder.records import read_run
from sweep.run_folder.request import write_new
from sweep.space.load import load_space
from tests.sweep import fake_sweeps

ASHA = {"kind": "asha", "grace_epochs": 1, "reduction_factor": 3}


def figures(epoch: int, score: float) -> dict[str, Any]:
    report = EpochReport(
        epoch=epoch, lr=1e-3, train_loss=1, val_loss=1, val_age_acc=score, val_age_f1m=score, val_gen_acc=score,
        val_gen_f1m=score, mean_f1=score, best_epoch=epoch, best_mean_f1=score, train_s=1, eval_s=1, images_per_s=1,
        peak_memory_gib=1,
    )  # fmt: skip
    return dataclasses.asdict(report)


def make(tmp_path: Path, *, resume: bool = False, confirm: bool = True, **changes: Any) -> tuple[Ledger, Plan]:
    space = {"backbone": {"grid": ["resnet18"]}, "lr": {"grid": [1e-4, 3e-4]}, "seed": {"grid": [41, 42]}}
    spec = load_space(fake_sweeps.write_space(tmp_path, **{"space": space, "scheduler": ASHA, **changes}))
    plan = make_plan(spec, auto_gpu=0.0)
    run = open_folder(tmp_path / "run")
    if not resume:
        write_new(run, spec, plan)
    record = read_run(run) if resume else None
    return Ledger(run, plan, confirm=confirm, max_retries=2, record=record), plan


def leg_of(ledger: Ledger, placement: Placement) -> Leg:
    leg = ledger.next_leg(placement)
    assert leg is not None
    placement.started(leg.trial.needs)
    ledger.began(leg)
    return leg


def stop_at(ledger: Ledger, leg: Leg, *, score: float, order: int) -> None:
    ledger.epoch(leg, figures(1, score))
    trial = leg.trial
    ledger.decided(RungDecision(trial.trial_id, trial.group, 1.0, 1, score, 0.5, stop=True, order=order))
    ledger.ended(leg, None)


def test_a_group_is_explored_then_its_winner_is_confirmed(tmp_path: Path) -> None:
    ledger, plan = make(tmp_path)
    placement = Placement(cpus=64, gpus=0)
    legs = [leg_of(ledger, placement) for _ in range(4)]
    assert [leg.phase for leg in legs] == ["explore"] * 4
    assert ledger.next_leg(placement) is None
    scores = {3e-4: 0.4, 1e-4: 0.2}
    for order, leg in enumerate(legs):
        assert not ledger.finished
        stop_at(ledger, leg, score=scores[leg.trial.planned.config["lr"]], order=order)
        placement.ended(leg.trial.needs, had_started=True)
    confirmed = [leg_of(ledger, placement) for _ in range(2)]
    assert {leg.trial.planned.config["lr"] for leg in confirmed} == {3e-4}
    assert [leg.phase for leg in confirmed] == ["confirm"] * 2
    assert [leg.number for leg in confirmed] == [2, 2]
    for leg in confirmed:
        for epoch in range(2, plan.epochs + 1):
            ledger.epoch(leg, figures(epoch, 0.5))
        ledger.ended(leg, Ending("completed"))
    assert ledger.finished
    assert ledger.count("completed") == 2
    assert ledger.count("stopped") == 2


def test_a_winner_whose_state_is_lost_begins_anew_and_stays_the_winner(tmp_path: Path) -> None:
    space = {"backbone": {"grid": ["resnet18"]}, "lr": {"grid": [1e-4, 3e-4]}, "seed": {"grid": [41]}}
    ledger, _ = make(tmp_path, space=space)
    placement = Placement(64, 0)
    for order, leg in enumerate([leg_of(ledger, placement) for _ in range(2)]):
        score = {3e-4: 0.4, 1e-4: 0.2}[leg.trial.planned.config["lr"]]
        write_history(leg.trial.folder, [EpochReport(**figures(1, score))])
        stop_at(ledger, leg, score=score, order=order)
    winner = leg_of(ledger, placement).trial
    assert (winner.planned.config["lr"], winner.scores, winner.taken_back) == (3e-4, [], 1)
    assert ledger.next_leg(placement) is None, "the other configuration has not become the winner"
    # Killed before the first epoch is there again.
    write_status(winner.folder, "running", epochs_trained=0)
    again, _ = make(tmp_path, resume=True, space=space)
    again.open_for_resume()
    assert leg_of(again, placement).trial.trial_id == winner.trial_id
    assert again.next_leg(placement) is None


def test_decisions_are_stored_before_they_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweep.driving.ledger._WRITE_PAUSES_S", (0.0,))
    ledger, _ = make(tmp_path)
    leg = leg_of(ledger, Placement(64, 0))
    trial = leg.trial
    ledger.epoch(leg, figures(1, 0.3))
    decision = RungDecision(trial.trial_id, trial.group, 1.0, 1, 0.3, None, stop=False, order=0)
    ledger.decided(decision)
    assert decisions_from_json(read_json(trial.folder, "decisions.json")) == (decision,)
    # The folder becomes a file: whatever is written there fails.
    folder = trial.folder.path()
    assert folder is not None
    (folder / "decisions.json").unlink()
    folder.rmdir()
    folder.write_text("")
    with pytest.raises(StorageError):
        ledger.decided(dataclasses.replace(decision, rung=3.0, epoch=3, order=1))
    assert trial.decisions == (decision,)


def test_a_repeated_epoch_counts_once(tmp_path: Path) -> None:
    ledger, _ = make(tmp_path)
    leg = leg_of(ledger, Placement(64, 0))
    for epoch, score in ((1, 0.1), (2, 0.2), (2, 0.2), (3, 0.3)):
        ledger.epoch(leg, {**figures(epoch, score), "pid": 7, "config": {}})
    assert leg.trial.scores == [0.1, 0.2, 0.3]
    assert [row["epoch"] for row in leg.trial.history] == [1, 2, 3]
    assert "pid" not in leg.trial.history[0]


def test_states_that_nobody_needs_are_removed(tmp_path: Path) -> None:
    ledger, plan = make(tmp_path, scheduler={"kind": "fifo"}, confirm=False)
    leg = leg_of(ledger, Placement(64, 0))
    for name in ("state.pt", "state.prev.pt", "best.pt"):
        leg.trial.folder.write(name, b"x")
    for epoch in range(1, plan.epochs + 1):
        ledger.epoch(leg, figures(epoch, 0.1 * epoch))
    ledger.ended(leg, Ending("completed"))
    assert leg.trial.folder.names() == ["best.pt"]


def test_resume_takes_the_folders_at_their_word(tmp_path: Path) -> None:
    _, plan = make(tmp_path)
    run = open_folder(tmp_path / "run")
    names = [trial.trial_id for trial in plan.trials]
    running, failed, stopped, new = (run.sub("trials", name) for name in names)
    for folder, status, epochs in ((running, "running", 2), (failed, "failed", 1), (stopped, "stopped", 1)):
        write_history(folder, [EpochReport(**figures(epoch, 0.1 * epoch)) for epoch in range(1, epochs + 1)])
        detail = {"kind": "asha", "rung": 1.0, "epoch": 1, "score": 0.1, "cutoff": 0.2, "phase": "explore"}
        write_status(folder, status, epochs_trained=epochs, detail=detail if status == "stopped" else {}, attempts=2)
    kept = RungDecision(names[0], "resnet18", 1.0, 1, 0.1, None, stop=False, order=0)
    write_json(running, "decisions.json", decisions_to_json([kept]))
    ledger, _ = make(tmp_path, resume=True)
    ledger.open_for_resume()
    by_name = ledger.trials
    assert [by_name[name].status for name in names] == ["planned", "planned", "stopped", "planned"]
    assert [len(by_name[name].scores) for name in names] == [2, 1, 1, 0]
    assert [by_name[name].attempts for name in names] == [3, 3, 2, 1]
    assert by_name[names[0]].decisions == (kept,)
    rebuilt = by_name[names[2]].stop
    assert rebuilt is not None, "a lost decisions.json is made up for by the status"
    assert (rebuilt.rung, rebuilt.epoch, rebuilt.score, rebuilt.cutoff) == (1.0, 1, 0.1, 0.2)
    assert read_json(failed, "status.json")["status"] == "planned"
    assert not new.exists("status.json")
    # Those that have begun come first.
    placement = Placement(64, 0)
    assert {leg_of(ledger, placement).trial.trial_id for _ in range(2)} == set(names[:2])


@pytest.mark.parametrize("damage", [b"", b"{", b'{"schema_version": 9, "decisions": []}', b"[]"])
def test_damaged_decisions_are_named_and_made_up_for(tmp_path: Path, damage: bytes) -> None:
    _, plan = make(tmp_path)
    folder = open_folder(tmp_path / "run").sub("trials", plan.trials[0].trial_id)
    write_history(folder, [EpochReport(**figures(1, 0.1))])
    write_status(folder, "running", epochs_trained=1)
    folder.write("decisions.json", damage)
    ledger, _ = make(tmp_path, resume=True)
    assert [note for note in ledger.notes if "decisions.json" in note and plan.trials[0].trial_id in note]
    assert ledger.trials[plan.trials[0].trial_id].decisions == ()


def test_an_interruption_is_told_in_the_folders(tmp_path: Path) -> None:
    ledger, _ = make(tmp_path)
    placement = Placement(64, 0)
    running = leg_of(ledger, placement)
    waiting = ledger.next_leg(placement)
    assert waiting is not None
    ledger.interrupted("SIGINT")
    status = json.loads(running.trial.folder.read("status.json"))
    assert (status["status"], status["attempts"]) == ("planned", 1)
    assert "interrupted by SIGINT" in status["reason"]
    assert not waiting.trial.folder.exists("status.json")


def test_a_storage_that_hiccups_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweep.driving.ledger._WRITE_PAUSES_S", (0.0, 0.0))
    ledger, _ = make(tmp_path)
    tries: list[int] = []

    def write() -> None:
        tries.append(1)
        if len(tries) < 3:
            raise StorageError("503 slow down")

    ledger._store(write)
    assert len(tries) == 3


def test_what_one_trial_learned_of_memory_its_group_knows_also_after_a_restart(tmp_path: Path) -> None:
    space = {"backbone": {"grid": ["resnet18", "resnet50"]}, "lr": {"grid": [1e-4]}, "seed": {"grid": [41, 42]}}
    ledger, _ = make(tmp_path, space=space)
    placement = Placement(64, 0)
    legs = [leg_of(ledger, placement) for _ in range(4)]
    first = legs[0].trial
    sibling = next(leg.trial for leg in legs[1:] if leg.trial.group == first.group)
    other = next(leg.trial for leg in legs if leg.trial.group != first.group)
    assert ledger.ended(legs[0], Ending("oom", "CUDA out of memory", retry=True, at_once=64))
    assert [ledger.at_most(trial) for trial in (first, sibling, other)] == [32, 32, None]
    assert first.reason.endswith(f"{first.group} goes on with 32 images at a time")
    # The sibling was running with all 64 meanwhile.
    assert ledger.ended(next(leg for leg in legs if leg.trial is sibling), Ending("oom", "", True, at_once=64))
    assert ledger.at_most(first) == 32

    again, _ = make(tmp_path, resume=True, space=space)
    assert [again.at_most(again.trials[trial.trial_id]) for trial in (first, sibling, other)] == [32, 32, None]


def test_fewer_than_eight_images_are_not_tried(tmp_path: Path) -> None:
    ledger, _ = make(tmp_path)
    leg = leg_of(ledger, Placement(64, 0))
    assert not ledger.ended(leg, Ending("oom", "CUDA out of memory", retry=True, at_once=15))
    assert leg.trial.status == "failed"
    assert leg.trial.reason == "oom: CUDA out of memory"


def test_halving_takes_no_retry_of_a_crash_away(tmp_path: Path) -> None:
    ledger, _ = make(tmp_path)  # max_retries is 2
    leg = leg_of(ledger, Placement(64, 0))
    for at_once in (64, 32):
        assert ledger.ended(leg, Ending("oom", "CUDA out of memory", retry=True, at_once=at_once))
    crash = Ending("crash", "its process was killed", retry=True)
    assert [ledger.ended(leg, crash) for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize(("trained", "at_most"), [(32, None), (16, 16)])
def test_parts_that_the_space_asks_for_bring_nobody_down(tmp_path: Path, trained: int, at_most: int | None) -> None:
    _, plan = make(tmp_path, fixed={"epochs": 4, "batch_size": 64, "micro_batch_size": 32})
    record = read_run(open_folder(tmp_path / "run")).records[0]
    record = dataclasses.replace(record, report={"provenance": {"micro_batch_size": trained}}, epochs_trained=1)
    trial = open_trial(plan.trials[0], open_folder(tmp_path / "trial"), record, [])
    assert trial.at_most == at_most
