"""A finished run takes a larger space: nothing is trained again, and the end is that of the larger space asked for at once."""

from __future__ import annotations

import collections
import random
from pathlib import Path
from typing import Any

import pytest

from fairface_core.errors import ConfigError, StorageError
from fairface_core.files.folder import Folder, open_folder
from fairface_core.trial.writing import write_status
from sweep.driving.worker import Ending
from sweep.plan.expand import make_plan
from sweep.plan.extend import adopt
from sweep.results.benchmark import BENCHMARK_CSV, write_benchmark
from sweep.run_folder.records import read_run
from sweep.run_folder.request import check_same, complete, rewrite
from sweep.space.load import load_space
from tests.sweep import fake_sweeps
from tests.sweep.driving.test_race_ledger import EPOCHS, RACE, SPACE, Sweep

FIFO = {"kind": "fifo"}
FIXED = {"epochs": EPOCHS, "batch_size": 64}
SMALL = {"backbone": {"grid": ["resnet18"]}, "lr": {"grid": [1e-4, 3e-4]}, "seed": {"grid": [41]}}
LARGER = {**SMALL, "lr": {"grid": [1e-4, 3e-4, 1e-3]}, "seed": {"grid": [41, 42]}}


def extend(sweep: Sweep, **changes: Any) -> None:
    """Ask for more, as `--extend` does, and start a driver on it."""
    sweep.spec = load_space(fake_sweeps.write_space(sweep.storage, **changes))
    record = read_run(sweep.run)
    sweep.plan = adopt(record.plan, make_plan(sweep.spec, auto_gpu=0.0))
    check_same(record, sweep.plan, force=True, extend=True)
    rewrite(sweep.run, sweep.spec, sweep.plan)
    sweep.open()


@pytest.mark.parametrize("killed", [True, False])
def test_no_other_space_stands_beside_a_plan_whenever_it_is_killed(
    tmp_path: Path, killed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = Sweep(tmp_path, space=SMALL, scheduler=FIFO)
    old = sweep.spec
    complete(sweep.run, old)
    write = Folder.write

    def refuse(folder: Folder, name: str, payload: Any) -> None:
        if name == ("plan.json" if killed else "space.yaml"):
            raise StorageError("killed here")
        write(folder, name, payload)

    with monkeypatch.context() as patch, pytest.raises(StorageError, match="killed here"):
        patch.setattr(Folder, "write", refuse)
        extend(sweep, space=LARGER, scheduler=FIFO, fixed=FIXED)
    assert not sweep.run.exists("space.yaml")
    left = read_run(sweep.run).plan
    asked = old if killed else sweep.spec
    assert len(left.trials) == (2 if killed else 6)
    complete(sweep.run, asked)
    assert sweep.run.read("space.yaml").decode() == asked.recorded_text()


def contents(sweep: Sweep) -> dict[str, bytes]:
    """Every file of the trials, and the CSV, without where the run lies."""
    write_benchmark(sweep.run)
    root = sweep.storage / "run"
    files = [path for path in sorted((root / "trials").rglob("*")) if path.is_file()] + [root / BENCHMARK_CSV]
    return {
        str(path.relative_to(root)): path.read_bytes().replace(str(sweep.storage).encode(), b"STORAGE")
        for path in files
    }


def test_an_extended_fifo_sweep_is_the_larger_one_asked_for_at_once(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path / "extended", space=SMALL, scheduler=FIFO)
    assert sweep.go(random.Random(0), most=2)
    before = sweep.trained()
    extend(sweep, space=LARGER, scheduler=FIFO, fixed=FIXED)
    assert sweep.go(random.Random(0), most=2)
    once = Sweep(tmp_path / "once", space=LARGER, scheduler=FIFO)
    assert once.go(random.Random(1), most=3)
    assert len(before) == 2 * EPOCHS
    assert len(sweep.trained()) == len(set(sweep.trained())) == 6 * EPOCHS, "no epoch is trained twice"
    assert contents(sweep) == contents(once)
    assert (tmp_path / "extended" / "run" / "space.yaml").read_bytes() == (
        tmp_path / "once" / "run" / "space.yaml"
    ).read_bytes()


def test_an_extended_run_that_is_killed_goes_on(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path / "s", space=SMALL, scheduler=FIFO)
    sweep.go(random.Random(0), most=2, epochs=5)
    extend(sweep, space=LARGER, scheduler=FIFO, fixed=FIXED)
    sweep.go(random.Random(0), most=3, epochs=7)
    record = read_run(sweep.run)
    # Afterwards a plain resume takes the larger space, and no longer the smaller one.
    assert check_same(record, sweep.plan, force=True) == check_same(record, record.plan, force=True)
    sweep.open()
    assert sweep.go(random.Random(0), most=3)
    assert len(sweep.trained()) == len(set(sweep.trained())) == 6 * EPOCHS


@pytest.mark.parametrize("more", [{"lr": {"grid": [1e-4, 3e-4, 1e-3, 3e-3]}}, {"seed": {"grid": [41, 42, 43]}}])
def test_an_extended_race_takes_back_no_decision(tmp_path: Path, more: dict[str, Any]) -> None:
    sweep = Sweep(tmp_path / "s")
    assert sweep.go(random.Random(0), most=3)
    before = {one.trial_id: one for one in read_run(sweep.run).records}
    extend(sweep, space={**SPACE, **more}, scheduler=RACE, fixed=FIXED)
    assert sweep.go(random.Random(0), most=3)
    after = {one.trial_id: one for one in read_run(sweep.run).records}
    assert len(after) > len(before)
    for name, record in before.items():
        assert after[name].decisions[: len(record.decisions)] == record.decisions
        assert after[name].epochs_trained >= record.epochs_trained
    assert len(sweep.trained()) == len(set(sweep.trained()))
    assert {one.status for one in after.values()} <= {"completed", "stopped", "skipped"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"fixed": {"epochs": EPOCHS + 1}}, f"fixed.epochs: was {EPOCHS}, is {EPOCHS + 1}"),
        (
            {"space": {**LARGER, "lr": {"grid": [3e-4, 1e-3]}}},
            "space.lr.grid: was [0.0001, 0.0003], is [0.0003, 0.001]",
        ),
        ({"scheduler": RACE}, 'scheduler.kind: was "fifo", is "race"'),
        ({"data": {"split_seed": 7}}, "fixed.split_seed: was not given, is 7"),
        ({"equal_within": 0.02}, "equal_within: was not given, is 0.02"),
    ],
)
def test_what_is_no_extension_is_refused_with_the_difference(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    sweep = Sweep(tmp_path / "s", space=SMALL, scheduler=FIFO)
    asked = {"space": LARGER, "scheduler": FIFO, "fixed": FIXED, **changes}
    before = contents(sweep), (tmp_path / "s" / "run" / "plan.json").read_bytes()
    with pytest.raises(ConfigError) as refused:
        extend(sweep, **asked)
    assert "--extend takes a space that asks for everything that this run holds, and more" in refused.value.problems[0]
    assert said in refused.value.problems
    assert (contents(sweep), (tmp_path / "s" / "run" / "plan.json").read_bytes()) == before


def test_folders_keep_their_names_where_a_larger_space_would_word_them_anew(tmp_path: Path) -> None:
    one = {"backbone": {"grid": ["resnet18"]}, "lr": {"grid": [3e-4]}, "seed": {"grid": [41]}}
    sweep = Sweep(tmp_path / "s", space=one, scheduler=FIFO)
    (name,) = [trial.trial_id for trial in sweep.plan.trials]
    extend(sweep, space={**one, "lr": {"grid": [3e-4, 1e-3]}, "seed": {"grid": [41, 42]}}, scheduler=FIFO, fixed=FIXED)
    assert name in [trial.trial_id for trial in sweep.plan.trials]
    configs = {trial.config["lr"]: trial.config_id for trial in sweep.plan.trials}
    assert len({trial.config_id for trial in sweep.plan.trials}) == len(configs) == 2
    assert "lr" not in name and "lr1e-3" in configs[1e-3]


@pytest.mark.parametrize(
    ("first", "before", "after", "explore"),
    [(1, [42, 43], [41, 42, 43], {42}), (2, [42, 43], [41, 42, 43], {42, 43}), ("all", [42], [41, 42], {41, 42})],
)
def test_a_seed_that_explored_still_does(
    tmp_path: Path, first: int | str, before: list[int], after: list[int], explore: set[int]
) -> None:
    asha = {**RACE, "kind": "asha", "explore_seeds": first}
    sweep = Sweep(tmp_path / "s", space={**SMALL, "seed": {"grid": before}}, scheduler=asha)
    extend(sweep, space={**LARGER, "seed": {"grid": after}}, scheduler=asha, fixed=FIXED)
    explorers = {(trial.config["lr"], trial.seed) for trial in sweep.plan.trials if trial.explores}
    new = set(after if first == "all" else after[: int(first)])
    assert explorers == {(lr, seed) for lr in (1e-4, 3e-4) for seed in explore} | {(1e-3, seed) for seed in new}


@pytest.mark.parametrize("kind", ["fifo", "race"])
def test_what_diverged_runs_again_where_that_is_asked_for(tmp_path: Path, kind: str) -> None:
    sweep = Sweep(tmp_path / "s", scheduler={**RACE, "kind": kind})
    sweep.hand_out(12)
    leg = next(leg for leg in sweep.legs if leg.trial.planned.config["lr"] == 3e-4)
    name = leg.trial.trial_id
    sweep.step(leg)
    if leg in sweep.legs:
        sweep.legs.remove(leg)
        sweep.placement.ended(leg.trial.needs, had_started=True)
        write_status(leg.trial.folder, "diverged", epochs_trained=1, reason="the loss is nan")
        sweep.ledger.ended(leg, Ending("diverged", "the loss is nan"))
    else:
        leg.trial.status = "diverged"
        write_status(leg.trial.folder, "diverged", epochs_trained=1, reason="the loss is nan")
        sweep.ledger.settle()
    assert sweep.go(random.Random(0), most=12)
    assert {one.trial_id: one.status for one in read_run(open_folder(tmp_path / "s" / "run")).records}[
        name
    ] == "diverged"
    sweep.open()
    assert sweep.ledger.finished, "a plain resume leaves it"
    sweep.ledger.open_for_resume(("failed", "diverged"))
    sweep.ledger.settle()
    assert sweep.go(random.Random(0), most=12)
    record = {one.trial_id: one for one in read_run(sweep.run).records}[name]
    assert record.attempts == 2
    assert record.status in ("completed", "stopped") and (kind == "race" or record.status == "completed")


@pytest.mark.parametrize("kind", ["fifo", "race"])
def test_what_diverged_late_begins_anew_for_its_state_was_removed(tmp_path: Path, kind: str) -> None:
    sweep = Sweep(tmp_path / "s", scheduler={**RACE, "kind": kind, "grace_epochs": 4})
    sweep.hand_out(12)
    leg = next(leg for leg in sweep.legs if leg.trial.planned.config["lr"] == 3e-4)
    for _ in range(3):
        sweep.step(leg)
    sweep.legs.remove(leg)
    sweep.placement.ended(leg.trial.needs, had_started=True)
    write_status(leg.trial.folder, "diverged", epochs_trained=3, reason="the loss is nan")
    sweep.ledger.ended(leg, Ending("diverged", "the loss is nan"))
    assert not leg.trial.folder.exists("state.pt")
    assert sweep.go(random.Random(0), most=12)
    sweep.open()
    sweep.ledger.open_for_resume(("failed", "diverged"))
    sweep.ledger.settle()
    assert sweep.go(random.Random(0), most=12)
    record = {one.trial_id: one for one in read_run(sweep.run).records}[leg.trial.trial_id]
    assert record.status in ("completed", "stopped")
    assert [epoch["epoch"] for epoch in record.history] == list(range(1, record.epochs_trained + 1))
    assert collections.Counter(sweep.trained())[f"{leg.trial.trial_id} 1"] == 2
