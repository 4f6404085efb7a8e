"""A corpus of bad and odd search spaces with the outcome of each; the JSON Schema says the same of them as the loader."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from jsonschema import Draft202012Validator

from fairface_core.errors import ConfigError
from sweep.plan.expand import make_plan
from sweep.plan.plan import Plan
from sweep.run import main
from sweep.space.load import load_space
from sweep.space.spec import SweepSpec
from sweep.space.yaml_nodes import parse_yaml

PROJECT = Path(__file__).resolve().parents[3]
CORPUS = Path(__file__).with_name("bad_spaces.txt")
GOOD = "space: {lr: {grid: [1e-4, 3e-4]}}\n"


class Case(NamedTuple):
    """A space, the --set options, and what each line that refuses them must name: its place first."""

    name: str
    given: str | bytes
    sets: tuple[str, ...]
    problems: tuple[tuple[str, ...], ...]


def read_corpus() -> list[Case]:
    cases = []
    for block in CORPUS.read_text(encoding="utf-8").split("\n## ")[1:]:
        name, *lines = block.rstrip("\n").split("\n")
        sets = tuple(line[6:] for line in lines if line.startswith("--set "))
        text = "".join(f"{line}\n" for line in lines if not line.startswith(("--set ", "=> ")))
        problems = tuple(tuple(line[3:].split(" | ")) for line in lines if line.startswith("=> "))
        cases.append(Case(name, GOOD if sets else text, sets, problems))
    return cases


REFUSED = [
    *read_corpus(),
    Case("empty file", b"", (), (("s.yaml", "empty"),)),
    Case("nul byte", b"name: a\x00b", (), (("s.yaml:1", "U+0000"),)),
    Case("latin-1", b"# ok\nname: caf\xe9", (), (("s.yaml:2", "0xe9"),)),
    Case("utf-16", "name: a".encode("utf-16"), (), (("s.yaml:1", "0xff"),)),
    Case("large file", b"# " + b"x" * 300_000, (), (("s.yaml", "256 KiB"),)),
    Case("long value", f"name: {'x' * 5_000}", (), (("s.yaml:1", "5,000"),)),
    Case("many values", f"space: {{lr: {{choice: [{'1,' * 25_000}]}}}}", (), (("s.yaml:1", "20,000"),)),
]


def plan_of(given: str | bytes, directory: Path, **options: Any) -> tuple[SweepSpec, Plan]:
    path = directory / "s.yaml"
    path.write_bytes(given.encode("utf-8") if isinstance(given, str) else given)
    spec = load_space(Path("s.yaml"), **options)
    return spec, make_plan(spec, auto_gpu=0)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # messages then say s.yaml


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name.replace(" ", "-"))
def test_a_bad_space_is_refused_by_place_key_and_value(
    case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s.yaml").write_bytes(case.given.encode() if isinstance(case.given, str) else case.given)
    assert main(["--space", "s.yaml", "--dry-run", *(word for text in case.sets for word in ("--set", text))]) == 2
    said = capsys.readouterr()
    left = said.err.splitlines()
    for where, *named in case.problems:
        start = f"error: {where}: "
        told = [x for x in left if x.startswith(start) and all(word in x[len(start) :] for word in named)]
        assert told, (where, named, left)
        left.remove(told[0])
    assert (left, said.out) == ([], "")
    assert [path.name for path in tmp_path.iterdir()] == ["s.yaml"], "nothing is executed and nothing is written"


def test_the_corpus_is_large_and_has_no_case_twice() -> None:
    assert len({case.name for case in REFUSED}) == len(REFUSED) >= 110
    assert len({case.name for case in ODD}) == len(ODD) >= 20


def test_of_many_problems_the_first_twenty_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    Path("s.yaml").write_text(f"space: {{lr: {{grid: {list(range(0, -30, -1))}}}}}\n")
    assert main(["--space", "s.yaml", "--dry-run"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 21
    assert lines[19] == "error: s.yaml:1: space.lr.grid = -19: input should be greater than 0"
    assert lines[20] == "error: and 10 more problems"


class Odd(NamedTuple):
    """An input that is unusual and right, and what it means."""

    name: str
    given: str | bytes
    meaning: Callable[[SweepSpec, Plan], Any]
    expected: Any


def values_of(key: str) -> Callable[[SweepSpec, Plan], Any]:
    return lambda _, plan: [trial.config[key] for trial in plan.trials]


def notes(_: SweepSpec, plan: Plan) -> list[str]:
    return list(plan.notes)


ODD = [
    Odd("exponent without a dot", "space: {lr: {grid: [3e-4]}}", values_of("lr"), [0.0003]),
    Odd("quoted number", "space: {lr: {grid: ['3e-4', \" 1e-3 \"]}}", values_of("lr"), [0.0003, 0.001]),
    Odd("whole number as a float", "space: {batch_size: {grid: [64.0]}}", values_of("batch_size"), [64]),
    Odd("whole number with an exponent", "space: {batch_size: {grid: [1e2]}}", values_of("batch_size"), [100]),
    Odd("hexadecimal seed", "space: {seed: {grid: [0x2A]}}", values_of("seed"), [42]),
    Odd("leading zero is not octal", "space: {seed: {grid: [010]}}", values_of("seed"), [10]),
    Odd("null for an optional field", "space: {image_size: {grid: [null, 64]}}", values_of("image_size"), [None, 64]),
    Odd(
        "on is a word",
        "space: {lr: {grid: [1e-3]}}\nfixed: {channels_last: on}",
        values_of("channels_last"),
        ["on"],
    ),
    Odd("yes is true for a switch", "space: {no_amp: {grid: [yes]}}", values_of("no_amp"), [True]),
    Odd("byte order mark", b"\xef\xbb\xbfspace: {lr: {grid: [1e-3]}}", values_of("lr"), [0.001]),
    Odd("windows line ends", b"space:\r\n  lr: {grid: [1e-3]}\r\n", values_of("lr"), [0.001]),
    Odd("document markers", "---\nspace: {lr: {grid: [1e-3]}}\n...\n", values_of("lr"), [0.001]),
    Odd("yaml version line", "%YAML 1.2\n---\nspace: {lr: {grid: [1e-3]}}\n", values_of("lr"), [0.001]),
    Odd("json", '{"space": {"lr": {"grid": [0.001]}}, "fixed": null}', values_of("lr"), [0.001]),
    Odd("grid over several lines", "space:\n  lr:\n    grid:\n    - 1e-3\n    - 1e-2", values_of("lr"), [0.001, 0.01]),
    Odd(
        "the same value twice",
        "space:\n  lr:\n    grid: [3e-4, 0.0003, '3e-4']",
        notes,
        [
            "s.yaml:3: lr.grid names 0.0003 more than once; it is counted once",
            "ASHA stops nothing in resnet50: a single trial has nothing to be compared with",
        ],
    ),
    Odd(
        "draws that coincide",
        "space: {dropout: {choice: [0.1, 0.2]}}\nnum_samples: 20",
        notes,
        ["18 of 20 trials equal another one; each is run once"],
    ),
    Odd(
        "one draw",
        "space: {lr: {uniform: [1e-4, 1e-3]}, dropout: {grid: [0, 0.5]}}",
        notes,
        ["s.yaml: lr: drawn only once for each combination of the grids (num_samples: 1)"],
    ),
    Odd(
        "override of a backbone that is not swept",
        "space: {lr: {grid: [1e-4, 1e-3]}}\nper_backbone:\n  vit_b_16: {lr: {grid: [1e-5]}}",
        notes,
        ["s.yaml:3: per_backbone.vit_b_16 is not used: vit_b_16 is not in the space"],
    ),
    Odd(
        "resources of a backbone that is not swept",
        "space: {lr: {grid: [1e-4, 1e-3]}}\nresources: {per_backbone: {vit_b_16: {cpu: 2}}}",
        notes,
        ["s.yaml:2: resources.per_backbone.vit_b_16 is not used: vit_b_16 is not in the space"],
    ),
    Odd(
        "plain value for one backbone",
        "space: {backbone: {grid: [resnet18, vit_b_16]}}\nper_backbone: {vit_b_16: {batch_size: 64}}",
        values_of("batch_size"),
        [64, 128],
    ),
    Odd(
        "grace as long as the budget",
        "space: {lr: {grid: [1e-4, 1e-3]}}\nfixed: {epochs: 3}",
        notes,
        ["ASHA can stop no trial: grace_epochs 3 >= epochs 3"],
    ),
    Odd(
        "fifo with settings of asha",
        "space: {seed: {grid: [1, 2]}}\nscheduler: {kind: fifo, explore_seeds: 1, confirm: true}",
        lambda _, plan: ([trial.explores for trial in plan.trials], plan.notes),
        ([True, True], ("scheduler fifo runs every trial in full; not used: explore_seeds, confirm",)),
    ),
    Odd(
        "a pattern of backbones",
        'space: {backbone: {glob: ["mobilenet_*", "timm/convnextv2_{atto,femto}*"]}}\n'
        "per_backbone: {timm/convnextv2_atto: {lr: 1e-3}}",
        lambda _, plan: {trial.config["backbone"]: trial.config["lr"] for trial in plan.trials},
        {"mobilenet_v3_small": 3e-4, "timm/convnextv2_atto": 1e-3, "timm/convnextv2_femto": 3e-4},
    ),
    Odd("no seed", "space: {lr: {grid: [1e-4]}}", values_of("seed"), [42]),
    Odd("fixed seed", "space: {lr: {grid: [1e-4]}}\nfixed: {seed: 7}", values_of("seed"), [7]),
    Odd("other letters in a name", "name: Größe 2\nspace: {lr: {grid: [1e-4]}}", lambda s, _: s.name, "Größe 2"),
    Odd("no time limit", "space: {lr: {grid: [1]}}\nfailures: {stall_timeout: off}",
        lambda s, _: s.failures.stall_timeout_s, None),
    Odd("time in hours", "space: {lr: {grid: [1]}}\nfailures: {stall_timeout: 1.5h}",
        lambda s, _: s.failures.stall_timeout_s, 5400.0),
    Odd("time in seconds", "space: {lr: {grid: [1]}}\nfailures: {stall_timeout: 90}",
        lambda s, _: s.failures.stall_timeout_s, 90.0),
    Odd("one image folder", "space: {lr: {grid: [1]}}\ndata: {image_root: /more}",
        lambda s, _: s.policies, {"image_root": ("/more",)}),
    Odd("demo in one word", "data: demo\nspace: {lr: {grid: [1]}}", lambda s, _: (s.root, s.demo), (None, {})),
    Odd("demo of a size", "data: {demo: {num_train: 90}}\nspace: {lr: {grid: [1]}}",
        lambda s, _: s.demo, {"num_train": 90}),
    Odd("no demo", "data: {demo: false}\nspace: {lr: {grid: [1]}}", lambda s, _: s.demo, None),
]  # fmt: skip


@pytest.mark.parametrize("case", ODD, ids=lambda case: case.name.replace(" ", "-"))
def test_an_odd_space_means_this(case: Odd, tmp_path: Path) -> None:
    assert case.meaning(*plan_of(case.given, tmp_path)) == case.expected


# Of the refused spaces, those that a JSON Schema cannot refuse. It sees values, so no rule of YAML's text (duplicate
# keys, tags, aliases, depth, numbers that no JSON has) can be said in it: such texts have no value at all.
TWO_VALUES = {  # no keyword compares one value with another
    "range upside down", "range of nothing", "root and demo", "fixed and swept", "data and fixed", "repeats of a grid",
    "more explorers than seeds", "seeds that never run", "seeds that never race", "grouped by draws",
    "nothing to settle with", "seeds without settling", "fewer seeds than the grid", "a search over grids", "a search that races",
}  # fmt: skip
WHOLE_PLAN = {
    "a million trials",
    "patches that do not fit",
    "nothing to settle",
    "patches of timm that do not fit",
}  # known when the trials are drawn up
# timm's own word, which differs from version to version.
ASKS_TIMM = {"unknown backbone of timm", "pattern that matches nothing", "pattern that matches too much"}
# Of the accepted ones, what it refuses: the limits of a number cannot be said of one that is written as text.
QUOTED = {"quoted number", "the same value twice"}


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("space: {lr: {grid: [1]}}\nfixed: {optimizer: lamb}", "2: fixed.optimizer"),
        ("space:\n  optimizer: {grid: [adamw, lamb]}", "2: space.optimizer.grid"),
        ("space:\n  optimizer: {choice: [adamw, lamb]}\nnum_samples: 9", "2: space.optimizer.choice"),
    ],
)
def test_an_optimizer_of_timm_is_refused_without_timm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, place: str
) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(text)
    load_space(path)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match=rf"s\.yaml:{place} = 'lamb': the package timm is not installed; run"):
        load_space(path)


def test_the_schema_in_the_repository_is_the_one_that_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--print-schema"])
    assert ended.value.code == 0
    schema = PROJECT / "search_spaces" / "schema.json"
    assert schema.read_text(encoding="utf-8") == capsys.readouterr().out, "python -m sweep.run --print-schema > FILE"


@pytest.mark.parametrize("path", [*PROJECT.glob("search_spaces/*.yaml"), *PROJECT.glob("benchmarks/spaces/*.yaml")])
def test_every_space_names_the_schema_for_editors_and_passes_it(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    (named,) = (
        line.partition("$schema=")[2] for line in text.splitlines() if line.startswith("# yaml-language-server:")
    )
    schema = json.loads((path.parent / named).read_text(encoding="utf-8"))
    Draft202012Validator(schema).validate(parse_yaml(text, path.name).value)


def test_the_schema_accepts_and_refuses_what_the_loader_does() -> None:
    schema = json.loads((PROJECT / "search_spaces" / "schema.json").read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    accepts = Draft202012Validator(schema).is_valid

    def values(cases: list[Any]) -> dict[str, Any]:
        read = {}
        for case in cases:
            try:
                text = case.given.decode("utf-8-sig") if isinstance(case.given, bytes) else case.given
                read[case.name] = parse_yaml(text, "s.yaml").value
            except (ConfigError, UnicodeDecodeError):
                continue
        return read

    refused = values([case for case in REFUSED if not case.sets])
    assert len(refused) >= 90
    assert {name for name, value in refused.items() if accepts(value)} == TWO_VALUES | WHOLE_PLAN | ASKS_TIMM
    assert {name for name, value in values(ODD).items() if not accepts(value)} == QUOTED


def test_a_path_that_is_no_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "backbones.yaml").write_text("")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    outcomes = {
        "backbone.yaml": 'no such file (did you mean "backbones.yaml"?); accepted: the path of a YAML file',
        "folder": "cannot be read: Is a directory; accepted: a YAML file",
        "pipe": "cannot be read: not a regular file but a FIFO, a socket or a device; accepted: a YAML file",
        "/dev/zero": "cannot be read: not a regular file but a FIFO, a socket or a device; accepted: a YAML file",
        "loop": "cannot be read: Too many levels of symbolic links; accepted: a YAML file",
        "a\0b": "cannot be read: a NUL is in its name; accepted: a YAML file",
    }
    for name, outcome in outcomes.items():
        with pytest.raises(ConfigError) as refused:
            load_space(Path(name))
        assert str(refused.value).endswith(f": {outcome}"), name
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_a_path_cannot_add_lines_to_a_message(tmp_path: Path) -> None:
    path = tmp_path / "a\nb\x1b[2J.yaml"
    path.write_text("space: {lr: {grid: [-1]}}\n")
    with pytest.raises(ConfigError) as refused:
        load_space(path)
    assert len(str(refused.value).splitlines()) == 1
    assert "\x1b" not in str(refused.value)
