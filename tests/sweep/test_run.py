"""`python -m sweep.run` as a person uses it, in its own process, with the fake fit: output, exit codes, signals, resume."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from fairface_core.files.folder import open_folder, read_json
from sweep.run import main
from tests.sweep import fake_sweeps

SWEEP = f"import sys; from sweep.run import main; sys.exit(main(sys.argv[1:], fit={fake_sweeps.FAKE!r}))"
TIMEOUT_S = 240


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(fake_sweeps.PROJECT), "COLUMNS": "200"}


def command(space: Path, storage: Path, *words: str) -> list[str]:
    return [sys.executable, "-c", SWEEP, "--space", str(space), "--storage", str(storage), *words]


def run(space: Path, storage: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(space, storage, *words),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env=environment(),
        check=False,
    )


@contextlib.contextmanager
def started(space: Path, storage: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Start a sweep and make sure that it is gone afterwards."""
    process = subprocess.Popen(
        command(space, storage, *words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def wait_for(condition: Any, what: str, timeout_s: float = TIMEOUT_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.05)


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Everything that a driver has started."""
    return psutil.Process(process.pid).children(recursive=True)


def living(processes: list[psutil.Process]) -> list[str]:
    out = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                out.append(" ".join(process.cmdline())[:200] or process.name())
    return out


def statuses(storage: Path) -> dict[str, int]:
    counts: dict[str, int] = {}
    for path in (storage / "run" / "trials").glob("*/status.json"):
        status = json.loads(path.read_text())["status"]
        counts[status] = counts.get(status, 0) + 1
    return counts


def epochs_trained(storage: Path) -> list[tuple[str, int]]:
    """Every epoch that was trained, from the fake's journal: repeated ones stand there twice."""
    lines = (storage / "order.txt").read_text().splitlines() if (storage / "order.txt").exists() else []
    return [(line.split()[0], int(line.split()[1])) for line in lines]


def benchmark_rows(storage: Path) -> list[dict[str, str]]:
    text = (storage / "run" / "benchmark_results.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(io.StringIO(text, newline="")))


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    folder = tmp_path / "a folder with spaces, Ümläute and #"
    folder.mkdir()
    return folder


@pytest.mark.ray
def test_a_sweep_is_quiet_and_leaves_everything(storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIRFACE_DASHBOARD", "1")
    (storage / "fake.json").write_text('{"order": "order.txt"}')
    space = fake_sweeps.write_space(tmp_path, scheduler={"kind": "asha", "grace_epochs": 1}, fixed={"epochs": 3})
    done = run(space, storage)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    header = {line.split()[0]: line for line in lines[:7]}
    assert header["trials"].startswith("trials     12: 6 configurations x 2 seeds, 3 epochs; at most 36 epochs")
    assert "http://127.0.0.1:" in header["dashboard"]
    assert "`ray get-auth-token`" in header["dashboard"]
    assert header["results"].endswith(str(storage / "run"))
    finished = [line for line in lines if "  completed  " in line or "  stopped    " in line]
    assert len(finished) >= 12
    assert not [line for line in lines if "WARNING" in line or "(raylet)" in line or "ray.tune" in line]
    for name in ("leaderboard.csv", "benchmark_results.csv", "report.html"):
        assert str(storage / "run" / name) in done.stdout
    rows = benchmark_rows(storage)
    plan = json.loads((storage / "run" / "plan.json").read_text())
    assert [row["trial_id"] for row in rows] == [trial["trial_id"] for trial in plan["trials"]]
    assert {row["status"] for row in rows} <= {"completed", "stopped"}
    assert all(Path(row["out_dir"]).is_absolute() for row in rows)
    sweep = read_json(open_folder(storage / "run"), "sweep.json")
    assert sweep["sessions"][0]["exit_code"] == 0
    assert list((storage / "run" / "trials").glob("*/events.out.tfevents.*"))
    # A second start of the same name is refused and changes nothing.
    before = {path: path.stat().st_mtime_ns for path in (storage / "run").rglob("*")}
    refused = run(space, storage)
    assert refused.returncode == 2
    assert "exists already; go on with it by --resume" in refused.stderr
    assert {path: path.stat().st_mtime_ns for path in (storage / "run").rglob("*")} == before
    # A resume of a finished run trains nothing.
    trained = epochs_trained(storage)
    again = run(space, storage, "--resume", "--force")
    assert again.returncode == 0, again.stderr
    assert epochs_trained(storage) == trained


@pytest.mark.faults
@pytest.mark.ray
@pytest.mark.parametrize(
    ("signals", "code"),
    [((signal.SIGINT,), 130), ((signal.SIGTERM,), 143), ((signal.SIGINT, signal.SIGINT), 130)],
    ids=["SIGINT", "SIGTERM", "SIGINT twice"],
)
def test_signals_stop_in_time_and_everything_goes_on(
    storage: Path, tmp_path: Path, signals: tuple[int, ...], code: int
) -> None:
    (storage / "fake.json").write_text('{"order": "order.txt", "epoch_s": 0.5}')
    space = fake_sweeps.write_space(tmp_path, space={"backbone": {"grid": ["resnet18"]}, "seed": {"grid": [41]}})
    with started(space, storage, "--max-concurrent", "2") as process:
        wait_for(lambda: len(epochs_trained(storage)) >= 2, "training")
        children = family(process)
        assert len(children) > 3, "raylet, GCS and workers"
        began = time.monotonic()
        for number in signals:
            process.send_signal(number)
            time.sleep(0.2)
        out, err = process.communicate(timeout=30)
        assert process.returncode == code, out + err
    wait_for(lambda: not living(children), "the end of every process", 30 - (time.monotonic() - began))
    if len(signals) == 1:
        assert "go on with --resume" in out
        assert err == ""
        assert "running" not in statuses(storage)
    if signals != (signal.SIGINT,):
        return  # What follows is the same for all; one SIGINT stands for it, tests/faults has two.
    before = epochs_trained(storage)
    (storage / "fake.json").write_text('{"order": "order.txt"}')
    again = run(space, storage, "--resume", "--force")
    assert again.returncode == 0, again.stdout + again.stderr
    assert statuses(storage) == {"completed": 3}
    trained = epochs_trained(storage)
    assert set(trained) == {(name, epoch) for name, _ in trained for epoch in range(1, 5)}
    # What was committed is not trained again.
    assert len(trained) == len(set(trained))
    assert trained[: len(before)] == before


@pytest.mark.faults
@pytest.mark.ray
def test_a_killed_driver_leaves_no_process_and_its_lock_is_taken_over(storage: Path, tmp_path: Path) -> None:
    (storage / "fake.json").write_text('{"order": "order.txt", "epoch_s": 0.5}')
    space = fake_sweeps.write_space(tmp_path, space={"backbone": {"grid": ["resnet18"]}, "seed": {"grid": [41]}})
    with started(space, storage) as process:
        wait_for(lambda: len(epochs_trained(storage)) >= 2, "training")
        # A second driver on the same run is refused while the first one lives.
        second = run(space, storage, "--resume", "--force")
        assert second.returncode == 2, second.stdout + second.stderr
        assert f"another driver is at work on this run (process {process.pid} " in second.stderr
        # Ray 2.60's two agents look for a dead raylet's GCS for up to a minute; they hold no GPU and no trial.
        children = [child for child in family(process) if "Agent" not in " ".join(child.cmdline())]
        process.kill()
        process.communicate()
    wait_for(lambda: not living(children), "the end of every process", 30)
    (storage / "fake.json").write_text('{"order": "order.txt"}')
    # As it would be, had the driver been killed right after plan.json.
    asked = (storage / "run" / "space.yaml").read_text()
    (storage / "run" / "space.yaml").unlink()
    again = run(space, storage, "--resume", "--force")
    assert again.returncode == 0, again.stdout + again.stderr
    assert (storage / "run" / "space.yaml").read_text() == asked
    assert statuses(storage) == {"completed": 3}
    rows = benchmark_rows(storage)
    assert len(rows) == 3


@pytest.mark.slow
@pytest.mark.ray
def test_failures_are_told_with_their_reasons(storage: Path, tmp_path: Path) -> None:
    space = fake_sweeps.write_space(tmp_path, space={"backbone": {"grid": ["resnet18"]}, "seed": {"grid": [41]}})
    names = planned(space)
    (storage / "fake.json").write_text(json.dumps({"faults": {names[0]: {"2": "bug"}, names[1]: {"1": "diverge"}}}))
    done = run(space, storage)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "2 trials without a result" in done.stdout
    assert "ValueError: a bug in the model" in done.stdout
    assert "the training loss is nan" in done.stdout
    assert statuses(storage) == {"completed": 1, "failed": 1, "diverged": 1}
    # The failed one is tried again on resume, from its state; the diverged one is not.
    (storage / "fake.json").write_text('{"order": "order.txt"}')
    again = run(space, storage, "--resume", "--force")
    assert again.returncode == 0, again.stdout + again.stderr
    assert epochs_trained(storage) == [(names[0], epoch) for epoch in (2, 3, 4)]
    assert statuses(storage) == {"completed": 2, "diverged": 1}


def planned(space: Path) -> list[str]:
    from sweep.plan.expand import make_plan
    from sweep.space.load import load_space

    return [trial.trial_id for trial in make_plan(load_space(space), auto_gpu=0.0).trials]


# In this process: bad input never gets as far as Ray.


def call(*words: object) -> int:
    return main([str(word) for word in words], fit=fake_sweeps.FAKE)


def test_dry_run_writes_nothing(storage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space = fake_sweeps.write_space(tmp_path)
    assert call("--space", space, "--storage", storage, "--dry-run") == 0
    out = capsys.readouterr().out
    assert "12 trials" in out
    assert all(name in out for name in planned(space))
    assert list(storage.iterdir()) == []


def test_all_problems_come_in_one_message(
    storage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (storage / "file").write_text("")
    space = fake_sweeps.write_space(tmp_path, resources={"cpu": 4096, "gpu": 1})
    assert call("--space", space, "--storage", storage / "file" / "runs") == 2
    errors = capsys.readouterr().err.splitlines()
    assert all(line.startswith("error: ") for line in errors)
    assert any("4096 CPU and 1 GPU" in line and "no GPU" in line and "--gpus-per-trial 0" in line for line in errors)
    assert any("is a file" in line for line in errors)
    assert sorted(path.name for path in storage.iterdir()) == ["file"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "fixed.epoch=3"], 'did you mean "epochs"'),
        (["--resume"], "nothing to resume"),
        (["--address", "ray://localhost:10001"], "Ray Client is not supported"),
        (["--root", "missing"], "no such folder"),
        (["--max-concurrent", "0"], "max_concurrent"),
    ],
)
def test_bad_input_is_one_line_and_changes_nothing(
    words: list[str], message: str, storage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = fake_sweeps.write_space(tmp_path)
    assert call("--space", space, "--storage", storage, *words) == 2
    errors = capsys.readouterr().err.splitlines()
    assert [line for line in errors if message in line]
    assert all(line.startswith("error: ") for line in errors)
    assert list(storage.iterdir()) == []


def test_another_space_is_refused_with_the_difference(
    storage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(storage, tmp_path)
    changed = fake_sweeps.write_space(tmp_path, fixed={"epochs": 5})
    assert call("--space", changed, "--storage", storage, "--resume") == 2
    err = capsys.readouterr().err
    assert "started with another space" in err
    assert "fixed.epochs: was 4, is 5" in err
    assert call("--space", changed, "--storage", storage, "--extend") == 2
    err = capsys.readouterr().err
    assert "--extend takes a space that asks for everything that this run holds, and more" in err
    assert "fixed.epochs: was 4, is 5" in err


def test_another_program_is_refused_unless_forced(
    storage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from sweep.plan.expand import make_plan
    from sweep.run_folder.records import read_run
    from sweep.run_folder.request import check_same
    from sweep.space.load import load_space

    space = make_run(storage, tmp_path)
    session = {"code_digest": "0123456789ab", "git_commit": "abc", "versions": {"torch": "2.10.0"}}
    (storage / "run" / "sweep.json").write_text(json.dumps({"schema_version": 1, "sessions": [session]}))
    assert call("--space", space, "--storage", storage, "--resume") == 2
    err = capsys.readouterr().err
    assert "another version of the program" in err
    assert "code: was 0123456789ab, is " in err
    assert "torch: was 2.10.0, is " in err
    assert "--force" in err
    record = read_run(open_folder(storage / "run"))
    forced = check_same(record, make_plan(load_space(space), auto_gpu=0.0), force=True)
    assert [line.partition(":")[0] for line in forced] == ["code", "torch"]


def make_run(storage: Path, tmp_path: Path) -> Path:
    """Make a run folder of which nothing has run yet."""
    from sweep.plan.expand import make_plan
    from sweep.run_folder.request import write_new
    from sweep.space.load import load_space

    space = fake_sweeps.write_space(tmp_path)
    spec = load_space(space)
    write_new(open_folder(storage / "run"), spec, make_plan(spec, auto_gpu=0.0))
    return space


def test_the_flags_are_frozen() -> None:
    from sweep.run import make_parser

    flags = {word for action in make_parser()._actions for word in action.option_strings if word.startswith("--")}
    assert flags == {
        "--help", "--space", "--root", "--protocol", "--on-bad-image", "--drop-duplicates", "--set", "--scheduler", "--name", "--storage", "--gpus-per-trial",
        "--cpus-per-trial", "--max-concurrent", "--address", "--dry-run", "--resume", "--extend", "--retry-failed", "--force", "--yes", "--print-schema",
        "--debug", "--list", "--json", "--open", "--rerun", "--refit",
    }  # fmt: skip
