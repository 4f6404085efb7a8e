"""Every backbone: the contract's shapes, prefixes and sizes; weights that fit, and those that do not."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
import torchvision

from fairface_core.backbones import BACKBONES, check_image_size, input_size, relative_cost
from fairface_core.errors import CheckpointError, WeightsError
from fairface_core.model.network import AgeGenderModel, build_model, load_weights, num_params
from fairface_core.model.weights import ensure_weights, file_digest


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_trains_a_step_at_a_small_size(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(name, image_size=64, dropout=0.2, weights="none")
    age, gender = model(torch.randn(2, 3, 64, 64))
    assert (age.shape, gender.shape) == ((2, 9), (2, 2))
    (age.sum() + gender.sum()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    assert {key.partition(".")[0] for key in model.state_dict()} == {"feature_extractor", "head_age", "head_gender"}


@pytest.mark.parametrize("name", BACKBONES)
def test_the_spec_tells_the_truth(name: str) -> None:
    spec = BACKBONES[name]
    model = AgeGenderModel(name, spec.image_size, 0.2)
    assert num_params(model) == pytest.approx(spec.num_params, rel=0.01)
    assert spec.gmac == pytest.approx(
        torchvision.models.get_model_weights(name)[spec.weights_name].meta["_ops"], abs=0.006
    )
    # The last linear layer is gone, and with it its parameters.
    assert not any(key.startswith(f"feature_extractor.{spec.classifier}") for key in model.state_dict())


def test_the_four_of_the_contract_have_their_input_sizes() -> None:
    sizes = {
        name: BACKBONES[name].image_size for name in ("resnet50", "convnext_tiny", "efficientnet_v2_s", "vit_b_16")
    }
    assert sizes == {"resnet50": 224, "convnext_tiny": 224, "efficientnet_v2_s": 384, "vit_b_16": 224}


def test_the_heads_are_the_contract() -> None:
    model = AgeGenderModel("resnet18", 64, 0.2)
    shapes = {k: tuple(v.shape) for k, v in model.state_dict().items() if k.startswith("head_")}
    assert shapes == {
        "head_age.0.weight": (512, 512), "head_age.0.bias": (512,),
        "head_age.3.weight": (9, 512), "head_age.3.bias": (9,),
        "head_gender.0.weight": (256, 512), "head_gender.0.bias": (256,),
        "head_gender.3.weight": (2, 256), "head_gender.3.bias": (2,),
    }  # fmt: skip
    assert model.head_age[2].p == model.head_gender[2].p == 0.2


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_torchvision_weights_files_load(name: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    donor = torchvision.models.get_model(name, weights=None)
    path = tmp_path / "donor.pth"
    torch.save(donor.state_dict(), path)
    model = build_model(name, image_size=64, dropout=0.2, weights=str(path))
    loaded = model.feature_extractor.state_dict()
    assert loaded
    assert all(torch.equal(value, donor.state_dict()[key]) for key, value in loaded.items())


def test_vit_position_embeddings_are_interpolated(tmp_path: Path) -> None:
    torch.manual_seed(1)
    donor = torchvision.models.vit_b_16(weights=None, image_size=224)
    grid = torch.linspace(0, 1, 14)[:, None].expand(14, 14).reshape(1, 196, 1).expand(1, 196, 768)
    with torch.no_grad():
        donor.encoder.pos_embedding.copy_(torch.cat([torch.full((1, 1, 768), 9.0), grid], dim=1))
    path = tmp_path / "vit.pth"
    torch.save(donor.state_dict(), path)
    model = build_model("vit_b_16", image_size=64, dropout=0.2, weights=str(path))
    embedding = model.feature_extractor.encoder.pos_embedding
    assert embedding.shape == (1, 17, 768)
    assert embedding[0, 0, 0] == 9.0
    rows = embedding[0, 1:, 0].reshape(4, 4)
    assert torch.allclose(rows[:, 0], rows[:, 3], atol=1e-4)
    assert (rows.diff(dim=0) > 0.2).all()


def test_wrong_weights_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), path)
    with pytest.raises(WeightsError, match=r"other\.pth do not fit mobilenet_v3_small: missing: .* and \d+ more"):
        build_model("mobilenet_v3_small", image_size=64, dropout=0.2, weights=str(path))
    path.write_bytes(b"<html>")
    with pytest.raises(WeightsError, match=r"other\.pth: not a file that torch\.save wrote"):
        build_model("resnet18", image_size=64, dropout=0.2, weights=str(path))
    with pytest.raises(WeightsError, match="no such file; accepted: imagenet, none"):
        ensure_weights("resnet18", "imagnet")


def test_a_state_dict_that_does_not_fit_is_explained() -> None:
    model = AgeGenderModel("resnet18", 64, 0.2)
    state = model.state_dict()
    state["head_age.3.bias"] = torch.zeros(8)
    del state["head_gender.0.bias"]
    with pytest.raises(
        CheckpointError, match=r"missing: head_gender\.0\.bias; wrong shape: head_age\.3\.bias is \(8,\)"
    ):
        load_weights(model, state, where="x.pt")


def test_input_sizes_that_do_not_fit() -> None:
    assert input_size("efficientnet_v2_s", None) == 384
    assert input_size("resnet50", 64) == 64
    assert "multiple of 16" in str(check_image_size("vit_b_16", 100))
    assert check_image_size("resnet50", 100) is None


def test_cost_orders_trials() -> None:
    def cost(name: str, **more: int) -> float:
        return relative_cost({"backbone": name, **more})

    assert cost("vit_b_16") > cost("efficientnet_v2_s") > cost("resnet50") > cost("resnet18")
    assert cost("resnet50", epochs=20) > cost("resnet50", epochs=3)
    assert cost("resnet50", image_size=64) < cost("resnet50")


def test_imagenet_weights_come_from_torchs_folder_with_their_hash_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The download path itself, against a server on this machine."""
    import hashlib
    import http.server
    import threading

    from fairface_core.model import weights

    donor = tmp_path / "served"
    donor.mkdir()
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), donor / "w")
    digest = hashlib.sha256((donor / "w").read_bytes()).hexdigest()[:8]
    (donor / "w").rename(donor / f"resnet18-{digest}.pth")
    (donor / "resnet18-00000000.pth").write_bytes(b"damaged on the way")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(donor))

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    cache = tmp_path / "hub"
    try:

        def served(name: str) -> tuple[Path, str]:
            return cache / name, f"http://127.0.0.1:{server.server_port}/{name}"

        good, bad = served(f"resnet18-{digest}.pth"), served("resnet18-00000000.pth")
        monkeypatch.setattr(weights, "weights_file", lambda backbone: good)
        assert ensure_weights("resnet18", "imagenet") == good[0]
        assert build_model("resnet18", image_size=64, dropout=0.2, weights="imagenet") is not None
        monkeypatch.setattr(weights, "weights_file", lambda backbone: bad)
        with pytest.raises(WeightsError, match="cannot be downloaded"):
            ensure_weights("resnet18", "imagenet")
        assert not bad[0].exists()
    finally:
        server.shutdown()
        server.server_close()


def test_the_heads_compute_in_float32_whatever_the_backbone_does() -> None:
    """Rounded to bfloat16, two age groups tie in one image of 200, and a tie goes to the younger."""
    torch.manual_seed(0)
    model = AgeGenderModel("resnet18", 64, 0.0).eval()
    images = torch.randn(4, 3, 64, 64)
    with torch.inference_mode():
        plain = model(images)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = model(images)
            features = model.feature_extractor(images)
        assert features.dtype == torch.bfloat16
        for name, logits, without in zip(("age", "gender"), mixed, plain, strict=True):
            assert logits.dtype == torch.float32
            assert torch.equal(logits, getattr(model, f"head_{name}")(features.float()))
            assert not torch.equal(logits, logits.bfloat16().float())
            torch.testing.assert_close(logits, without, atol=0.05, rtol=0.05)


def test_a_file_is_hashed_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(b"one")
    first = file_digest(path)
    monkeypatch.setattr(Path, "open", lambda *_: pytest.fail("read again"))
    assert file_digest(path) == first == hashlib.sha256(b"one").hexdigest()
    monkeypatch.undo()
    path.write_bytes(b"another")
    assert file_digest(path) == hashlib.sha256(b"another").hexdigest()
