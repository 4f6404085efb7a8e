"""Weights, checkpoints and states from a stranger: nothing runs, nothing swells, and every refusal has a name."""

from __future__ import annotations

import io
import os
import pickle
import resource
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fairface_core.config.train_config import make_config
from fairface_core.errors import CheckpointError, FairfaceError, WeightsError
from fairface_core.files.tensors import MAX_BYTES, TensorFileError, load_tensors, read_tensors
from fairface_core.model.network import AgeGenderModel, build_model, load_weights
from fairface_core.training.checks import check_config
from fairface_core.trial.checkpoint import load_checkpoint

GIB = 2**30


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def saved(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def good(**more: Any) -> dict[str, Any]:
    return {"model": {"w": torch.arange(4.0)}, "cfg": {"backbone": "resnet18"}, "epoch": 1, **more}


def with_pickle(pickled: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", b"3\n")
    return buffer.getvalue()


def two_directories() -> bytes:
    """A file in which torch would find one list of records and Python's zipfile another."""
    hidden, shown = saved(good(x=Call(bytearray, GIB))), saved(good())
    at = len(shown) - 22
    # The end of the archive names, as an absolute place, the hidden one's list of records.
    size, offset = struct.unpack_from("<2L", hidden, len(hidden) - 10)
    return hidden + shown[:at] + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 3, 3, size, offset, 0)


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "a gibibyte of zeros": (lambda: saved(good(x=Call(bytearray, GIB))), "asks for '__builtin__.bytearray'"),
    "a tensor of its own size": (lambda: saved(good(x=Call(torch.FloatTensor, GIB))), r"asks for 'torch\.FloatTensor'"),
    "a shell": (lambda: saved(good(x=Call(os.system, "touch canary"))), r"asks for 'posix\.system'"),
    "newer opcodes": (lambda: with_pickle(pickle.dumps(Call(os.system, "id"), 4)), "opcode STACK_GLOBAL"),
    "a class by its name": (lambda: with_pickle(b"(S'id'\nios\nsystem\n."), "opcode INST"),
    "a long pickle": (lambda: with_pickle(pickle.dumps("x" * 5_000_000, 2)), "holds more than the names and shapes"),
    "a pickle without end": (lambda: with_pickle(b"]" * 1000), "not a file that torch.save wrote"),
    "compressed": (lambda: _compressed(), "compressed records"),
    "two pickles": (lambda: _doubled(), "2 records of the name data.pkl"),
    "two directories": (two_directories, "of the archive"),
    "bytes before it": (lambda: b"#!/bin/sh\n" + saved(good()), "two ends of the archive"),
    "bytes after it": (lambda: saved(good()) + b"x" * 9, "not a file that torch.save wrote"),
    "a control character": (lambda: saved(good(x=Call(_named("\x1b[2J"), 1))), r"asks for 'os\.\\x1b\[2J'"),
}  # fmt: skip


def _named(name: str) -> Callable[..., Any]:
    def function(*_: Any) -> None:
        return None

    function.__module__, function.__qualname__, function.__name__ = "os", name, name
    vars(os)[name] = function  # pickle looks it up there
    return function


def _compressed() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(200_000_000))
    return buffer.getvalue()


def _doubled() -> bytes:
    buffer = io.BytesIO(saved(good()))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("other/data.pkl", b"N.")
    return buffer.getvalue()


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_is_refused_unread(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make, words = HOSTILE[kind]
    raw = make()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(TensorFileError, match=words) as caught:
        load_tensors(raw, "best.pt")
    (problem,) = caught.value.problems
    assert problem.startswith("best.pt: ")
    assert problem.isprintable()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024, "KiB"
    assert list(tmp_path.iterdir()) == []


def test_the_old_format_is_for_weights_alone_and_checked_too() -> None:
    raw = saved(good(), _use_new_zipfile_serialization=False)
    assert torch.equal(load_tensors(raw, "w.pth", old_format=True)["model"]["w"], torch.arange(4.0))
    with pytest.raises(TensorFileError, match=r"not a file that torch\.save wrote"):
        load_tensors(raw, "best.pt")
    for bomb in (Call(bytearray, GIB), Call(os.system, "touch canary")):
        hostile = saved({"w": bomb}, _use_new_zipfile_serialization=False)
        with pytest.raises(TensorFileError, match="which no weights need"):
            load_tensors(hostile, "w.pth", old_format=True)


def test_what_torch_writes_for_a_training_state_is_read() -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = {
        "model": model.state_dict(), "optimizer": optimizer.state_dict(),
        "scaler": torch.amp.GradScaler("cpu").state_dict(), "history": [{"epoch": 1, "lr": 3e-4}], "none": None,
        "parameter": torch.nn.Parameter(torch.ones(2)), "size": torch.Size([3]), "big": 10**30,
        **{str(kind): torch.ones(2, dtype=kind) for kind in
           (torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.uint8, torch.int64, torch.bool)},
    }  # fmt: skip
    read = load_tensors(saved(state), "state.pt")
    assert read.keys() == state.keys()
    assert torch.equal(read["model"]["weight"], model.weight)
    assert read["torch.bfloat16"].dtype == torch.bfloat16


@pytest.mark.parametrize("kind", ["fifo", "sparse", "folder", "absent", "loop", "nul"])
def test_what_is_no_file_of_sane_size_is_refused_without_waiting(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("a\0b" if kind == "nul" else "best.pt")
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "sparse":
        with path.open("wb") as file:
            file.truncate(MAX_BYTES + 1)
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path.name)
    words = {
        "fifo": "not a regular file but a FIFO", "sparse": "larger than 16,384 MiB", "folder": "Is a directory",
        "absent": "No such file", "loop": "symbolic links", "nul": "NUL",
    }  # fmt: skip
    with pytest.raises(TensorFileError, match=words[kind]) as caught:
        read_tensors(path, "best.pt")
    assert caught.value.problems[0].startswith("best.pt: cannot be read (")


def test_weights_of_a_stranger_are_refused_the_same_way(tmp_path: Path) -> None:
    path = tmp_path / "w\x1b[2J.pth"
    for content, words in (
        (saved({"w": Call(os.system, "touch canary")}), "asks for"),
        (_compressed(), "compressed records"),
        (b"<html>", "not a file that torch.save wrote"),
        (saved([1, 2]), "not a state dict of tensors"),
        (saved({1: torch.ones(1)}), "not a state dict of tensors"),
        (saved({"conv1\n\x1b[2J": torch.ones(1)}), r"do not fit resnet18: .*unknown: conv1\\n\\x1b\[2J"),
    ):
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=words) as caught:
            build_model("resnet18", image_size=64, dropout=0.0, weights=str(path))
        assert all(problem.isprintable() for problem in caught.value.problems)


def test_weights_that_do_not_fit_are_known_before_the_data_is_read(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    config = make_config({"root": "/nowhere", "backbone": "mobilenet_v3_small", "weights": str(path)})
    path.write_bytes(saved({"conv1.weight": torch.ones(1)}))
    with pytest.raises(WeightsError, match="do not fit mobilenet_v3_small: missing: "):
        check_config(config.replace(results_csv=None))
    path.write_bytes(saved(AgeGenderModel("mobilenet_v3_small", 64, 0.0).state_dict()))
    check_config(config.replace(results_csv=None))


@pytest.mark.parametrize("shape", [(1, 10**9 + 1, 768), (1, 101, 5), (2, 50, 768), (1, 6, 768), (1, 1, 768)])
def test_position_embeddings_of_any_claimed_size_are_a_wrong_shape(tmp_path: Path, shape: tuple[int, ...]) -> None:
    own = AgeGenderModel("vit_b_16", 32, 0.0).feature_extractor.state_dict()
    own["encoder.pos_embedding"] = torch.zeros(1).expand(shape)  # a view: four bytes on disk
    path = tmp_path / "w.pth"
    path.write_bytes(saved(own))
    with pytest.raises(WeightsError, match=r"wrong shape: encoder\.pos_embedding"):
        build_model("vit_b_16", image_size=32, dropout=0.0, weights=str(path))


def test_a_checkpoint_with_odd_entries_does_not_fit() -> None:
    model = AgeGenderModel("mobilenet_v3_small", 64, 0.0)
    state: dict[Any, Any] = dict(model.state_dict())
    for odd in ({"w\x1b]0;x\a": torch.ones(1)}, {7: torch.ones(1)}, {"head_age.0.bias": "text"}):
        with pytest.raises(CheckpointError, match="do not fit this model") as caught:
            load_weights(model, {**state, **odd}, where="best.pt")
        assert caught.value.problems[0].isprintable()


def evaluate(checkpoint: Path, root: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fairface_core.evaluate", "--checkpoint", str(checkpoint), "--root", str(root), *flags],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def billion_laughs() -> list[Any]:
    laughs: list[Any] = ["lol"]
    for _ in range(60):
        laughs = [laughs, laughs]
    return laughs


@pytest.mark.parametrize(
    ("cfg", "words"),
    [
        ({"lr": billion_laughs()}, "lr = a list: input should be a valid number"),
        ({"epochs": 10**300}, "epochs = a number of more than 70 digits"),
        ({"backbone": "resnet\x1b[2J"}, r"backbone = 'resnet\\x1b[2J' is not known"),
        ({"train_csv": "/etc/passwd"}, "names train_csv = '/etc/passwd', which is not below the data folder; "),
        ({"val_csv": "a/../../../secret.csv"}, "names val_csv = 'a/../../../secret.csv', which is not below"),
        ({"val_csv": "~/secret.csv"}, "names val_csv = '~/secret.csv', which is not below the data folder; give --val_csv"),
        ({"img_col": ["file"]}, "img_col = ['file']"),
        ({"protocol": "x" * 10_000}, "protocol = 'xxx"),
    ],
)  # fmt: skip
def test_the_configuration_of_a_checkpoint_is_told_in_one_short_line(
    tmp_path: Path, cfg: dict[str, Any], words: str
) -> None:
    from fairface_core.evaluate import checkpoint_config

    path = tmp_path / "best.pt"
    path.write_bytes(saved(good(cfg={"backbone": "resnet18", **cfg})))
    with pytest.raises(FairfaceError) as caught:
        checkpoint_config(load_checkpoint(path).cfg, {"root": str(tmp_path)}, where="best.pt")
    (problem,) = caught.value.problems
    assert problem.startswith("best.pt: ")
    assert words.replace("\\\\", "\\") in problem
    assert problem.isprintable() and len(problem) < 500


def test_a_csv_that_the_user_names_is_the_users_word(tmp_path: Path) -> None:
    from fairface_core.evaluate import checkpoint_config

    cfg = {"backbone": "resnet18", "train_csv": "/elsewhere/train.csv", "eval_batch_size": 65_536}
    config = checkpoint_config(cfg, {"root": str(tmp_path), "train_csv": "/mine.csv"}, where="best.pt")
    assert config.train_csv == "/mine.csv"
    assert config.eval_batch_size is None, "the checkpoint's own could ask for any amount of memory"


def test_evaluate_ends_with_a_line_and_not_a_traceback(tmp_path: Path) -> None:
    path = tmp_path / "best.pt"
    path.write_bytes(saved(good(x=Call(os.system, f"touch {tmp_path}/canary"))))
    run = evaluate(path, tmp_path)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.startswith(f"error: {path}: asks for 'posix.system', which no weights need; nothing in it was ")
    assert run.stderr.count("\n") == 1
    assert not (tmp_path / "canary").exists()


def test_a_damaged_pickle_is_told_without_torchs_advice_to_trust_the_file() -> None:
    with pytest.raises(TensorFileError, match="or is damaged; nothing in it was executed") as caught:
        load_tensors(with_pickle(b"\x80\x02}q\x00\x8c\x01xK\x01s."), "best.pt")
    assert "weights_only" not in str(caught.value)
