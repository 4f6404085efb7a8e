"""`--address`: a cluster of three nodes on this machine that share only the storage; `--storage`: an S3 server here."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sweep import fake_sweeps
from tests.sweep.test_run import SWEEP, command, environment

pytestmark = pytest.mark.ray

SPACE = {"space": {"backbone": {"grid": ["resnet18"]}, "lr": {"grid": [1e-4, 3e-4, 1e-3]}, "seed": {"grid": [41, 42]}}}

# In a process of its own: what a cluster reads from the environment must not be what other tests left there.
NODES = """
import sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
for _ in range(2):
    cluster.add_node(num_cpus=1)
cluster.wait_for_nodes()
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@contextlib.contextmanager
def three_nodes() -> Iterator[str]:
    """Start three raylets with one CPU each, and return the address to join."""
    clean = {name: value for name, value in environment().items() if not name.startswith(("RAY_", "TUNE_"))}
    process = subprocess.Popen(
        [sys.executable, "-c", NODES], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True, env={**clean, "RAY_AUTH_MODE": "disabled"},
    )  # fmt: skip
    assert process.stdout is not None
    try:
        address = process.stdout.readline().strip()
        assert address, "the cluster does not start"
        yield address
    finally:
        process.communicate("")


LEFT = """
import json, sys, time, ray
ray.init(address=sys.argv[1], logging_level="ERROR", log_to_driver=False)
deadline = time.monotonic() + 30
while ray.available_resources().get("CPU", 0) < 3 and time.monotonic() < deadline:
    time.sleep(0.1)
print(json.dumps({"nodes": len(ray.nodes()), "free": ray.available_resources().get("CPU", 0)}))
"""


@pytest.mark.faults
def test_a_cluster_of_three_is_joined_and_used(tmp_path: Path) -> None:
    storage = tmp_path / "shared"
    storage.mkdir()
    (storage / "fake.json").write_text('{"order": "order.txt", "epoch_s": 1.0}')
    space = fake_sweeps.write_space(tmp_path, fixed={"epochs": 2}, **SPACE)
    with three_nodes() as address:
        clean = {name: value for name, value in environment().items() if not name.startswith(("RAY_", "TUNE_"))}
        done = subprocess.run(
            command(space, storage, "--address", address), capture_output=True, text=True, timeout=200,
            env={**clean, "RAY_AUTH_MODE": "disabled"}, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert "a cluster of 3 machines: 3 CPUs" in done.stdout
        # The cluster outlives the sweep, with nothing of it left.
        left = subprocess.run(
            [sys.executable, "-c", LEFT, address], capture_output=True, text=True, timeout=100,
            env={**clean, "RAY_AUTH_MODE": "disabled"}, check=True,
        )  # fmt: skip
        assert json.loads(left.stdout.splitlines()[-1]) == {"nodes": 3, "free": 3.0}
    lines = (storage / "order.txt").read_text().splitlines()
    assert len(lines) == 12
    moments = [(float(line.split()[3]), float(line.split()[4])) for line in lines]
    assert max(sum(a <= began < b for a, b in moments) for began, _ in moments) == 3, "one trial on each node"


def test_an_address_where_nothing_listens_is_one_line(tmp_path: Path) -> None:
    space = fake_sweeps.write_space(tmp_path, **SPACE)
    done = subprocess.run(
        command(space, tmp_path / "runs", "--address", "127.0.0.1:1"), capture_output=True, text=True, timeout=200,
        env=environment(), check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stdout + done.stderr
    errors = done.stderr.splitlines()
    assert len(errors) == 1, errors
    assert errors[0].startswith("error: --address 127.0.0.1:1: cannot join")
    assert not (tmp_path / "runs").exists()


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An S3 server on this machine with one empty bucket."""
    moto_server = pytest.importorskip("moto.server", reason="moto's S3 server is not installed")
    import boto3

    for name, value in {
        "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        client = boto3.client("s3", endpoint_url=endpoint)
        client.create_bucket(Bucket="sweeps")
        client.close()
        yield "s3://sweeps/a/b"
    finally:
        server.stop()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_sweep_in_an_object_store_and_its_resume(tmp_path: Path, bucket: str) -> None:
    from fairface_core.files.folder import open_folder, read_json

    space = fake_sweeps.write_space(tmp_path, fixed={"epochs": 2}, **SPACE)
    words = [sys.executable, "-c", SWEEP, "--space", str(space), "--storage", bucket, "--max-concurrent", "2"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=280, env=environment(), check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    run = open_folder(f"{bucket}/run")
    assert {"plan.json", "space.yaml", "sweep.json", "benchmark_results.csv", "report.html"} <= set(run.names())
    assert ".driver.json" not in run.names(), "the driver's lock is gone"
    rows = list(csv.DictReader(io.StringIO(run.read("benchmark_results.csv").decode(), newline="")))
    assert [row["status"] for row in rows] == ["completed"] * 6
    assert all(row["out_dir"].startswith(f"{bucket}/run/trials/") for row in rows)
    victim = run.sub("trials", rows[0]["trial_id"])
    status = read_json(victim, "status.json")
    assert status["epochs_trained"] == 2
    refused = subprocess.run(words, capture_output=True, text=True, timeout=280, env=environment(), check=False)
    assert refused.returncode == 2
    assert "exists already" in refused.stderr
    assert [path.name for path in Path.cwd().glob("s3:*")] == []
