"""Every field of the recipe in whole runs: it changes them, and a run that goes on from a state equals an undisturbed one."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from fairface_core import EpochReport, fit
from fairface_core.backbones import state_bytes
from fairface_core.config.train_config import TrainConfig, make_config
from fairface_core.errors import CheckpointError, ConfigError
from fairface_core.evaluate import main as evaluate
from tests.conftest import PROJECT
from tests.fairface_core.small_data import training_config

# One other value for each field that came with the recipe, and what it needs beside it.
OPTIONS: dict[str, dict[str, Any]] = {
    "schedule": {"schedule": "linear", "min_lr": 1e-4},
    "warmup_epochs": {"warmup_epochs": 1},
    "min_lr": {"min_lr": 1e-3},
    "optimizer": {"optimizer": "sgd", "lr": 2e-2},
    "head_lr_factor": {"head_lr_factor": 5},
    "layer_decay": {"layer_decay": 0.8},
    "freeze_epochs": {"freeze_epochs": 1},
    "no_decay_on_norm_and_bias": {"no_decay_on_norm_and_bias": True, "weight_decay": 0.5},
    "clip_grad_norm": {"clip_grad_norm": 0.5, "optimizer": "sgd"},
    "label_smoothing": {"label_smoothing": 0.1},
    "mixup": {"mixup": 0.2, "cutmix": 1.0},
    "cutmix": {"cutmix": 1.0, "age_loss": "soft_labels"},
    "random_erasing": {"random_erasing": 0.5},
    "crop_scale_min": {"crop_scale_min": 0.5},
    "color_jitter_strength": {"color_jitter_strength": 2},
    "drop_path": {"drop_path": 0.5, "backbone": "convnext_tiny"},
    "norm_momentum": {"norm_momentum": 0.3},
    "ema_decay": {"ema_decay": 0.9},
    "age_loss": {"age_loss": "coral"},
    "weighting": {"weighting": "effective_number"},
    "sampler": {"sampler": "balanced"},
}
# All of them in three runs: enough for each change, where the runs one by one are for their own test.
TOGETHER: list[dict[str, Any]] = [
    {
        "age_loss": "corn", "ema_decay": 0.9, "norm_momentum": 0.3, "clip_grad_norm": 1.0, "sampler": "balanced",
        "layer_decay": 0.8, "no_decay_on_norm_and_bias": True, "freeze_epochs": 1, "micro_batch_size": 7,
        "optimizer": "lamb", "lr": 2e-2,
    },
    {
        "age_loss": "soft_labels", "mixup": 0.2, "cutmix": 1.0, "random_erasing": 0.5, "optimizer": "sgd", "lr": 2e-2,
        "schedule": "linear", "min_lr": 1e-4, "warmup_epochs": 1, "head_lr_factor": 2, "micro_batch_size": 7,
        "ema_decay": 0.9, "amp_dtype": "bf16",
    },
    {
        "age_loss": "mean_variance", "weighting": "none", "crop_scale_min": 0.5, "color_jitter_strength": 0,
        "schedule": "constant", "sampler": "balanced", "amp_dtype": "bf16",
    },
]  # fmt: skip


class Stop(BaseException):
    """Raised from on_epoch, as Ray's SystemExit is."""


def stop(report: EpochReport) -> None:
    raise Stop


def small(root: Path, out: Path, **changes: Any) -> TrainConfig:
    return training_config(root, out, **{"epochs": 2, "limit_train": 54, **changes})


def weights(out: Path) -> str:
    """A digest of the weights that are scored and of those that are trained, after the last epoch."""
    digest = hashlib.sha256()
    for file in ("best.pt", "state.pt"):
        for name, tensor in torch.load(out / file, weights_only=True)["model"].items():
            digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def told(out: Path) -> list[Any]:
    history = pd.read_csv(out / "history.csv")[["lr", "train_loss", "val_loss", "mean_f1", "raw_mean_f1"]]
    report = json.loads((out / "report.json").read_text())
    return [history.to_dict("list"), report["test_metrics"], report["val_metrics"], report["best_epoch"]]


def whole_and_resumed(root: Path, tmp_path: Path, **changes: Any) -> Path:
    """Train undisturbed, and again with a stop after the first epoch; all must be equal, bit for bit."""
    fit(small(root, tmp_path / "whole", **changes))
    with pytest.raises(Stop):
        fit(small(root, tmp_path / "parts", **changes), on_epoch=stop)
    fit(small(root, tmp_path / "parts", resume=True, **changes))
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    assert told(tmp_path / "parts") == told(tmp_path / "whole")
    states = [torch.load(tmp_path / name / "state.pt", weights_only=True) for name in ("whole", "parts")]
    torch.testing.assert_close(
        *({key: one[key] for key in ("model", "optimizer", "scaler")} for one in states), rtol=0, atol=0
    )
    config = small(root, tmp_path / "whole", **changes)
    assert (tmp_path / "whole/state.pt").stat().st_size == pytest.approx(state_bytes(config.model_dump()), rel=0.05)
    return tmp_path / "whole"


def recipe_fields() -> set[str]:
    extras: dict[str, Any] = {name: field.json_schema_extra for name, field in TrainConfig.model_fields.items()}
    return {name for name, extra in extras.items() if extra["added"] and extra["tunable"]} - {"weights_map"}


def test_every_field_of_the_recipe_is_tried() -> None:
    assert set(OPTIONS) == recipe_fields()
    assert {key for one in TOGETHER for key in one} >= set(OPTIONS) - {"drop_path", "label_smoothing"}


def test_the_page_has_every_field_with_its_default() -> None:
    page = (PROJECT / "docs" / "recipe.md").read_text(encoding="utf-8").partition("| `age_loss` | loss of an image")[0]
    rows = re.findall(r"^\| `(\w+)` \| `?([^|`]+?)`? \|", page, re.MULTILINE)
    assert dict(rows) == {name: str(TrainConfig.model_fields[name].default) for name in recipe_fields()}


@pytest.mark.parametrize(
    "recipe",
    [pytest.param(one, marks=[pytest.mark.slow] * (one is TOGETHER[-1]), id=one["age_loss"]) for one in TOGETHER],
)
def test_many_fields_at_once_resume_bit_for_bit(demo_root: Path, tmp_path: Path, recipe: dict[str, Any]) -> None:
    whole_and_resumed(demo_root, tmp_path, **recipe)


@pytest.fixture(scope="module")
def plain(demo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The weights of a run with the same backbone, learning rate and weight decay and nothing of the recipe."""
    known: dict[tuple[Any, ...], str] = {}
    common = ("backbone", "lr", "weight_decay")

    def of(changes: dict[str, Any], first: str) -> str:
        kept = {key: value for key, value in changes.items() if key in common or (key == "optimizer" and key != first)}
        key = tuple(sorted(kept.items()))
        if key not in known:
            out = tmp_path_factory.mktemp("plain")
            fit(small(demo_root, out, **kept))
            known[key] = weights(out)
        return known[key]

    return of


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_every_field_changes_the_weights_and_resumes_bit_for_bit(
    demo_root: Path, tmp_path: Path, plain: Any, name: str
) -> None:
    whole = whole_and_resumed(demo_root, tmp_path, **OPTIONS[name])
    assert weights(whole) != plain(OPTIONS[name], name)
    assert json.loads((whole / "report.json").read_text())["config"][name] == OPTIONS[name][name]


@pytest.mark.parametrize("name", OPTIONS)
def test_a_field_enters_the_digest_only_where_it_is_set(name: str) -> None:
    default = TrainConfig.model_fields[name].default
    values = OPTIONS[name]
    kept = {key: value for key, value in values.items() if key != name}
    assert (
        TrainConfig(**kept).digest()
        == TrainConfig(**{**kept, name: default}).digest()
        != TrainConfig(**values).digest()
    )


def test_the_digests_of_older_plans_stand() -> None:
    """Written down before the recipe had fields."""
    assert TrainConfig().digest() == "0bedc1a2e139"
    assert make_config({"backbone": "resnet18", "lr": 1e-3, "epochs": 3, "seed": 7}).digest() == "57e64bfbefbd"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"min_lr": 1e-2}, "config: min_lr = 0.01: above lr = 0.0003; accepted: at most lr"),
        ({"min_lr": 1e-5, "schedule": "constant"}, "min_lr = 1e-05: schedule = constant never falls to it"),
        ({"warmup_epochs": 20}, "warmup_epochs = 20: with epochs = 20 nothing follows; accepted: less than epochs"),
        ({"freeze_epochs": 25}, "freeze_epochs = 25: with epochs = 20 nothing follows"),
        ({"mixup": 0.2, "age_loss": "coral"}, "mixup = 0.2: age_loss = coral needs one true age group an image"),
        ({"cutmix": 1, "age_loss": "corn"}, "cutmix = 1: age_loss = corn needs one true age group an image"),
        ({"mixup": 1, "age_loss": "mean_variance"}, "mixup = 1: age_loss = mean_variance needs one"),
        ({"label_smoothing": 0.1, "age_loss": "soft_labels"}, "label_smoothing = 0.1: it knows no order"),
        ({"drop_path": 0.1}, "drop_path = 0.1: resnet50 has no stochastic depth; leave it out"),
        ({"norm_momentum": 0.1, "backbone": "vit_b_16"}, "norm_momentum = 0.1: vit_b_16 has no batch norm"),
        ({"age_loss": "corral"}, "age_loss = 'corral': input should be .*did you mean \"coral\""),
    ],
)
def test_what_makes_no_sense_is_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        make_config(values)
    assert len(refused.value.problems) == 1
    assert re.search(message if "corral" in message else re.escape(message), refused.value.problems[0])


@pytest.mark.parametrize("age_loss", [pytest.param("coral", marks=pytest.mark.slow), "corn"])
def test_a_checkpoint_of_an_ordinal_head_scores_the_same_everywhere(
    demo_root: Path, tmp_path: Path, age_loss: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from fairface_core.prediction.models import load_member

    recipe = {"age_loss": age_loss, "weighting": "effective_number", "ema_decay": 0.5}
    report = fit(small(demo_root, tmp_path, epochs=1, **recipe))
    flags = ["--root", str(demo_root), "--device", "cpu", "--limit_val", "120", "--limit_train", "54", "--json"]
    assert evaluate(["--checkpoint", str(tmp_path / "best.pt"), *flags]) == 0
    scored = json.loads(capsys.readouterr().out)
    assert scored["test_metrics"] == pytest.approx(report.test_metrics, abs=1e-6)
    assert {"age_mae_groups", "age_within_one_acc"} <= scored["test_metrics"].keys()
    assert report.report["age_error"]["mean_abs_bins"] == report.test_metrics["age_mae_groups"]
    assert report.report["age_error"]["within_one_acc"] == report.test_metrics["age_within_one_acc"]
    member = load_member(tmp_path, torch.device("cpu"))
    age, _ = member.network(torch.zeros(1, 3, 32, 32))
    assert age.exp().sum().item() == pytest.approx(1, abs=1e-5)
    stored = pd.read_parquet(tmp_path / "predictions.parquet")
    shares = stored[[f"age_prob_{k}" for k in range(9)]].to_numpy()
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-5)
    assert (shares.argmax(1) == stored.age_pred).all()


def test_the_average_is_what_is_scored_and_the_weights_beside_it(demo_root: Path, tmp_path: Path) -> None:
    report = fit(small(demo_root, tmp_path, ema_decay=0.99, norm_momentum=0.5))
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    best = torch.load(tmp_path / "best.pt", weights_only=True)
    assert report.report["model"]["scored_weights"] == "moving average"
    if report.best_epoch == 2:
        torch.testing.assert_close(best["model"], state["averaged"]["model"], rtol=0, atol=0)
    assert state["averaged"]["steps"] == 8  # 54 rows in batches of 16, twice
    history = pd.read_csv(tmp_path / "history.csv")
    assert (history.raw_mean_f1 > 0).all()
    assert (history.raw_mean_f1 != history.mean_f1).any()


def test_a_state_of_before_the_recipe_goes_on_and_one_of_another_recipe_is_refused(
    demo_root: Path, tmp_path: Path
) -> None:
    with pytest.raises(Stop):
        fit(small(demo_root, tmp_path), on_epoch=stop)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    # One group that holds nothing but what torch puts into it, as ever.
    (group,) = state["optimizer"]["param_groups"]
    (fresh,) = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))]).param_groups
    assert group.keys() == fresh.keys()
    with pytest.raises(CheckpointError, match="another configuration"):
        fit(small(demo_root, tmp_path, resume=True, layer_decay=0.7))
