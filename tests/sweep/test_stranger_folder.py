"""A run folder from a stranger: reporting and resuming it run nothing of it and leave it for no other place."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from fairface_core.console import run_command
from fairface_core.errors import CheckpointError, ConfigError, StorageError
from fairface_core.files.folder import open_folder
from fairface_core.trial.checkpoint import load_state
from fairface_core.trial.writing import write_status
from sweep.page.write import write_report
from sweep.plan.expand import make_plan
from sweep.plan.plan import Plan
from sweep.report import main
from sweep.results.predictions import read_scored
from sweep.run_folder.records import read_run
from sweep.run_folder.request import check_same, write_new
from sweep.space.load import load_space
from tests.sweep import fake_sweeps
from tests.sweep.results.test_benchmark import edit_json, trial_folders
from tests.sweep.run_folders import Shape, make_run

QUICK = Shape(
    spaces={"resnet50": (1e-4, 3e-4), "vit_b_16": (3e-5,)}, seeds=(1, 2), epochs=4, num_val=90, num_test=90, asha=False
)
ESCAPES = "\x1b]0;owned\a\x1b[2J\r\u202e"


class Touch:
    """Makes the canary when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return (os.system, (f"touch '{self.canary}'",))


def saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def plant(run: Path, canary: Path, *, states: bool = True) -> int:
    """Put pickles under every name that Ray, torch or a careless reader might open; return how many."""
    bomb = Touch(canary)
    plain, zipped = pickle.dumps(bomb), saved({"model": {}, "cfg": {"backbone": "resnet50"}, "x": bomb})
    places = {
        run: ["tuner.pkl", "trainable.pkl", "searcher-state-2026.pkl", "search_gen_state-1.json", "state.pt"],
        run / ".ray" / "run": ["tuner.pkl", "experiment_state-1.json", "scheduler.pkl", "callbacks.pkl"],
    }
    for trial in trial_folders(run):
        places[trial] = ["params.pkl", "checkpoint.pkl", "decisions.pkl"]
        for name in ("state.pt", "state.prev.pt", "best.pt") if states else ("best.pt",):
            (trial / name).write_bytes(zipped)
    for folder, names in places.items():
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            (folder / name).write_bytes(plain)
    return sum(map(len, places.values()))


def test_the_canary_sings_where_a_pickle_is_trusted(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Touch(tmp_path / "canary")))
    assert (tmp_path / "canary").exists(), "the tests below would see it"


def test_reporting_runs_nothing_of_a_folder(tmp_path: Path) -> None:
    run, canary = make_run(tmp_path / "run", QUICK), tmp_path / "canary"
    assert plant(run, canary) > 20
    (run / "jinja2.py").write_text(f"open({str(canary)!r}, 'w')")
    (run / "templates").mkdir()
    report = subprocess.run(
        [sys.executable, "-m", "sweep.report", str(run)], capture_output=True, text=True, check=False, timeout=120
    )
    assert (report.returncode, report.stderr) == (0, "")
    assert (run / "report.html").is_file()
    assert not canary.exists()


@pytest.mark.slow
@pytest.mark.ray
def test_resuming_runs_nothing_of_a_folder(tmp_path: Path) -> None:
    """The whole command, with the fake fit: everything but the training itself."""
    storage, canary = tmp_path / "s", tmp_path / "canary"
    storage.mkdir()
    space = fake_sweeps.write_space(storage, space={"backbone": {"grid": ["resnet18"]}, "lr": {"grid": [1e-4]}})
    spec = load_space(space)
    plan = make_plan(spec, auto_gpu=0.0)
    run = storage / "run"
    write_new(open_folder(run), spec, plan)
    for trial in plan.trials:
        write_status(open_folder(run / "trials" / trial.trial_id), "planned", epochs_trained=0, reason=ESCAPES)
    plant(run, canary, states=False)  # the fake has states of its own; real ones are below
    code = f"import sys; from sweep.run import main; sys.exit(main(sys.argv[1:], fit={fake_sweeps.FAKE!r}))"
    resumed = subprocess.run(
        [sys.executable, "-c", code, "--space", str(space), "--storage", str(storage), "--resume"],
        capture_output=True, text=True, timeout=240, check=False,
        env={**os.environ, "PYTHONPATH": str(fake_sweeps.PROJECT)},
    )  # fmt: skip
    assert (resumed.returncode, resumed.stderr) == (0, ""), resumed.stdout
    statuses = [json.loads((trial / "status.json").read_text())["status"] for trial in trial_folders(run)]
    assert statuses == ["completed", "completed"]
    assert "\x1b" not in resumed.stdout
    assert not canary.exists()


def test_a_training_state_of_a_stranger_is_refused_though_its_checksum_holds(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    body = saved({"schema_version": 1, "config_digest": "c", "data_digest": "d", "x": Touch(canary)})
    trailer = b"\nfairface-state-1 " + hashlib.sha256(body).hexdigest().encode()
    (tmp_path / "state.pt").write_bytes(body + trailer)
    with pytest.raises(CheckpointError, match=r"state\.pt: asks for 'posix\.system', which no weights need"):
        load_state(open_folder(tmp_path), config_digest="c", data_digest="d")
    assert not canary.exists()


# Links that lead out of the folder, and what no reader may wait for.


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret").write_text("TOP-SECRET: hunter2\n")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_files_that_are_links_are_not_read(tmp_path: Path, outside: Path) -> None:
    run = make_run(tmp_path / "run", QUICK)
    links = [run / "space.yaml", run / "sweep.json", run / "report.html", run / ".leaderboard.csv.lock"]
    for trial in trial_folders(run)[:2]:
        links += [trial / name for name in ("report.json", "history.csv", "predictions.parquet", "status.json")]
    before = contents(outside)
    for link in links[:2] + links[4:]:
        link.unlink(missing_ok=True)
        link.symlink_to(outside / "secret")
    (run / "report.html").symlink_to(outside / "secret")
    write_report(open_folder(run))
    assert contents(outside) == before
    assert not (run / "report.html").is_symlink(), "the link is replaced, what it led to is not touched"
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "hunter2" not in page
    problems = read_run(open_folder(run)).problems
    assert [problem.partition(":")[0] for problem in problems] == ["space.yaml", "sweep.json"]


def test_a_lock_that_is_a_link_does_not_empty_what_it_leads_to(tmp_path: Path, outside: Path) -> None:
    run = make_run(tmp_path / "run", QUICK)
    before = contents(outside)
    lock = run / ".leaderboard.csv.lock"
    lock.unlink(missing_ok=True)
    lock.symlink_to(outside / "secret")
    with pytest.raises(StorageError, match="cannot write in"):
        write_report(open_folder(run))
    assert contents(outside) == before


@pytest.mark.parametrize("what", ["trials", "one trial"])
def test_folders_that_are_links_are_named_and_never_written_to(tmp_path: Path, outside: Path, what: str) -> None:
    run = make_run(tmp_path / "run", QUICK)
    link = run / "trials" if what == "trials" else trial_folders(run)[0]
    shutil.move(link, outside / "moved")
    link.symlink_to(outside / "moved")
    record = read_run(open_folder(run))
    linked = [one for one in record.records if one.linked]
    assert len(linked) == (len(record.records) if what == "trials" else 1)
    assert all("is a link, which is not followed" in one.problem and not one.history for one in linked)
    with pytest.raises(ConfigError) as refused:
        check_same(record, record.plan, force=False)
    assert len(refused.value.problems) == len(linked)
    write_report(open_folder(run))
    assert "is a link, which is not followed" in (run / "report.html").read_text(encoding="utf-8")


def test_a_run_folder_that_is_a_link_is_the_users_own_word(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", QUICK)
    (tmp_path / "link").symlink_to(run)
    record = read_run(open_folder(tmp_path / "link"))
    assert not any(one.linked or one.problems for one in record.records)


def test_a_fifo_or_an_endless_file_is_named_and_not_waited_for(tmp_path: Path) -> None:
    names = ("report.json", "status.json", "history.csv", "predictions.parquet")
    run = make_run(tmp_path / "run", dataclasses.replace(QUICK, seeds=(1, 2, 3, 4)))
    trials = iter(trial_folders(run))
    for name in names:
        fifo, endless = next(trials) / name, next(trials) / name
        fifo.unlink()
        os.mkfifo(fifo)
        with endless.open("r+b") as file:
            file.truncate(2**40)  # takes no room on the disk
    (run / "sweep.json").unlink()
    os.mkfifo(run / "sweep.json")
    report = subprocess.run(
        [sys.executable, "-m", "sweep.report", str(run)], capture_output=True, text=True, check=False, timeout=120
    )
    assert (report.returncode, report.stderr) == (0, "")
    assert {name: report.stdout.count(f"{name}: ") >= 2 for name in names} == dict.fromkeys(names, True)
    assert "sweep.json: " in report.stdout


@pytest.mark.parametrize("trial_id", ["../../x", "/etc", "..", "", "a/b", "a\0b", "a\nb", "~", "x" * 200, "C:\\x"])
def test_a_trial_id_is_a_plain_folder_name(tmp_path: Path, trial_id: str) -> None:
    run = make_run(tmp_path / "run", QUICK)
    plan = json.loads((run / "plan.json").read_text())
    plan["trials"][0]["trial_id"] = trial_id
    with pytest.raises(ConfigError, match=r"plan\.json: trials\.0\.trial_id = ") as refused:
        Plan.from_json(plan)
    assert all(problem.isprintable() for problem in refused.value.problems)


def test_nothing_is_printed_that_a_terminal_obeys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run", QUICK)
    plan = json.loads((run / "plan.json").read_text())
    for trial in plan["trials"]:
        trial["group"] = f"{ESCAPES}{trial['group']}"
        trial["config"][f"{ESCAPES}key"] = f"{ESCAPES}{trial['config']['lr']}"
    plan["notes"] = [ESCAPES]
    (run / "plan.json").write_text(json.dumps(plan))
    for trial in trial_folders(run):
        edit_json(trial / "status.json", lambda status: status.update(reason=ESCAPES))
        edit_json(trial / "report.json", lambda report: report.update(protocol=ESCAPES))
    edit_json(trial_folders(run)[0] / "report.json", lambda report: report.update(schema_version=ESCAPES * 9000))
    assert main([str(run)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert not set(out) & set(ESCAPES.replace("owned", "").replace("]0;", "").replace("[2J", ""))
    assert "\\x1b]0;owned" in out, "what is there is shown, spelled out"
    assert max(map(len, out.splitlines())) <= 2_000


def test_a_refused_resume_prints_nothing_that_a_terminal_obeys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run", QUICK)
    session = {"code_digest": ESCAPES * 9_000, "git_commit": ESCAPES, "versions": {"torch": ESCAPES}}
    (run / "sweep.json").write_text(json.dumps({"schema_version": 1, "sessions": [session]}))
    record = read_run(open_folder(run))

    def resume() -> int:
        check_same(record, record.plan, force=False)
        return 0

    assert run_command(resume, debug=False) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("error: ") and line.isprintable() and len(line) < 5_000 for line in lines)


def test_a_cell_is_no_formula(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", QUICK)
    edit_json(
        run / "plan.json", lambda plan: [trial.update(group=f"=1+1+{trial['group']}") for trial in plan["trials"]]
    )
    for sign, trial in zip("=+-@\t\r", trial_folders(run), strict=True):
        edit_json(trial / "status.json", lambda status, s=sign: status.update(reason=f"{s}cmd|' /C calc'!A0"))
    write_report(open_folder(run))
    text = (run / "benchmark_results.csv").read_text(encoding="utf-8")
    assert re.findall(r'(?:^|,|")([=+@\t\r-]cmd|=1\+1)', text, re.MULTILINE) == []
    table = pd.read_csv(run / "benchmark_results.csv")
    assert len(table) == 6
    starts = {reason.partition("cmd")[0] for reason in table["reason"]}
    assert starts == {"'=", "'+", "'-", "'@", "\\t", "\\r"}
    assert set(table["group"]) == {"'=1+1+resnet50", "'=1+1+vit_b_16"}
    assert table["test_loss"].dtype == float


# Files that swell when they are unpacked.


def many_rows(path: Path) -> None:
    rows = 3_000_000
    text, zeros = pa.array(["test"] * rows).dictionary_encode(), pa.array([0] * rows, pa.int8())
    columns = {"split": text, "csv": text, "line": zeros} | dict.fromkeys(
        ("age_true", "gender_true", "age_pred", "gender_pred"), zeros
    )
    pq.write_table(pa.table(columns), path)


def long_texts(path: Path) -> None:
    table = pq.read_table(path)
    text = pa.DictionaryArray.from_arrays(pa.array([0] * len(table), pa.int32()), pa.array(["x" * 1_000_000]))
    pq.write_table(table.set_column(table.column_names.index("csv"), "csv", text), path)


def other_types(path: Path) -> None:
    table = pq.read_table(path)
    odd = pa.array([{"a": 1}] * len(table))
    pq.write_table(table.set_column(table.column_names.index("csv"), "csv", odd), path)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (many_rows, "3,000,000 rows, accepted up to 2,000,000"),
        (long_texts, "not the columns of a trial"),
        (other_types, "not the columns of a trial"),
        (lambda path: path.write_bytes(b"PAR1" + bytes(100) + b"PAR1"), "damaged"),
        (lambda path: zipfile.ZipFile(path, "w").close(), "damaged"),
    ],
    ids=["rows", "texts", "types", "zeros", "zip"],
)
def test_predictions_that_swell_are_named(tmp_path: Path, make: Callable[[Path], None], words: str) -> None:
    run = make_run(tmp_path / "run", QUICK)
    make(trial_folders(run)[0] / "predictions.parquet")
    assert (trial_folders(run)[0] / "predictions.parquet").stat().st_size < 200_000
    record = read_run(open_folder(run))
    scored = read_scored(record, next(one for one in record.records if one.trial_id == trial_folders(run)[0].name))
    assert isinstance(scored, str)
    assert scored.startswith("predictions.parquet: ")
    assert words in scored
