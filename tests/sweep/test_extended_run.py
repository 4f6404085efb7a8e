"""`--extend` and `--retry-failed` as a person uses them, in processes of their own, through Ray, with the fake fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.sweep import fake_sweeps
from tests.sweep.test_run import benchmark_rows, epochs_trained, run

RACE = {"kind": "race", "grace_epochs": 1, "reduction_factor": 3}


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)  # four drivers, one after the other
def test_a_finished_race_takes_a_better_rate_and_retries_what_diverged(tmp_path: Path) -> None:
    scheduler, epochs, storage = RACE, 4, tmp_path / "storage"
    storage.mkdir()
    (storage / "fake.json").write_text(json.dumps({"order": "order.txt"}))
    rates = {"lr": {"grid": [1e-4, 1e-3]}}
    small = fake_sweeps.write_space(tmp_path, scheduler=scheduler, space=rates)
    assert (done := run(small, storage)).returncode == 0, done.stderr
    kept = {path: path.read_bytes() for path in (storage / "run" / "trials").glob("*/best.pt")}
    before = epochs_trained(storage)
    # One of the new trials diverges.
    larger = fake_sweeps.write_space(tmp_path, scheduler=scheduler)
    planned = run(larger, storage, "--dry-run")
    (victim,) = {word for word in planned.stdout.split() if word.startswith("resnet18-lr3e-4-s41-")}
    (storage / "fake.json").write_text(json.dumps({"order": "order.txt", "faults": {victim: {"1": "diverge"}}}))
    assert (done := run(larger, storage, "--extend")).returncode == 0, done.stderr
    trained = epochs_trained(storage)
    assert len(trained) == len(set(trained)) > len(before), "no epoch is trained twice"
    assert all(path.read_bytes() == content for path, content in kept.items())
    rows = {row["trial_id"]: row for row in benchmark_rows(storage)}
    assert len(rows) == 12 and rows[victim]["status"] == "diverged"
    (storage / "fake.json").write_text(json.dumps({"order": "order.txt"}))
    assert (done := run(larger, storage, "--resume", "--retry-failed")).returncode == 0, done.stderr
    again = epochs_trained(storage)
    assert len(again) == len(set(again))
    rows = {row["trial_id"]: row for row in benchmark_rows(storage)}
    assert (rows[victim]["status"], again.count((victim, epochs))) == ("completed", 1)
    full = {(row["backbone"], float(row["lr"])) for row in rows.values() if row["status"] == "completed"}
    assert full >= {("resnet18", 3e-4), ("mobilenet_v3_small", 3e-4)}, "the new rate is the best one"


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)  # three drivers, one after the other
def test_a_finished_fifo_sweep_extended_is_the_larger_one_asked_for_at_once(tmp_path: Path) -> None:
    small = {"lr": {"grid": [1e-4, 1e-3]}, "seed": {"grid": [41]}}
    files: list[dict[str, bytes]] = []
    for name, spaces in (("extended", [small, {}]), ("at_once", [{}])):
        storage = tmp_path / name
        storage.mkdir()
        for words, space in zip(((), ("--extend",)), spaces, strict=False):
            asked = fake_sweeps.write_space(tmp_path, scheduler={"kind": "fifo"}, space=space)
            assert (done := run(asked, storage, *words)).returncode == 0, done.stderr
        folder = storage / "run"
        paths = [*folder.glob("*.csv"), *folder.glob("trials/*/best*.pt"), *folder.glob("trials/*/*.csv")]
        paths += folder.glob("trials/*/report.json")
        files.append(
            {str(path.relative_to(folder)): path.read_bytes().replace(name.encode(), b"NAME") for path in paths}
        )
    assert files[0] == files[1]
    assert sum(path.endswith("report.json") for path in files[0]) == 12
