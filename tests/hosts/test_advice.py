"""Advice in messages: flags, variables and commands that they name.

The rule: what a message tells to type, the door that shows it knows. Messages of the core are shown by the core's doors, and
by sweep.run, which words a core flag that it lacks as `--set SECTION.KEY=VALUE`; messages of the sweep are shown by sweep.run.
The messages are all string constants of both packages but docstrings and help texts.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import sweep.report
from fairface_core.config.train_config import TrainConfig, make_config
from sweep.run import make_parser, own_advice
from tests.sweep.fake_sweeps import PROJECT

# Flags and variables of other programs, in what is told or started.
FOREIGN_FLAGS = {"--working-dir", "--always", "--abbrev", "--dirty", "--match", "--exclude", "--logdir"}
FOREIGN_VARIABLES = {"TMPDIR", "RAY_ADDRESS", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "RAY_AUTH_TOKEN"}
CORE_DOORS = ("train", "evaluate", "data", "demo.__main__", "predict", "export")
FLAG = r"(?<![\w-])--[a-z]+(?:[_-][a-z]+)*"


@functools.cache
def constants(package: str) -> tuple[tuple[str, str], ...]:
    """Place and text of each string constant that may be a message."""
    return tuple(_constants(package))


def _constants(package: str) -> Iterator[tuple[str, str]]:
    for path in sorted((PROJECT / package).rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        silent = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in (
                "add_argument",
                "add_parser",
                "_field",
            ):
                silent |= {id(part) for part in ast.walk(node)}
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "_field":
                silent |= {id(part) for part in ast.walk(node)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in silent:
                yield f"{path.relative_to(PROJECT)}:{node.lineno}", node.value


def flags_of(parser: object) -> set[str]:
    found = set()
    for action in parser._actions:  # type: ignore[attr-defined]
        found |= {word.replace("-", "_") for word in action.option_strings}
        for sub in (action.choices or {}).values() if isinstance(action.choices, dict) else ():
            found |= flags_of(sub)
    return found


def named(package: str, pattern: str) -> list[tuple[str, str]]:
    return [(place, word) for place, text in constants(package) for word in re.findall(pattern, text)]


def unknown(found: list[tuple[str, str]], known: set[str]) -> list[tuple[str, str]]:
    return [(place, word) for place, word in found if word not in FOREIGN_FLAGS and word.replace("-", "_") not in known]


def test_each_flag_that_the_core_names_is_known_by_a_door_of_the_core() -> None:
    known = set().union(
        *(flags_of(importlib.import_module(f"fairface_core.{door}").make_parser()) for door in CORE_DOORS)
    )
    found = named("fairface_core", FLAG)
    assert len(found) > 15
    assert unknown(found, known) == []


def test_each_flag_that_a_sweep_names_is_known_by_sweep_run() -> None:
    found = named("sweep", FLAG)
    assert len(found) > 25
    assert unknown(found, flags_of(make_parser()) | flags_of(sweep.report.make_parser())) == []


def test_what_the_core_names_is_typed_at_sweep_run_too() -> None:
    known = flags_of(make_parser())
    shown = [(place, own_advice(text)) for place, text in constants("fairface_core") if re.search(FLAG, text)]
    # Advice for those who look at data or draw faces, and what only the doors of the core print.
    elsewhere = (
        "--out", "--from", "--resume", "--checkpoint", "--json", "--debug", "--pairs_csv", "--max-loss", "--faces", "--split",
        "--to",
    )  # fmt: skip
    left = [
        (place, word)
        for place, text in shown
        if not place.startswith(("fairface_core/train.py", "fairface_core/evaluate.py", "fairface_core/data.py"))
        for word in re.findall(FLAG, text)
        if word not in elsewhere
    ]
    assert len(left) > 10
    assert unknown(left, known) == []
    for _, text in shown:
        for section, key in re.findall(r"--set (\w+)\.(\w+)=", text):
            assert key in TrainConfig.model_fields and section in ("data", "fixed")


@pytest.mark.parametrize(
    ("core", "own"),
    [
        (
            "or train from random weights with --weights none",
            "or train from random weights with --set fixed.weights=none",
        ),
        ("; --image_root DIR adds a folder", "; --set data.image_root=DIR adds a folder"),
        ("--image_root /a/b allows it", "--set data.image_root=/a/b allows it"),
        ("--margin 0.25 or --margin 1.25", "--set data.margin=0.25 or --set data.margin=1.25"),
        ("use --device cpu, or check", "use --set fixed.device=cpu, or check"),
        ("use a smaller --num_workers", "use a smaller --set fixed.num_workers=..."),
        ("use --on_bad_image skip", "use --on_bad_image skip"),
        ("give --root DIR", "give --root DIR"),
        ("by --resume, or choose another --name", "by --resume, or choose another --name"),
    ],
)
def test_the_words_of_a_sweep(core: str, own: str) -> None:
    assert own_advice(core) == own


def test_each_variable_that_is_named_is_on_the_page() -> None:
    page = (PROJECT / "docs" / "environment.md").read_text(encoding="utf-8")
    pattern = r"\b(?:FAIRFACE|RAY|TMP|XDG)[A-Z]*(?:_[A-Z_]+)?\b"
    messages = [one for package in ("fairface_core", "sweep") for one in constants(package) if " " in one[1]]
    found = [(place, word) for place, text in messages for word in re.findall(pattern, text)]
    assert {word for _, word in found} >= {"FAIRFACE_CACHE_DIR", "TMPDIR", "RAY_ADDRESS"}
    assert [pair for pair in found if pair[1] not in page and pair[1] not in FOREIGN_VARIABLES] == []


def test_each_command_that_is_named_is_there() -> None:
    found = [pair for package in ("fairface_core", "sweep") for pair in named(package, r"python -m ([\w.]+\w)")]
    assert len(found) >= 6
    assert [pair for pair in found if importlib.util.find_spec(pair[1]) is None] == []


def test_the_advice_on_caches_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fairface_core.config.train_config import default_cache_dir

    monkeypatch.setenv("FAIRFACE_CACHE_DIR", str(tmp_path))
    assert default_cache_dir() == tmp_path
    assert make_config({"cache_dir": tmp_path}).cache_dir == str(tmp_path)
