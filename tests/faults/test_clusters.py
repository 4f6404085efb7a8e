"""A cluster of three nodes loses one, or its head."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil
import pytest

from tests.faults.sweeps import PATH, Sweep, assert_equal, ended, leftovers, words

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.timeout(900)]

# In a process of its own, as in test_beyond_one_machine.py. A dead node is noticed after 2 s instead of 15.
NODES = """
import json, sys
from ray.cluster_utils import Cluster
quick = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
cluster = Cluster(initialize_head=True, head_node_args={
    "num_cpus": 1, "include_dashboard": False, "_system_config": quick})
size = {"num_cpus": int(sys.argv[1]), "num_gpus": int(sys.argv[2])}
for _ in range(int(sys.argv[3])):
    cluster.add_node(**size)
cluster.wait_for_nodes()
head, *workers = cluster.list_all_nodes()
def pids(node):
    return [one.process.pid for kind in ("raylet", "gcs_server") for one in node.all_processes.get(kind, [])]
print(json.dumps({"address": cluster.address, "head": pids(head), "workers": [pids(one)[0] for one in workers]}), flush=True)
for line in sys.stdin:
    cluster.add_node(**size, **json.loads(line))
cluster.shutdown()
"""


@dataclass(frozen=True)
class Nodes:
    """A cluster: its address, the raylets that make it, and where a line makes it grow by a worker node."""

    address: str
    head: list[int]
    workers: list[int]
    wishes: IO[str]

    def kill_worker_node_with_a_trial(self, sweep: Sweep) -> str:
        """Kill the raylet of a worker node that trains; return the trial that it had."""
        end = time.monotonic() + 60
        while time.monotonic() < end:
            for pid in self.workers:
                for child in psutil.Process(pid).children():
                    for trial in sweep.trial_ids():
                        if trial in words(child) and sweep.epochs().get(trial):
                            os.kill(pid, signal.SIGKILL)
                            self.workers.remove(pid)
                            return trial
            time.sleep(0.02)
        raise AssertionError("no worker node trained anything")

    def add_worker_node(self, **arguments: str) -> None:
        print(json.dumps(arguments), file=self.wishes, flush=True)

    def signal_head(self, number: int) -> None:
        for pid in self.head:
            os.kill(pid, number)


@contextlib.contextmanager
def three_nodes(*, worker_cpus: int = 1, worker_gpus: int = 0, num_workers: int = 2) -> Iterator[Nodes]:
    """Start three raylets, the head with one CPU. Ray gives away GPUs that are not there; the fake fit uses none."""
    size = [str(number) for number in (worker_cpus, worker_gpus, num_workers)]
    process = subprocess.Popen(
        [sys.executable, "-c", NODES, *size], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True, env={**clean(), "PYTHONPATH": PATH}, start_new_session=True,
    )  # fmt: skip
    family = []
    try:
        assert process.stdout is not None and process.stdin is not None
        for line in process.stdout:
            if line.startswith("{"):
                yield Nodes(**json.loads(line), wishes=process.stdin)
                break
        else:
            raise AssertionError("the cluster does not start")
    finally:
        with contextlib.suppress(psutil.Error):
            family = psutil.Process(process.pid).children(recursive=True)
        try:
            process.communicate("", timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
        for one in family:
            with contextlib.suppress(psutil.Error):
                one.kill()


def clean() -> dict[str, str]:
    """The environment without what other Rays of these tests left in it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "TUNE_"))}
    return {**kept, "RAY_AUTH_MODE": "disabled"}


SPACE: dict[str, Any] = {"space": {"backbone": {"grid": ["resnet18"]}, "lr": {"grid": [1e-4, 3e-4, 1e-3]},
                                   "seed": {"grid": [1]}}}  # fmt: skip
FAKE = {"epoch_s": 1.0, "begins": "begins", "order": "order"}


@pytest.fixture(scope="module")
def undisturbed_fake(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Three trials of the fake fit that nobody disturbs."""
    sweep = Sweep(tmp_path_factory.mktemp("undisturbed_fake"), fake={}, **SPACE)
    code, text = sweep.go()
    assert code == 0, text
    return sweep


def test_a_lost_worker_node_costs_no_trial(undisturbed_fake: Sweep, tmp_path: Path) -> None:
    """Fault 3. When the last machine that is large enough is lost too, the sweep says so and waits for another."""
    sweep = Sweep(tmp_path / "s", fake=FAKE, resources={"cpu": 2}, **SPACE)
    with three_nodes(worker_cpus=2) as nodes, ended(sweep):
        sweep.start("--address", nodes.address, **clean())
        assert sweep.until(sweep.started)
        victim = nodes.kill_worker_node_with_a_trial(sweep)
        before = sweep.epochs()[victim]
        nodes.kill_worker_node_with_a_trial(sweep)
        assert sweep.until(lambda: "no machine of the cluster has 2 CPU and 0 GPU" in sweep.output())
        sweep.orders(**{**FAKE, "epoch_s": 0.2})
        nodes.add_worker_node()
        code, text = sweep.finish(timeout_s=120)
    assert code == 0, text
    assert "Traceback" not in text
    assert text.count("no machine of the cluster") == 1
    assert sweep.statuses()[victim]["attempts"] >= 2, "its trial was moved"
    begun = [int(epoch) for name, epoch in sweep.journal("begins") if name == victim]
    assert len([epoch for epoch in begun if epoch <= before]) == before, "it went on from its own state"
    assert_equal(sweep, undisturbed_fake)


@pytest.mark.parametrize(
    ("number", "told"),
    [
        pytest.param(signal.SIGKILL, "is gone or does not answer (", id="lost"),
        pytest.param(signal.SIGSTOP, "is gone or does not answer (timed out); when a cluster is up again", id="silent"),
    ],
)
def test_without_a_head_the_driver_ends_within_a_minute_and_is_resumed(
    number: int, told: str, undisturbed_fake: Sweep, tmp_path: Path
) -> None:
    """Fault 3. The processes of a silent head are stopped, its kernel still takes connections."""
    sweep = Sweep(tmp_path / "s", fake=FAKE, **SPACE)
    with three_nodes() as nodes, ended(sweep):
        sweep.start("--address", nodes.address, **clean())
        assert sweep.until_each_has(1)
        family = sweep.family()
        nodes.signal_head(number)
        began = time.monotonic()
        try:
            code, text = sweep.finish(timeout_s=60)
        finally:
            with contextlib.suppress(ProcessLookupError):
                nodes.signal_head(signal.SIGKILL)
        print(f"\nfault 3: the driver ended with {code} {time.monotonic() - began:.0f} s after the head")
        assert code == 1, text
        assert told in text
        assert "; when a cluster is up again" in text
        assert "Traceback" not in text
        assert leftovers(family) == []
    sweep.orders(begins="begins", order="order")
    code, text = sweep.go("--resume")
    assert code == 0, text
    assert_equal(sweep, undisturbed_fake)


def test_a_gpu_node_comes_back_under_another_address(undisturbed_fake: Sweep, tmp_path: Path) -> None:
    """Fault 3, as on spot machines: the only node with a GPU is lost, and another one joins."""
    sweep = Sweep(tmp_path / "s", fake=FAKE, resources={"cpu": 1, "gpu": 1}, **SPACE)
    with three_nodes(worker_gpus=1, num_workers=1) as nodes, ended(sweep):
        sweep.start("--address", nodes.address, **clean())
        assert sweep.until(sweep.started)
        victim = nodes.kill_worker_node_with_a_trial(sweep)
        before = sweep.epochs()[victim]
        assert sweep.until(lambda: "no machine of the cluster has 1 CPU and 1 GPU" in sweep.output())
        sweep.orders(**{**FAKE, "epoch_s": 0.2})
        nodes.add_worker_node(node_ip_address="127.0.0.2")
        code, text = sweep.finish(timeout_s=120)
    assert code == 0, text
    assert "Traceback" not in text
    begun = [int(epoch) for name, epoch in sweep.journal("begins") if name == victim]
    assert len([epoch for epoch in begun if epoch <= before]) == before, "it went on from its own state"
    # The undisturbed one ran without GPUs, which its reports say; the weights are the same.
    assert sorted(sweep.named("completed")) == sorted(sweep.trial_ids())
    for name in sweep.trial_ids():
        assert (sweep.trial(name) / "best.pt").read_bytes() == (undisturbed_fake.trial(name) / "best.pt").read_bytes()
