"""Types of the Python interface and spellings of flags.

The rule: what says the same is taken for the same. A path is text or a `pathlib.Path`, a list of folders may be one folder,
and a flag has `_` or `-` between its words at every door. Abbreviations are refused, so that a new flag changes no command.
"""

from __future__ import annotations

import importlib
from pathlib import Path, PurePosixPath

import pytest

from fairface_core.config.train_config import TrainConfig, make_config
from fairface_core.errors import ConfigError


def test_paths_are_paths() -> None:
    plain = make_config(
        {"root": "data", "out_dir": "out", "weights": "w.pth", "cache_dir": "c", "results_csv": "b.csv"}
    )
    names = ("root", "out_dir", "weights", "cache_dir", "results_csv")
    assert make_config({name: Path(getattr(plain, name)) for name in names}) == plain
    assert TrainConfig(root=PurePosixPath("data")).root == "data"  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["DIR", Path("DIR"), ["DIR"], (Path("DIR"),)])
def test_one_folder_is_a_list_of_one(value: object) -> None:
    assert make_config({"image_root": value}).image_root == ("DIR",)


def test_a_path_is_no_number() -> None:
    with pytest.raises(ConfigError, match="epochs = "):
        make_config({"epochs": Path("x")})


DOORS = [
    "fairface_core.train", "fairface_core.evaluate", "fairface_core.predict", "fairface_core.export",
    "fairface_core.demo.__main__", "sweep.run", "sweep.report",
]  # fmt: skip


@pytest.mark.parametrize("module", DOORS)
def test_every_flag_has_both_spellings(module: str) -> None:
    parser = importlib.import_module(module).make_parser()
    flags = [flag for action in parser._actions for flag in action.option_strings if flag.startswith("--")]
    assert len(flags) > 1
    for flag in flags:
        for spelled in (f"--{flag[2:].replace('-', '_')}", f"--{flag[2:].replace('_', '-')}"):
            assert parser._respelled(spelled) == flag
            assert parser._respelled(f"{spelled}=a-b_c") == f"{flag}=a-b_c"


def test_both_spellings_reach_the_command() -> None:
    from fairface_core.data import make_parser as data_parser
    from fairface_core.train import make_parser as train_parser
    from sweep.run import make_parser as run_parser

    assert train_parser().parse_args(["--on-bad-image", "skip"]).on_bad_image == "skip"
    assert train_parser().parse_args(["--batch-size=7"]).batch_size == "7"
    assert run_parser().parse_args(["--space", "s", "--on_bad_image=skip"]).on_bad_image == "skip"
    # A subcommand's own flags.
    assert data_parser().parse_args(["check", "--labels-only", "--root", "x"]).labels_only
    assert data_parser().parse_args(["prune", "--dry-run"]).dry_run


@pytest.mark.parametrize("word", ["--on-bad", "--batch", "--no_such-flag"])
def test_no_abbreviation_and_no_other_flag(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    from fairface_core.train import main

    with pytest.raises(SystemExit) as stop:
        main([word, "1"])
    assert stop.value.code == 2
    assert word in capsys.readouterr().err


def test_values_are_left_as_they_are() -> None:
    from fairface_core.train import make_parser

    assert make_parser().parse_args(["--out_dir", "my-runs_1"]).out_dir == "my-runs_1"
