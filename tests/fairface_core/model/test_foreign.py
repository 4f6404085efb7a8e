"""Weights files of other programs: formats, wrappers, names; files and maps that are refused."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from fairface_core.config.train_config import absolute_path, make_config
from fairface_core.errors import WeightsError
from fairface_core.model.foreign import read_map, read_weights, renamed
from fairface_core.model.network import build_model
from fairface_core.model.weights import named_file


@pytest.fixture(scope="module")
def donor() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return torchvision.models.mobilenet_v3_small(weights=None).state_dict()


def save(path: Path, content: dict[str, Any]) -> str:
    save_file(content, path) if path.suffix == ".safetensors" else torch.save(content, path)
    return str(path)


def loads(donor: dict[str, torch.Tensor], weights: str, weights_map: str | None = None) -> bool:
    model = build_model("mobilenet_v3_small", image_size=64, dropout=0.2, weights=weights, weights_map=weights_map)
    return all(torch.equal(value, donor[key]) for key, value in model.feature_extractor.state_dict().items())


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "backbone.", "model.module.backbone."])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_both_formats_and_every_wrapper_are_read(
    donor: dict[str, torch.Tensor], tmp_path: Path, prefix: str, suffix: str
) -> None:
    named = {prefix + key: value for key, value in donor.items()}
    assert loads(donor, save(tmp_path / f"w{suffix}", named))


@pytest.mark.parametrize("held", ["model", "state_dict", "model_state_dict"])
def test_a_state_dict_lies_under_the_usual_keys(donor: dict[str, torch.Tensor], tmp_path: Path, held: str) -> None:
    content = {held: {f"module.{key}": value for key, value in donor.items()}, "epoch": 3}
    assert loads(donor, save(tmp_path / "w.pth", content))


def test_of_a_larger_model_the_backbone_is_taken(donor: dict[str, torch.Tensor], tmp_path: Path) -> None:
    content = {f"backbone.{key}": value for key, value in donor.items()}
    assert loads(donor, save(tmp_path / "w.safetensors", {**content, "head.fc.weight": torch.zeros(3, 4)}))


def test_foreign_names_are_mapped_in_order_and_some_left_out(donor: dict[str, torch.Tensor], tmp_path: Path) -> None:
    foreign = {key.replace("features.", "stem/").replace(".block.", "/b"): value for key, value in donor.items()}
    path = save(tmp_path / "w.safetensors", {**foreign, "ema.decay": torch.zeros(1)})
    rules = tmp_path / "map.yaml"
    rules.write_text("'^stem/': features.\n'/b': .block.\n'^ema\\.': null\n")
    assert loads(donor, path, str(rules))
    with pytest.raises(WeightsError, match="do not fit mobilenet_v3_small: missing: "):
        loads(donor, path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("- a\n- b\n", r"map\.yaml: holds \['a', 'b'\]; accepted: a mapping of PATTERN: REPLACEMENT"),
        ("", "holds null; accepted: a mapping"),
        ("a: [1]\n", r"'a': \[1\]; accepted: text, or null to leave out"),
        ("'(': x\n", r"'\(': 'x' is no rule"),
        ("a: '\\2'\n", r"'a': '\\\\2' is no rule \(invalid group reference"),
        ("a: {\n", r"map\.yaml: not valid YAML"),
        ("a: !!python/name:os.getcwd ''\n", "not valid YAML"),
    ],
)
def test_a_map_that_is_none_is_told(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "map.yaml"
    path.write_text(text)
    with pytest.raises(WeightsError, match=told):
        read_map(path)


def test_a_map_of_another_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "map.yaml"
    path.write_text("'^x': y\n'b$': c\n")
    state = {"a.c": torch.zeros(1), "a.b": torch.ones(1)}
    with pytest.raises(WeightsError, match=r"w: weights_map makes 'a\.c' of both 'a\.c' and 'a\.b'"):
        renamed(state, read_map(path), "w")
    with pytest.raises(
        WeightsError, match=r"'\^x' matches no name in it, such as 'a\.b'; is it the map of another file"
    ):
        renamed({"a.b": torch.ones(1)}, read_map(path), "w")


def test_safetensors_that_are_damaged_are_told(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    header = json.dumps({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    for raw in (b"", b"<html>", struct.pack("<Q", 2**60) + b"{}", struct.pack("<Q", len(header)) + header):
        path.write_bytes(raw)
        with pytest.raises(WeightsError, match=r"w\.safetensors: not a whole safetensors file"):
            read_weights(path, None)
    with pytest.raises(WeightsError, match="cannot be read"):
        read_weights(tmp_path / "gone.safetensors", None)


def test_a_file_inside_a_package_is_found_without_an_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "some_weights"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "inner" / "w.pth").write_bytes(b"x")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert named_file("package:some_weights/inner/w.pth", "weights") == package / "inner" / "w.pth"
    with pytest.raises(WeightsError, match=r"weights 'package:some_weights/no\.pth': no such file; accepted: "):
        named_file("package:some_weights/no.pth", "weights")
    for name in ("no_such_package_here/w.pth", "../x/w.pth", "os/w.pth"):
        with pytest.raises(WeightsError, match=r"no package '.*' is installed"):
            named_file(f"package:{name}", "weights")


def test_a_map_is_a_path_of_the_caller_and_part_of_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute_path("weights_map", "m.yaml") == str(tmp_path / "m.yaml")
    assert absolute_path("weights", "package:a/w.pth") == "package:a/w.pth"
    assert make_config({"weights_map": "m.yaml"}).digest() != make_config({}).digest()
