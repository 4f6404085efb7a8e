"""Checkpoints whose weights were saved through a wrapper of the model.

The rule: what a wrapper puts in front of every name (DataParallel, torch.compile, Lightning, AveragedModel, several at once)
is taken off, and one `note:` says so. A prefix of some names only, or of another kind, is a misfit and refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fairface_core.config.train_config import make_config
from fairface_core.errors import CheckpointError, FairfaceError
from fairface_core.evaluate import main
from fairface_core.files.tensors import unwrap
from fairface_core.model.network import AgeGenderModel, build_model, load_weights
from fairface_core.trial.checkpoint import load_checkpoint

CFG = make_config({"backbone": "mobilenet_v3_small", "image_size": 32, "weights": "none"}).model_dump(mode="json")


def model() -> AgeGenderModel:
    return AgeGenderModel("mobilenet_v3_small", 32, 0.2)


def saved(path: Path, state: dict[str, Any], *, key: str = "model") -> Path:
    torch.save({key: state, "cfg": {k: v for k, v in CFG.items() if k != "image_root"}, "epoch": 1}, path)
    return path


@pytest.mark.parametrize("key", ["model", "state_dict", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "_orig_mod.module.", "module._orig_mod."])
def test_every_wrapper_is_taken_off(prefix: str, key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = model().state_dict()
    path = saved(tmp_path / "best.pt", {f"{prefix}{name}": value for name, value in given.items()}, key=key)
    checkpoint = load_checkpoint(path)
    other = model()
    load_weights(other, checkpoint.model, where="best.pt")
    assert all(torch.equal(value, given[name]) for name, value in other.state_dict().items())
    said = capsys.readouterr().err
    assert (f"note: {path}: each weight's name began with '{prefix}'" in said) is bool(prefix)


def test_an_average_of_weights(tmp_path: Path) -> None:
    averaged = torch.optim.swa_utils.AveragedModel(model())
    checkpoint = load_checkpoint(saved(tmp_path / "best.pt", averaged.state_dict()))
    load_weights(model(), checkpoint.model, where="best.pt")


def test_scores_are_the_same(demo_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = model().state_dict()
    plain = saved(tmp_path / "plain.pt", state)
    wrapped = saved(tmp_path / "wrapped.pt", {f"module.{name}": value for name, value in state.items()})
    outputs = []
    for path in (plain, wrapped):
        assert main(["--checkpoint", str(path), "--root", str(demo_root), "--json", "--num_workers", "0"]) == 0
        outputs.append(capsys.readouterr())
    assert outputs[0].out == outputs[1].out
    assert "note: " not in outputs[0].err and "'module.'" in outputs[1].err


@pytest.mark.parametrize("prefix", ["net.", "modul"])
def test_another_prefix_is_a_misfit(prefix: str) -> None:
    with pytest.raises(CheckpointError, match="do not fit this model: missing"):
        load_weights(model(), unwrap({f"{prefix}{k}": v for k, v in model().state_dict().items()})[0], where="best.pt")


def test_a_prefix_of_some_names_is_none() -> None:
    names = list(model().state_dict())
    state = {name if i else f"module.{name}": i for i, name in enumerate(names)}
    assert unwrap(state) == (state, "")
    assert unwrap({}) == ({}, "")


def test_pretrained_weights_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = model().feature_extractor.state_dict()
    torch.save({f"module.{name}": value for name, value in given.items()}, tmp_path / "w.pth")
    built = build_model("mobilenet_v3_small", image_size=32, dropout=0.2, weights=str(tmp_path / "w.pth"))
    assert all(torch.equal(value, given[name]) for name, value in built.feature_extractor.state_dict().items())
    assert "began with 'module.'" in capsys.readouterr().err
    torch.save({f"net.{name}": value for name, value in given.items()}, tmp_path / "w.pth")
    with pytest.raises(FairfaceError, match="do not fit mobilenet_v3_small"):
        build_model("mobilenet_v3_small", image_size=32, dropout=0.2, weights=str(tmp_path / "w.pth"))
