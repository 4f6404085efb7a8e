"""The colors of a batch on CUDA in two passes over its pixels: one Triton kernel each.

Eager torch takes about 80 operations over the whole batch for it, 6 ms of a step of 30 on an H200. Triton comes with
torch's CUDA wheels, but compiles a stub with the machine's C compiler: where there is none, eager torch does the same.
"""

from __future__ import annotations

import subprocess
import warnings

import torch
import triton
import triton.language as tl
from torch import Tensor

from fairface_core.training.jitter import GRAY

_BLOCK = 1024
_RED, _GREEN, _BLUE = (tl.constexpr(weight) for weight in GRAY)


@triton.jit
def _step(red, green, blue, coefficients, position, mean):
    """One position of the order: a blend (jitter.blend_), then a turn of the hue (jitter.shift_hue_); one does nothing."""
    own = tl.load(coefficients + position)
    mean_gray = tl.load(coefficients + 4 + position)
    gray = tl.load(coefficients + 8 + position)
    shift = tl.load(coefficients + 12 + position)
    plane = (red * _RED + green * _GREEN + blue * _BLUE) * gray + mean * mean_gray
    red = tl.minimum(tl.maximum(red * own + plane, 0.0), 255.0)
    green = tl.minimum(tl.maximum(green * own + plane, 0.0), 255.0)
    blue = tl.minimum(tl.maximum(blue * own + plane, 0.0), 255.0)
    low = tl.minimum(tl.minimum(red, green), blue)
    high = tl.maximum(tl.maximum(red, green), blue)
    middle = tl.maximum(tl.minimum(red, green), tl.minimum(tl.maximum(red, green), blue))
    step = (high - low) * 6.0 * shift
    red_step = tl.where(blue > green, step, tl.where(blue < green, -step, 0.0))
    green_step = tl.where(red > blue, step, tl.where(red < blue, -step, 0.0))
    blue_step = tl.where(green > red, step, tl.where(green < red, -step, 0.0))
    return (
        tl.minimum(tl.maximum(2.0 * red - middle + red_step, low), high),
        tl.minimum(tl.maximum(2.0 * green - middle + green_step, low), high),
        tl.minimum(tl.maximum(2.0 * blue - middle + blue_step, low), high),
    )


@triton.jit
def _gray_sums(pixels, coefficients, sums, height, width, BLOCK: tl.constexpr):
    """Sum the gray values of a block of an image as they are when its contrast is changed."""
    image, block = tl.program_id(0), tl.program_id(1)
    at = block * BLOCK + tl.arange(0, BLOCK)
    inside = at < height * width
    first = pixels + image.to(tl.int64) * 3 * height * width + (at // width) * 3 * width + at % width
    red = tl.load(first, mask=inside, other=0.0).to(tl.float32)
    green = tl.load(first + width, mask=inside, other=0.0).to(tl.float32)
    blue = tl.load(first + 2 * width, mask=inside, other=0.0).to(tl.float32)
    coefficients += image * 17
    contrast_at = tl.load(coefficients + 16)
    for position in range(4):
        if position < contrast_at:
            red, green, blue = _step(red, green, blue, coefficients, position, 0.0)
    gray = red * _RED + green * _GREEN + blue * _BLUE
    tl.store(sums + image * tl.num_programs(1) + block, tl.sum(tl.where(inside, gray, 0.0), axis=0))


@triton.jit
def _jitter(
    pixels, coefficients, sums, mean, scale, out, height, width, num_blocks,
    out_channel, out_row, out_column, BLOCK: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """Apply all four operations to a block of an image, normalize it and write it in the layout that is wanted."""
    image, block = tl.program_id(0), tl.program_id(1)
    at = block * BLOCK + tl.arange(0, BLOCK)
    inside = at < height * width
    row, column = at // width, at % width
    first = pixels + image.to(tl.int64) * 3 * height * width + row * 3 * width + column
    red = tl.load(first, mask=inside, other=0.0).to(tl.float32)
    green = tl.load(first + width, mask=inside, other=0.0).to(tl.float32)
    blue = tl.load(first + 2 * width, mask=inside, other=0.0).to(tl.float32)
    number = tl.arange(0, BLOCKS)
    parts = tl.load(sums + image * num_blocks + number, mask=number < num_blocks, other=0.0)
    mean_gray = tl.sum(parts, axis=0) / (height * width)
    coefficients += image * 17
    for position in range(4):
        red, green, blue = _step(red, green, blue, coefficients, position, mean_gray)
    to = out + image.to(tl.int64) * 3 * height * width + row * out_row + column * out_column
    tl.store(to, (red - tl.load(mean)) * tl.load(scale), mask=inside)
    tl.store(to + out_channel, (green - tl.load(mean + 1)) * tl.load(scale + 1), mask=inside)
    tl.store(to + 2 * out_channel, (blue - tl.load(mean + 2)) * tl.load(scale + 2), mask=inside)


def jitter_and_normalize(
    pixels: Tensor, coefficients: Tensor, mean: Tensor, scale: Tensor, memory_format: torch.memory_format
) -> Tensor:
    """Change the colors of each image in its own order, then normalize.

    Args:
        pixels: float16 or float32 [B, H, 3, W], contiguous, 0..255.
        coefficients: float32 [B, 17], contiguous: own, mean gray, gray (jitter.blend_coefficients) and hue's turns, each
            for the four positions of the order; then the position of contrast.
        mean: float32 [3].
        scale: float32 [3].
        memory_format: Layout of the result.

    Returns:
        float32 [B, 3, H, W].
    """
    count, height, channels, width = pixels.shape
    assert (
        channels == 3 and pixels.is_contiguous() and coefficients.is_contiguous() and coefficients.shape == (count, 17)
    )
    num_blocks = triton.cdiv(height * width, _BLOCK)
    sums = pixels.new_empty(count, num_blocks, dtype=torch.float32)
    out = torch.empty(count, 3, height, width, device=pixels.device, memory_format=memory_format)
    grid = (count, num_blocks)
    _gray_sums[grid](pixels, coefficients, sums, height, width, BLOCK=_BLOCK)
    _jitter[grid](
        pixels, coefficients, sums, mean, scale, out, height, width, num_blocks, *out.stride()[1:],
        BLOCK=_BLOCK, BLOCKS=triton.next_power_of_2(num_blocks),
    )  # fmt: skip
    return out


def compiles(device: torch.device) -> bool:
    """Whether the kernels can be compiled here; a warning says where they cannot."""
    ones = torch.ones(3, device=device)
    try:
        jitter_and_normalize(
            torch.zeros(1, 2, 3, 2, device=device), torch.zeros(1, 17, device=device), ones, ones,
            torch.contiguous_format,
        )  # fmt: skip
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        warnings.warn(
            f"augmentation: Triton cannot compile here ({str(error).splitlines()[0]}); slower kernels are used, for want "
            "of a C compiler mostly",
            stacklevel=2,
        )
        return False
    return True
