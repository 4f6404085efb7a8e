"""Names of files and folders that are not UTF-8, or hold what a shell or a message could stumble over.

The rule: what a run writes is UTF-8 (JSON, CSV, YAML), so a name that is not is refused at once, in one line, wherever it is
given: on a command line, in Python, or by the working folder that outputs go to. Any other name works: spaces, quotes, line
breaks, other scripts. A name that is too long is one line.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from fairface_core.config.train_config import make_config
from fairface_core.errors import ConfigError
from tests.hosts.commands import TINY, python, run, train

FOREIGN = b"caf\xe9"


@pytest.mark.parametrize(
    "command",
    [
        train(Path("faces"), FOREIGN),
        python("fairface_core.data", "check", b"--root=" + FOREIGN),
        python("fairface_core.demo", "--out", FOREIGN),
        python("sweep.report", FOREIGN),
        python("sweep.run", "--space", FOREIGN),
        python("fairface_core.evaluate", "--checkpoint", FOREIGN),
    ],
    ids=["train", "data", "demo", "report", "run", "evaluate"],
)
def test_a_word_that_is_not_utf8_is_refused_at_once(command: list[str | bytes], tmp_path: Path) -> None:
    done = run(["env", "-C", str(tmp_path), *command])
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and "caf\\udce9' is not UTF-8" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", ["root", "out_dir", "results_csv", "cache_dir", "train_csv"])
def test_python_refuses_it_too(key: str) -> None:
    for value in (os.fsdecode(FOREIGN), Path(os.fsdecode(FOREIGN))):
        with pytest.raises(ConfigError, match="is not UTF-8"):
            make_config({key: value})


def test_a_working_folder_is_refused_before_anything_starts(demo_root: Path, tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/" + FOREIGN
    os.mkdir(folder)  # noqa: PTH102  # bytes
    command = python("fairface_core.train", "--root", str(demo_root), "--out_dir", "out", *TINY)
    done = run(["env", "-C", folder, *command])
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert "out_dir = 'out': its folder's whole name is not UTF-8" in line
    assert os.listdir(folder) == []  # noqa: PTH208  # bytes


@pytest.mark.slow
def test_other_names_work(demo_root: Path, tmp_path: Path) -> None:
    root = tmp_path / 'it\'s "my" data; $HOME `x`\nИмя 顔 %s {x}'
    shutil.copytree(demo_root, root)
    out = root / "out é"
    done = run(train(root, out))
    assert done.returncode == 0, done.stderr
    assert (out / "report.json").is_file()
    again = run(python("fairface_core.evaluate", "--checkpoint", str(out / "best.pt"), "--root", str(root), "--json"))
    assert again.returncode == 0, again.stderr


def test_a_name_that_is_too_long_is_one_line(demo_root: Path, tmp_path: Path) -> None:
    done = run(train(demo_root, tmp_path / ("x" * 300)))
    assert done.returncode in (1, 2)
    (line,) = done.stderr.splitlines()
    assert "File name too long" in line
