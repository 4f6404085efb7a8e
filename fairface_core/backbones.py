"""Name -> BackboneSpec. Adding a backbone is one entry in `BACKBONES`; nothing else lists them.

This module imports torch only inside `build` and `ensure_weights`, so the command lines can list names at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairface_core.errors import WeightsError

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
        channels_last: Whether channels_last was measured not slower on the CPU (DESIGN 6), or is the known gain of
            convnets on CUDA.
    """

    name: str
    weights_name: str
    image_size: int
    feature_dim: int
    classifier: str
    num_params: int
    gmac: float
    channels_last: bool

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
        BackboneSpec("resnet50", "IMAGENET1K_V2", 224, 2048, "fc", 25_100_000, 4.09, True),
        BackboneSpec("convnext_tiny", "IMAGENET1K_V1", 224, 768, "classifier.2", 28_400_000, 4.46, False),
        BackboneSpec("efficientnet_v2_s", "IMAGENET1K_V1", 384, 1280, "classifier.1", 21_200_000, 8.37, True),
        BackboneSpec("vit_b_16", "IMAGENET1K_V1", 224, 768, "heads.head", 86_400_000, 17.56, False),
        BackboneSpec("resnet18", "IMAGENET1K_V1", 224, 512, "fc", 11_600_000, 1.81, True),
        BackboneSpec("mobilenet_v3_small", "IMAGENET1K_V1", 224, 1024, "classifier.3", 2_300_000, 0.06, True),
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


def weights_file(backbone: str) -> tuple[Path, str]:
    """Return where torch keeps this backbone's ImageNet weights, and their address."""
    import torch
    import torchvision

    enum = torchvision.models.get_model_weights(backbone)
    url = enum[BACKBONES[backbone].weights_name].url
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2], url


def ensure_weights(backbone: str, weights: str) -> Path | None:
    """Make sure that a run can load its weights: fetch ImageNet's once, under a lock, and check their hash.

    Args:
        backbone: A key of `BACKBONES`.
        weights: `imagenet`, `none`, or the path of a `.pth` file.

    Returns:
        The file to load, or None for random weights.

    Raises:
        WeightsError: Naming the file, where to put it, and `--weights none`.
    """
    if weights == "none":
        return None
    if weights != "imagenet":
        path = Path(weights).expanduser()
        if not path.is_file():
            raise WeightsError(
                f"weights {weights!r}: no such file; accepted: imagenet, none, or the path of a .pth file"
            )
        return path
    path, url = weights_file(backbone)
    digest_prefix = path.stem.rpartition("-")[2]
    if not path.is_file():
        _download(backbone, path, url, digest_prefix)
    return path


def _download(backbone: str, path: Path, url: str, digest_prefix: str) -> None:
    from urllib.error import URLError

    import torch
    from filelock import FileLock

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if not path.is_file():
                torch.hub.download_url_to_file(url, str(path), hash_prefix=digest_prefix, progress=False)
    except (URLError, OSError, RuntimeError) as error:
        # RuntimeError: torch.hub's word for a hash that does not match.
        raise WeightsError(
            f"weights of {backbone}: {path.name} is not here and cannot be downloaded ({error}); put the file at "
            f"{path}, or give --weights PATH.pth, or train from random weights with --weights none"
        ) from error


def file_digest(path: Path) -> str:
    """Return the sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)


def _digest(file: Any) -> str:
    # Python 3.10 has no hashlib.file_digest.
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
