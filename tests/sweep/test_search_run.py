"""A search as a person starts, extends and looks at it, in processes of its own, through Ray, with the fake fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fairface_core.files.folder import open_folder
from sweep.run_folder.going_on import state_of
from sweep.run_folder.records import read_run
from tests.sweep import fake_sweeps
from tests.sweep.test_run import benchmark_rows, epochs_trained, run

SEARCH = {
    "space": {"lr": {"loguniform": [1e-5, 1e-2]}},
    "search": {"kind": "tpe", "startup": 2},
    "scheduler": {"kind": "asha", "grace_epochs": 1, "reduction_factor": 2},
}


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)  # two drivers, one after the other
def test_a_search_with_asha_ends_and_takes_more_samples(tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    storage.mkdir()
    (storage / "fake.json").write_text(json.dumps({"order": "order.txt"}))
    space = fake_sweeps.write_space(tmp_path, num_samples=4, **SEARCH)
    planned = run(space, storage, "--dry-run")
    assert (
        "16 trials: 8 configurations x 2 seeds" in planned.stdout and "search tpe: 4 configurations" in planned.stdout
    )
    done = run(space, storage)
    assert done.returncode == 0, done.stderr
    first = json.loads((storage / "run" / "plan.json").read_text())["trials"]
    rows = benchmark_rows(storage)
    assert sorted(row["trial_id"] for row in rows) == sorted(trial["trial_id"] for trial in first) and len(rows) == 16
    assert {row["status"] for row in rows} <= {"completed", "stopped"}
    record = read_run(open_folder(storage / "run"))
    assert state_of(record) == "finished" and record.sweep["num_trials"] == 16
    more = fake_sweeps.write_space(tmp_path, num_samples=6, **SEARCH)
    refused = run(more, storage, "--resume")
    assert refused.returncode == 2 and "num_samples: was 4, is 6" in refused.stderr
    done = run(more, storage, "--extend")
    assert done.returncode == 0, done.stderr
    last = json.loads((storage / "run" / "plan.json").read_text())["trials"]
    assert len(last) == 24 and {t["trial_id"] for t in first} < {t["trial_id"] for t in last}
    trained = epochs_trained(storage)
    assert len(trained) == len(set(trained)), "no epoch is trained twice"
