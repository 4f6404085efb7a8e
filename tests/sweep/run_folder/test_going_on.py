"""Which data folder a run is gone on with, whatever folder that is typed in."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from fairface_core.files.folder import open_folder, write_json
from sweep.run_folder.going_on import command_to_go_on, data_folder
from sweep.run_folder.records import read_run
from tests.sweep.run_folders import Shape, make_run

SMALL = Shape(spaces={"resnet50": (1e-4,)}, seeds=(1, 2), epochs=3, num_val=90, num_test=60, ends={0: "running"})


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        (["--root faces"], "/there/faces"),
        (["--set data.root=faces", "--set fixed.epochs=6"], "/there/faces"),
        (["--root /moved/faces"], "/moved/faces"),
        ([], "/there/faces"),
    ],
)
def test_a_relative_data_folder_is_told_by_a_trial(typed: list[str], found: str, tmp_path: Path) -> None:
    folder = open_folder(make_run(tmp_path / "run", SMALL))
    write_json(folder, "sweep.json", {"command_line": typed})
    write_json(
        folder.sub("trials", read_run(folder).records[0].trial_id), "config.json", {"config": {"root": "/there/faces"}}
    )
    run = read_run(folder)
    assert data_folder(run) == found
    words = shlex.split(command_to_go_on(run, str(tmp_path)))
    assert words.count("--root") == 1 and words[words.index("--root") + 1] == found
    assert [word for word in words if word.startswith("data.root")] == []
    assert ("fixed.epochs=6" in words) == (len(typed) > 1)


def test_what_no_trial_says_is_as_it_was_typed(tmp_path: Path) -> None:
    folder = open_folder(make_run(tmp_path / "run", replace(SMALL, ends={0: "planned", 1: "planned"})))
    write_json(folder, "sweep.json", {"command_line": ["--root faces"]})
    assert data_folder(read_run(folder)) == "faces"
