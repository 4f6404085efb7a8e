"""The model with its preprocessing and softmax inside: what is exported, and what an export is held against."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fairface_core.model.network import AgeGenderModel
from fairface_core.prediction.models import Member
from fairface_core.training.augment import MEAN, STD

Kind = Literal["uint8", "float"]
INPUT, OUTPUTS = "images", ("age_prob", "gender_prob")


class Graph(nn.Module):
    """Pictures of one square size to probabilities.

    The input is `uint8 [B, S, S, 3]`, RGB, or with kind `float` `float32 [B, 3, S, S]`, RGB in 0..1; S is the size that
    the model's training images were decoded to. The outputs are float32 `[B, 9]` and `[B, 2]`.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, network: AgeGenderModel, image_size: int, source_px: int, kind: Kind) -> None:
        super().__init__()
        self.network, self.image_size, self.source_px, self.kind = network, image_size, source_px, kind
        shape = (1, 3, 1, 1)
        self.register_buffer("mean", torch.tensor(MEAN).mul_(255).view(shape), persistent=False)
        self.register_buffer("scale", torch.tensor(STD).mul_(255).reciprocal_().view(shape), persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the probabilities of age group and gender."""
        pixels = images.permute(0, 3, 1, 2).float() if self.kind == "uint8" else images * 255
        if self.source_px != self.image_size:
            size = (self.image_size, self.image_size)
            smaller = self.image_size < self.source_px
            # Not to whole numbers, as `training.augment.resize`: of a value near a half two runtimes would make two levels.
            pixels = functional.interpolate(pixels, size=size, mode="bilinear", align_corners=False, antialias=smaller)
        dtype = next(self.network.parameters()).dtype
        age, gender = self.network(((pixels - self.mean) * self.scale).to(dtype))
        return age.float().softmax(1), gender.float().softmax(1)


def graph_of(member: Member, kind: Kind) -> Graph:
    """Return the graph of a loaded model, in evaluation mode; the network is shared, not copied."""
    member.network.to(memory_format=torch.contiguous_format)
    return Graph(member.network, member.image_size, member.decoded_px, kind).eval()


def input_of(images: np.ndarray, kind: Kind) -> np.ndarray:
    """Return decoded images, uint8 [B, S, S, 3], in the form that a graph takes."""
    if kind == "uint8":
        return np.ascontiguousarray(images)
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2), dtype=np.float32) / np.float32(255)
