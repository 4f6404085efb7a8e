"""What is said of GPUs before the first trial; what a probe of them answers."""

from __future__ import annotations

import dataclasses
import json
import sys

import torch

from fairface_core.machine.gpu_probe import Gpu, probe_gpus
from sweep.cluster.connect import Node
from sweep.driving.placement import Needs
from sweep.launch.gpu_checks import filled_gpus, gpu_problems, idle_gpus

GIB = 2**30
GOOD = Gpu("H100", "9.0", 78 * GIB, 80 * GIB)


def answering(text: str) -> tuple[str, ...]:
    return (sys.executable, "-c", f"print({text!r})")


def test_a_driver_that_is_too_old_is_told_in_torchs_words() -> None:
    told = "The NVIDIA driver on your system is too old (found version 11040)."
    seen = probe_gpus(answering(json.dumps(told)))
    assert seen == told
    (problem,) = gpu_problems(seen, 8)
    assert problem.startswith("gpu: 8 GPUs are counted here, but torch cannot use them: The NVIDIA driver")
    assert "--gpus-per-trial 0" in problem
    assert filled_gpus(seen, 1.0) == []


def test_a_gpu_without_kernels_is_named() -> None:
    old = dataclasses.replace(GOOD, name="K80", capability="3.7", problem="CUDA error: no kernel image is available")
    seen = probe_gpus(answering(json.dumps([dataclasses.asdict(gpu) for gpu in (GOOD, old)])))
    assert seen == [GOOD, old]
    (problem,) = gpu_problems(seen, 2)
    assert problem.startswith("gpu 1: K80 (compute capability 3.7) fails: CUDA error: no kernel image is available")


def test_a_gpu_that_somebody_fills_is_named() -> None:
    filled = dataclasses.replace(GOOD, free_bytes=12 * GIB)
    assert filled_gpus([GOOD, filled], 0.1) == []
    (told,) = filled_gpus([GOOD, filled], 0.5)
    assert told.startswith("gpu 1: H100 has 12.0 of 80.0 GiB free")
    # A desktop's own use of a GPU is nothing to speak of.
    assert filled_gpus([dataclasses.replace(GOOD, free_bytes=74 * GIB)], 1.0) == []


def test_a_probe_that_crashes_or_says_nothing_is_a_problem_in_one_line() -> None:
    assert probe_gpus((sys.executable, "-c", "import os; os.abort()")) == "the process ended with -6"
    assert probe_gpus((sys.executable, "-c", "raise RuntimeError('driver')")) == "RuntimeError: driver"


def test_the_probe_of_this_machine_agrees_with_torch() -> None:
    seen = probe_gpus()
    if torch.cuda.is_available():
        assert [gpu.problem for gpu in seen] == [""] * torch.cuda.device_count()
    else:
        assert isinstance(seen, str) and seen


def test_gpus_that_idle_for_want_of_cpus_are_told() -> None:
    node = Node("", "", cpus=16, gpus=8)
    (note,) = idle_gpus([node], {Needs(4, 1): 12}, None)
    assert "16 CPUs are enough for 4 trials of 4 CPU at a time, 8 GPUs for 8" in note
    assert "--cpus-per-trial 2" in note
    assert idle_gpus([node], {Needs(2, 1): 12}, None) == []
    assert idle_gpus([node], {Needs(4, 1): 12}, max_legs=4) == []
    assert idle_gpus([node], {Needs(4, 1): 3}, None) == []
    assert idle_gpus([node], {Needs(4, 0): 12}, None) == []
