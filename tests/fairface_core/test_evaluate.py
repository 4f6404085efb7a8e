"""`evaluate` against an independent scorer: plain torchvision, Pillow and scikit-learn, as the original script scored."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from PIL import Image
from sklearn.metrics import accuracy_score, f1_score
from sklearn.model_selection import StratifiedShuffleSplit
from torch import nn
from torchvision import transforms

from fairface_core.config.train_config import TrainConfig
from fairface_core.evaluate import checkpoint_config, main
from fairface_core.labels import AGE_GROUPS, GENDERS
from fairface_core.model.network import AgeGenderModel
from fairface_core.trial.checkpoint import load_checkpoint


class OriginalModel(nn.Module):
    """The original script's model, built from the description of its checkpoints alone."""

    def __init__(self, backbone: str) -> None:
        super().__init__()
        network = torchvision.models.get_model(backbone, weights=None)
        if backbone == "mobilenet_v3_small":
            width = network.classifier[3].in_features
            network.classifier[3] = nn.Identity()
        else:
            width = network.fc.in_features
            network.fc = nn.Identity()
        self.feature_extractor = network
        self.head_age = nn.Sequential(nn.Linear(width, 512), nn.ReLU(), nn.Dropout(0.2), nn.Linear(512, 9))
        self.head_gender = nn.Sequential(nn.Linear(width, 256), nn.ReLU(), nn.Dropout(0.2), nn.Linear(256, 2))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.feature_extractor(x)
        return self.head_age(features), self.head_gender(features)


def original_test_rows(csv: Path, seed: int) -> pd.DataFrame:
    frame = pd.read_csv(csv)
    strata = frame.age + "_" + frame.gender
    splitter = StratifiedShuffleSplit(n_splits=1, test_size=0.2, random_state=seed)
    _, test = next(splitter.split(np.zeros(len(frame)), strata))
    return frame.iloc[test]


def original_scores(root: Path, checkpoint: Path, size: int, seed: int, batch_size: int) -> dict[str, Any]:
    content = torch.load(checkpoint, weights_only=True)
    model = OriginalModel(content["cfg"]["backbone"])
    model.load_state_dict(content["model"])
    model.eval()
    prepare = transforms.Compose([
        transforms.Resize((size, size)), transforms.ToTensor(),
        transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ])  # fmt: skip
    train = pd.read_csv(root / "fairface_label_train.csv")
    rows = original_test_rows(root / "fairface_label_val.csv", seed)

    def weights(column: pd.Series, names: tuple[str, ...]) -> torch.Tensor:
        counts = np.array([(column == name).sum() for name in names], dtype=float)
        values = counts.sum() / counts
        return torch.tensor(values / values.mean(), dtype=torch.float32)

    age_loss = nn.CrossEntropyLoss(weights(train.age, AGE_GROUPS))
    gender_loss = nn.CrossEntropyLoss(weights(train.gender, GENDERS))
    age = torch.tensor([AGE_GROUPS.index(a) for a in rows.age])
    gender = torch.tensor([GENDERS.index(g) for g in rows.gender])
    outputs, total = [], 0.0
    with torch.no_grad():
        for start in range(0, len(rows), batch_size):
            part = slice(start, start + batch_size)
            images = torch.stack([prepare(Image.open(root / f).convert("RGB")) for f in rows.file.iloc[part]])
            a, g = model(images)
            total += (0.5 * age_loss(a, age[part]) + 0.5 * gender_loss(g, gender[part])).item() * len(images)
            outputs.append((a.argmax(1), g.argmax(1)))
    age_pred = torch.cat([a for a, _ in outputs])
    gender_pred = torch.cat([g for _, g in outputs])
    return {
        "loss": total / len(rows),
        "age_acc": accuracy_score(age, age_pred),
        "age_f1m": f1_score(age, age_pred, average="macro", labels=range(9), zero_division=0),
        "gen_acc": accuracy_score(gender, gender_pred),
        "gen_f1m": f1_score(gender, gender_pred, average="macro", labels=range(2), zero_division=0),
        "files": list(rows.file),
        "predictions": np.stack([age_pred.numpy(), gender_pred.numpy()]),
    }


def write_original_checkpoint(path: Path, backbone: str, seed: int, root: Path | None = None) -> None:
    """A checkpoint as the original wrote it: its keys, its prefixes, the namespace of its flags as cfg."""
    torch.manual_seed(seed)
    model = OriginalModel(backbone).eval()
    if root is not None:
        # Fresh weights say the same of every image. Centered on a few of them, the answers spread over the classes.
        files = pd.read_csv(root / "fairface_label_val.csv").file[:16]
        prepare = transforms.Compose([transforms.Resize((224, 224)), transforms.ToTensor()])
        images = torch.stack([prepare(Image.open(root / f).convert("RGB")) for f in files])
        with torch.no_grad():
            for head, logits in zip((model.head_age, model.head_gender), model(images * 4 - 2), strict=True):
                head[3].bias.sub_(logits.mean(0))
    cfg = {"root": "/somewhere/else", "backbone": backbone, "epochs": 20, "batch_size": 32, "lr": 3e-4, "seed": seed,
           "weight_decay": 1e-4, "no_amp": False, "out_dir": "runs/old", "img_col": "file", "unknown_flag": 3}  # fmt: skip
    torch.save({"model": model.state_dict(), "cfg": cfg, "epoch": 11}, path)


def evaluated(root: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, Any]:
    assert main(["--checkpoint", str(checkpoint), "--root", str(root), "--json", "--device", "cpu", *more]) == 0
    return json.loads(capsys.readouterr().out)


def our_predictions(root: Path, checkpoint: Path, **flags: Any) -> tuple[list[str], np.ndarray]:
    from fairface_core.backbones import input_size
    from fairface_core.dataset.prepare import prepare_data
    from fairface_core.model.network import AgeGenderModel, load_weights
    from fairface_core.training.inference import predict

    content = load_checkpoint(checkpoint)
    # The train split is not looked at; decoded whole, it would be most of the time on the real sample.
    config = checkpoint_config(content.cfg, {"root": str(root), "limit_train": 90, **flags}, where="x")
    size = input_size(config.backbone, config.image_size)
    model = AgeGenderModel(config.backbone, size, config.dropout)
    load_weights(model, content.model, where="x")
    data = prepare_data(config)
    logits = predict(model, data.cache, data.test, image_size=size, batch_size=32, device=torch.device("cpu"))
    return list(data.test.rows.file), np.stack([logits.age.argmax(1), logits.gender.argmax(1)])


def test_an_original_checkpoint_scores_the_same_at_224(
    demo_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "best.pt"
    write_original_checkpoint(path, "resnet18", 7, demo_root)
    expected = original_scores(demo_root, path, 224, seed=7, batch_size=32)
    got = evaluated(demo_root, path, capsys)
    assert got["split_seed"] == 7, "the original drew its split with its seed"
    for key in ("loss", "age_acc", "age_f1m", "gen_acc", "gen_f1m"):
        assert got["test_metrics"][key] == pytest.approx(expected[key], rel=1e-5), key
    files, predictions = our_predictions(demo_root, path)
    assert files == expected["files"]
    assert len(set(predictions[0])) > 2, "the check means nothing if every image gets the same answer"
    np.testing.assert_array_equal(predictions, expected["predictions"])


@pytest.mark.real_data
def test_real_images_score_the_same_at_224(real_data: Path, tmp_path: Path) -> None:
    root = real_data / "fairface_sample"
    path = tmp_path / "best.pt"
    write_original_checkpoint(path, "mobilenet_v3_small", 42, root)
    expected = original_scores(root, path, 224, seed=42, batch_size=32)
    files, predictions = our_predictions(root, path)
    assert files == expected["files"]
    assert len(set(predictions[0])) > 2
    np.testing.assert_array_equal(predictions, expected["predictions"])


@pytest.mark.slow
@pytest.mark.real_data
def test_real_images_score_nearly_the_same_at_384(real_data: Path, tmp_path: Path) -> None:
    """Ours are enlarged from 224 to 384 on the device, the original's by Pillow.

    The small backbone stands in for efficientnet_v2_s: 500 images of 384 px through that one take ten minutes here, and
    it is the input path that differs.
    """
    root = real_data / "fairface_sample"
    path = tmp_path / "best.pt"
    write_original_checkpoint(path, "mobilenet_v3_small", 42, root)
    expected = original_scores(root, path, 384, seed=42, batch_size=32)
    files, predictions = our_predictions(root, path, image_size=384)
    assert files == expected["files"]
    assert len(set(predictions[0])) > 2
    agreement = (predictions == expected["predictions"]).mean()
    assert agreement >= 0.995, agreement


@pytest.mark.parametrize("amp_dtype", ["fp16", "bf16"])
def test_our_own_checkpoint_scores_as_its_report_says(
    demo_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], amp_dtype: str
) -> None:
    """Also where training took bfloat16 and evaluation has other batches: scores are float32's on every CPU."""
    from fairface_core import fit, make_config

    report = fit(make_config({
        "root": str(demo_root), "out_dir": str(tmp_path / "run"), "backbone": "mobilenet_v3_small", "weights": "none",
        "image_size": 32, "epochs": 1, "batch_size": 16, "limit_train": 64, "device": "cpu", "results_csv": None,
        "amp_dtype": amp_dtype,
    }))  # fmt: skip
    got = evaluated(demo_root, tmp_path / "run" / "best.pt", capsys, "--eval_batch_size", "7")
    assert got["test_metrics"] == pytest.approx(report.test_metrics, rel=1e-6)
    assert got["num_images"] == 40
    got = evaluated(demo_root, tmp_path / "run" / "best.pt", capsys, "--split", "val")
    assert got["val_metrics"]["mean_f1"] == pytest.approx(report.mean_f1, rel=1e-6)


def test_a_seed_checkpoint_scored_by_the_official_protocol_leaves_out_copies_of_test_images(
    demo_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "faces"
    shutil.copytree(demo_root, root)
    train, val = (pd.read_csv(root / f"fairface_label_{name}.csv").file for name in ("train", "val"))
    shutil.copyfile(root / val[0], root / train[0])
    model = AgeGenderModel("mobilenet_v3_small", 32, 0.0)
    cfg = TrainConfig(backbone="mobilenet_v3_small", image_size=32).model_dump(mode="json")
    path = tmp_path / "best.pt"
    torch.save({"model": model.state_dict(), "cfg": cfg, "epoch": 1}, path)

    def copies(*flags: str) -> tuple[str, int, int]:
        got = evaluated(root, path, capsys, *flags)
        left_out = got["data"]["duplicates_dropped"]
        assert left_out.get("test", 0) == 0, "what is scored must not move"
        return got["data"]["drop_duplicates"], got["num_images"], left_out.get("train", 0) + left_out.get("val", 0)

    assert cfg["drop_duplicates"] == "none"
    assert copies("--protocol", "official") == ("cross_split", len(val), 1)
    assert copies("--protocol", "official", "--drop_duplicates", "none") == ("none", len(val), 0)
    assert copies() == copies("--protocol", "seed") == ("none", 40, 0)
    # And the other way round: a checkpoint of the official protocol, on the images of the other one.
    official = TrainConfig(protocol="official").model_dump(mode="json")
    assert checkpoint_config(official, {}, where="x").drop_duplicates == "cross_split"
    assert checkpoint_config(official, {"protocol": "seed"}, where="x").drop_duplicates == "none"


def test_bad_checkpoints_and_flags(demo_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "best.pt"
    torch.save({"model": {}, "cfg": {"backbone": "resnet99"}, "epoch": 1}, path)
    assert main(["--checkpoint", str(path), "--root", str(demo_root)]) == 2
    assert "'resnet99' is not known" in capsys.readouterr().err
    torch.save({"model": {"w": torch.zeros(1)}, "cfg": {"backbone": "resnet18"}, "epoch": 1}, path)
    assert main(["--checkpoint", str(path), "--root", str(demo_root)]) == 2
    assert "do not fit this model: missing" in capsys.readouterr().err
    model = AgeGenderModel("mobilenet_v3_small", 32, 0.0)
    model.head_age[0].weight.data.fill_(float("nan"))
    cfg = {"backbone": "mobilenet_v3_small", "image_size": 32}
    torch.save({"model": model.state_dict(), "cfg": cfg, "epoch": 1}, path)
    assert main(["--checkpoint", str(path), "--root", str(demo_root), "--device", "cpu"]) == 2
    assert "outputs that are not finite" in capsys.readouterr().err
    write_original_checkpoint(path, "resnet18", seed=1)
    assert main(["--checkpoint", str(path)]) == 2
    assert "use --root DIR" in capsys.readouterr().err
