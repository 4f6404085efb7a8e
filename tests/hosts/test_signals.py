"""Every signal that a terminal, a desktop or a batch system sends to end a process.

The rule: each stops a sweep in order, as SIGTERM does: exit code 128 + N, no trial is left `running`, no process is left, and
how to go on is told where anybody can still hear it, also by one that comes before the first trial. One that the caller ignores stays ignored (nohup). A pipe that breaks
with the signal (`| tee log`, Ctrl-C) changes none of it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sweep.cluster.signals import Interrupted, StopSignals
from tests.hosts.test_starts import ONE
from tests.sweep import fake_sweeps
from tests.sweep.test_run import call, command, environment, epochs_trained, family, living, statuses, wait_for
from tests.sweep.test_run import storage as storage

STOPPING = [
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGXCPU,
]


@pytest.mark.parametrize("number", STOPPING)
def test_each_stops(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # After so long a process that was told to stop is ended: this one goes on to the next test.
    monkeypatch.setattr("sweep.cluster.signals._LAST_RESORT_S", 3600.0)
    # Tests that are run by nohup, or in the background of a script, inherit that some are ignored.
    inherited = signal.signal(number, signal.SIG_DFL)
    try:
        before = {one: signal.getsignal(one) for one in STOPPING}
        with StopSignals(), pytest.raises(Interrupted) as stop:
            os.kill(os.getpid(), number)
            time.sleep(5)
        assert stop.value.exit_code == 128 + number
        assert stop.value.name == signal.Signals(number).name
        assert {one: signal.getsignal(one) for one in STOPPING} == before
    finally:
        signal.signal(number, inherited)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_an_ignored_one_stays_ignored(number: int) -> None:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with StopSignals() as signals:
            signals.install()
            os.kill(os.getpid(), number)
            signals.check()
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGXCPU])
def test_one_that_comes_before_any_trial_is_told_too(
    number: int, resume: bool, storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """While images are decoded, say."""
    from sweep.launch import session
    from sweep.run_folder.request import write_new
    from sweep.space.load import load_space

    monkeypatch.setattr("sweep.cluster.signals._LAST_RESORT_S", 3600.0)
    monkeypatch.setattr(session, "check", lambda *_, **__: os.kill(os.getpid(), number))
    space = fake_sweeps.write_space(tmp_path, **ONE)
    if resume:
        spec = load_space(space)
        write_new(session.run_folder(spec, str(storage)), spec, session.make_plan(spec))
    before = sorted(storage.rglob("*"))
    assert call("--space", space, "--storage", storage, *(["--resume"] if resume else [])) == 128 + number
    how = "go on with --resume --name run" if resume else "no run was begun"
    assert capsys.readouterr().err == f"stopped by {signal.Signals(number).name}; {how}\n"
    assert [path for path in sorted(storage.rglob("*")) if not path.name.startswith(".")] == before


def test_one_that_nobody_answers_ends_with_a_line() -> None:
    code = (
        "import os, signal, time; from sweep.cluster import signals\n"
        "signals._LAST_RESORT_S = 0.2\n"
        "with signals.StopSignals() as stop, stop.deferred():\n    os.kill(os.getpid(), signal.SIGTERM)\n    time.sleep(60)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment())
    assert done.returncode == 143
    assert done.stderr == "stopped by SIGTERM: Ray or the storage did not answer for 0 s; go on with --resume\n"


def slow_space(storage: Path, folder: Path) -> Path:
    (storage / "fake.json").write_text('{"order": "order.txt", "epoch_s": 0.5}')
    return fake_sweeps.write_space(folder, space={"backbone": {"grid": ["resnet18"]}, "seed": {"grid": [41]}})


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize(
    ("number", "to_all", "lost"),
    [
        (signal.SIGHUP, True, "both"),
        (signal.SIGHUP, False, ""),
        (signal.SIGUSR1, False, ""),
        (signal.SIGINT, True, "stdout"),
    ],
    ids=["terminal closed", "hang-up", "batch limit", "Ctrl-C with | tee"],
)
def test_a_sweep_stops_in_order(number: int, to_all: bool, lost: str, storage: Path, tmp_path: Path) -> None:
    words = command(slow_space(storage, tmp_path), storage, "--max-concurrent", "2")
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(), start_new_session=True
    )
    assert process.stdout is not None and process.stderr is not None
    children = []
    try:
        wait_for(lambda: len(epochs_trained(storage)) >= 2, "training")
        children = family(process)
        if lost:
            process.stdout.close()
        if lost == "both":
            process.stderr.close()
        (os.killpg if to_all else os.kill)(process.pid, number)
        out = "" if lost else process.stdout.read()
        err = "" if lost == "both" else process.stderr.read()
        assert process.wait(timeout=60) == 128 + number, out + err
        wait_for(lambda: not living(children), "the end of every process", 30)
    finally:
        for child in children:
            if child.is_running():
                child.kill()
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()
    assert "running" not in statuses(storage)
    assert "Traceback" not in err
    if lost != "both":
        told = f"stopped by {signal.Signals(number).name}: "
        assert told in (err if lost else out)
        assert "go on with --resume --name run" in (err if lost else out)
    assert f'"exit_code": {128 + number}' in (storage / "run" / "sweep.json").read_text()


@pytest.mark.slow
@pytest.mark.ray
def test_a_sweep_under_nohup_outlives_its_terminal(storage: Path, tmp_path: Path) -> None:
    words = command(slow_space(storage, tmp_path), storage)
    with subprocess.Popen(
        ["nohup", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment()
    ) as run:
        wait_for(lambda: len(epochs_trained(storage)) >= 1, "training")
        run.send_signal(signal.SIGHUP)
        assert run.wait(timeout=240) == 0
    assert statuses(storage) == {"completed": 3}


def test_ctrl_c_without_a_run_names_no_resume() -> None:
    code = (
        "import sys; from fairface_core.console import run_command, go_on_without_stdout\n"
        "def command():\n    {}\n    raise KeyboardInterrupt\n"
        "sys.exit(run_command(command, debug=False))"
    )
    for first, said in (("pass", "interrupted\n"), ("go_on_without_stdout()", "interrupted; go on with --resume\n")):
        done = subprocess.run([sys.executable, "-c", code.format(first)], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (130, said)
