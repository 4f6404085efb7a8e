"""Which number format a device gets, and what every determinism level sets."""

from __future__ import annotations

import pytest
import torch

from fairface_core.backbones import BACKBONES
from fairface_core.config.train_config import TrainConfig, make_config
from fairface_core.errors import ConfigError
from fairface_core.machine import device as device_module
from fairface_core.machine.device import (
    choose_amp_dtype,
    choose_device,
    choose_scoring_dtype,
    cuda_refusal,
    set_determinism,
)
from fairface_core.machine.provenance import cpu_features

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
AVX512 = ("avx2", "avx512f")


def config(backbone: str = "resnet50", **changes: object) -> TrainConfig:
    return make_config({"root": "/x", "backbone": backbone, **changes})


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("more", [("avx512_bf16",), ("avx512_bf16", "amx_bf16")])
def test_a_cpu_that_multiplies_in_bfloat16_trains_in_it_where_that_was_measured_faster(
    backbone: str, more: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_module, "cpu_features", lambda: AVX512 + more)
    expected = None if backbone == "mobilenet_v3_small" else torch.bfloat16
    assert choose_amp_dtype(config(backbone), CPU) is expected
    few_depthwise = backbone in ("convnext_tiny", "efficientnet_v2_s")
    assert choose_amp_dtype(config(backbone, image_size=64), CPU) is (None if few_depthwise else expected)
    assert choose_amp_dtype(config(backbone, no_amp=True), CPU) is None
    assert choose_amp_dtype(config(backbone, amp_dtype="fp16"), CPU) is None
    monkeypatch.setattr(device_module, "cpu_features", lambda: AVX512)
    assert choose_amp_dtype(config(backbone), CPU) is None
    assert choose_amp_dtype(config(backbone, amp_dtype="bf16"), CPU) is torch.bfloat16
    assert choose_scoring_dtype(config(backbone, amp_dtype="bf16"), CPU) is None


def test_a_gpu_that_only_imitates_bfloat16_gets_float16(monkeypatch: pytest.MonkeyPatch) -> None:
    for native, expected in ((True, torch.bfloat16), (False, torch.float16)):
        # A T4: True with emulation, which is the default, and False without.
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation=True, n=native: n or including_emulation
        )
        assert choose_amp_dtype(config(), CUDA) is expected
    assert choose_amp_dtype(config(amp_dtype="bf16"), CUDA) is torch.bfloat16
    assert choose_scoring_dtype(config(amp_dtype="bf16"), CUDA) is torch.bfloat16
    assert choose_amp_dtype(config(no_amp=True), CUDA) is None


def test_a_gpu_that_is_asked_for_and_cannot_be_used_is_told_in_torchs_words() -> None:
    if torch.cuda.is_available():
        pytest.skip("needs a machine without a GPU")
    with pytest.raises(ConfigError) as caught:
        choose_device("cuda")
    assert cuda_refusal() in str(caught.value)


def test_every_level_leaves_the_way_open_to_a_strict_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """cuBLAS reads the variable once, when it starts: it must stand there before any run of the process."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    set_determinism("seeded")
    assert device_module.os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert not torch.are_deterministic_algorithms_enabled()


def test_the_features_of_this_cpu_are_linuxs_own_words() -> None:
    assert set(cpu_features()) <= {"avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_fp16"}
