"""The ready cluster file: what Ray's own launcher makes of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.sweep import fake_sweeps

CLUSTER_FILE = fake_sweeps.PROJECT / "sweep" / "templates" / "cluster.yaml"


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The file as `ray up` reads it."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(yaml.safe_load(CLUSTER_FILE.read_text()))
    validate_config(config)
    return config


def test_ray_accepts_it_and_starts_all_machines(prepared: dict[str, Any]) -> None:
    assert prepared["provider"]["type"] == "local"
    (node_type,) = prepared["available_node_types"].values()
    assert node_type["min_workers"] == node_type["max_workers"] == len(prepared["provider"]["worker_ips"])


def test_every_ray_that_it_starts_asks_for_the_token(prepared: dict[str, Any]) -> None:
    commands = [*prepared["head_start_ray_commands"], *prepared["worker_start_ray_commands"]]
    starts = [command for command in commands if "ray start" in command]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in command for command in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert prepared["file_mounts"]["~/.ray/auth_token"].endswith("auth_token")


def test_the_flags_that_it_gives_are_rays(prepared: dict[str, Any]) -> None:
    ray_start = subprocess.run(
        [str(Path(sys.executable).with_name("ray")), "start", "--help"], capture_output=True, text=True, check=True
    ).stdout
    for command in [*prepared["head_start_ray_commands"], *prepared["worker_start_ray_commands"]]:
        for word in command.split():
            if word.startswith("--"):
                assert word.partition("=")[0] in ray_start


def test_the_command_that_it_shows_is_ours() -> None:
    from sweep.run import make_parser

    (line,) = [line for line in CLUSTER_FILE.read_text().splitlines() if "-m sweep.run" in line]
    arguments = make_parser().parse_args(line.partition("sweep.run ")[2].split())
    assert (fake_sweeps.PROJECT / arguments.space).is_file()
    assert Path(arguments.storage).is_absolute(), "a relative one would lie in Ray's copy of the folder"
