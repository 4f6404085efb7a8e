"""Name -> BackboneSpec. Adding a backbone is one entry in `BACKBONES`; nothing else lists them.

This module imports torch only inside `build`, so the command lines can list names at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class BackboneSpec:
    """What the project knows of one torchvision classifier.

    Attributes:
        name: torchvision's builder name.
        weights_name: The ImageNet weights that `--weights imagenet` takes (an entry of torchvision's weights enum).
        image_size: Its own square input, pixels.
        feature_dim: Length of the feature vector that its last linear layer took.
        classifier: Dotted name of that last linear layer, replaced by an identity.
        num_params: Parameters of backbone and both heads at its own input size, to 1 %; for disk estimates.
        gmac: Forward multiply-adds per image at its own input size, 1e9 (torchvision's `_ops`).
        channels_last: Whether channels_last was measured not slower on the CPU (docs/architecture.md, Facts about
            speed), or is the known gain of convnets on CUDA.
        amx_bf16: Whether bfloat16 was measured faster than float32 on a CPU with AMX tiles: 1.4 to 3.2 times, but half
            as fast where most of the work is depthwise convolutions.
        batch_norm: Whether it takes the variance of a batch, which one image has not.
    """

    name: str
    weights_name: str
    image_size: int
    feature_dim: int
    classifier: str
    num_params: int
    gmac: float
    channels_last: bool
    amx_bf16: bool
    batch_norm: bool

    def build(self, image_size: int) -> nn.Module:
        """Return the feature extractor with fresh weights, `float [B, 3, S, S] -> float [B, feature_dim]`."""
        import torchvision
        from torch import nn

        options: dict[str, Any] = {"weights": None}
        if self.name.startswith("vit_"):
            options["image_size"] = image_size
        network = torchvision.models.get_model(self.name, **options)
        parent, _, leaf = self.classifier.rpartition(".")
        owner = network.get_submodule(parent)
        assert owner.get_submodule(leaf).in_features == self.feature_dim, self.name
        setattr(owner, leaf, nn.Identity())
        return network


BACKBONES: dict[str, BackboneSpec] = {
    spec.name: spec
    for spec in (
        BackboneSpec("resnet50", "IMAGENET1K_V2", 224, 2048, "fc", 25_100_000, 4.09, True, True, True),
        BackboneSpec("convnext_tiny", "IMAGENET1K_V1", 224, 768, "classifier.2", 28_400_000, 4.46, False, True, False),
        BackboneSpec(
            "efficientnet_v2_s", "IMAGENET1K_V1", 384, 1280, "classifier.1", 21_200_000, 8.37, True, True, True
        ),
        BackboneSpec("vit_b_16", "IMAGENET1K_V1", 224, 768, "heads.head", 86_400_000, 17.56, False, True, False),
        BackboneSpec("resnet18", "IMAGENET1K_V1", 224, 512, "fc", 11_600_000, 1.81, True, True, True),
        BackboneSpec(
            "mobilenet_v3_small", "IMAGENET1K_V1", 224, 1024, "classifier.3", 2_300_000, 0.06, True, False, True
        ),
    )
}


def input_size(backbone: str, image_size: int | None) -> int:
    """Return the square input in pixels: the one asked for, or the backbone's own."""
    return image_size or BACKBONES[backbone].image_size


def relative_cost(config: Mapping[str, Any]) -> float:
    """Return about how many forward multiply-adds, 1e9, a run's training images take.

    It orders trials (longest first), scales the time left, and says what a CPU would take.

    Args:
        config: TrainConfig fields; `backbone`, and `image_size`, `epochs`, `limit_train` where present.
    """
    spec = BACKBONES[config["backbone"]]
    size = input_size(spec.name, config.get("image_size"))
    return (
        (config.get("epochs") or 1) * (config.get("limit_train") or 86_744) * spec.gmac * (size / spec.image_size) ** 2
    )


def check_image_size(backbone: str, image_size: int | None) -> str | None:
    """Return what is wrong with an input size for this backbone, or None."""
    size = input_size(backbone, image_size)
    if backbone.startswith("vit_") and size % 16:
        return f"image_size = {size}: {backbone} cuts the image into patches of 16 px; use a multiple of 16"
    return None


def check_micro_batch(backbone: str, micro_batch_size: int | None) -> str | None:
    """Return what is wrong with a micro-batch for this backbone, or None."""
    if micro_batch_size == 1 and BACKBONES[backbone].batch_norm:
        return f"micro_batch_size = 1: {backbone} normalizes by the variance of a batch; accepted: 2 or more"
    return None
