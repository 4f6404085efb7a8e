"""Whole-file writes on a disk: what a reader sees, what a killed or refused writer leaves."""

from __future__ import annotations

import os
import pickle
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fairface_core.errors import StorageError
from fairface_core.files.folder import Folder, is_remote, open_folder, read_json, write_json


def listing(path: Path) -> list[str]:
    """Every name, the hidden ones too."""
    return sorted(p.name for p in path.iterdir())


def test_write_read_names_remove(tmp_path: Path) -> None:
    folder = open_folder(tmp_path / "a").sub("b")
    assert folder.names() == []
    assert not folder.exists("x")
    folder.write("x", b"one")
    folder.write("x", lambda file: file.write(b"two"))
    assert folder.read("x") == b"two"
    assert folder.names() == ["x"]
    folder.remove("x")
    folder.remove("x")
    assert folder.names() == []
    with pytest.raises(FileNotFoundError):
        folder.read("x")


def test_a_folder_is_a_value(tmp_path: Path) -> None:
    folder = open_folder(tmp_path)
    assert pickle.loads(pickle.dumps(folder)) == folder
    assert folder.path() == tmp_path


def test_relative_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = open_folder("runs/x")
    monkeypatch.chdir("/")
    folder.write("a", b"1")
    assert (tmp_path / "runs/x/a").read_bytes() == b"1"


def test_remote_uris_are_told_apart() -> None:
    assert is_remote("s3://bucket/x")
    assert not is_remote("/a/b")
    assert not is_remote("file:///a/b")
    assert open_folder("file:///a/b").uri == "/a/b"
    assert open_folder("s3://bucket/x/").sub("y").uri == "s3://bucket/x/y"


def test_a_payload_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    folder = open_folder(tmp_path)
    folder.write("x", b"old")

    def broken(file: object) -> None:
        file.write(b"half")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        folder.write("x", broken)
    assert folder.read("x") == b"old"
    assert listing(tmp_path) == ["x"]


@pytest.mark.parametrize("stage", ["before_write", "after_write", "after_fsync", "after_rename"])
def test_a_kill_at_each_stage_leaves_a_whole_file(tmp_path: Path, stage: str) -> None:
    folder = open_folder(tmp_path)
    folder.write("x", b"old" * 1000)
    code = (
        f"from fairface_core.files.folder import open_folder; open_folder({str(tmp_path)!r}).write('x', b'new' * 1000)"
    )
    run = subprocess.run([sys.executable, "-c", code], env={**os.environ, "FAIRFACE_FAIL_POINT": f"x:{stage}:1"})
    assert run.returncode == -signal.SIGKILL
    expected = b"new" if stage == "after_rename" else b"old"
    assert folder.read("x") == expected * 1000
    assert folder.names() == ["x"]
    folder.write("x", b"next")
    assert listing(tmp_path) == ["x"], "the part that the killed writer left is cleared by the next write"


def test_a_full_disk_is_named_and_the_old_file_stays(tmp_path: Path) -> None:
    folder = open_folder(tmp_path)
    folder.write("x", b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(StorageError, match=r"cannot write .*/x: EFBIG"):
            folder.write("x", bytes(10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert folder.read("x") == b"old"
    assert listing(tmp_path) == ["x"]


def test_readers_never_see_a_part(tmp_path: Path) -> None:
    folder = open_folder(tmp_path)
    contents = {bytes([k]) * 50_000 for k in range(8)}
    folder.write("x", bytes([0]) * 50_000)
    stop = threading.Event()
    seen: list[bytes] = []

    def read() -> None:
        while not stop.is_set():
            seen.append(folder.read("x"))

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for round_ in range(40):
        folder.write("x", bytes([round_ % 8]) * 50_000)
    stop.set()
    for reader in readers:
        reader.join()
    assert len(seen) > 10
    assert set(seen) <= contents


def test_link_replaces_and_is_independent_of_the_next_write(tmp_path: Path) -> None:
    folder = open_folder(tmp_path)
    folder.write("a", b"1")
    folder.link("a", "b")
    assert (tmp_path / "a").stat().st_ino == (tmp_path / "b").stat().st_ino
    folder.link("a", "b")
    folder.write("a", b"2")
    assert (folder.read("a"), folder.read("b")) == (b"2", b"1")
    assert folder.names() == ["a", "b"]
    assert listing(tmp_path) == ["a", "b"]


def test_json_is_canonical_and_has_no_nan(tmp_path: Path) -> None:
    folder = open_folder(tmp_path)
    write_json(folder, "a.json", {"b": float("nan"), "a": (1, float("inf")), "c": 0.1})
    assert folder.read("a.json") == b'{\n  "a": [\n    1,\n    null\n  ],\n  "b": null,\n  "c": 0.1\n}\n'
    folder.write("bad.json", b'{"a": ')
    with pytest.raises(StorageError, match=r"bad\.json: not valid JSON"):
        read_json(folder, "bad.json")


def test_names_below_a_folder_stay_below_it(tmp_path: Path) -> None:
    for bad in ("..", ".", "a/b", ""):
        with pytest.raises(AssertionError):
            Folder(str(tmp_path)).sub(bad)
