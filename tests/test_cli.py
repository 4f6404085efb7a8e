"""The original script's command line, frozen; and how every command tells bad input."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fairface_core.config.flags import config_from_flags
from fairface_core.train import make_parser

ORIGINAL_DEFAULTS = {
    "train_csv": "fairface_label_train.csv",
    "val_csv": "fairface_label_val.csv",
    "img_col": "file",
    "backbone": "resnet50",
    "epochs": 20,
    "batch_size": 128,
    "lr": 3e-4,
    "weight_decay": 1e-4,
    "num_workers": 8,
    "no_amp": False,
    "seed": 42,
    "out_dir": "runs/fairface_mt",
    "results_csv": "runs/benchmark_results.csv",
}


def test_the_original_defaults_are_frozen() -> None:
    config = config_from_flags(make_parser().parse_args(["--root", "faces"]))
    assert {name: getattr(config, name) for name in ORIGINAL_DEFAULTS} == ORIGINAL_DEFAULTS
    assert config.root == "faces"


def test_the_original_full_example_parses() -> None:
    line = """--root /data/fairface --train_csv a.csv --val_csv b.csv --img_col img --backbone efficientnet_v2_s
        --epochs 30 --batch_size 64 --lr 3e-4 --weight_decay 1e-4 --num_workers 4 --no_amp --seed 7 --out_dir runs/x
        --results_csv runs/b.csv"""
    words = line.split()
    config = config_from_flags(make_parser().parse_args(words))
    assert config.backbone == "efficientnet_v2_s"
    assert (config.epochs, config.batch_size, config.lr, config.weight_decay) == (30, 64, 3e-4, 1e-4)
    assert (config.num_workers, config.no_amp, config.seed) == (4, True, 7)
    assert (config.train_csv, config.val_csv, config.img_col) == ("a.csv", "b.csv", "img")
    assert (config.out_dir, config.results_csv) == ("runs/x", "runs/b.csv")


COMMANDS = ["fairface_core.train", "fairface_core.evaluate", "fairface_core.predict", "fairface_core.export",
            "fairface_core.data", "fairface_core.demo", "fairface_core.backbones", "sweep.run", "sweep.report"]  # fmt: skip


@pytest.mark.parametrize("module", COMMANDS)
def test_every_command_has_help(module: str) -> None:
    run = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert f"python -m {module}" in run.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--root", "x", "--backbone", "resnet5"], "backbone = 'resnet5' is not known (did you mean \"resnet50\"?)"),
        (["--root", "x", "--lr", "-1"], "lr = '-1': input should be greater than 0"),
        (["--root", "x", "--epochs", "none"], "epochs = 'none'"),
        ([], "root: no data folder given"),
        (["--root", "no-such-folder", "--weights", "none"], "no-such-folder"),
        (["--root", "x", "--weights", "no.pth"], "weights 'no.pth': no such file"),
        (["--root", "x", "--backbone", "vit_b_16", "--image_size", "50", "--weights", "none"], "multiple of 16"),
    ],
)
def test_bad_flags_are_one_line_and_exit_2(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from fairface_core.train import main

    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert errors[0].startswith("error: ")
    assert message in errors[0]
    assert list(tmp_path.iterdir()) == []


def test_weights_that_cannot_be_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from fairface_core.train import main

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    # A port that nothing listens on: the download is refused at once, on any machine.
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    assert main(["--root", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "resnet50-11ad3fa6.pth" in error
    assert str(tmp_path / "torch") in error
    assert "--weights none" in error


def test_a_reader_that_leaves_early_causes_no_traceback() -> None:
    """`python -m sweep.report RUN | head`."""
    code = "import sys; from fairface_core.console import run_command; sys.exit(run_command(lambda: print('x' * 10**6) or 0, debug=False))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 141
