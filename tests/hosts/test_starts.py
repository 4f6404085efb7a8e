"""Starts of Ray: those that fail, its environment, and two at once.

The rules: a run folder appears when the run begins, so a start that fails leaves the name free and exit code 2 leaves nothing
behind. The message names what the user gave (a flag or a variable) and says the last thing that Ray's own processes said. A
Ray of our own follows no variable that leads elsewhere; RAY_ADDRESS=local and --address local ask for one. Ray's sockets
lie in TMPDIR where its path is short enough, else in the first of /tmp, /var/tmp, /dev/shm that can be written.
"""

from __future__ import annotations

import http.server
import os
import shutil
import socket
import socketserver
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from fairface_core.errors import ConfigError
from sweep.cluster import connect, owner_only
from sweep.cluster.owner_only import private_folder
from sweep.cluster.ray_log import last_words
from tests.sweep import fake_sweeps
from tests.sweep.fake_sweeps import PROJECT
from tests.sweep.test_run import call, command, environment, run, started
from tests.sweep.test_run import storage as storage

ONE = {
    "space": {"backbone": {"grid": ["resnet18"]}, "lr": {"grid": [1e-3]}, "seed": {"grid": [41]}},
    "fixed": {"epochs": 1},
}


@pytest.fixture
def nobody_there() -> str:
    """HOST:PORT that nothing listens on."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{held.getsockname()[1]}"


@pytest.mark.parametrize("words", [(), ("--address", "local")])
def test_no_temporary_folder_is_one_line_and_burns_no_name(
    words: tuple[str, ...], storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Twice the same command, twice the same answer."""
    monkeypatch.setattr(owner_only, "_TEMP_FOLDERS", ("/no-such",))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", "local")
    space = fake_sweeps.write_space(tmp_path, **ONE)
    before = sorted(path.name for path in storage.iterdir())
    for _ in range(2):
        assert call("--space", space, "--storage", storage, *words) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: Ray needs a temporary folder: ")
        assert f"{tmp_path}: no absolute path of at most" in line
        assert "set TMPDIR to a short one that can be written" in line
        assert sorted(path.name for path in storage.iterdir()) == before


@pytest.mark.parametrize("flag", [True, False])
def test_what_the_user_gave_is_named(
    flag: bool, nobody_there: str, storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("RAY_ADDRESS", "" if flag else nobody_there)
    space = fake_sweeps.write_space(tmp_path, **ONE)
    words = ("--address", nobody_there) if flag else ()
    assert call("--space", space, "--storage", storage, *words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {'--address ' if flag else 'RAY_ADDRESS='}{nobody_there}: cannot join")
    assert ("unset RAY_ADDRESS, or give --address local" in line) is not flag
    assert ("--address" in line.partition(": cannot join")[0]) is flag


@pytest.mark.parametrize("address", ["ray://head:10001", "nonsense", "host:port", "127.0.0.1:99999999"])
def test_no_address_is_one_line(
    address: str, storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert call("--space", fake_sweeps.write_space(tmp_path, **ONE), "--storage", storage) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: RAY_ADDRESS={address}: ")


class Silent(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request.recv(1024)
        time.sleep(2)


@pytest.mark.parametrize("handler", [http.server.BaseHTTPRequestHandler, Silent], ids=["a web server", "silence"])
def test_a_port_that_something_else_has_is_one_line(
    handler: type[socketserver.BaseRequestHandler], storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Such as the dashboard's, which Ray itself tells first. Its client waited for more than 280 s without a word."""
    monkeypatch.setattr(connect, "_KNOCK_S", 0.5)
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        words = ("--address", f"127.0.0.1:{server.server_address[1]}")
        assert call("--space", fake_sweeps.write_space(tmp_path, **ONE), "--storage", storage, *words) == 2
        server.shutdown()
    line = capsys.readouterr().err.splitlines()[-1]
    assert (
        f"error: --address 127.0.0.1:{server.server_address[1]}: cannot join (what answers there is no Ray head" in line
    )


def test_a_ray_of_our_own_follows_no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "RAY_RUNTIME_ENV_HOOK", "RAY_NAMESPACE"):
        monkeypatch.setenv(name, "elsewhere")
    connect.prepare(None)
    assert not {"RAY_ADDRESS", "RAY_RUNTIME_ENV_HOOK", "RAY_NAMESPACE"} & os.environ.keys()
    assert os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] == "0"


def test_a_short_tmpdir_is_used_and_a_long_one_is_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("TEMP", "TMP"):
        monkeypatch.delenv(name, raising=False)
    for tmpdir, parent in (("/dev/shm", "/dev/shm"), (str(tmp_path), "/tmp"), ("relative", "/tmp"), ("", "/tmp")):
        monkeypatch.setenv("TMPDIR", tmpdir)
        with private_folder() as folder:
            assert str(folder).startswith(f"{parent}/")
        assert not folder.parent.exists()


def test_the_last_words_are_those_that_say_why(tmp_path: Path) -> None:
    logs = tmp_path / "session_latest" / "logs"
    logs.mkdir(parents=True)
    severe = "[2026-11-26 15:07:35,854 C 15 15] (gcs_server) gcs_server.cc:951: Unsupported GCS storage type: bogus\n"
    said = (
        "[2026-11-26 15:07:35,839 I 15 15] (gcs_server) main.cc:98: hello\n" + severe + "*** StackTrace ***\n/x(+0x1)\n"
    )
    (logs / "gcs_server.err").write_text(said)
    (logs / "gcs_server.out").write_text(said)
    (logs / "dashboard.log").write_text(
        "Traceback (most recent call last):\n  File x\nPermissionError: [Errno 13] /x\n"
    )
    (logs / "raylet.out").write_bytes(b"\xff\xfe nothing\n")
    (logs / "dashboard_agent.log").write_text("OSError: [Errno 98] Address already in use\n")
    assert last_words(tmp_path) == [
        "gcs_server: Unsupported GCS storage type: bogus", "dashboard: PermissionError: [Errno 13] /x"
    ]  # fmt: skip
    assert last_words(tmp_path / "none") == []


@pytest.mark.slow
@pytest.mark.ray
def test_a_ray_that_fails_says_why_and_the_same_command_works_later(storage: Path, tmp_path: Path) -> None:
    space = fake_sweeps.write_space(tmp_path, **ONE)
    with pytest.MonkeyPatch.context() as patch:
        # Ray waits half a minute for a server that ended at once.
        patch.setenv("RAY_gcs_storage", "bogus")
        failed = run(space, storage)
    assert failed.returncode == 2, failed.stdout + failed.stderr
    (line,) = failed.stderr.splitlines()
    assert "Ray does not start on this machine" in line
    assert "gcs_server: Unsupported GCS storage type: bogus" in line
    assert not (storage / "run").exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", "local")
        done = run(space, storage)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.ray
def test_two_unnamed_sweeps_at_once_both_run(storage: Path, tmp_path: Path) -> None:
    space = fake_sweeps.write_space(tmp_path, **ONE)
    space.write_text(space.read_text().replace("name: run\n", ""))
    with started(space, storage) as one, started(space, storage) as other:
        for process in (one, other):
            out, err = process.communicate(timeout=240)
            assert process.returncode == 0, out + err
    assert len(list(storage.glob("space-*/benchmark_results.csv"))) == 2


def test_unnamed_sweeps_of_one_second_have_names_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sweep.launch import session
    from sweep.space.load import load_space

    space = fake_sweeps.write_space(tmp_path, **ONE)
    space.write_text(space.read_text().replace("name: run\n", ""))
    spec = load_space(space)
    asked = {session.run_folder(spec, str(tmp_path)).uri for _ in range(100)}
    assert len(asked) == 100
    named = load_space(space, name="mine")
    assert session.run_folder(named, str(tmp_path)).uri == str(tmp_path / "mine")


def test_an_error_of_ray_names_the_machine() -> None:
    error = RuntimeError("x\nTraceback (most recent call last):\n  File f\nValueError: z\n")
    assert "Ray does not start on this machine: x; ValueError: z; gcs: y" in connect._why_not(None, error, ["gcs: y"])
    with pytest.raises(ConfigError, match=r"ray://h:1: Ray Client is not supported"):
        connect.prepare("ray://h:1")


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("folder", ["large", "search_spaces"])
def test_uv_run_starts_a_sweep_from_any_folder(folder: str, storage: Path, tmp_path: Path) -> None:
    """Ray's hook for it would send the working folder to every worker: 700 MB is refused, and a subfolder has no project."""
    uv = shutil.which("uv", path=f"{sys.prefix}/bin:{os.environ.get('PATH', '')}")
    if uv is None:
        pytest.skip("uv is not installed here")
    where = PROJECT / folder if folder == "search_spaces" else tmp_path / folder
    if folder == "large":
        where.mkdir()
        with (where / "weights.bin").open("wb") as file:
            file.truncate(700 * 2**20)
    words = command(fake_sweeps.write_space(tmp_path, **ONE), storage)
    done = subprocess.run(
        [uv, "run", "--no-project", "--python", sys.executable, *words], cwd=where, capture_output=True, text=True, timeout=240,
        check=False, env={**environment(), "UV_OFFLINE": "1", "UV_NO_CONFIG": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert (storage / "run" / "benchmark_results.csv").is_file()
