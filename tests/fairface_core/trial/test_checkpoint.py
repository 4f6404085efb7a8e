"""States and weights: whole, damaged, foreign, hostile."""

from __future__ import annotations

import io
import os
import pickle
import resource
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from fairface_core.errors import CheckpointError, StorageError
from fairface_core.files.folder import Folder, open_folder
from fairface_core.trial.checkpoint import load_checkpoint, load_state, remove_states, save_best, save_state

DIGESTS = {"config_digest": "abc", "data_digest": "def"}


def state(epoch: int) -> dict[str, Any]:
    return {**DIGESTS, "epoch": epoch, "model": {"w": torch.full((300,), float(epoch))}, "history": [{"epoch": epoch}]}


def load(folder: Folder, **changes: str) -> dict[str, Any] | None:
    return load_state(folder, **{**DIGESTS, **changes})


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = open_folder(tmp_path)
    for epoch in (1, 2, 3):
        save_state(folder, state(epoch))
    return folder


def test_the_newest_state_and_the_one_before_are_kept(folder: Folder) -> None:
    assert folder.names() == ["state.prev.pt", "state.pt"]
    loaded = load(folder)
    assert loaded is not None
    assert loaded["epoch"] == 3
    assert torch.equal(loaded["model"]["w"], torch.full((300,), 3.0))


@pytest.mark.parametrize("stage", ["before_write", "after_write", "after_fsync", "after_rename"])
def test_a_kill_while_a_state_is_written_leaves_two_different_ones(folder: Folder, stage: str) -> None:
    """Otherwise damage to the newest one, found on resume, would have nothing to fall back on."""
    code = (
        "from fairface_core.trial.checkpoint import save_state; from fairface_core.files.folder import open_folder\n"
        f"save_state(open_folder({folder.uri!r}), {{'config_digest': 'abc', 'data_digest': 'def', 'epoch': 4}})"
    )
    environment = {**os.environ, "FAIRFACE_FAIL_POINT": f"state.pt:{stage}:1"}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == -signal.SIGKILL
    newest = 4 if stage == "after_rename" else 3
    assert load(folder)["epoch"] == newest
    path = Path(folder.uri) / "state.pt"
    # In place, as a bad sector would: a second name of the same file would be damaged with it.
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    with pytest.warns(UserWarning, match=rf"going on from state\.prev\.pt, epoch {newest - 1}"):
        assert load(folder)["epoch"] == newest - 1


@pytest.mark.parametrize("what", ["state.pt", "best.pt"])
@pytest.mark.parametrize("room", [1_000, 300_000, 400_300])
def test_a_full_disk_is_told_as_such_and_the_old_file_stays(tmp_path: Path, what: str, room: int) -> None:
    """torch.save turns what the file system says into an error about positions in its zip."""
    folder = open_folder(tmp_path)
    weights = {"w": torch.zeros(100_000)}

    def save() -> None:
        if what == "state.pt":
            save_state(folder, {**DIGESTS, "epoch": 1, "model": weights})
        else:
            save_best(folder, weights, {"backbone": "resnet18"}, 1, alias="alias.pt")

    save()
    before = {name: folder.read(name) for name in folder.names()}
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        with pytest.raises(StorageError, match=rf"cannot write .*/{what}: EFBIG"):
            save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert {name: folder.read(name) for name in folder.names()} == before


def test_no_state_is_none(tmp_path: Path) -> None:
    assert load(open_folder(tmp_path)) is None


def test_states_are_removed(folder: Folder) -> None:
    remove_states(folder)
    assert folder.names() == []


def truncations() -> list[Any]:
    return [lambda raw, k=k: raw[: len(raw) * k // 10] for k in range(10)]


def flip(raw: bytes, share: float) -> bytes:
    position = int(len(raw) * share)
    return raw[:position] + bytes([raw[position] ^ 1]) + raw[position + 1 :]


DAMAGES = [
    *truncations(),
    lambda raw: bytes(len(raw)),
    lambda raw: raw + b"x",
    *[lambda raw, s=s: flip(raw, s) for s in (0.0, 0.3, 0.6, 0.95, 0.999)],
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_state_is_named_and_the_previous_one_used(folder: Folder, damage: Any) -> None:
    folder.write("state.pt", damage(folder.read("state.pt")))
    with pytest.warns(UserWarning, match=r"state\.pt: damaged .*going on from state\.prev\.pt, epoch 2"):
        loaded = load(folder)
    assert loaded is not None
    assert loaded["epoch"] == 2
    # The next save must not push the damaged file over the good one.
    save_state(folder, state(3))
    assert load(folder)["epoch"] == 3
    folder.remove("state.pt")
    assert load(folder)["epoch"] == 2


def test_two_damaged_states_are_an_error_and_never_a_new_start(folder: Folder) -> None:
    for name in ("state.pt", "state.prev.pt"):
        folder.write(name, folder.read(name)[:100])
    with pytest.raises(CheckpointError, match="no whole training state is left") as caught:
        load(folder)
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize(("key", "what"), [("config_digest", "configuration"), ("data_digest", "data set")])
def test_a_state_of_something_else_is_refused(folder: Folder, key: str, what: str) -> None:
    with pytest.raises(CheckpointError, match=f"written by another {what}"):
        load(folder, **{key: "other"})


def best_bytes(cfg: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save({"model": {"w": torch.zeros(3)}, "cfg": cfg, "epoch": 4}, buffer)
    return buffer.getvalue()


def test_best_is_the_documented_file_and_equal_content_is_equal_bytes(tmp_path: Path) -> None:
    folder = open_folder(tmp_path)
    save_best(folder, {"w": torch.ones(2)}, {"backbone": "resnet18"}, 5, alias="best_resnet18_seed1.pt")
    first = folder.read("best.pt")
    save_best(folder, {"w": torch.ones(2)}, {"backbone": "resnet18"}, 5, alias="best_resnet18_seed1.pt")
    assert folder.read("best.pt") == first == folder.read("best_resnet18_seed1.pt")
    content = torch.load(tmp_path / "best.pt", weights_only=True)
    assert content.keys() == {"model", "cfg", "epoch"}
    checkpoint = load_checkpoint(tmp_path / "best.pt")
    assert (checkpoint.epoch, checkpoint.cfg["backbone"]) == (5, "resnet18")


class _Bomb:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return (Path.touch, (self.canary,))


def _hostile(kind: str, canary: Path) -> bytes:
    if kind == "pickle":
        return pickle.dumps({"model": _Bomb(canary)})
    if kind == "torch pickle":
        buffer = io.BytesIO()
        torch.save({"model": {"w": torch.zeros(1)}, "cfg": {"backbone": "resnet18"}, "x": _Bomb(canary)}, buffer)
        return buffer.getvalue()
    if kind == "old torch format":
        buffer = io.BytesIO()
        torch.save({"model": _Bomb(canary)}, buffer, _use_new_zipfile_serialization=False)
        return buffer.getvalue()
    if kind == "zip bomb":
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data.pkl", bytes(200_000_000))
        return buffer.getvalue()
    if kind == "zip without pickle":
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("archive/other", b"x")
        return buffer.getvalue()
    if kind == "no cfg":
        buffer = io.BytesIO()
        torch.save({"model": {"w": torch.zeros(1)}}, buffer)
        return buffer.getvalue()
    if kind == "a list":
        buffer = io.BytesIO()
        torch.save([1, 2], buffer)
        return buffer.getvalue()
    return {"empty": b"", "text": b"hello", "cut": best_bytes({"backbone": "resnet18"})[:-200]}[kind]


HOSTILE = {
    "pickle": "not a file that torch.save wrote",
    "torch pickle": "nothing in it was executed",
    "old torch format": "not a file that torch.save wrote",
    "zip bomb": "compressed records",
    "zip without pickle": "0 records of the name data.pkl",
    "no cfg": "names no backbone",
    "a list": "not a checkpoint",
    "empty": "not a file that torch.save wrote",
    "text": "not a file that torch.save wrote",
    "cut": "not a file that torch.save wrote",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_checkpoints_are_refused_by_name_and_run_nothing(tmp_path: Path, kind: str) -> None:
    canary = tmp_path / "canary"
    path = tmp_path / "best.pt"
    path.write_bytes(_hostile(kind, canary))
    with pytest.raises(CheckpointError, match=HOSTILE[kind]) as caught:
        load_checkpoint(path)
    assert str(path) in caught.value.problems[0]
    assert not canary.exists()


def test_an_absent_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nothing\.pt: cannot be read"):
        load_checkpoint(tmp_path / "nothing.pt")
