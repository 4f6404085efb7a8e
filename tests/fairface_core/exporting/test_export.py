"""Every export against the model, by the runtime it is meant for; and an export that is wrong is not kept."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import yaml
from onnx import numpy_helper
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from fairface_core import evaluate, fit
from fairface_core.backbones import BACKBONES
from fairface_core.export import main
from fairface_core.exporting import formats
from fairface_core.exporting.card import hub_results
from fairface_core.exporting.graph import Graph
from fairface_core.model.network import AgeGenderModel
from tests.fairface_core.small_data import training_config

onnxruntime = pytest.importorskip("onnxruntime", reason="on Python 3.10 no onnxruntime reads these files")


@pytest.fixture(scope="module")
def trial(demo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trial") / "run"
    fit(training_config(demo_root, folder, epochs=2, limit_val=None))
    return folder


def untrained(path: Path, backbone: str, size: int, age_loss: str = "cross_entropy") -> Path:
    """A checkpoint of fresh weights whose answers differ from image to image, and stay in the range of a trained one's."""
    torch.manual_seed(1)
    model = AgeGenderModel(backbone, size, 0.2, age_loss=age_loss)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = None  # without statistics of its own, a fresh resnet's activations grow from layer to layer
    with torch.no_grad():
        images = torch.rand(16, 3, size, size) * 4 - 2
        model(images)
        for head, logits in zip((model.head_age, model.head_gender), model.eval()(images), strict=True):
            head[3].weight.div_(logits.std())
    cfg = {"backbone": backbone, "image_size": size, "age_loss": age_loss}
    torch.save({"model": model.state_dict(), "cfg": cfg, "epoch": 1}, path)
    return path


def exported(model: Path, root: Path, out: Path, *more: str) -> int:
    return main(["--model", str(model), "--root", str(root), "--out", str(out), "--num_workers", "1", *more])


@pytest.mark.slow
@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.timeout(600)
def test_every_backbone_goes_through_onnx_at_batch_1_7_and_64(
    demo_root: Path, tmp_path: Path, backbone: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = untrained(tmp_path / "best.pt", backbone, 64)
    assert exported(model, demo_root, tmp_path / "out", "--to", "onnx", "--limit_train", "90") == 0
    assert "every answer is the model's; largest difference" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(tmp_path / "out/model.onnx", providers=["CPUExecutionProvider"])
    (images,) = session.get_inputs()
    assert (images.type, images.shape[1:]) == ("tensor(uint8)", [64, 64, 3])
    assert isinstance(images.shape[0], str), "the batch is free"
    assert onnx.load(tmp_path / "out/model.onnx").opset_import[0].version == formats.OPSET


@pytest.mark.slow
@pytest.mark.parametrize("age_loss", ["coral", "corn"])
@pytest.mark.timeout(600)
def test_an_ordinal_head_goes_through_every_format(
    demo_root: Path, tmp_path: Path, age_loss: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = untrained(tmp_path / "best.pt", "mobilenet_v3_small", 64, age_loss)
    flags = ["--to", "safetensors", "--to", "pt2", "--to", "onnx", "--half", "--limit_train", "90"]
    assert exported(model, demo_root, tmp_path / "out", *flags) == 0
    assert capsys.readouterr().out.count("every answer is the model's; largest difference") == 3
    assert json.loads((tmp_path / "out/config.json").read_text())["age_loss"] == age_loss


@pytest.mark.slow
@pytest.mark.parametrize("cache_px", [48, 96])
def test_the_graph_takes_images_of_the_size_that_training_decoded_them_to(
    demo_root: Path, tmp_path: Path, cache_px: int, capsys: pytest.CaptureFixture[str]
) -> None:
    model = untrained(tmp_path / "best.pt", "mobilenet_v3_small", 64)
    content = torch.load(model, weights_only=True)
    torch.save({**content, "cfg": {**content["cfg"], "cache_px": cache_px}}, model)
    assert exported(model, demo_root, tmp_path / "out", "--to", "onnx", "--to", "pt2") == 0
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert (config["preprocessing"]["size_px"], config["image_size"]) == (cache_px, 64)
    session = onnxruntime.InferenceSession(tmp_path / "out/model.onnx", providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape[1:] == [cache_px, cache_px, 3]
    capsys.readouterr()
    assert evaluate.main(["--checkpoint", str(model), "--root", str(demo_root), "--device", "cpu", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert config["test"]["metrics"]["mean_f1"] == pytest.approx(report["test_metrics"]["mean_f1"], abs=0.03)


@pytest.mark.slow
def test_the_folder_is_all_that_a_stranger_needs(
    demo_root: Path, trial: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "my model"
    assert exported(trial, demo_root, out, "--half", "--int8", "--max-loss", "1") == 0
    files = {
        "config.json",
        "README.md",
        "model.safetensors",
        "model.pt2",
        "model.onnx",
        "model_half.onnx",
        "model_int8.onnx",
    }
    assert {path.name for path in out.iterdir()} == files
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in out.iterdir())
    config = json.loads((out / "config.json").read_text())
    capsys.readouterr()
    checkpoint = ["--checkpoint", str(trial / "best.pt"), "--root", str(demo_root), "--device", "cpu", "--json"]
    assert evaluate.main(checkpoint) == 0
    report = json.loads(capsys.readouterr().out)
    del report["test_metrics"]["loss"]
    assert config["test"]["metrics"] == report["test_metrics"]
    assert config["test"]["subgroups"] == report["subgroups"]
    assert config["test"]["intervals"] == report["intervals"]

    card = (out / "README.md").read_text()
    head, text = card.removeprefix("---\n").split("---\n", 1)
    metrics = yaml.safe_load(head)["model-index"][0]["results"][0]["metrics"]
    assert metrics[0] == {"type": "accuracy", "name": "age_acc", "value": round(report["test_metrics"]["age_acc"], 4)}
    assert all(f"`{name}`" in text for name in files - {"config.json", "README.md"})

    # The card's own lines, run as they stand, against the network that is built from config.json alone.
    face = next((demo_root / "val").iterdir())
    code = (
        text.split("```python\n")[1]
        .split("```")[0]
        .replace('"model.onnx"', repr(str(out / "model.onnx")))
        .replace('"face.jpg"', repr(str(face)))
    )
    said: dict[str, Any] = {}
    exec(code, said)
    network = AgeGenderModel(config["backbone"], config["image_size"], config["dropout"]).eval()
    network.load_state_dict(load_file(out / "model.safetensors"))
    side, prepare = config["preprocessing"]["size_px"], config["preprocessing"]
    with Image.open(face) as image:
        small = np.asarray(image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR))
    pixels = (small / np.float32(255) - np.array(prepare["mean"], np.float32)) / np.array(prepare["std"], np.float32)
    with torch.no_grad():
        age, gender = network(torch.from_numpy(pixels).permute(2, 0, 1)[None].float())
    np.testing.assert_allclose(said["age"], age.softmax(1).numpy(), atol=1e-5)
    np.testing.assert_allclose(said["gender"], gender.softmax(1).numpy(), atol=1e-5)
    again = torch.export.load(out / "model.pt2").module()(torch.from_numpy(small.copy())[None])
    np.testing.assert_allclose(again[0].detach().numpy(), said["age"], atol=1e-5)
    weights = {t.data_type for t in onnx.load(out / "model_half.onnx").graph.initializer if np.prod(t.dims) > 1000}
    assert weights == {onnx.TensorProto.FLOAT16}
    ops = {node.op_type for node in onnx.load(out / "model_int8.onnx").graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= ops
    assert (out / "model_int8.onnx").stat().st_size < 0.35 * (out / "model.onnx").stat().st_size


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["uint8", "float"])
def test_images_are_enlarged_inside_and_either_input_is_taken(demo_root: Path, tmp_path: Path, kind: str) -> None:
    model = untrained(tmp_path / "best.pt", "mobilenet_v3_small", 256)
    assert (
        exported(
            model, demo_root, tmp_path / "out", "--to", "onnx", "--to", "pt2", "--input", kind, "--limit_train", "90"
        )
        == 0
    )
    (images,) = onnxruntime.InferenceSession(tmp_path / "out/model.onnx").get_inputs()
    assert images.shape[1:] == ([224, 224, 3] if kind == "uint8" else [3, 224, 224])
    assert images.type == ("tensor(uint8)" if kind == "uint8" else "tensor(float)")


def test_a_model_that_is_sure_to_the_last_bit_is_exported(demo_root: Path, trial: Path, tmp_path: Path) -> None:
    content = torch.load(trial / "best.pt", weights_only=True)
    content["model"]["head_age.3.bias"][8] -= 200
    torch.save(content, tmp_path / "best.pt")
    assert exported(tmp_path / "best.pt", demo_root, tmp_path / "out", "--to", "safetensors") == 0


def corrupt_onnx(path: Path) -> None:
    """Move one weight by a hundredth."""
    file = onnx.load(path)
    weight = next(tensor for tensor in file.graph.initializer if tensor.name.endswith("head_age.3.bias"))
    values = numpy_helper.to_array(weight).copy()
    values[0] += 0.01
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    onnx.save(file, path)


@pytest.mark.parametrize("name", ["onnx", "safetensors"])
def test_a_file_with_one_wrong_weight_is_refused_and_nothing_is_left(
    demo_root: Path,
    trial: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    whole = formats.FORMATS[name]

    def write(graph: Graph, path: Path) -> None:
        if name == "onnx":
            whole.write(graph, path)
            corrupt_onnx(path)
        else:
            weights = {key: value.clone() for key, value in graph.network.state_dict().items()}
            weights["head_age.3.bias"][0] += 0.01
            from safetensors.torch import save_file

            save_file(weights, path)

    monkeypatch.setitem(formats.FORMATS, name, dataclasses.replace(whole, write=write))
    assert exported(trial, demo_root, tmp_path / "out", "--to", name) == 1
    err = capsys.readouterr().err
    assert f"{whole.file}: val/" in err
    assert "a probability off by" in err
    assert "answers otherwise than the model for" in err
    assert "nothing was kept" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_smaller_model_that_costs_too_much_is_refused(
    demo_root: Path, trial: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exported(trial, demo_root, tmp_path / "out", "--to", "onnx", "--int8", "--max-loss", "-1") == 1
    err = capsys.readouterr().err
    assert "model_int8.onnx: costs" in err
    assert "leave it out, or raise --max-loss" in err
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported_is_told(
    demo_root: Path, trial: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine.txt").write_text("x")
    assert exported(trial, demo_root, tmp_path / "there") == 2
    assert "is already there and not empty" in capsys.readouterr().err
    assert (tmp_path / "there" / "mine.txt").read_text() == "x"
    assert main(["--model", str(trial), "--out", str(tmp_path / "out")]) == 2
    assert "an export is proved on the test images; use --root DIR" in capsys.readouterr().err
    assert exported(tmp_path / "gone.pt", demo_root, tmp_path / "out") == 2
    assert "gone.pt: cannot be read" in capsys.readouterr().err
    content = torch.load(trial / "best.pt", weights_only=True)
    content["model"]["head_age.3.bias"][0] = float("nan")
    torch.save(content, tmp_path / "nan.pt")
    assert exported(tmp_path / "nan.pt", demo_root, tmp_path / "out") == 2
    assert "nan.pt: its outputs are not finite" in capsys.readouterr().err
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert exported(trial, demo_root, tmp_path / "out", "--to", "pt2", "--int8") == 2
    told = "not installed: onnx, onnxscript, onnxruntime; run: pip install 'fairface-sweep[export]'"
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_hubs_results_are_those_of_its_own_images_alone() -> None:
    metrics = {"age_acc": 0.57, "age_f1m": 0.5, "gen_acc": 0.931, "gen_f1m": 0.93}

    def of(protocol: str, n: int) -> str | None:
        return hub_results({"test": {"protocol": protocol, "num_images": n, "metrics": metrics}})

    assert of("seed", 2191) is of("official", 2500) is None
    results = yaml.safe_load(of("official", 10_954) or "")
    assert results[0] == {"dataset": {"id": "HuggingFaceM4/FairFace", "task_id": "age_acc"}, "value": 57.0}
    assert [one["dataset"]["task_id"] for one in results] == ["age_acc", "age_f1m", "gen_acc", "gen_f1m"]
