"""SweepSpec: what a good space means, what the command line changes in it, and when two spaces are the same."""

from __future__ import annotations

import inspect
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fairface_core.config.train_config import TrainConfig, identity_fields, tunable_fields
from fairface_core.demo.folder import demo_root
from fairface_core.errors import ConfigError
from sweep.plan.expand import make_plan
from sweep.space.distributions import Distribution
from sweep.space.load import load_space
from sweep.space.scheduler import SchedulerSpec
from sweep.space.spec import DATA_FIELDS, DEMO_SIZES, RESERVED, FailureSpec, ResourceSpec, SweepSpec
from tests.sweep.spaces import DESIGN_SPACE, space

SPACES = sorted((Path(__file__).resolve().parents[3] / "search_spaces").glob("*.yaml"))


def test_the_grammar_of_the_design_is_read_in_full(tmp_path: Path) -> None:
    spec = space(tmp_path, DESIGN_SPACE)
    assert spec.name == "backbones"
    assert (spec.root, spec.demo, spec.policies) == (None, None, {})
    assert spec.space == {
        "backbone": Distribution("grid", ("resnet50", "convnext_tiny", "efficientnet_v2_s", "vit_b_16")),
        "lr": Distribution("grid", (1e-4, 3e-4, 1e-3)),
        "seed": Distribution("grid", (41, 42, 43)),
    }
    assert spec.per_backbone == {"vit_b_16": {"lr": Distribution("grid", (1e-5, 3e-5, 1e-4))}}
    assert spec.fixed == {"epochs": 20, "batch_size": 128, "weight_decay": 1e-4}
    assert (spec.num_samples, spec.sample_seed, spec.notes) == (1, 0, ())
    assert spec.scheduler == SchedulerSpec()
    assert spec.resources == ResourceSpec.model_validate(
        {"cpu": 4, "gpu": 1, "per_backbone": {"resnet50": {"gpu": 0.5}}}
    )
    assert spec.failures == FailureSpec(max_retries=2, stall_timeout="15m")
    assert (spec.seeds, spec.epochs, len(spec.backbones)) == ((41, 42, 43), 20, 4)


def test_every_distribution_is_read(tmp_path: Path) -> None:
    spec = space(
        tmp_path,
        """
        space:
          lr: {loguniform: [1e-5, 1e-3]}
          dropout: {uniform: [0, 0.5]}
          batch_size: {randint: [16, 129]}
          weights: {choice: [imagenet, none]}
          image_size: {grid: [null, 64]}
        num_samples: 4
        sample_seed: 7
        """,
    )
    assert spec.space == {
        "lr": Distribution("loguniform", (1e-5, 1e-3)),
        "dropout": Distribution("uniform", (0.0, 0.5)),
        "batch_size": Distribution("randint", (16, 129)),
        "weights": Distribution("choice", ("imagenet", "none")),
        "image_size": Distribution("grid", (None, 64)),
    }
    assert (spec.num_samples, spec.sample_seed) == (4, 7)
    assert spec.drawn() == ("batch_size", "dropout", "lr", "weights")


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.name)
def test_every_space_of_the_project_is_accepted_and_begins_with_its_header(path: Path) -> None:
    spec = load_space(path)
    assert make_plan(spec, auto_gpu=0).trials
    assert spec.notes == ()
    header = spec.text.splitlines()
    assert header[0].startswith("# Question: ")
    assert [line.split(":")[0] for line in header if line.startswith("# ") and line[2] != " "] == [
        "# Question", "# Command", "# Time", "# Score", "# yaml-language-server",
    ]  # fmt: skip
    assert f"--space search_spaces/{path.name}" in spec.text


def test_the_quickstart_needs_nothing_and_clashes_with_nothing() -> None:
    (path,) = (path for path in SPACES if path.name == "quickstart.yaml")
    spec = load_space(path)
    assert spec.demo is not None
    assert spec.name is None
    assert spec.run_name(datetime(2026, 11, 24, 3, 4, 5)) == "quickstart-20261124-030405"
    assert set(spec.backbones) == {"resnet50", "convnext_tiny", "efficientnet_v2_s", "vit_b_16"}
    assert spec.fixed["weights"] == "none"


def test_every_field_of_the_config_has_its_place() -> None:
    fields = set(TrainConfig.model_fields)
    assert set(RESERVED) | set(DATA_FIELDS) <= fields
    assert not set(RESERVED) & (tunable_fields() | set(DATA_FIELDS))
    assert {name for name in fields if name.startswith("limit_")} <= set(DATA_FIELDS)
    # A trial id is the digest of identity fields: a swept field outside of them would give two trials one id.
    assert tunable_fields() <= identity_fields()
    locations = {"root", "out_dir", "results_csv", "cache_dir"}
    assert locations <= set(RESERVED)


def test_the_demo_sizes_are_those_of_the_demo() -> None:
    parameters = inspect.signature(demo_root).parameters
    assert list(DEMO_SIZES) == [name for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY]


# What the command line changes.


def test_set_replaces_adds_and_is_typed_like_the_file(tmp_path: Path) -> None:
    spec = space(
        tmp_path,
        DESIGN_SPACE,
        sets=[
            "fixed.epochs=3",
            "space.lr.grid=[1e-4,3e-4]",
            "failures.max_retries=0",
            "per_backbone=",
            "fixed.dropout=.5",
        ],
    )
    assert spec.fixed == {"epochs": 3, "batch_size": 128, "weight_decay": 1e-4, "dropout": 0.5}
    assert spec.space["lr"] == Distribution("grid", (1e-4, 3e-4))
    assert spec.failures.max_retries == 0
    assert spec.per_backbone == {}


def test_set_of_a_distribution_replaces_the_one_in_the_file(tmp_path: Path) -> None:
    spec = space(
        tmp_path,
        DESIGN_SPACE,
        sets=["space.lr.loguniform=[1e-5, 1e-3]", "per_backbone.vit_b_16.lr.choice=[1e-5]", "num_samples=2"],
    )
    assert spec.space["lr"] == Distribution("loguniform", (1e-5, 1e-3))
    assert spec.per_backbone["vit_b_16"]["lr"] == Distribution("choice", (1e-5,))
    assert spec.notes == ("--set space.lr.loguniform=[1e-5, 1e-3]: vit_b_16 keeps its own lr (per_backbone)",)
    plain = "space: {lr: {grid: [1e-4]}}\nper_backbone: {resnet50: {lr: 1e-3}}"
    spec = space(tmp_path, plain, sets=["per_backbone.resnet50.lr.grid=[1e-5]"])
    assert spec.per_backbone == {"resnet50": {"lr": Distribution("grid", (1e-5,))}}


def test_set_reaches_below_data_demo(tmp_path: Path) -> None:
    text = "data: demo\nspace: {lr: {grid: [1]}}"
    spec = space(tmp_path, text, sets=["data.demo.num_train=90", "data.protocol=official"])
    assert (spec.demo, spec.policies) == ({"num_train": 90}, {"protocol": "official"})


def test_root_is_absolute_and_takes_the_place_of_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert space(tmp_path, "data: {root: faces}\nspace: {lr: {grid: [1]}}").root == str(tmp_path / "faces")
    assert space(tmp_path, "data: {root: ~/faces}\nspace: {lr: {grid: [1]}}").root == str(tmp_path / "home/faces")
    spec = space(tmp_path, "data: {demo: true, protocol: official}\nspace: {lr: {grid: [1]}}", root="faces")
    assert (spec.root, spec.demo) == (str(tmp_path / "faces"), None)
    assert spec.policies == {"protocol": "official"}
    assert spec.notes == ("--root: the images of this folder are used instead of the built-in faces (data.demo)",)
    assert space(tmp_path, "data: demo\nspace: {lr: {grid: [1]}}", root="faces").demo is None


def test_a_path_of_weights_is_absolute_wherever_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials run in a working folder of their own."""
    monkeypatch.chdir(tmp_path)
    spec = space(
        tmp_path,
        """
        space: {weights: {grid: [imagenet, w/a.pth, none]}, backbone: {grid: [resnet18, vit_b_16]}}
        per_backbone: {vit_b_16: {weights: ~/b.pth}}
        """,
        sets=["space.lr.grid=[1e-3]"],
    )
    here = str(tmp_path / "w/a.pth")
    assert spec.space["weights"].values == ("imagenet", here, "none")
    assert spec.per_backbone["vit_b_16"]["weights"].values == (str(Path.home() / "b.pth"),)
    plan = make_plan(spec, auto_gpu=0)
    assert {trial.config["weights"] for trial in plan.trials} == {"imagenet", "none", here, str(Path.home() / "b.pth")}
    fixed = space(tmp_path, "space: {lr: {grid: [1e-3]}}\nfixed: {weights: w/a.pth}")
    assert fixed.fixed["weights"] == here


def test_policies_of_the_command_line(tmp_path: Path) -> None:
    flags = {"protocol": "official", "on_bad_image": "skip", "drop_duplicates": "cross_split"}
    for data in ("", "data: demo\n", "data: {protocol: seed, drop_duplicates: all}\n"):
        assert space(tmp_path, f"{data}space: {{lr: {{grid: [1]}}}}", **flags).policies == flags


def test_resources_of_the_command_line_hold_for_every_backbone(tmp_path: Path) -> None:
    spec = space(tmp_path, DESIGN_SPACE, gpus_per_trial=0, cpus_per_trial=1.5, max_concurrent=3)
    assert (spec.resources.cpu, spec.resources.gpu, spec.resources.max_concurrent) == (1.5, 0.0, 3)
    assert spec.resources.per_backbone["resnet50"].gpu is None
    assert spec.notes == ("--gpus-per-trial 0: holds for every backbone; resources.per_backbone is not used for gpu",)


def test_scheduler_and_name_of_the_command_line(tmp_path: Path) -> None:
    spec = space(tmp_path, DESIGN_SPACE, scheduler="fifo", name="again")
    assert (spec.scheduler.kind, spec.name) == ("fifo", "again")


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        ({"scheduler": "pbt"}, "--scheduler 'pbt': scheduler.kind = 'pbt': input should be 'asha', 'race' or 'fifo'"),
        (
            {"gpus_per_trial": 1.5},
            "--gpus-per-trial 1.5: resources.gpu = 1.5: input should be less than or equal to 1",
        ),
        ({"cpus_per_trial": 0}, "--cpus-per-trial 0: resources.cpu = 0: input should be greater than or equal to 0.01"),
        (
            {"max_concurrent": 0},
            "--max-concurrent 0: resources.max_concurrent = 0: input should be greater than or equal",
        ),
        ({"name": "a/b"}, "--name 'a/b': name = 'a/b': accepted: up to 100 letters, digits, spaces and ._+-"),
        ({"name": ""}, "--name '': name = '': accepted: up to 100 letters"),
        ({"root": " "}, "--root ' ': data.root = ' ': accepted: a folder, or null to give --root DIR later"),
        ({"name": "a", "sets": ["name=b"]}, "--name 'a': name is set twice on the command line; keep one of them"),
    ],
    ids=str,
)
def test_a_bad_flag_is_named(tmp_path: Path, flags: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as refused:
        space(tmp_path, DESIGN_SPACE, **flags)
    assert len(refused.value.problems) == 1
    assert refused.value.problems[0].startswith(problem)


def test_the_run_folder_keeps_the_text_and_what_was_changed(tmp_path: Path) -> None:
    text = "# why\nspace: {lr: {grid: [1e-4]}}\n"
    assert space(tmp_path, text).recorded_text() == text
    changed = space(tmp_path, text, sets=["fixed.epochs=3", "fixed.dropout=\n0.5"], scheduler="fifo").recorded_text()
    assert changed == (
        f"{text}\n# Changed on the command line:\n#   --set fixed.epochs=3\n#   --set fixed.dropout= 0.5\n"
        "#   --scheduler fifo\n"
    )


@pytest.mark.parametrize(
    ("stem", "name"),
    [("a b", "a_b"), ("._-", "sweep"), ("x" * 200, "x" * 60), ("Größe", "Größe"), ("a;rm -rf", "a_rm_-rf")],
)
def test_a_run_without_a_name_is_called_after_its_file(stem: str, name: str) -> None:
    spec = SweepSpec.model_construct(path=Path("spaces") / f"{stem}.yaml", text="")
    assert spec.run_name(datetime(2026, 1, 2, 3, 4, 5)) == f"{name}-20260102-030405"


# When two spaces are the same.

SAME = """
scheduler:   {confirm: true, explore_seeds: all, reduction_factor: 3.0, grace_epochs: 3}
failures: {max_retries: 0}   # not the result's business
resources: {cpu: 1, gpu: 0}
data: {root: /elsewhere, protocol: seed}
fixed:
  weight_decay: 0.0001       # the default
  batch_size: 128.0
  num_workers: 2
  epochs: "20"
name: other
per_backbone: {vit_b_16: {lr: {grid: [1.0e-4, 0.00001, '3e-5']}}, resnet18: {lr: {grid: [5]}}}
space:
  seed: {grid: [41, 42, 43]}
  lr: {grid: [0.001, 3e-4, 1e-4]}
  backbone: {grid: [vit_b_16, resnet50, convnext_tiny, efficientnet_v2_s]}
"""


def test_comments_order_spelling_and_place_do_not_change_a_space(tmp_path: Path) -> None:
    one, other = space(tmp_path, DESIGN_SPACE), space(tmp_path, SAME)
    assert one.canonical() == other.canonical()
    assert one.digest() == other.digest()
    assert json.loads(json.dumps(one.canonical())) == one.canonical()


@pytest.mark.parametrize(
    "change",
    [
        "fixed.epochs=21", "fixed.dropout=0.3", "space.lr.grid=[1e-4,3e-4]", "space.seed.grid=[42,41,43]",
        "per_backbone.vit_b_16.lr.grid=[1e-5]", "scheduler.kind=fifo", "scheduler.grace_epochs=4", "data=demo",
        "scheduler.explore_seeds=1", "data.protocol=official", "data.limit_train=500", "data.demo.num_train=90",
    ],
)  # fmt: skip
def test_what_changes_a_result_changes_the_space(tmp_path: Path, change: str) -> None:
    assert space(tmp_path, DESIGN_SPACE).digest() != space(tmp_path, DESIGN_SPACE, sets=[change]).digest()


def test_settings_that_fifo_does_not_use_do_not_change_it(tmp_path: Path) -> None:
    changes = [["scheduler.kind=fifo"], ["scheduler.kind=fifo", "scheduler.grace_epochs=9"]]
    one, other = (space(tmp_path, DESIGN_SPACE, sets=sets) for sets in changes)
    assert one.digest() == other.digest()


# Anything at all.

JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(["grid", "3e-4", "demo", "all", "auto", "resnet50", "1e-4", "15m", "fifo"]),
    lambda children: st.lists(children, max_size=3)
    | st.dictionaries(
        st.sampled_from(["grid", "choice", "uniform", "loguniform", "randint", "lr", "seed", "resnet50", "vit_b_16"])
        | st.sampled_from([*TrainConfig.model_fields, "kind", "group_by", "cpu", "gpu", "per_backbone", "demo"])
        | st.text(max_size=4),
        children, max_size=3,
    ),
    max_leaves=8,
)  # fmt: skip
ANY_SPACE = st.fixed_dictionaries(
    {"space": JUNK},
    optional=dict.fromkeys(("name", "data", "per_backbone", "fixed", "num_samples", "sample_seed"), JUNK)
    | dict.fromkeys(("scheduler", "resources", "failures", "other"), JUNK),
)


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(ANY_SPACE, st.lists(st.text(max_size=20), max_size=2))
def test_any_space_is_planned_or_refused_line_by_line(
    tmp_path_factory: pytest.TempPathFactory, document: dict[str, Any], sets: list[str]
) -> None:
    try:
        plan = make_plan(space(tmp_path_factory.getbasetemp(), json.dumps(document), sets=sets), auto_gpu=0)
    except ConfigError as refused:
        assert all(problem.isprintable() and len(problem) < 10_000 for problem in refused.problems)
    else:
        assert plan.trials
