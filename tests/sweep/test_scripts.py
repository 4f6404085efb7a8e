"""For scripts: one JSON object on standard output, the list of runs, the leaderboard alone, a report that follows a sweep,
and what a shell completes. docs/json.md is held against what is printed."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fairface_core.console import installed_name
from fairface_core.data import main as data
from fairface_core.evaluate import main as evaluate
from fairface_core.files.folder import open_folder, read_json, write_json
from sweep.console.run_list import list_runs
from sweep.report import main as report
from sweep.run import main as sweep_run
from sweep.run_folder.lock import locked
from sweep.run_folder.records import read_run
from tests.sweep import fake_sweeps
from tests.sweep.run_folders import Shape, make_run
from tests.sweep.test_run import command, environment, epochs_trained, started, wait_for
from tests.test_architecture import loaded_modules
from tests.test_cli import COMMANDS

PAGE = (fake_sweeps.PROJECT / "docs" / "json.md").read_text(encoding="utf-8")
SMALL = Shape(spaces={"resnet50": (1e-4, 3e-4), "convnext_tiny": (3e-4,)}, seeds=(1, 2), epochs=3, num_val=90,
              num_test=90, asha=False)  # fmt: skip


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "faces", SMALL)


def section(title: str) -> set[str]:
    """The keys that a section of docs/json.md names."""
    text = PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    return set(re.findall(r"`(\w+)`", text))


def one_object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    assert isinstance(value, dict) and value["schema_version"] == 1
    return value


def test_a_report_is_one_object_that_the_page_describes(
    drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(drawn, tmp_path / "faces"))
    trial = next((run / "trials").iterdir())
    (trial / "report.json").write_text("{")
    assert report([str(run), "--json"]) == 0
    found = one_object(capsys.readouterr().out)
    assert found.keys() - {"schema_version"} <= section("Results")
    assert found["state"] == "finished" and found["trials"]["all"] == found["trials"]["completed"] == 6
    assert (found["damaged"][0]["trial_id"], len(found["leaderboard"])) == (trial.name, 3)
    header = (run / "leaderboard.csv").read_text().splitlines()[0].split(",")
    assert all(list(row) == header for row in found["leaderboard"])
    assert len(found["files"]) >= 3 and all(Path(file).is_file() for file in found["files"])
    assert found["verdict"].keys() | found["comparisons"][0].keys() <= section("Results")


def test_the_leaderboard_alone_writes_nothing(drawn: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(drawn.rglob("*"))
    assert report([str(drawn), "--leaderboard"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines[3:6]] == ["convnext_tiny", "resnet50", "resnet50"]
    assert report([str(drawn), "--leaderboard", "--json"]) == 0
    assert one_object(capsys.readouterr().out)["files"] == []
    assert sorted(drawn.rglob("*")) == before
    assert report([str(drawn), "--leaderboard", "--open"]) == 2


def test_the_leaderboard_needs_neither_ray_nor_plotly(drawn: Path) -> None:
    code = f"import sweep.report; sweep.report.main([{str(drawn)!r}, '--leaderboard'])"
    tops = {name.partition(".")[0] for name in loaded_modules(code)}
    assert "rich" in tops and not tops & {"ray", "torch", "plotly", "mlflow", "wandb", "trackio"}


def test_a_plan_is_one_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space = fake_sweeps.write_space(tmp_path)
    assert sweep_run(["--space", str(space), "--dry-run", "--json", "--storage", str(tmp_path)]) == 0
    found = one_object(capsys.readouterr().out)
    assert found.keys() - {"schema_version"} | found["epochs"].keys() <= section("Plan")
    assert len(found["trials"]) == 12 and found["epochs"]["worst_case"] == 48


def test_the_doors_of_the_core_print_what_the_page_describes(
    demo_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert data(["check", "--root", str(demo_root), "--json"]) == 0
    assert one_object(capsys.readouterr().out).keys() - {"schema_version"} == section("Data")
    with (demo_root / "fairface_label_val.csv").open(newline="") as file:
        rows = [{name: row[name] for name in ("file", "age", "gender")} for row in csv.DictReader(file)]
    answers = tmp_path / "answers.csv"
    with answers.open("w", newline="") as file:
        writer = csv.DictWriter(file, ("file", "age", "gender"))
        writer.writeheader()
        writer.writerows(rows)
    for protocol in ("seed", "official"):
        words = ["--predictions", str(answers), "--root", str(demo_root), "--protocol", protocol]
        assert evaluate([*words, "--json"]) == 0
        found = one_object(capsys.readouterr().out)
        assert found.keys() - {"schema_version"} <= section("Scores")
        assert found["test_metrics"].keys() <= section("Scores") and found["test_metrics"]["age_acc"] == 1.0


@pytest.mark.parametrize(
    ("ends", "state", "flag"),
    [
        ({}, "finished", ""),
        ({0: "running", 1: "planned", 2: "failed"}, "stopped", "--resume"),
        ({1: "failed"}, "failed", "--resume"),
        (dict.fromkeys(range(6), "diverged"), "failed", "--retry-failed"),
    ],
)
def test_a_line_says_where_a_run_stands(
    ends: dict[int, str], state: str, flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shape = Shape(**{**vars(SMALL), "ends": ends})
    run = make_run(tmp_path / "my runs" / "faces", shape)
    write_json(
        open_folder(run), "sweep.json", {"started": "2026-03-01T08:00:00+00:00", "command_line": ["--root faces"]}
    )
    (tmp_path / "my runs" / "no run").mkdir()
    storage = f"{tmp_path}/my runs/"
    assert sweep_run(["--list", storage, "--json"]) == 0
    listed = one_object(capsys.readouterr().out)
    (one,) = listed["runs"]
    assert one.keys() | {"storage", "runs"} <= section("Runs") | {"schema_version"}
    assert (one["run"], one["state"]) == ("faces", state)
    assert one["best"]["val_mean_f1"] == max(r.best_mean_f1 or 0 for r in read_run(open_folder(run)).records)
    words = shlex.split(one["next"])
    if not flag:
        assert words == ["python", "-m", "sweep.report", f"{tmp_path}/my runs/faces"]
    else:
        assert words[:4] == ["python", "-m", "sweep.run", "--space"] and words[-1] == flag
        assert Path(words[4]).is_file() and words[words.index("--name") + 1] == "faces"
    assert sweep_run(["--list", storage]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"faces  {state}") and one["next"] in line and " h old" in line


def test_a_driver_at_work_is_a_run_that_runs(drawn: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(drawn, tmp_path / "faces"))
    with locked(open_folder(run)):
        assert list_runs(str(tmp_path))[0]["state"] == "running"
    assert list_runs(str(tmp_path))[0]["state"] == "finished"


def test_a_damaged_run_does_not_hide_the_others(
    drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(drawn, tmp_path / "faces")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "plan.json").write_text("{")
    assert sweep_run(["--list", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [["faces", "finished"], ["bad", "damaged"]]
    assert "plan.json" in lines[1]
    assert sweep_run(["--list", str(tmp_path / "bad")]) == 2
    assert "holds no run folder" in capsys.readouterr().err


@pytest.mark.slow
def test_a_report_follows_a_sweep_and_its_page_reloads_itself_until_it_ends(drawn: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(drawn, tmp_path / "faces"))
    code = "import sys, sweep.report as r; r.FOLLOW_S, r._LOOK_S = 600.0, 0.1; sys.exit(r.main(sys.argv[1:]))"
    reloads = '<meta http-equiv="refresh" content="600">'
    with contextlib.ExitStack() as held:
        driver = held.enter_context(contextlib.ExitStack())
        driver.enter_context(locked(open_folder(run)))
        follower = held.enter_context(
            subprocess.Popen([sys.executable, "-c", code, str(run), "--follow", "--json"], stdout=subprocess.PIPE)
        )
        assert follower.stdout is not None
        assert one_object(follower.stdout.readline().decode())["state"] == "running"
        assert reloads in (run / "report.html").read_text(encoding="utf-8")
        driver.close()
        assert one_object(follower.stdout.read().decode())["state"] == "finished"
        assert follower.wait(timeout=60) == 0
    assert 'http-equiv="refresh"' not in (run / "report.html").read_text(encoding="utf-8")


def test_completion_is_of_the_installed_names() -> None:
    text = (fake_sweeps.PROJECT / "pyproject.toml").read_text(encoding="utf-8")
    scripts = re.findall(r"^(fairface-\w+) = ", text.partition("[project.scripts]")[2], re.MULTILINE)
    assert {installed_name(f"python -m {module}") for module in COMMANDS} == set(scripts)


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not here")
@pytest.mark.parametrize(
    ("module", "typed", "expected"),
    [
        ("sweep.run", "--max", {"--max-concurrent"}),
        ("fairface_core.data", "ch", {"check"}),
    ],
)
def test_bash_completes(module: str, typed: str, expected: set[str]) -> None:
    words = [sys.executable, "-m", module, "--print-completion", "bash"]
    script = subprocess.run(words, capture_output=True, text=True, check=True, cwd=fake_sweeps.PROJECT).stdout
    name = installed_name(module)
    ask = f"""{script}
    COMP_WORDS=({name} {typed}); COMP_CWORD=1
    $(complete -p {name} | sed 's/.*-F \\([^ ]*\\).*/\\1/'); printf '%s\\n' "${{COMPREPLY[@]}}" """
    done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == expected, done.stderr


def test_completion_without_its_package_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert report(["--print-completion", "bash"]) == 2
    assert (
        capsys.readouterr().err
        == 'error: completion needs the package shtab: pip install "fairface-sweep[completion]"\n'
    )


@pytest.mark.slow
@pytest.mark.ray
def test_what_the_list_says_to_type_goes_on_from_any_folder(tmp_path: Path) -> None:
    """A sweep whose data folder was given relative to another folder, ended by SIGTERM; then its one JSON object."""
    storage, here = tmp_path / "a storage", tmp_path / "here"
    (here / "faces").mkdir(parents=True)
    storage.mkdir()
    (storage / "fake.json").write_text('{"order": "order.txt", "epoch_s": 0.5}')
    space = fake_sweeps.write_space(here, data={"root": None}, space={"lr": {"grid": [1e-4]}, "seed": {"grid": [41]}})
    words = ["--root", "faces", "--set", "fixed.epochs=20", "--name", "run"]
    old = Path.cwd()
    os.chdir(here)
    try:
        with started(space, storage, *words) as process:
            os.chdir(old)
            wait_for(lambda: len(epochs_trained(storage)) >= 2, "training")
            assert list_runs(str(storage))[0]["state"] == "running"
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == 143
    finally:
        os.chdir(old)
    (storage / "fake.json").write_text('{"order": "order.txt"}')
    (run,) = list_runs(str(storage))
    assert run["state"] == "stopped"
    typed = shlex.split(run["next"])
    assert typed[:3] == ["python", "-m", "sweep.run"] and str(here / "faces") in typed
    fake = command(space, storage)[:3]
    done = subprocess.run(
        [*fake, *typed[3:], "--json"], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = one_object(done.stdout)
    assert found["state"] == "finished" and found["epochs"]["trained"] == 40
    assert found.keys() - {"schema_version"} <= section("Results")
    assert "sweep      run" in done.stderr and "completed" in done.stderr
    assert list_runs(str(storage))[0]["state"] == "finished"
    assert read_json(open_folder(storage / "run"), "sweep.json")["sessions"][1]["exit_code"] == 0
