"""What is done to an augmented batch as a whole: random erasing, and blending images with others of the batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from fairface_core.config.train_config import TrainConfig
from fairface_core.labels import AGE_GROUPS, GENDERS
from fairface_core.training.augment import draw_boxes

# torchvision RandomErasing's defaults.
_ERASED_SCALE = (0.02, 0.33)
_ERASED_RATIO = (0.3, 3.3)


def make_mixing(config: TrainConfig) -> Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]] | None:
    """Return torchvision's mixup or cutmix for both heads, or None if neither is asked for.

    It takes images, age and gender labels (int64 [B]) and returns images and the shares of the classes, float32 [B, 9] and
    [B, 2]: `l` of an image's own and `1 - l` of its partner's, the image before it in the batch; `l` is drawn once a batch
    from torch's global CPU generator. Of both, one is drawn for each batch. Partners are sought in the whole batch, also
    where it is trained on in micro-batches.

    Source: Zhang et al., "mixup" (1710.09412), and Yun et al., "CutMix" (1905.04899), both with alpha of Beta(alpha, alpha).
    """
    if not config.mixup and not config.cutmix:
        return None
    # 0.3 s to import, which a run without them does not pay.
    from torchvision.transforms import v2

    pairs = len(AGE_GROUPS) * len(GENDERS)
    kinds: list[Any] = []
    if config.mixup:
        kinds.append(v2.MixUp(alpha=config.mixup, num_classes=pairs))
    if config.cutmix:
        kinds.append(v2.CutMix(alpha=config.cutmix, num_classes=pairs))
    mix = v2.RandomChoice(kinds)

    def mixing(images: Tensor, age: Tensor, gender: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # One label for both tasks: the shares of each are then sums over the other.
        images, shares = mix(images, age * len(GENDERS) + gender)
        shares = shares.view(-1, len(AGE_GROUPS), len(GENDERS))
        return images, shares.sum(2), shares.sum(1)

    return mixing


def erase_(images: Tensor, probability: float, generator: torch.Generator) -> None:
    """Erase a rectangle from some images, in place, by ImageNet's mean color: torchvision's RandomErasing, for each image.

    Source: Zhong et al., "Random Erasing Data Augmentation" (1708.04896).

    Args:
        images: float32 [B, 3, S, S], normalized.
        probability: Share of the images.
        generator: A CPU generator; it decides everything, and each image takes the same count of numbers.
    """
    size_px = images.shape[-1]
    uniform = torch.rand(len(images), 23, dtype=torch.float64, generator=generator)
    boxes = draw_boxes(uniform[:, 1:], size_px, _ERASED_SCALE, _ERASED_RATIO)
    # An empty box for those that are spared.
    boxes[:, 2] *= uniform[:, 0] < probability
    if images.device.type == "cuda":
        boxes = boxes.pin_memory()
    top, left, height, width = boxes.to(images.device, non_blocking=True)[:, :, None].unbind(1)
    at = torch.arange(size_px, device=images.device)
    rows, columns = (at >= top) & (at < top + height), (at >= left) & (at < left + width)
    images.masked_fill_((rows[:, :, None] & columns[:, None, :])[:, None], cast(Any, 0.0))
