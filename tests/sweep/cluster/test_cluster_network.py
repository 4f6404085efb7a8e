"""A local run listens on the loopback interface only, and its dashboard and Jobs API take no one without the token."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import socket
import stat
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from sweep.cluster import owner_only
from sweep.cluster.connect import Cluster
from sweep.cluster.head_watch import greets
from tests.sweep import fake_sweeps

pytestmark = pytest.mark.ray
DASHBOARD_PORT = 8265


@pytest.fixture(scope="module")
def held() -> Iterator[Cluster]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAIRFACE_DASHBOARD", "1")
        with socket.socket() as other:
            # Another dashboard's, or another program's.
            with contextlib.suppress(OSError):
                other.bind(("127.0.0.1", DASHBOARD_PORT))
                other.listen()
            with fake_sweeps.held_ray(num_cpus=2) as started:
                yield started


def test_a_port_that_is_taken_is_no_obstacle(held: Cluster) -> None:
    assert held.dashboard is not None
    assert not held.dashboard.endswith(f":{DASHBOARD_PORT}")
    assert greets(held.address, timeout_s=10)
    assert not greets(held.dashboard.removeprefix("http://"), timeout_s=10)


def ray_processes() -> list[psutil.Process]:
    me = psutil.Process()
    return [me, *me.children(recursive=True)]


def listeners() -> list[tuple[str, str, int]]:
    """Every listening TCP socket of this process and of those that it started: name, address, port."""
    found = []
    for process in ray_processes():
        try:
            found += [
                (process.name(), connection.laddr.ip, connection.laddr.port)
                for connection in process.net_connections(kind="inet")
                if connection.status == psutil.CONN_LISTEN
            ]
        except psutil.NoSuchProcess:
            continue
    return found


def is_loopback(address: str) -> bool:
    parsed = ipaddress.ip_address(address)
    mapped = getattr(parsed, "ipv4_mapped", None)
    return (mapped or parsed).is_loopback


def ask(url: str, *, method: str = "GET", token: str | None = None, body: bytes | None = None) -> int:
    """Return the HTTP status of a request."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    request = urllib.request.Request(url, data=body, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        code = int(error.code)
        error.close()
        return code


@pytest.mark.slow
def test_while_a_sweep_runs_every_socket_is_on_the_loopback_interface(held: Cluster, tmp_path: Path) -> None:
    seen: list[tuple[str, str, int]] = []

    class Look:
        last = 0.0

    def look() -> None:
        if time.monotonic() - Look.last > 0.5:
            Look.last = time.monotonic()
            seen.extend(listeners())

    fake_sweeps.run_sweep(tmp_path / "s", fake={"epoch_s": 0.3}, tick=look, fixed={"epochs": 2})
    names = {name for name, _, _ in seen}
    assert any("gcs_server" in name for name in names)
    assert any("raylet" in name for name in names)
    assert any(name.startswith("ray::") for name in names), "the workers were looked at too"
    outside = {entry for entry in seen if not is_loopback(entry[1])}
    assert outside == set()


def test_the_dashboard_and_the_jobs_api_refuse_strangers(held: Cluster) -> None:
    assert held.dashboard is not None
    assert held.token_hint == "ray get-auth-token"
    job = json.dumps({"entrypoint": "touch /tmp/should-not-exist"}).encode()
    for token in (None, "0" * 64):
        refused = {401, 403}
        assert ask(f"{held.dashboard}/api/jobs/", token=token) in refused
        assert ask(f"{held.dashboard}/api/jobs/", method="POST", token=token, body=job) in refused
        assert ask(f"{held.dashboard}/api/jobs/raysubmit_1", method="DELETE", token=token) in refused
        assert ask(f"{held.dashboard}/logical/actors", token=token) in refused
    assert ask(f"{held.dashboard}/") == 200, "the page itself loads and asks for the token"


def test_the_token_opens_it_and_only_its_owner_can_read_it(held: Cluster) -> None:
    path = Path.home() / ".ray" / "auth_token"
    assert held.dashboard is not None
    assert ask(f"{held.dashboard}/api/jobs/", token=path.read_text().strip()) == 200
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_session_folder_is_private_and_goes_with_ray() -> None:
    with owner_only.private_folder() as inner:
        folder = inner.parent
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        with owner_only.private_folder() as other:
            assert folder.is_dir(), "one that is held is not taken for a stale one"
            assert other != inner
    assert not folder.exists()


def test_ray_itself_lies_in_a_private_folder(held: Cluster) -> None:
    import ray

    session = Path(ray._private.worker._global_node.get_session_dir_path())
    private = session.parents[1]
    assert private.name.startswith("fairface-ray-")
    assert stat.S_IMODE(private.stat().st_mode) == 0o700


def test_without_a_home_the_token_lies_in_the_private_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path / "file" / "no-such-home"))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "")
    owner_only.ensure_private_token(tmp_path)
    token = tmp_path / "token"
    assert len(token.read_text()) == 64
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert owner_only.token_hint() == f"cat {token}"


def test_a_token_that_is_there_is_kept_and_closed_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / ".ray" / "auth_token"
    owner_only.ensure_private_token(tmp_path / "unused")
    made = path.read_text()
    path.chmod(0o644)
    owner_only.ensure_private_token(tmp_path / "unused")
    assert path.read_text() == made
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
