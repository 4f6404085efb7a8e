"""Micro-batches where batch norm takes the variance of what one pass holds.

The rule: no pass of a training step is a single image, unless single images are asked for and the backbone has no batch
norm. A rest of one joins the part before it; a micro-batch of 1 under batch norm is refused with the configuration; halving
after memory ran out ends at two images. Where memory ran out and nobody halves (a run of its own), one line names the flag.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from fairface_core.backbones import BACKBONES
from fairface_core.config.train_config import make_config
from fairface_core.console import run_door
from fairface_core.errors import ConfigError
from fairface_core.train import main, make_parser
from fairface_core.training.batches import parts
from sweep.driving import ledger
from tests.hosts.commands import TINY, run


@pytest.mark.parametrize("name", BACKBONES)
def test_the_table_says_who_has_batch_norm(name: str) -> None:
    modules = BACKBONES[name].build(64).modules()
    assert any(isinstance(one, nn.modules.batchnorm._BatchNorm) for one in modules) == BACKBONES[name].batch_norm


@pytest.mark.parametrize("size", [2, 3, 5, 16])
def test_no_part_is_single_and_all_are_there(size: int) -> None:
    for rows in range(2, 40):
        bounds = parts(rows, size, join_single=True)
        assert [i for start, stop in bounds for i in range(start, stop)] == list(range(rows))
        assert min(stop - start for start, stop in bounds) >= 2


@pytest.mark.parametrize("words", [("--batch_size", "16", "--micro_batch_size", "5"), ("--micro_batch_size", "3")])
def test_a_rest_of_one_image_trains(words: tuple[str, ...], demo_root: Path, tmp_path: Path) -> None:
    where = ("--root", str(demo_root), "--out_dir", str(tmp_path / "out"), "--results_csv", str(tmp_path / "b.csv"))
    assert main([*where, *TINY, *words]) == 0


def test_one_image_is_refused_before_anything_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ("--root", str(tmp_path), "--out_dir", str(tmp_path / "out"))
    assert main([*where, *TINY, "--micro_batch_size", "1"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "micro_batch_size = 1: mobilenet_v3_small normalizes by the variance of a batch; accepted: 2 or more" in line
    assert list(tmp_path.iterdir()) == []
    assert make_config({"backbone": "vit_b_16", "micro_batch_size": 1}).micro_batch_size == 1


def test_halving_ends_before_a_pass_is_too_small() -> None:
    assert ledger._FEWEST_IMAGES >= 2
    for name, spec in BACKBONES.items():
        capped = make_config({"backbone": name, "batch_size": 13}).with_at_most(ledger._FEWEST_IMAGES)
        assert capped.images_at_once == ledger._FEWEST_IMAGES
        if spec.batch_norm:
            with pytest.raises(ConfigError, match="2 or more"):
                capped.replace(micro_batch_size=1)


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has"),
            "Tried to allocate 2.50 GiB",
        ),
        (
            RuntimeError("[enforce] err == 0. you tried to allocate 64 bytes. Error code 12 (x)\nat y: out of memory"),
            "64 bytes",
        ),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling x\nmore"), "CUBLAS_STATUS_ALLOC_FAILED"),
        (OSError(12, "Cannot allocate memory"), "Cannot allocate memory"),
    ],
)
def test_memory_that_ran_out_is_one_line(error: Exception, cause: str, capsys: pytest.CaptureFixture[str]) -> None:
    from fairface_core import evaluate, train

    def command(_: object) -> int:
        raise error

    for door, words, flag in ((train, [], "--micro_batch_size"), (evaluate, ["--checkpoint", "x"], "--batch_size")):
        assert run_door(door.make_parser(), command, words) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: memory ran out (") and cause in line
        assert f"by a smaller {flag}, or free some memory" in line
    with pytest.raises(type(error)):
        run_door(train.make_parser(), command, ["--debug"])


def test_another_fault_of_torch_keeps_its_traceback() -> None:
    def command(_: object) -> int:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        run_door(make_parser(), command, [])


@pytest.mark.slow
def test_a_limit_of_memory_ends_a_run_in_one_line(demo_root: Path, tmp_path: Path) -> None:
    """The real allocator under `ulimit -v`, set where torch is loaded: 128 images want several times what is left."""
    code = (
        "import resource, sys, psutil, fairface_core.training.fit; from fairface_core.train import main\n"
        "most = psutil.Process().memory_info().vms + 3 * 2**29\n"
        "resource.setrlimit(resource.RLIMIT_AS, (most, most)); sys.exit(main(sys.argv[1:]))"
    )
    words = ("--root", str(demo_root), "--out_dir", str(tmp_path / "out"), "--results_csv", str(tmp_path / "b.csv"))
    size = ("--backbone", "resnet50", "--weights", "none", "--batch_size", "128", "--device", "cpu", "--epochs", "1")
    done = run([sys.executable, "-c", code, *words, *size])
    assert done.returncode == 1, done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.startswith("error: memory ran out (tried to allocate ")
    assert "by a smaller --micro_batch_size, or free some memory" in line
    assert "Traceback" not in done.stderr
