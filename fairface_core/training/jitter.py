"""Brightness, contrast, saturation and hue, each image with its own factors in its own order.

torchvision's ColorJitter draws one parameter set per call, also for a batch, and its hue goes through HSV: 6 ms an image
on the CPU. Here hue takes 24 passes over one color plane (0.2 ms).

Colors are floats throughout, as in torchvision's tensor functions. The original used its Pillow functions, which cut to
whole gray levels after each step: its images are about one level (0.5 %) darker, and its hue moves in steps of 1/255.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# ColorJitter(brightness, contrast, saturation, hue): factors in [1 - x, 1 + x], hue shift in [-x, x] turns.
JITTER = (0.2, 0.2, 0.1, 0.02)
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
# torchvision's weights of R, G, B in `rgb_to_grayscale` (ITU-R 601-2).
GRAY = (0.2989, 0.587, 0.114)


def blend_coefficients(order: Tensor, factor: Tensor) -> Tensor:
    """What each color operation but hue multiplies: the image, its mean gray, its gray image.

    Each of the three moves an image away from something by a factor: brightness from black, contrast from the
    mean of the gray image, saturation from the gray image. At the place of hue stands what changes nothing.

    Args:
        order: int64 [B, 4], operations in the order of use.
        factor: float32 [B, 4], of each operation in the order of the constants.

    Returns:
        float32 [3, 4, B]: for each position in the order.
    """
    kind = order.t()
    own = torch.where(kind == HUE, 1.0, factor.t().gather(0, kind))
    rest = 1 - own
    return torch.stack([own, rest * (kind == CONTRAST), rest * (kind == SATURATION)])


def color_jitter_(pixels: Tensor, coefficients: Tensor, shift: Tensor, hue_at: int) -> None:
    """Change the colors in place, a few images at a time on the CPU.

    Args:
        pixels: float32 [B, 3, H, W], 0..255.
        coefficients: float32 [3, 4, B], of `blend_coefficients`.
        shift: float32 [B], turns of hue.
        hue_at: Position of hue in the order of all these images, 0..3.
    """
    for position in range(4):
        if position == hue_at:
            shift_hue_(pixels, shift)
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
    plane = pixels[:, 0] * GRAY[0]
    plane.add_(pixels[:, 1], alpha=GRAY[1]).add_(pixels[:, 2], alpha=GRAY[2])
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


def color_jitter_batch_(pixels: Tensor, coefficients: Tensor, sixths: Tensor, hue_ends: Sequence[int]) -> None:
    """Change the colors of a whole batch in place, in as few operations as eager torch can do it in.

    Args:
        pixels: float32 [B, 3, H, W], 0..255, images in the order of their hue's position.
        coefficients: float32 [3, 4, B] on the device of the pixels, of `blend_coefficients`.
        sixths: float32 [B] on the device of the pixels, sixths of a turn of hue.
        hue_ends: For each position, how many images have their hue there or before.
    """
    for position, (start, stop) in enumerate(zip((0, *hue_ends), hue_ends, strict=False)):
        # Nothing changes in the images whose hue is turned here.
        own, mean_gray, gray = coefficients[:, position, :, None, None, None]
        plane = pixels[:, :1] * GRAY[0]
        plane.add_(pixels[:, 1:2], alpha=GRAY[1]).add_(pixels[:, 2:], alpha=GRAY[2])
        constant = plane.mean(dim=(2, 3), keepdim=True).mul_(mean_gray)
        torch.addcmul(constant, plane, gray, out=plane)
        torch.addcmul(plane, pixels, own, out=pixels).clamp_(0, 255)
        if stop > start:
            _shift_hue_batch_(pixels[start:stop], sixths[start:stop, None, None, None])


def _shift_hue_batch_(pixels: Tensor, sixths: Tensor) -> None:
    """See `shift_hue_`; all three channels in one operation."""
    low, high = pixels.amin(1, keepdim=True), pixels.amax(1, keepdim=True)
    middle = pixels.sum(1, keepdim=True).sub_(low).sub_(high)
    rises = pixels.roll(1, 1).sub_(pixels.roll(-1, 1)).sign_()
    step = (high - low).mul_(sixths)
    torch.clamp(torch.lerp(middle, pixels, 2.0).addcmul_(rises, step), low, high, out=pixels)
