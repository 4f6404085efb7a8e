"""Augmentation as a GPU does it, without one: operations and copies counted on fake tensors, kernels interpreted."""

from __future__ import annotations

import collections
import importlib.util
import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fairface_core.training import augment as ours
from fairface_core.training.augment import augment_eager, augment_fused, draw_params, prepare_eval

_MAKES_NOTHING = {"aten::empty", "aten::empty_like", "aten::new_empty", "aten::empty_strided"}
# Each of these makes the host wait for the device.
_WAITS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::is_nonzero"}


class Counted(TorchDispatchMode):
    """Counts what a CUDA device would be asked to do."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: collections.Counter[str] = collections.Counter()
        self.copies = self.waits = self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        if name == "aten::_pin_memory":
            return args[0]  # fake tensors have none
        result = func(*args, **(kwargs or {}))
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        devices = {tensor.device.type for tensor in given}
        self.waits += name in _WAITS and "cuda" in devices
        if all(tensor.device.type != "cuda" for tensor in made):
            self.waits += bool(made) and "cuda" in devices
        elif "cpu" in devices and name in ("aten::_to_copy", "aten::copy_"):
            self.copies += 1
        elif not func.is_view and "view" not in name and name not in _MAKES_NOTHING:
            self.operations[name] += 1
            self.bytes += sum(t.numel() * t.element_size() for t in (*given, *made) if t.device.type == "cuda")
        return result


def counted(source_px: int, out_px: int, augment: Any, *, batch: int = 128) -> Counted:
    """What the second batch asks for: constants are on the device by then."""
    params = draw_params(batch, out_px, torch.Generator().manual_seed(0))
    assert len(set(params.hue_at.tolist())) == 4
    for cache in (ours._mean_and_scale, ours._enlarging):
        cache.cache_clear()
    with FakeTensorMode(allow_non_fake_inputs=True):
        images = torch.empty(batch, source_px, source_px, 3, dtype=torch.uint8, device="cuda").permute(0, 3, 1, 2)
        for _ in range(2):
            with Counted() as count:
                augment(images, params, out_px)
    for cache in (ours._mean_and_scale, ours._enlarging):
        cache.cache_clear()
    return count


@pytest.mark.parametrize("sizes", [(224, 224), (224, 384), (64, 64)])
def test_a_batch_takes_few_operations_one_copy_and_no_waiting(sizes: tuple[int, int]) -> None:
    """It took 428 operations and 22 copies at 224 px; 532, 26 and four times waiting for the device at 384."""
    count = counted(*sizes, augment_eager)
    assert count.operations.total() <= 120
    assert (count.copies, count.waits) == (1, 0)


@pytest.mark.parametrize("sizes", [(224, 224), (224, 384)])
def test_with_the_kernels_a_batch_moves_a_third_of_what_it_did(sizes: tuple[int, int]) -> None:
    out_bytes = 128 * 3 * sizes[1] ** 2

    def kernels(pixels: torch.Tensor, *_: Any) -> torch.Tensor:
        # Half-precision pixels are read twice, and floats written.
        moved.append(2 * 2 * out_bytes + 4 * out_bytes)
        return pixels

    moved: list[int] = []
    fake = SimpleNamespace(jitter_and_normalize=kernels)
    count = counted(*sizes, lambda *given: augment_fused(*given, torch.channels_last, fake))
    # Counted in the same way before: 7.1 GB at 224 px, 19.9 GB at 384.
    assert count.bytes + moved[-1] <= {224: 7.1e9, 384: 19.9e9}[sizes[1]] / 3
    assert count.operations.total() <= 30
    assert (count.copies, count.waits) == (1, 0)


def test_evaluation_input_waits_for_nothing() -> None:
    ours._mean_and_scale.cache_clear()
    with FakeTensorMode(allow_non_fake_inputs=True), torch.inference_mode():
        images = torch.empty(8, 224, 224, 3, dtype=torch.uint8, device="cuda").permute(0, 3, 1, 2)
        for _ in range(2):
            with Counted() as count:
                prepare_eval(images, 384)
    ours._mean_and_scale.cache_clear()
    assert (count.copies, count.waits) == (0, 0)


_INTERPRETED = """
import torch
from fairface_core.training import augment as A, jitter_kernel
torch.set_num_threads(1)
generator = torch.Generator().manual_seed(0)
noise = torch.randint(0, 256, (8, 3, 48, 48), generator=generator).float()
images = torch.nn.functional.avg_pool2d(noise, 3, 1, 1).byte()
for out_px in (48, 60):
    params = A.draw_params(8, out_px, generator)
    eager = A.augment_eager(images, params, out_px)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        fused = A.augment_fused(images, params, out_px, memory_format, jitter_kernel)
        assert fused.dtype == torch.float32 and fused.shape == eager.shape
        assert fused.is_contiguous(memory_format=memory_format)
        levels = (fused - eager).abs() * torch.tensor(A.STD).view(3, 1, 1) * 255
        # float16 between crop and colors: 0.2 of 255 levels, times factors of up to 1.6.
        assert levels.max() < 0.5 and levels.mean() < 0.05, (out_px, levels.max(), levels.mean())
# Without the crop's rounding the two are one formula.
pixels = (torch.rand(6, 20, 3, 31, generator=generator) * 255)
params = A.draw_params(6, 20, generator)
places = params.order.argsort(dim=1)
turns = (params.order == A.HUE) * params.factor[:, A.HUE, None]
coefficients = A.blend_coefficients(params.order, params.factor).permute(2, 0, 1).flatten(1)
numbers = torch.cat([coefficients, turns, places[:, A.CONTRAST, None]], dim=1).contiguous()
mean, scale = A._mean_and_scale(torch.device("cpu"))
fused = jitter_kernel.jitter_and_normalize(pixels, numbers, mean, scale, torch.contiguous_format)
index = torch.from_numpy(params.hue_at.argsort(kind="stable"))
sorted_params = params.take(index)
eager = pixels.permute(0, 2, 1, 3)[index].clone()
colors = A.blend_coefficients(sorted_params.order, sorted_params.factor)
ends = [int((params.hue_at <= position).sum()) for position in range(4)]
A.color_jitter_batch_(eager, colors, 6 * sorted_params.factor[:, A.HUE], ends)
torch.testing.assert_close(fused[index], (eager - mean) * scale, atol=2e-5, rtol=0)
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton, which torch's Linux wheels bring")
def test_the_kernels_do_what_eager_torch_does() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, "-c", _INTERPRETED], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr[-2000:]


def test_without_a_gpu_there_is_no_kernel() -> None:
    assert ours.color_kernel(torch.device("cpu")) is None
