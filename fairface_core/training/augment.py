"""uint8 images in, normalized float images out: the original's training transforms, on the device, random per image.

The transforms are torchvision's Resize to a square, RandomResizedCrop, RandomHorizontalFlip, ColorJitter(0.2, 0.2,
0.1, 0.02) and Normalize. torchvision draws one parameter set per call, also for a batch, and its hue goes through HSV:
6 ms an image on the CPU. Here each image has its own parameters, and hue takes 23 passes over one color plane (0.2 ms).

Colors are floats throughout, as in torchvision's tensor functions. The original used its Pillow functions, which cut to
whole gray levels after each step: its images are about one level (0.5 %) darker, and its hue moves in steps of 1/255.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

# torchvision RandomResizedCrop's defaults.
SCALE = (0.08, 1.0)
RATIO = (3 / 4, 4 / 3)
_TRIES = 10
# ColorJitter(brightness, contrast, saturation, hue): factors in [1 - x, 1 + x], hue shift in [-x, x] turns.
JITTER = (0.2, 0.2, 0.1, 0.02)
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
# torchvision's weights of R, G, B in `rgb_to_grayscale` (ITU-R 601-2).
_GRAY = (0.2989, 0.587, 0.114)
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

    def take(self, index: Tensor) -> AugmentParams:
        """Return the parameters of some images, by position or slice."""
        return AugmentParams(self.size_px, self.box[index], self.flip[index], self.order[index], self.factor[index])


def draw_params(batch: int, size_px: int, generator: torch.Generator) -> AugmentParams:
    """Draw the transforms of a batch: the distributions of torchvision's own `get_params`, for each image.

    Image after image takes the same count of random numbers, so two half batches draw what one whole batch draws.

    Args:
        batch: Number of images, B.
        size_px: The square input: boxes are drawn on this grid, as the original did after its Resize.
        generator: A CPU generator; it decides everything.
    """
    uniform = torch.rand(batch, 2 * _TRIES + 11, dtype=torch.float64, generator=generator)
    area = size_px * size_px * (SCALE[0] + (SCALE[1] - SCALE[0]) * uniform[:, :_TRIES])
    low, high = math.log(RATIO[0]), math.log(RATIO[1])
    ratio = torch.exp(low + (high - low) * uniform[:, _TRIES : 2 * _TRIES])
    width, height = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    fits = (width > 0) & (width <= size_px) & (height > 0) & (height <= size_px)
    # The first try that fits; the whole image, as in torchvision, if none does (its ratio, 1, is allowed).
    first = fits.int().argmax(dim=1, keepdim=True)
    fits_at_all = fits.any(dim=1)
    width = torch.where(fits_at_all, width.gather(1, first)[:, 0], size_px)
    height = torch.where(fits_at_all, height.gather(1, first)[:, 0], size_px)
    rest = uniform[:, 2 * _TRIES :]
    top = (rest[:, 0] * (size_px - height + 1)).floor()
    left = (rest[:, 1] * (size_px - width + 1)).floor()
    spread = torch.tensor(JITTER, dtype=torch.float64)
    center = torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    return AugmentParams(
        size_px=size_px,
        box=torch.stack([top, left, height, width], dim=1).long(),
        flip=rest[:, 2] < 0.5,
        order=rest[:, 3:7].argsort(dim=1),
        factor=(center + spread * (2 * rest[:, 7:11] - 1)).float(),
    )


def augment(images: Tensor, params: AugmentParams, out_px: int) -> Tensor:
    """Apply one random transform per image.

    On the CPU a few images at a time, so that they stay in the cache, and cropped in uint8; on other devices the whole
    batch at once, cropped by two matrix products. Both give the same pixels to within the rounding of the former.

    Args:
        images: uint8 [B, 3, S, S], RGB; fastest as a view of [B, S, S, 3] memory.
        params: One transform per image, drawn on a grid of any size.
        out_px: Square output, pixels.

    Returns:
        float32 [B, 3, out_px, out_px], ImageNet-normalized, on the device of `images`.
    """
    assert images.dtype == torch.uint8 and len(images) == len(params), (images.dtype, images.shape, len(params))
    if images.device.type == "cpu":
        return _augment(images, params, out_px, crop_each, max(1, _CPU_CHUNK // (3 * out_px * out_px)))
    return _augment(images, params, out_px, crop_batch, len(images))


def _augment(
    images: Tensor,
    params: AugmentParams,
    out_px: int,
    crop: Callable[[Tensor, AugmentParams, int], Tensor],
    chunk: int,
) -> Tensor:
    mean, scale = _mean_and_scale(images.device)
    coefficients = blend_coefficients(params)
    result = torch.empty(len(images), 3, out_px, out_px, device=images.device)
    for index, hue_at in _same_hue_position(params.order, chunk):
        where = index.to(images.device, non_blocking=True)
        # Whole rows of NHWC memory: through the NCHW view this takes ten times as long on the CPU.
        chosen = images.permute(0, 2, 3, 1).index_select(0, where).permute(0, 3, 1, 2)
        pixels = crop(chosen, params.take(index), out_px)
        color_jitter_(pixels, coefficients[:, :, index], params.factor[index, HUE], hue_at)
        if images.device.type == "cpu":
            # While it is in the cache: normalizing the chunk and then `result[where] =` takes twice as long.
            for source, row in zip(pixels, index.tolist(), strict=True):
                torch.sub(source, mean, out=result[row]).mul_(scale)
        else:
            result[where] = pixels.sub_(mean).mul_(scale)
    return result


def prepare_eval(images: Tensor, out_px: int) -> Tensor:
    """Resize to the square input if need be, and normalize.

    Args:
        images: uint8 [B, 3, S, S], RGB.
        out_px: Square output, pixels.

    Returns:
        float32 [B, 3, out_px, out_px].
    """
    pixels = resize(images, out_px).float()
    # Plane by plane: in channels_last the CPU takes three times as long to normalize at 224 px.
    return normalize(pixels.contiguous() if pixels.device.type == "cpu" else pixels)


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


def _mean_and_scale(device: torch.device) -> tuple[Tensor, Tensor]:
    shape = (3, 1, 1)
    mean = torch.tensor(MEAN).mul_(255).view(shape)
    scale = torch.tensor(STD).mul_(255).reciprocal_().view(shape)
    return mean.to(device, non_blocking=True), scale.to(device, non_blocking=True)


def _same_hue_position(order: Tensor, chunk: int) -> Iterator[tuple[Tensor, int]]:
    position = (order == HUE).int().argmax(dim=1)
    for hue_at in range(4):
        for index in torch.nonzero(position == hue_at)[:, 0].split(chunk):
            if len(index):
                yield index, hue_at


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


def crop_batch(images: Tensor, params: AugmentParams, out_px: int) -> Tensor:
    """Crop, resize and flip a batch: rows and columns are weighted sums of the source's, so two matrix products.

    Returns:
        float32 [B, 3, out_px, out_px], 0..255, not rounded.
    """
    device, source_px = images.device, images.shape[-1]
    box = params.box.to(device, non_blocking=True)
    flip = params.flip.to(device, non_blocking=True)
    rows = bilinear_weights(box[:, 0], box[:, 2], params.size_px, out_px)
    columns = bilinear_weights(box[:, 1], box[:, 3], params.size_px, out_px)
    columns = torch.where(flip[:, None, None], columns.flip(1), columns)
    if source_px != params.size_px:
        whole = torch.tensor([source_px], device=device)
        enlarge = bilinear_weights(torch.zeros_like(whole), whole, source_px, params.size_px)[0]
        rows, columns = rows @ enlarge, columns @ enlarge
    # Height first, on [B, H, C * W], then width, on [B, H * C, W]: neither product copies.
    pixels = images.permute(0, 2, 1, 3).float().reshape(len(images), source_px, 3 * source_px)
    with torch.autocast(device.type, enabled=False):
        pixels = torch.bmm(rows, pixels).view(len(images), out_px * 3, source_px)
        pixels = torch.bmm(pixels, columns.transpose(1, 2))
    return pixels.view(len(images), out_px, 3, out_px).permute(0, 2, 1, 3)


def bilinear_weights(start: Tensor, length: Tensor, source_px: int, out_px: int) -> Tensor:
    """Weights of Pillow's antialiased bilinear resize of the pixels [start, start + length) to `out_px` pixels.

    Args:
        start: int64 [B].
        length: int64 [B].
        source_px: Pixels of the whole line.
        out_px: Pixels wanted.

    Returns:
        float32 [B, out_px, source_px]; each row sums to 1.
    """
    device = start.device
    scale = (length.float() / out_px)[:, None, None]
    support = scale.clamp_min(1.0)
    center = start[:, None, None] + scale * (torch.arange(out_px, device=device)[None, :, None] + 0.5)
    source = torch.arange(source_px, device=device)[None, None, :]
    weights = (1 - (source + 0.5 - center).abs() / support).clamp_min_(0)
    inside = (source >= start[:, None, None]) & (source < (start + length)[:, None, None])
    weights = weights * inside
    return weights / weights.sum(dim=2, keepdim=True)


def blend_coefficients(params: AugmentParams) -> Tensor:
    """What each color operation but hue multiplies: the image, its mean gray, its gray image.

    Each of the three moves an image away from something by a factor: brightness from black, contrast from the
    mean of the gray image, saturation from the gray image.

    Returns:
        float32 [3, 4, B]: for each position in the order.
    """
    kind = params.order.t()
    own = params.factor.t().gather(0, kind)
    rest = 1 - own
    return torch.stack([own, rest * (kind == CONTRAST), rest * (kind == SATURATION)])


def color_jitter_(pixels: Tensor, coefficients: Tensor, shift: Tensor, hue_at: int) -> None:
    """Change brightness, contrast, saturation and hue in place, each image in its own order.

    Args:
        pixels: float32 [B, 3, H, W], 0..255.
        coefficients: float32 [3, 4, B] on the CPU, of `blend_coefficients`.
        shift: float32 [B] on the CPU, turns of hue.
        hue_at: Position of hue in the order of all these images, 0..3.
    """
    coefficients = coefficients.to(pixels.device, non_blocking=True)
    for position in range(4):
        if position == hue_at:
            shift_hue_(pixels, shift.to(pixels.device, non_blocking=True))
        else:
            blend_(pixels, *coefficients[:, position, :, None, None])


def blend_(pixels: Tensor, own: Tensor, mean_gray: Tensor, gray: Tensor) -> None:
    """Replace images by `own * image + mean_gray * (mean of its gray image) + gray * (its gray image)`, in 0..255.

    Args:
        pixels: float32 [B, 3, H, W], 0..255; changed.
        own: float32 [B, 1, 1].
        mean_gray: float32 [B, 1, 1].
        gray: float32 [B, 1, 1].
    """
    plane = pixels[:, 0] * _GRAY[0]
    plane.add_(pixels[:, 1], alpha=_GRAY[1]).add_(pixels[:, 2], alpha=_GRAY[2])
    constant = plane.mean(dim=(1, 2), keepdim=True) * mean_gray
    plane.mul_(gray).add_(constant)
    pixels.mul_(own[:, None]).add_(plane[:, None]).clamp_(0, 255)


def shift_hue_(pixels: Tensor, shift: Tensor) -> None:
    """Turn the hue in place, exactly as through HSV and back, without HSV.

    With saturation and value fixed, a channel is a trapezoid over the hue: it lies between the pixel's smallest
    and largest channel, and each of its edges is a sixth of a turn wide. Not cut off there, it would be
    `2 * channel - middle channel`: on an edge the channel is the middle one itself; at the top or bottom it would
    be as far beyond as the middle one has come along its own edge. So a turn adds `6 * shift * (largest - smallest)`
    where the channel rises, subtracts it where it falls, and the cut is a clamp. Which of the two it does is told
    by the order of the other two channels. Exact for shifts up to a sixth of a turn.

    Args:
        pixels: float32 [B, 3, H, W], any range; changed.
        shift: float32 [B], turns, in [-1/6, 1/6].
    """
    red, green, blue = pixels.unbind(1)
    low, high = torch.minimum(red, green), torch.maximum(red, green)
    middle = torch.maximum(low, torch.minimum(high, blue))
    low, high = torch.minimum(low, blue), torch.maximum(high, blue)
    step = (high - low).mul_(6 * shift[:, None, None])
    moved = [
        torch.lerp(middle, channel, 2.0).addcmul_(torch.sub(before, after).sign_(), step)
        for channel, before, after in ((red, blue, green), (green, red, blue), (blue, green, red))
    ]
    for channel, plane in zip((red, green, blue), moved, strict=True):
        torch.clamp(plane, low, high, out=channel)
