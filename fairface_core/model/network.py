"""The shared backbone with two heads, and what may be loaded into it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fairface_core.backbones import IMAGENET, TIMM, Normalization, input_size, spec_of
from fairface_core.console import tell
from fairface_core.errors import CheckpointError, WeightsError, one_line
from fairface_core.labels import AGE_GROUPS, GENDERS
from fairface_core.model.age_losses import class_layer
from fairface_core.model.foreign import read_weights
from fairface_core.model.weights import ensure_weights, named_file
from fairface_core.timm_models import adapted

_MAX_PATCHES = 64  # along one side of a ViT's input


class AgeGenderModel(nn.Module):
    """A backbone without its last linear layer, and a head for each task.

    State-dict prefixes are `feature_extractor.`, `head_age.` and `head_gender.`: a contract with checkpoints that
    are already in use. Images come normalized by ImageNet's mean and deviation, whatever the backbone: one that was
    trained with others (`spec_of(...).normalization`) gets them converted here, in float32, so that every path that
    prepares images is the same one. The age head gives class logits whatever the loss: what `coral` and `corn` learn its
    last layer turns into log-probabilities (age_losses.py).

    Attributes:
        age_loss: What the age head is made for.
        normalization: What the backbone sees its images normalized by.
    """

    input_scale: Tensor | None
    input_shift: Tensor | None

    def __init__(
        self,
        backbone: str,
        image_size: int,
        dropout: float,
        *,
        age_loss: str = "cross_entropy",
        normalization: Normalization | None = None,
    ) -> None:
        super().__init__()
        spec = spec_of(backbone)
        self.normalization = normalization or spec.normalization
        scale, shift = _conversion(self.normalization)
        self.register_buffer("input_scale", scale, persistent=False)
        self.register_buffer("input_shift", shift, persistent=False)
        self.feature_extractor = spec.build(image_size)
        self.age_loss = age_loss
        to_classes = class_layer(age_loss)
        self.head_age = _head(spec.feature_dim, 512, to_classes.inputs if to_classes else len(AGE_GROUPS), dropout)
        if to_classes:
            self.head_age.append(to_classes)
        self.head_gender = _head(spec.feature_dim, 256, len(GENDERS), dropout)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return age logits `float [B, 9]` and gender logits `float [B, 2]` of images `float [B, 3, S, S]`."""
        if self.input_scale is not None and self.input_shift is not None:
            images = torch.addcmul(self.input_shift, images, self.input_scale)
        features = self.feature_extractor(images)
        if not torch.is_autocast_enabled(features.device.type):
            return self.head_age(features), self.head_gender(features)
        # In bfloat16 one image in 200 ties between two age groups, and a tie goes to the younger one.
        with torch.autocast(features.device.type, enabled=False):
            features = features.float()
            return self.head_age(features), self.head_gender(features)


def _conversion(wanted: Normalization) -> tuple[Tensor | None, Tensor | None]:
    """Return scale and shift, `float [1, 3, 1, 1]`, from ImageNet's normalization to another; None for its own."""
    if wanted == IMAGENET:
        return None, None
    # In float64: mobilevit's mean is 0 and its deviation 1, which leaves plain pixels in 0..1.
    mean, std, new_mean, new_std = torch.tensor([*IMAGENET, *wanted], dtype=torch.float64).view(4, 1, 3, 1, 1)
    return (std / new_std).float(), ((mean - new_mean) / new_std).float()


def _head(features: int, hidden: int, classes: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(features, hidden), nn.ReLU(inplace=True), nn.Dropout(dropout), nn.Linear(hidden, classes)
    )


def build_model(
    backbone: str,
    *,
    image_size: int | None,
    dropout: float,
    weights: str,
    weights_map: str | None = None,
    age_loss: str = "cross_entropy",
) -> AgeGenderModel:
    """Build the model and load the backbone's starting weights.

    Fresh weights are drawn from torch's global generator, which the caller has seeded.

    Raises:
        WeightsError: If the weights are absent, damaged or of another network.
    """
    model = AgeGenderModel(backbone, input_size(backbone, image_size), dropout, age_loss=age_loss)
    path = ensure_weights(backbone, weights)
    if path is not None:
        is_file = weights != "imagenet"
        _load_backbone(
            model, backbone, path, named_file(weights_map, "weights_map") if is_file and weights_map else None
        )
    return model


def _load_backbone(model: AgeGenderModel, backbone: str, path: Path, weights_map: Path | None) -> None:
    state = read_weights(path, weights_map)
    own = model.feature_extractor.state_dict()
    if backbone.startswith(TIMM):
        state = adapted(backbone.removeprefix(TIMM), model.feature_extractor, state)
        beyond = sorted(state.keys() - own.keys())
        if beyond and own.keys() <= state.keys():
            # What levit and repvit have between features and classes, a norm, goes with their classifier.
            tell(f"note: weights {one_line(str(path))}: left out {', '.join(beyond[:3])} ({len(beyond)} in all)")
            state = {key: state[key] for key in own}
    else:
        dropped = f"{spec_of(backbone).classifier}."
        state = {key: value for key, value in state.items() if not key.startswith(dropped)}
        state = fit_position_embeddings(state, own)
    problems = _mismatch(state, own)
    if problems:
        raise WeightsError(f"weights {one_line(str(path))} do not fit {backbone}: {problems}")
    model.feature_extractor.load_state_dict(state)


def fit_position_embeddings(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Interpolate a ViT's position embeddings to another input size (torchvision's own method).

    Args:
        state: Weights to load; `encoder.pos_embedding` is `float [1, 1 + g*g, d]`.
        own: The state dict of the network that will take them.
    """
    key = next((k for k in own if k.endswith("encoder.pos_embedding")), None)
    adapted = dict(state)
    if key is None or key not in state or not _is_other_grid(state[key], own[key]):
        return adapted
    from torchvision.models.vision_transformer import interpolate_embeddings

    patch = 16
    grid = round((own[key].shape[1] - 1) ** 0.5)
    moved = interpolate_embeddings(grid * patch, patch, {"encoder.pos_embedding": state[key]})
    adapted[key] = moved["encoder.pos_embedding"]
    return adapted


def _is_other_grid(given: Tensor, own: Tensor) -> bool:
    """Whether these are the position embeddings of the same network for another input size."""
    if given.ndim != 3 or given.shape == own.shape or (given.shape[0], given.shape[2]) != (1, own.shape[2]):
        return False
    # A view can claim any shape; of 1024 px, the largest input, there are 64 x 64 patches.
    side = math.isqrt(max(given.shape[1] - 1, 0))
    return 0 < side <= _MAX_PATCHES and side * side + 1 == given.shape[1]


def load_weights(model: AgeGenderModel, state: Mapping[str, Any], *, where: str) -> None:
    """Load a whole state dict of this model.

    Raises:
        CheckpointError: Naming the first missing, unknown or wrongly shaped entries.
    """
    own = model.state_dict()
    tensors = {k: v for k, v in state.items() if isinstance(k, str) and isinstance(v, Tensor)}
    problems = _mismatch(tensors, own)
    if problems or len(tensors) != len(state):
        raise CheckpointError(
            f"{where}: the weights do not fit this model: {problems or 'entries that are not tensors'}"
        )
    model.load_state_dict(tensors)


def _mismatch(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    parts = []
    missing = sorted(own.keys() - state.keys())
    unknown = sorted(state.keys() - own.keys())
    shapes = [
        f"{key} is {tuple(state[key].shape)}, needed {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    for title, names in (("missing", missing), ("unknown", unknown), ("wrong shape", shapes)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            parts.append(one_line(f"{title}: {', '.join(name[:120] for name in names[:3])}{more}"))
    return "; ".join(parts)


def num_params(model: nn.Module) -> int:
    """Return the number of parameters, frozen ones included."""
    return sum(p.numel() for p in model.parameters())
