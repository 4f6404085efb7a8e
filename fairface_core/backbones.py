"""Name -> BackboneSpec; `python -m fairface_core.backbones [PATTERN]` lists them.

Adding one of torchvision's is one entry in `BACKBONES`, and nothing else lists them; timm's, `timm/NAME`, need none. For
the former torch is imported inside `build` alone, so the command lines can list names at once.
"""

from __future__ import annotations

import argparse
import csv
import fnmatch
import functools
import itertools
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fairface_core import timm_models
from fairface_core.console import Parser, run_door
from fairface_core.errors import ConfigError, shown

if TYPE_CHECKING:
    from torch import nn

TIMM, TIMM_PATTERN = timm_models.PREFIX, timm_models.NAME_PATTERN
# Of more names than this a person chooses by another pattern; each takes half a second to count.
MAX_MATCHES = 64
# Up to 2.4 % of the multiply-adds in depthwise convolutions bfloat16 was measured faster, but not at 64 px and below, where
# their many small steps are the most of it; at 13 % it was slower at every size (BackboneSpec.cpu_bf16_px).
_FEW_DEPTHWISE, _FEW_DEPTHWISE_PX = 0.03, 128
_MOSTLY = 0.5
_MEASURED = Path(__file__).with_name("backbones_measured.csv")


class Normalization(NamedTuple):
    """Mean and deviation of red, green and blue in 0..1 that a network's images are normalized by."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class BackboneSpec:
    """What the project knows of one classifier.

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
        cpu_bf16_px: The least input, pixels, at which bfloat16 is faster than float32 on CPUs that multiply in it; None for
            no size. Measured with AMX tiles and with AVX-512 alone: 1.1 to 3.2 times with no depthwise convolutions or few,
            half as fast with many (docs/architecture.md, Facts about speed).
        batch_norm: Whether it takes the variance of a batch, which one image has not.
        stochastic_depth: Whether it has blocks that can be dropped at random.
        normalization: What its pretrained weights were trained with.
        interpolation: How their authors resized images; here it is bilinear for all.
    """

    name: str
    weights_name: str
    image_size: int
    feature_dim: int
    classifier: str
    num_params: int
    gmac: float
    channels_last: bool
    cpu_bf16_px: int | None
    batch_norm: bool
    stochastic_depth: bool = False
    normalization: Normalization = IMAGENET
    interpolation: str = "bilinear"

    def size_problem(self, image_size: int) -> str | None:
        """Return what is wrong with an input size, or None."""
        if self.name.startswith("vit_") and image_size % 16:
            return f"image_size = {image_size}: {self.name} cuts the image into patches of 16 px; use a multiple of 16"
        return None

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


class TimmSpec(BackboneSpec):
    """One of timm's classifiers, told by its own registry and counted; see timm_models.py."""

    def size_problem(self, image_size: int) -> str | None:
        """Return what is wrong with an input size, or None."""
        try:
            timm_models.counted(self.name.removeprefix(TIMM), image_size)
        except ConfigError as error:
            return error.problems[0]
        return None

    def build(self, image_size: int) -> nn.Module:
        """Return the feature extractor with fresh weights, `float [B, 3, S, S] -> float [B, feature_dim]`."""
        return timm_models.build(self.name.removeprefix(TIMM), image_size)


BACKBONES: dict[str, BackboneSpec] = {
    spec.name: spec
    for spec in (
        BackboneSpec("resnet50", "IMAGENET1K_V2", 224, 2048, "fc", 25_100_000, 4.09, True, 0, True),
        BackboneSpec(
            "convnext_tiny", "IMAGENET1K_V1", 224, 768, "classifier.2", 28_400_000, 4.46, False, 128, False, True
        ),
        BackboneSpec(
            "efficientnet_v2_s", "IMAGENET1K_V1", 384, 1280, "classifier.1", 21_200_000, 8.37, True, 128, True, True
        ),
        BackboneSpec("vit_b_16", "IMAGENET1K_V1", 224, 768, "heads.head", 86_400_000, 17.56, False, 0, False),
        BackboneSpec("resnet18", "IMAGENET1K_V1", 224, 512, "fc", 11_600_000, 1.81, True, 0, True),
        BackboneSpec(
            "mobilenet_v3_small", "IMAGENET1K_V1", 224, 1024, "classifier.3", 2_300_000, 0.06, True, None, True
        ),
    )
}


def spec_of(backbone: str) -> BackboneSpec:
    """Return what is known of a backbone: an entry of `BACKBONES`, or one of timm's by its name `timm/NAME`.

    Raises:
        ConfigError: If there is none of that name, or it cannot be used at its own input size.
    """
    if backbone in BACKBONES:
        return BACKBONES[backbone]
    if backbone.startswith(TIMM):
        return _timm_spec(backbone)
    from difflib import get_close_matches

    close = get_close_matches(backbone, BACKBONES, n=1)
    hint = f' (did you mean "{close[0]}"?)' if close else ""
    raise ConfigError(
        f"backbone = {shown(backbone, 200)} is not known{hint}; accepted: {', '.join(BACKBONES)}, {TIMM}NAME"
    )


@functools.cache
def _timm_spec(backbone: str) -> BackboneSpec:
    name = backbone.removeprefix(TIMM)
    entry = timm_models.entry(name)
    found = timm_models.counted(name, entry.image_size)
    return TimmSpec(
        backbone, name.partition(".")[2], entry.image_size, found.feature_dim, "",
        found.num_params + _heads_params(found.feature_dim), found.gmac,
        # convnext_tiny, whose 1 x 1 convolutions are linear layers, gains nothing; networks of convolutions do.
        channels_last=found.conv_share >= _MOSTLY,
        cpu_bf16_px=_cpu_bf16_px(found.depthwise_share),
        batch_norm=found.batch_norm,
        stochastic_depth=found.stochastic_depth,
        normalization=Normalization(entry.mean, entry.std),
        interpolation=entry.interpolation,
    )  # fmt: skip


def _cpu_bf16_px(depthwise_share: float) -> int | None:
    if depthwise_share > _FEW_DEPTHWISE:
        return None
    return _FEW_DEPTHWISE_PX if depthwise_share else 0


def _heads_params(feature_dim: int) -> int:
    return (feature_dim + 1) * (512 + 256) + 513 * 9 + 257 * 2


def matching(pattern: str, *, most: int = MAX_MATCHES) -> tuple[str, ...]:
    """Return the backbones whose names a pattern of `*`, `?`, `[...]` and `{this,that}` matches, in order.

    A pattern that begins with `timm/` asks timm; one with a dot there asks for names with those of their weights.

    Raises:
        ConfigError: If none does, or more than `most`, or timm is not installed.
    """
    found: dict[str, None] = {}
    for one in _alternatives(pattern):
        if one.startswith(TIMM):
            found.update(dict.fromkeys(TIMM + name for name in timm_models.names(one.removeprefix(TIMM))))
        else:
            found.update(dict.fromkeys(name for name in BACKBONES if fnmatch.fnmatchcase(name, one)))
    if not found:
        words = re.sub(r"[^A-Za-z0-9_]+", " ", pattern.removeprefix(TIMM)).split()
        near = timm_models.near(max(words, key=len)) if pattern.startswith(TIMM) and words else list(BACKBONES)
        like = f"; there are {', '.join(TIMM * pattern.startswith(TIMM) + name for name in near)}" if near else ""
        raise ConfigError(f"{shown(pattern, 200)} matches no backbone{like}")
    if len(found) > most:
        raise ConfigError(
            f"{shown(pattern, 200)} matches {len(found):,} backbones; accepted: up to {most}; such as "
            f"{', '.join(itertools.islice(found, 3))}"
        )
    return tuple(found)


def _alternatives(pattern: str) -> list[str]:
    """Write out braces: `a{b,c}d` is `abd` and `acd`."""
    inner = re.search(r"\{([^{}]*)\}", pattern)
    if inner is None or pattern.count("{") > 4:
        return [pattern]
    before, after = pattern[: inner.start()], pattern[inner.end() :]
    return [whole for word in inner[1].split(",") for whole in _alternatives(before + word + after)]


def input_size(backbone: str, image_size: int | None) -> int:
    """Return the square input in pixels: the one asked for, or the backbone's own."""
    return image_size or spec_of(backbone).image_size


def relative_cost(config: Mapping[str, Any]) -> float:
    """Return about how many forward multiply-adds, 1e9, a run's training images take.

    It orders trials (longest first), scales the time left, and says what a CPU would take.

    Args:
        config: TrainConfig fields; `backbone`, and `image_size`, `epochs`, `limit_train` where present.
    """
    spec = spec_of(config["backbone"])
    size = input_size(spec.name, config.get("image_size"))
    return (
        (config.get("epochs") or 1) * (config.get("limit_train") or 86_744) * spec.gmac * (size / spec.image_size) ** 2
    )


def state_bytes(config: Mapping[str, Any]) -> int:
    """Return about how many bytes a training state takes: float32 weights, the optimizer's moments and the moving average.

    Args:
        config: TrainConfig fields; `backbone`, and `optimizer` and `ema_decay` where present.
    """
    moments, averages = 1 if config.get("optimizer") == "sgd" else 2, bool(config.get("ema_decay"))
    return (1 + moments + averages) * weights_bytes(config["backbone"])


def weights_bytes(backbone: str) -> int:
    """Return about how many bytes the float32 weights of backbone and heads take."""
    return spec_of(backbone).num_params * 4


def check_image_size(backbone: str, image_size: int | None) -> str | None:
    """Return what is wrong with an input size for this backbone, or None."""
    return spec_of(backbone).size_problem(input_size(backbone, image_size))


def check_micro_batch(backbone: str, micro_batch_size: int | None) -> str | None:
    """Return what is wrong with a micro-batch for this backbone, or None."""
    if micro_batch_size == 1 and spec_of(backbone).batch_norm:
        return f"micro_batch_size = 1: {backbone} normalizes by the variance of a batch; accepted: 2 or more"
    return None


@functools.cache
def measured() -> dict[str, tuple[str, ...]]:
    """Return by backbone the training speeds that were measured for this project: `810 images/s at 64 px, 2 cores`."""
    rows: dict[str, tuple[str, ...]] = {}
    with _MEASURED.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            told = f"{float(row['images_per_s']):,.4g} at {row['image_size']} px, {row['machine']}"
            rows[row["backbone"]] = (*rows.get(row["backbone"], ()), told)
    return rows


def make_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = Parser(
        prog="python -m fairface_core.backbones",
        description="List backbones with their size, cost and, where it was measured here, speed in training.",
    )
    parser.add_argument(
        "pattern", nargs="?", default="*", metavar="PATTERN",
        help="such as 'timm/convnextv2_{atto,femto}*'; quote it; without one, torchvision's that are built in",
    )  # fmt: skip
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """List backbones; return the exit code."""
    return run_door(make_parser(), _list, argv)


def _list(arguments: argparse.Namespace) -> int:
    names, refused = matching(arguments.pattern, most=sys.maxsize), 0
    width = max(map(len, names))
    if len(names) > MAX_MATCHES:
        print("\n".join(names))
        print(f"{len(names):,} backbones; a pattern of up to {MAX_MATCHES} tells their sizes too", file=sys.stderr)
        return 0
    print(f"{'backbone':{width}}  params M   GMAC  input px  interpolation  images/s in training")
    for name in names:
        try:
            spec = spec_of(name)
        except ConfigError as error:
            refused += 1
            print(f"{name:{width}}  cannot be used: {error.problems[0]}")
            continue
        speed = "; ".join(measured().get(name, ()))
        print(
            f"{name:{width}}  {spec.num_params / 1e6:8.1f} {spec.gmac:6.2f}  {spec.image_size:8}  "
            f"{spec.interpolation:13}  {speed}".rstrip()
        )
    return int(refused == len(names))


if __name__ == "__main__":
    sys.exit(main())
