"""The SLURM script, with stand-ins for srun and scontrol: a preemption, the requeue that follows it, and `scancel`.

The long test is in a process name space of its own, as a job is: `ray symmetric-run` wants a node without any other Ray,
and `ray stop` at its end ends every Ray that it sees.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from ray.scripts.scripts import start
from ray.scripts.symmetric_run import symmetric_run

from sweep.run import make_parser
from tests.faults.sweeps import Sweep
from tests.sweep import fake_sweeps
from tests.sweep.test_run import SWEEP

SCRIPT = fake_sweeps.PROJECT / "sweep" / "templates" / "slurm.sh"
ALONE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
# What SLURM's own do with what this script gives them: srun starts the task, once for a job of one node.
STAND_INS = {
    "srun": 'while [[ $1 == --* ]]; do shift; done; echo "$@" >> "$STORAGE/srun"; exec "$@"',
    "scontrol": 'echo "$@" >> "$STORAGE/scontrol"',
    # The fake fit instead of the real one.
    "python": f'shift 2; exec {sys.executable} -c "{SWEEP}" "$@"',
}
# Seconds between SIGTERM and SIGKILL, SLURM's KillWait; and what the script asks for before its time is over.
GRACE_S, NOTICE_S = 30, 90


class Job:
    """The script as SLURM runs it, again and again."""

    def __init__(self, folder: Path) -> None:
        self.sweep = Sweep(
            folder / "storage", fake={"epoch_s": 1.0, "order": "order"},
            space={"backbone": {"grid": ["resnet18"]}, "lr": {"grid": [1e-4, 3e-4, 1e-3]}, "seed": {"grid": [1]}},
        )  # fmt: skip
        self._bin = folder / "bin"
        self._bin.mkdir()
        for name, words in STAND_INS.items():
            self.stand_in(name, words)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "TUNE_"))}
        venv = str(Path(sys.executable).parent)
        self._environment = {
            **kept, "PATH": f"{self._bin}:{venv}:{kept['PATH']}", "PYTHONPATH": str(fake_sweeps.PROJECT),
            "HOME": str(folder), "SPACE": str(self.sweep.space), "ROOT": "/", "STORAGE": str(self.sweep.storage),
            "NAME": "run", "SLURM_JOB_ID": "4711", "SLURM_JOB_NUM_NODES": "1", "SLURM_CPUS_PER_TASK": "2",
        }  # fmt: skip
        self.output = folder / "output.txt"

    def stand_in(self, name: str, words: str) -> None:
        (self._bin / name).write_text(f"#!/bin/bash\n{words}\n")
        (self._bin / name).chmod(0o755)

    def give_token(self) -> None:
        """As after the first job."""
        token = Path(self._environment["HOME"], ".ray", "auth_token")
        token.parent.mkdir()
        token.write_text("0" * 64)

    def start(self, *, alone: bool = True) -> None:
        with self.output.open("ab") as file:
            self.sweep.process = subprocess.Popen(
                [*(ALONE if alone else []), "bash", str(SCRIPT)], env=self._environment, stdout=file,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self.sweep._output = self.output
        process = psutil.Process(self.sweep.process.pid)
        while alone and not process.children():
            time.sleep(0.02)
        self._script = process.children()[0] if alone else process

    def family(self) -> list[psutil.Process]:
        """Every process of the job but its script."""
        return self._script.children(recursive=True)

    def signal_tasks(self, number: int, *, script_too: bool = False) -> None:
        """Signal what a preemption signals, every process of the step; `scancel` the script too, and it first."""
        for process in [*([self._script] if script_too else []), *self.family()]:
            process.send_signal(number)

    def wait(self, timeout_s: float) -> int:
        """Return the script's exit code."""
        assert self.sweep.process is not None
        return self.sweep.process.wait(timeout=timeout_s)

    def told(self, name: str) -> list[str]:
        path = self.sweep.storage / name
        return path.read_text().splitlines() if path.exists() else []

    def end(self) -> None:
        if self.sweep.process is not None:
            self.sweep.process.kill()
            self.sweep.process.wait()


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    one = Job(tmp_path)
    yield one
    one.end()


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.skipif(
    not shutil.which("unshare") or subprocess.run([*ALONE, "true"], capture_output=True, check=False).returncode != 0,
    reason="needs the right to make a process name space (unshare --pid)",
)
def test_a_preempted_job_ends_with_143_and_goes_on_after_the_requeue(job: Job) -> None:
    job.start()
    assert job.sweep.until(lambda: job.sweep.num_epochs() >= 2), job.output.read_text()
    (driver,) = [one for one in job.family() if "sweep.run" in " ".join(one.cmdline()[:3])]
    job.signal_tasks(signal.SIGTERM)
    began = time.monotonic()
    driver.wait(timeout=GRACE_S)
    driver_s = time.monotonic() - began
    code = job.wait(NOTICE_S - driver_s)
    text = job.output.read_text()
    print(f"\nthe sweep ended {driver_s:.0f} s after SIGTERM, the script {time.monotonic() - began:.0f} s after it")
    assert code == 143, text
    assert "stopped by SIGTERM" in text
    assert "Traceback" not in text
    assert job.sweep.named("running") == []
    assert job.told("scontrol") == ["requeue 4711"]
    before = job.sweep.num_epochs()
    assert "--resume" not in job.told("srun")[0]
    job.sweep.orders(order="order")
    job.start()
    assert job.wait(120) == 0, job.output.read_text()
    assert job.told("srun")[1].endswith("--address auto --resume")
    assert len(job.sweep.named("completed")) == 3
    assert job.sweep.num_epochs() == 12
    assert len(job.sweep.journal("order")) <= 12 + 2, f"{before} epochs were on disk: none of them is trained again"
    assert job.told("scontrol") == ["requeue 4711"]


@pytest.mark.parametrize(
    ("does", "script_too", "code", "requeued"),
    [
        ("sleep 60", False, 143, ["requeue 4711"]),
        ("sleep 60", True, 143, []),  # scancel
        ("exit 1", False, 1, []),
        ("exit 0", False, 0, []),
    ],
    ids=["preempted", "cancelled", "failed", "done"],
)
def test_only_a_job_that_was_told_to_stop_is_queued_again(
    job: Job, does: str, script_too: bool, code: int, requeued: list[str]
) -> None:
    job.give_token()
    job.stand_in("srun", f'echo "$@" >> "$STORAGE/srun"; exec bash -c "{does}"')
    job.start(alone=False)
    while not job.told("srun"):
        time.sleep(0.02)
    if does.startswith("sleep"):
        job.signal_tasks(signal.SIGTERM, script_too=script_too)
    assert job.wait(30) == code
    assert job.told("scontrol") == requeued


def test_what_it_gives_ray_and_the_sweep_are_their_flags(job: Job) -> None:
    job.give_token()
    job.stand_in("srun", 'echo "$@" >> "$STORAGE/srun"')
    job.start(alone=False)
    assert job.wait(30) == 0
    (line,) = job.told("srun")
    to_ray, _, to_sweep = line.partition(" -- ")
    known = {name for command in (symmetric_run, start) for option in command.params for name in option.opts}
    words = [word for word in to_ray.partition(" task ")[2].split() if word.startswith("--")]
    assert len(words) == 7
    assert set(words) <= known
    arguments = make_parser().parse_args(to_sweep.split()[3:])
    assert (arguments.address, arguments.resume, arguments.name) == ("auto", False, "run")
