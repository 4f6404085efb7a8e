"""`data get`: against a server on this machine that speaks the hub's endpoints."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fairface_core.dataset.manifest import load_manifest
from tests.fairface_core.mirrors import hub
from tests.fairface_core.small_data import DataRoot

pytest.importorskip("huggingface_hub", reason="data get needs the extra [hub]")

COMMIT = "1f793897327b18d6eb6b2d39ce73501ca77e57ef"
CHUNK = 10 * 2**20  # what the library keeps of a connection that breaks is whole pieces of this size
SHARD = "0.25/train-00001-of-00002-dd3cb68164727418.parquet"


@dataclass
class Hub:
    """What the server has, what it lies about, and what it was asked for."""

    files: dict[str, bytes]
    served: dict[str, bytes] = field(default_factory=dict)
    breaks: dict[str, bool] = field(default_factory=dict)
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    url: str = ""

    def downloads(self) -> list[str]:
        return sorted({name for method, name, _ in self.asked if method == "GET" and name in self.files})

    def info(self) -> bytes:
        siblings = [
            {
                "rfilename": name, "size": len(raw),
                "blobId": hashlib.sha1(f"blob {len(raw)}\0".encode() + raw).hexdigest(),
                **(
                    {"lfs": {"sha256": hashlib.sha256(raw).hexdigest(), "size": len(raw), "pointerSize": 134}}
                    if name.endswith(".parquet") else {}
                ),
            }
            for name, raw in self.files.items()
        ]  # fmt: skip
        return json.dumps(
            {"id": "HuggingFaceM4/FairFace", "sha": COMMIT, "siblings": siblings, "private": False, "tags": []}
        ).encode()


def handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            path = self.path.partition("?")[0]
            name = re.sub(r"^/datasets/HuggingFaceM4/FairFace/resolve/[^/]+/", "", path)
            hub.asked.append((self.command, name, self.headers.get("Range", "")))
            headers: dict[str, str] = {}
            if path == "/api/datasets/HuggingFaceM4/FairFace/revision/main":
                code, raw = 200, hub.info()
            elif name in hub.files:
                code, raw = 200, hub.served.get(name, hub.files[name])
                digest = hashlib.sha256(hub.files[name]).hexdigest()
                headers = {
                    "ETag": f'"{digest}"', "X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(raw)),
                    "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes",
                }  # fmt: skip
                if (wanted := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))) and int(wanted[1]):
                    start = int(wanted[1])
                    headers["Content-Range"] = f"bytes {start}-{len(raw) - 1}/{len(raw)}"
                    code, raw = 206, raw[start:]
            else:
                code, raw, headers = 404, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"}
            self.send_response(code)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            if body and hub.breaks.pop(name, None):
                self.wfile.write(raw[: 3 * CHUNK // 2])
                self.close_connection = True
            elif body:
                self.wfile.write(raw)

        def log_message(self, *arguments: object) -> None:
            pass

    return Handler


@pytest.fixture
def server(data_root: DataRoot, tmp_path: Path) -> Iterator[Hub]:
    """HuggingFaceM4/FairFace with both margins, made small."""
    source = hub(data_root.path, hub(data_root.path, tmp_path / "source"), "1.25")
    (source / "README.md").write_text("# FairFace\n")
    files = {str(path.relative_to(source)): path.read_bytes() for path in source.rglob("*") if path.is_file()}
    known = Hub(files)
    running = ThreadingHTTPServer(("127.0.0.1", 0), handler(known))
    known.url = f"http://127.0.0.1:{running.server_port}"
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield known
    running.shutdown()
    running.server_close()


def get(server: Hub, out: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    plain = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    environment = {**plain, "HF_ENDPOINT": server.url, "HF_HOME": str(out.parent / "home"), "HF_TOKEN": ""}
    return subprocess.run(
        [sys.executable, "-m", "fairface_core.data", "get", "--from", "hub", "--out", str(out), *flags],
        capture_output=True, text=True, timeout=120, env=environment,
    )  # fmt: skip


def test_one_margin_comes_and_loads(server: Hub, data_root: DataRoot, tmp_path: Path) -> None:
    run = get(server, tmp_path / "faces")
    assert run.returncode == 0, run.stderr
    assert f"HuggingFaceM4/FairFace at {COMMIT}, margin 0.25: files 4" in run.stdout
    assert server.downloads() == sorted(name for name in server.files if not name.startswith("1.25"))
    manifest = load_manifest(data_root.config(root=str(tmp_path / "faces")))
    clean = load_manifest(data_root.config())
    assert manifest.test.age.tolist() == clean.test.age.tolist()
    # The other one beside it: from then on one has to be named.
    again = get(server, tmp_path / "faces", "--margin", "1.25", "--json")
    assert json.loads(again.stdout)["files"] == sorted(name for name in server.files if not name.startswith("0.25"))
    assert (
        load_manifest(data_root.config(root=str(tmp_path / "faces"), margin="1.25")).train.file[0].startswith("1.25/")
    )


def test_what_is_there_is_not_fetched_again(server: Hub, tmp_path: Path) -> None:
    assert get(server, tmp_path / "faces").returncode == 0
    (tmp_path / "faces" / SHARD).unlink()
    server.asked.clear()
    assert get(server, tmp_path / "faces").returncode == 0
    assert server.downloads() == [SHARD]


def test_a_connection_that_breaks_is_gone_on_with(server: Hub, tmp_path: Path) -> None:
    server.files[SHARD] = random.Random(0).randbytes(2 * CHUNK + 1000)
    server.breaks[SHARD] = True
    run = get(server, tmp_path / "faces")
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "faces" / SHARD).read_bytes() == server.files[SHARD]
    assert ("GET", SHARD, f"bytes={CHUNK}-") in server.asked


def test_nothing_is_overwritten(server: Hub, tmp_path: Path) -> None:
    mine = tmp_path / "faces" / SHARD
    mine.parent.mkdir(parents=True)
    mine.write_bytes(server.files[SHARD][:-1] + b"x")
    run = get(server, tmp_path / "faces")
    assert run.returncode == 2
    assert run.stderr.splitlines() == [
        f"error: {mine}: has another hash than the hub's; nothing is overwritten: move it away, or name another --out"
    ]
    assert server.downloads() == []
    mine.write_bytes(b"short")
    assert "has 5 bytes, the hub's has " in get(server, tmp_path / "faces").stderr


def test_bytes_that_were_not_promised_are_deleted(server: Hub, tmp_path: Path) -> None:
    raw = server.files[SHARD]
    server.served[SHARD] = raw[:100] + bytes([raw[100] ^ 1]) + raw[101:]
    run = get(server, tmp_path / "faces")
    assert run.returncode == 2
    assert run.stderr.splitlines()[-1] == (
        f"error: {tmp_path / 'faces' / SHARD}: has another hash than the hub's; it was deleted, get it again"
    )
    assert not (tmp_path / "faces" / SHARD).exists()


def test_what_the_hub_has_not(server: Hub, tmp_path: Path) -> None:
    run = get(server, tmp_path / "faces", "--repo", "nobody/nothing")
    assert run.returncode == 1
    assert run.stderr.startswith("error: nobody/nothing at main: the hub refuses it (")
    server.files = {"README.md": b"# empty\n"}
    run = get(server, tmp_path / "faces")
    assert run.returncode == 2
    assert run.stderr.splitlines() == [
        "error: HuggingFaceM4/FairFace at main has no Parquet files of margin 0.25; see the repository"
    ]
    run = get(server, tmp_path / "faces", "--repo", "a/b/c")
    assert run.returncode == 2


def test_no_network(tmp_path: Path) -> None:
    run = get(Hub({}, url="http://127.0.0.1:9"), tmp_path / "faces")
    assert run.returncode == 1
    (line,) = run.stderr.splitlines()
    assert line.startswith("error: HuggingFaceM4/FairFace: cannot be fetched into ")
    assert line.endswith("; the same command goes on")
