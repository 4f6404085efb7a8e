"""What a run uses of the machine: device, number formats, memory layout, determinism."""

from __future__ import annotations

import os
import resource
import sys
from typing import Literal

import torch

from fairface_core.backbones import input_size, spec_of
from fairface_core.config.train_config import TrainConfig
from fairface_core.errors import ConfigError
from fairface_core.machine.provenance import BF16_FEATURES, cpu_features


def choose_device(name: str) -> torch.device:
    """Return the device that `auto`, `cuda`, `mps` or `cpu` means here.

    Raises:
        ConfigError: If it is asked for and not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device = 'cuda': torch cannot use a GPU here ({cuda_refusal()}); use --device cpu")
    if name == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("device = 'mps': not available here; use --device cpu")
    return torch.device(name)


def cuda_refusal() -> str:
    """Return torch's own word on why it cannot use a GPU here, such as a driver that is too old for it."""
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return str(error).splitlines()[0]
    return "it sees none"


def choose_amp_dtype(config: TrainConfig, device: torch.device) -> torch.dtype | None:
    """Return the autocast type, or None for float32.

    On CUDA bf16 where the GPU computes in it itself (a T4 only imitates it), else fp16. On a CPU that multiplies in it
    itself (`BF16_FEATURES`) bf16, if the backbone's entry says that it gains at this input size.
    """
    if not config.amp:
        return None
    if device.type == "cuda":
        if config.amp_dtype == "auto":
            native = torch.cuda.is_bf16_supported(including_emulation=False)
            return torch.bfloat16 if native else torch.float16
        return torch.bfloat16 if config.amp_dtype == "bf16" else torch.float16
    if device.type == "cpu" and config.amp_dtype != "fp16":
        least_px = spec_of(config.backbone).cpu_bf16_px
        big_enough = least_px is not None and input_size(config.backbone, config.image_size) >= least_px
        gains = big_enough and not BF16_FEATURES.isdisjoint(cpu_features())
        return torch.bfloat16 if gains or config.amp_dtype == "bf16" else None
    return None


def choose_scoring_dtype(config: TrainConfig, device: torch.device) -> torch.dtype | None:
    """Return the autocast type of evaluation and prediction, or None for float32.

    On a CPU float32, whatever training took: scores then do not depend on which instructions the processor has, an
    answer does not depend on the images it was asked with, and both are those of an exported file. On a GPU that of training.
    """
    return None if device.type == "cpu" else choose_amp_dtype(config, device)


def choose_memory_format(config: TrainConfig) -> torch.memory_format:
    """Return channels_last where it was measured faster (BackboneSpec), unless the config decides."""
    wanted = {"on": True, "off": False, "auto": spec_of(config.backbone).channels_last}[config.channels_last]
    return torch.channels_last if wanted else torch.contiguous_format


def set_determinism(level: Literal["seeded", "strict", "off"]) -> None:
    """Set every switch of torch that decides between equal and fast, also those that an earlier run set.

    `seeded`: fixed seeds, torch's default kernels. `strict`: deterministic kernels only; an operation that has none
    raises. `off`: cuDNN may time its kernels and float32 matrix products may use TF32.
    On the CPU all three give equal bits (tests/fairface_core/training/test_fit.py). On an H200 timing cuDNN's kernels gained
    5 % for resnet50 in one run, lost 3 % in another, and changed nothing for the rest: `seeded` does without.
    """
    strict = level == "strict"
    # cuBLAS reads it once, when it starts: at every level, for a later run in this process may be a strict one.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(strict)
    torch.backends.cudnn.deterministic = strict
    torch.backends.cudnn.benchmark = level == "off"
    torch.backends.cuda.matmul.allow_tf32 = level == "off"
    torch.backends.cudnn.allow_tf32 = level != "strict"


def peak_memory_gib(device: torch.device) -> tuple[float, float]:
    """Return the peak memory and what the allocator held at most, since they were last reset on CUDA, GiB.

    Elsewhere the peak of the whole process, and 0.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30, torch.cuda.max_memory_reserved(device) / 2**30
    # Kilobytes on Linux, bytes on macOS.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)
    return peak, 0.0
