"""What a run uses of the machine: device, number formats, memory layout, determinism."""

from __future__ import annotations

import os
import resource
import sys
from typing import Literal

import torch

from fairface_core.backbones import BACKBONES
from fairface_core.config import TrainConfig
from fairface_core.errors import ConfigError


def choose_device(name: str) -> torch.device:
    """Return the device that `auto`, `cuda`, `mps` or `cpu` means here.

    Raises:
        ConfigError: If it is asked for and not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device = 'cuda': torch sees no GPU here; use --device cpu, or check driver and torch build")
    if name == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("device = 'mps': not available here; use --device cpu")
    return torch.device(name)


def choose_amp_dtype(config: TrainConfig, device: torch.device) -> torch.dtype | None:
    """Return the autocast type: on CUDA bf16 where the GPU has it, else fp16; elsewhere None.

    bf16 on the CPU was slower for every backbone (mobilenet_v3_small 327 against 809 images/s;
    docs/architecture.md, Facts about speed).
    """
    if device.type != "cuda" or not config.amp:
        return None
    if config.amp_dtype == "auto":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.bfloat16 if config.amp_dtype == "bf16" else torch.float16


def choose_memory_format(config: TrainConfig) -> torch.memory_format:
    """Return channels_last where it was measured faster (BackboneSpec), unless the config decides."""
    wanted = {"on": True, "off": False, "auto": BACKBONES[config.backbone].channels_last}[config.channels_last]
    return torch.channels_last if wanted else torch.contiguous_format


def set_determinism(level: Literal["seeded", "strict", "off"]) -> None:
    """Set every switch of torch that decides between equal and fast, also those that an earlier run set.

    `seeded`: fixed seeds, torch's default kernels. `strict`: deterministic kernels only; an operation that has none
    raises. `off`: cuDNN may time its kernels and float32 matrix products may use TF32.
    On the CPU all three give equal bits (tests/fairface_core/training/test_fit.py); on CUDA the cost of each is not measured yet.
    """
    strict = level == "strict"
    if strict:
        # cuBLAS reads it once, when it starts.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(strict)
    torch.backends.cudnn.deterministic = strict
    torch.backends.cudnn.benchmark = level == "off"
    torch.backends.cuda.matmul.allow_tf32 = level == "off"
    torch.backends.cudnn.allow_tf32 = level != "strict"


def peak_memory_gib(device: torch.device) -> float:
    """Return the peak memory since it was last reset on CUDA, else of the whole process, GiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    # Kilobytes on Linux, bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)
