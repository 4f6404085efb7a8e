"""uint8 images in, normalized float images out: the original's training transforms, on the device, random per image.

The transforms are torchvision's Resize to a square, RandomResizedCrop, RandomHorizontalFlip, ColorJitter(0.2, 0.2,
0.1, 0.02) and Normalize; the colors are in jitter.py.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fairface_core.backbones import IMAGENET
from fairface_core.training.jitter import (
    CONTRAST,
    HUE,
    JITTER,
    blend_coefficients,
    color_jitter_,
    color_jitter_batch_,
)

# For every backbone: the model itself converts for one that was trained with others.
MEAN, STD = IMAGENET

# torchvision RandomResizedCrop's defaults.
SCALE = (0.08, 1.0)
RATIO = (3 / 4, 4 / 3)
_TRIES = 10
# Floats of one chunk on the CPU, half of a common 1 MiB second-level cache: at 64 px twice as much or half as much
# took 1.2 to 1.4 times as long.
_CPU_CHUNK = 2**17


@dataclass(frozen=True)
class AugmentParams:
    """One random transform per image; always on the CPU, so that every device does the same.

    Attributes:
        size_px: The square grid on which the boxes were drawn, pixels.
        box: int64 [B, 4]: top, left, height, width of the crop.
        flip: bool [B].
        order: int64 [B, 4]: the color operations (BRIGHTNESS, CONTRAST, SATURATION, HUE) in the order of use.
        factor: float32 [B, 4]: factor of each operation, in the order of the constants; hue in turns.
    """

    size_px: int
    box: Tensor
    flip: Tensor
    order: Tensor
    factor: Tensor

    def __len__(self) -> int:
        return len(self.flip)

    @functools.cached_property
    def hue_at(self) -> np.ndarray:
        """Position of hue in each image's order, 0..3: int64 [B]."""
        return np.asarray(self.order.numpy() == HUE).argmax(axis=1)

    @property
    def flips(self) -> Tensor:
        """Whether rows, columns are taken from the end: bool [B, 2]."""
        return torch.stack([torch.zeros_like(self.flip), self.flip], dim=1)

    def take(self, index: Tensor) -> AugmentParams:
        """Return the parameters of some images, by position or slice."""
        return AugmentParams(self.size_px, self.box[index], self.flip[index], self.order[index], self.factor[index])


def draw_params(
    batch: int, size_px: int, generator: torch.Generator, scale_min: float = SCALE[0], jitter_strength: float = 1.0
) -> AugmentParams:
    """Draw the transforms of a batch: the distributions of torchvision's own `get_params`, for each image.

    Image after image takes the same count of random numbers, so two half batches draw what one whole batch draws.

    Args:
        batch: Number of images, B.
        size_px: The square input: boxes are drawn on this grid, as the original did after its Resize.
        generator: A CPU generator; it decides everything.
        scale_min: Least share of the image's area in a crop.
        jitter_strength: Multiple of `JITTER`.
    """
    uniform = torch.rand(batch, 2 * _TRIES + 11, dtype=torch.float64, generator=generator)
    rest = uniform[:, 2 * _TRIES + 2 :]
    spread = torch.tensor(JITTER, dtype=torch.float64) * jitter_strength
    center = torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    return AugmentParams(
        size_px=size_px,
        box=draw_boxes(uniform[:, : 2 * _TRIES + 2], size_px, (scale_min, SCALE[1]), RATIO),
        flip=rest[:, 0] < 0.5,
        order=rest[:, 1:5].argsort(dim=1),
        factor=(center + spread * (2 * rest[:, 5:9] - 1)).float(),
    )


def draw_boxes(uniform: Tensor, size_px: int, scale: tuple[float, float], ratio: tuple[float, float]) -> Tensor:
    """Return rectangles of random area and shape at random places: int64 [B, 4], top, left, height, width.

    Args:
        uniform: float64 [B, 22] in [0, 1): ten tries of an area, ten of a shape, and the place. The first try that fits is
            taken; the whole image, as torchvision's RandomResizedCrop does (its ratio, 1, is allowed), if none does.
        size_px: Side of the square that they lie in.
        scale: Smallest and largest share of its area.
        ratio: Smallest and largest width by height.
    """
    area = size_px * size_px * (scale[0] + (scale[1] - scale[0]) * uniform[:, :_TRIES])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    ratios = torch.exp(low + (high - low) * uniform[:, _TRIES : 2 * _TRIES])
    width, height = (area * ratios).sqrt().round(), (area / ratios).sqrt().round()
    fits = (width > 0) & (width <= size_px) & (height > 0) & (height <= size_px)
    first = fits.int().argmax(dim=1, keepdim=True)
    fits_at_all = fits.any(dim=1)
    width = torch.where(fits_at_all, width.gather(1, first)[:, 0], size_px)
    height = torch.where(fits_at_all, height.gather(1, first)[:, 0], size_px)
    top = (uniform[:, 2 * _TRIES] * (size_px - height + 1)).floor()
    left = (uniform[:, 2 * _TRIES + 1] * (size_px - width + 1)).floor()
    return torch.stack([top, left, height, width], dim=1).long()


def augment(
    images: Tensor, params: AugmentParams, out_px: int, memory_format: torch.memory_format = torch.contiguous_format
) -> Tensor:
    """Apply one random transform per image.

    On the CPU a few images at a time, so that they stay in the cache, and cropped in uint8; on other devices the whole
    batch at once, cropped by two matrix products. Both give the same pixels to within the rounding of the former.

    Args:
        images: uint8 [B, 3, S, S], RGB; fastest as a view of [B, S, S, 3] memory.
        params: One transform per image, drawn on a grid of any size.
        out_px: Square output, pixels.
        memory_format: Layout that the network wants; on the CPU the result is contiguous all the same.

    Returns:
        float32 [B, 3, out_px, out_px], ImageNet-normalized, on the device of `images`.
    """
    assert images.dtype == torch.uint8 and len(images) == len(params), (images.dtype, images.shape, len(params))
    if images.device.type == "cpu":
        return _augment_chunks(images, params, out_px, max(1, _CPU_CHUNK // (3 * out_px * out_px)))
    kernel = color_kernel(images.device)
    if kernel is None:
        return augment_eager(images, params, out_px)
    return augment_fused(images, params, out_px, memory_format, kernel)


@functools.cache
def color_kernel(device: torch.device) -> ModuleType | None:
    """Return the module of the Triton kernels where they can be compiled, else None: eager torch does the same there."""
    if device.type != "cuda":
        return None
    try:
        # Triton comes with torch's CUDA wheels for Linux only.
        from fairface_core.training import jitter_kernel
    except ImportError:
        return None
    return jitter_kernel if jitter_kernel.compiles(device) else None


def _augment_chunks(images: Tensor, params: AugmentParams, out_px: int, chunk: int) -> Tensor:
    mean, scale = _mean_and_scale(images.device)
    coefficients = blend_coefficients(params.order, params.factor)
    result = torch.empty(len(images), 3, out_px, out_px)
    for index, hue_at in _same_hue_position(params.hue_at, chunk):
        # Whole rows of NHWC memory: through the NCHW view this takes ten times as long.
        chosen = images.permute(0, 2, 3, 1).index_select(0, index).permute(0, 3, 1, 2)
        pixels = crop_each(chosen, params.take(index), out_px)
        color_jitter_(pixels, coefficients[:, :, index], params.factor[index, HUE], hue_at)
        # While it is in the cache: normalizing the chunk and then `result[index] =` takes twice as long.
        for source, row in zip(pixels, index.tolist(), strict=True):
            torch.sub(source, mean, out=result[row]).mul_(scale)
    return result


def augment_fused(
    images: Tensor, params: AugmentParams, out_px: int, memory_format: torch.memory_format, kernel: ModuleType
) -> Tensor:
    """See `augment`: the colors by two Triton kernels, pixels between crop and colors in float16 (0.2 of 255 levels)."""
    places = params.order.argsort(dim=1)
    turns = (params.order == HUE) * params.factor[:, HUE, None]
    coefficients = blend_coefficients(params.order, params.factor).permute(2, 0, 1).flatten(1)
    box, flips, colors = _to_device(
        images.device, params.box, params.flips, torch.cat([coefficients, turns, places[:, CONTRAST, None]], 1)
    )
    pixels = crop_batch(images, box, flips, params.size_px, out_px, torch.float16)
    mean, scale = _mean_and_scale(images.device)
    return kernel.jitter_and_normalize(pixels.permute(0, 2, 1, 3), colors.contiguous(), mean, scale, memory_format)


def augment_eager(images: Tensor, params: AugmentParams, out_px: int) -> Tensor:
    """See `augment`: for a device that has no compiler, in as few operations as can be."""
    # Images with their hue at the same position side by side: a slice of them needs no index.
    index = torch.from_numpy(params.hue_at.argsort(kind="stable"))
    hue_ends = np.bincount(params.hue_at, minlength=4).cumsum().tolist()
    params = params.take(index)
    coefficients = blend_coefficients(params.order, params.factor).permute(2, 0, 1).flatten(1)
    box, flips, colors, sixths, where = _to_device(
        images.device, params.box, params.flips, coefficients, 6 * params.factor[:, HUE, None], index[:, None]
    )
    where = where[:, 0].long()
    chosen = images.permute(0, 2, 3, 1).index_select(0, where).permute(0, 3, 1, 2)
    pixels = crop_batch(chosen, box, flips, params.size_px, out_px, torch.float32)
    color_jitter_batch_(pixels, colors.view(-1, 3, 4).permute(1, 2, 0), sixths[:, 0], hue_ends)
    return torch.empty_like(pixels, memory_format=torch.contiguous_format).index_copy_(0, where, normalize(pixels))


def _to_device(device: torch.device, *columns: Tensor) -> Sequence[Tensor]:
    """Move columns of numbers, [B, n] on the CPU, to a device in one copy that nobody waits for; float32."""
    together = torch.cat([column.float() for column in columns], dim=1)
    if device.type == "cuda":
        together = together.pin_memory()
    return together.to(device, non_blocking=True).split([column.shape[1] for column in columns], dim=1)


def prepare_eval(images: Tensor, out_px: int, memory_format: torch.memory_format = torch.contiguous_format) -> Tensor:
    """Resize to the square input if need be, and normalize: float32 [B, 3, out_px, out_px].

    Args:
        images: uint8 [B, 3, S, S], RGB.
        out_px: Square output, pixels.
        memory_format: Layout that the network wants.
    """
    pixels = resize(images, out_px).float().contiguous(memory_format=memory_format)
    if pixels.device.type != "cpu" or memory_format != torch.channels_last:
        return normalize(pixels)
    # By whole lines: three numbers at a time take three times as long at 224 px.
    mean, scale = (value.flatten().repeat(out_px) for value in _mean_and_scale(pixels.device))
    pixels.permute(0, 2, 3, 1).view(len(pixels), out_px, 3 * out_px).sub_(mean).mul_(scale)
    return pixels


def resize(images: Tensor, size_px: int) -> Tensor:
    """Resize uint8 images to a square as Pillow does (bilinear, antialiased, rounded to uint8)."""
    if images.shape[-2:] == (size_px, size_px):
        return images
    if images.device.type == "cpu":
        return F.interpolate(images, size=(size_px, size_px), mode="bilinear", antialias=True)
    # Only the CPU has this in uint8.
    enlarged = F.interpolate(images.float(), size=(size_px, size_px), mode="bilinear", antialias=True)
    return enlarged.round_().clamp_(0, 255).byte()


def normalize(pixels: Tensor) -> Tensor:
    """Normalize with ImageNet's mean and deviation, in place: float [B, 3, H, W] in 0..255."""
    mean, scale = _mean_and_scale(pixels.device)
    return pixels.sub_(mean).mul_(scale)


@functools.cache
def _mean_and_scale(device: torch.device) -> tuple[Tensor, Tensor]:
    # Made once: each would be a copy from pageable memory, which the host waits for.
    with torch.inference_mode(False):
        mean, scale = torch.tensor(MEAN).mul_(255), torch.tensor(STD).mul_(255).reciprocal_()
        return mean.view(3, 1, 1).to(device), scale.view(3, 1, 1).to(device)


def _same_hue_position(hue_at: np.ndarray, chunk: int) -> Iterator[tuple[Tensor, int]]:
    for position in range(4):
        for index in torch.from_numpy(np.flatnonzero(hue_at == position)).split(chunk):
            if len(index):
                yield index, position


def crop_each(images: Tensor, params: AugmentParams, out_px: int) -> Tensor:
    """Crop, resize and flip image by image, in uint8.

    Returns:
        float32 [B, 3, out_px, out_px] of whole numbers in 0..255.
    """
    images = resize(images, params.size_px)
    result = torch.empty(len(images), 3, out_px, out_px)
    for row, ((top, left, height, width), flip) in enumerate(
        zip(params.box.tolist(), params.flip.tolist(), strict=True)
    ):
        crop = images[row : row + 1, :, top : top + height, left : left + width]
        crop = F.interpolate(crop, size=(out_px, out_px), mode="bilinear", antialias=True)
        result[row] = crop.flip(-1)[0] if flip else crop[0]
    return result


def crop_batch(
    images: Tensor, box: Tensor, flip: Tensor, size_px: int, out_px: int, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Crop, resize and flip a batch: rows and columns are weighted sums of the source's, so two matrix products.

    Args:
        images: uint8 [B, 3, S, S], RGB.
        box: float32 [B, 4] on the device of the images: top, left, height, width on a grid of `size_px`.
        flip: [B, 2] on the device of the images; not 0 where rows, columns are taken from the end.
        size_px: The grid of the boxes, pixels.
        out_px: Square output, pixels.
        dtype: Of the products and of the result; float16 is off by 0.2 gray levels at most.

    Returns:
        [B, 3, out_px, out_px], 0..255, not rounded, a view of contiguous [B, out_px, 3, out_px] memory.
    """
    source_px = images.shape[-1]
    weights = bilinear_weights(box[:, :2].t(), box[:, 2:].t(), size_px, out_px, flip.t())
    if source_px != size_px:
        enlarging = _enlarging(images.device, source_px, size_px)
        weights = (weights.flatten(0, 2) @ enlarging).view(2, len(images), out_px, source_px)
    rows, columns = weights.to(dtype)
    # Height first, on [B, H, C * W], then width, on [B, H * C, W]: neither product copies.
    pixels = images.permute(0, 2, 1, 3).to(dtype, memory_format=torch.contiguous_format)
    with torch.autocast(images.device.type, enabled=False):
        pixels = torch.bmm(rows, pixels.view(len(images), source_px, 3 * source_px))
        pixels = torch.bmm(pixels.view(len(images), out_px * 3, source_px), columns.transpose(1, 2))
    return pixels.view(len(images), out_px, 3, out_px).permute(0, 2, 1, 3)


@functools.cache
def _enlarging(device: torch.device, source_px: int, size_px: int) -> Tensor:
    with torch.inference_mode(False):
        start = torch.zeros(1, device=device)
        return bilinear_weights(start, start + source_px, source_px, size_px)[0]


def bilinear_weights(start: Tensor, length: Tensor, source_px: int, out_px: int, flip: Tensor | None = None) -> Tensor:
    """Weights of Pillow's antialiased bilinear resize of the pixels [start, start + length) to `out_px` pixels.

    Args:
        start: Whole numbers, float32 [...].
        length: The same.
        source_px: Pixels of the whole line.
        out_px: Pixels wanted.
        flip: [...], not 0 where they are wanted from the end.

    Returns:
        float32 [..., out_px, source_px]; each row sums to 1.
    """
    start, length = start[..., None, None], length[..., None, None]
    source = torch.arange(source_px, device=start.device) + 0.5
    wanted = (torch.arange(out_px, device=start.device) + 0.5)[:, None]
    if flip is not None:
        wanted = torch.where(flip[..., None, None] != 0, out_px - wanted, wanted)
    source = source - start
    scale = length / out_px
    distance = (source - scale * wanted).abs_().div_(scale.clamp_min(1.0))
    weights = torch.rsub(distance, 1).clamp_min_(0).mul_((source > 0) & (source < length))
    return weights.div_(weights.sum(dim=-1, keepdim=True))
