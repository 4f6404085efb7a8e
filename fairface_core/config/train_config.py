"""TrainConfig: one field = one flag = one YAML key = one CSV column.

The flags of `python -m fairface_core.train` and the keys that a search space may hold are generated from
this class, so they cannot drift apart. Nothing here imports torch.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from fairface_core.config.fields import Margin, Optimizer, field
from fairface_core.config.recipe import recipe_problems
from fairface_core.config.wording import unknown_key, validation_problem
from fairface_core.errors import ConfigError, is_text, not_utf8, shown

# What begins so names a file inside an installed Python package: `package:NAME/inner/file.pth`.
PACKAGE = "package:"
_recipe = functools.partial(field, tunable=True, added=True)


class TrainConfig(BaseModel):
    """Everything that decides one training run. Immutable; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, protected_namespaces=())

    # Data.
    root: str = field("", "data folder: label CSVs and images", identity=False, data="where")
    train_csv: str = field("fairface_label_train.csv", "training labels, relative to root or absolute", data="where")
    val_csv: str = field("fairface_label_val.csv", "validation labels, relative to root or absolute", data="where")
    img_col: str = field(
        "file", "image column of the CSVs; its usual other names are found by themselves", data="where"
    )
    margin: Margin | None = field(
        None, "margin around the face, where root holds both: 0.25 or 1.25", data="which", added=True
    )
    image_root: tuple[str, ...] = field((), "further folders that images may lie in", identity=False, data="where")
    protocol: Literal["seed", "official"] = field(
        "seed",
        "seed: the val CSV gives 80 %% validation, 20 %% test; official: the whole val CSV is the test set "
        "and validation is carved from train",
        data="which",
    )
    split_seed: int = field(
        42, "seed of the validation/test split; apart from --seed", data="which", ge=0, le=2**32 - 1
    )
    on_bad_image: Literal["error", "skip"] = field(
        "error", "what to do with unreadable or missing images", data="which"
    )
    drop_duplicates: Literal["none", "cross_split", "all"] = field(
        "none",
        "byte-identical images: keep, drop those shared by train and val, or drop all but one; protocol official drops "
        "the shared ones unless told otherwise",
        data="which",
    )
    limit_train: int | None = field(None, "use this many training rows, stratified", tunable=True, data="which", ge=18)
    limit_val: int | None = field(None, "use this many rows of the val CSV, stratified", data="which", ge=18)
    cache_px: int | None = field(
        None,
        "side of the images in the cache, pixels; default: image_size, at most 224",
        data="where",
        added=True,
        ge=32,
        le=1024,
    )
    cache_dir: str | None = field(
        None, "decoded-image cache; default $FAIRFACE_CACHE_DIR or ~/.cache/fairface", identity=False, data="where"
    )

    # Model.
    backbone: str = field("resnet50", "torchvision backbone, or timm/NAME", tunable=True)
    weights: str = field(
        "imagenet", "imagenet, none, the path of a .pth or .safetensors file, or package:NAME/FILE", tunable=True
    )
    weights_map: str | None = field(
        None, "YAML file of PATTERN: REPLACEMENT for a weights file whose names are another program's", tunable=True,
        added=True,
    )  # fmt: skip
    image_size: int | None = field(
        None, "square input in pixels; default: the backbone's own", tunable=True, ge=32, le=1024
    )
    dropout: float = field(0.2, "dropout of both heads, a share", tunable=True, ge=0, lt=1)

    # Optimisation.
    epochs: int = field(20, "full budget in epochs; also the length of the schedule", ge=1, le=10_000)
    batch_size: int = field(128, "images per optimizer step", tunable=True, ge=2, le=65_536)
    micro_batch_size: int | None = field(
        None, "images per forward pass; gradients are accumulated to batch_size", identity=False, ge=1
    )
    eval_batch_size: int | None = field(None, "images per evaluation pass", identity=False, ge=1)
    lr: float = field(3e-4, "peak learning rate", tunable=True, gt=0, allow_inf_nan=False)
    weight_decay: float = field(1e-4, "weight decay", tunable=True, ge=0, allow_inf_nan=False)
    age_loss_weight: float = field(0.5, "weight of the age loss; gender gets the rest", tunable=True, ge=0, le=1)
    seed: int = field(42, "seed of initialisation, epoch order and augmentation", tunable=True, ge=0, le=2**32 - 1)

    # Recipe. Every field stands at the original script's value; docs/recipe.md tells what each does and who proposed it.
    schedule: Literal["cosine", "linear", "constant"] = _recipe(
        "cosine", "how the learning rate falls from lr to min_lr, epoch by epoch, after the warm-up"
    )
    warmup_epochs: int = _recipe(0, "epochs in which the learning rate rises to lr, step by step", ge=0, le=10_000)
    min_lr: float = _recipe(0.0, "learning rate that the schedule falls to", ge=0, allow_inf_nan=False)
    optimizer: Optimizer = _recipe(
        "adamw", "sgd has Nesterov momentum 0.9, lamb is timm's (extra [timm]); both want a far higher lr"
    )
    head_lr_factor: float = _recipe(1.0, "learning rate of both heads, as a multiple of lr", gt=0, le=1000)
    layer_decay: float = _recipe(
        1.0, "learning rate of each block of the backbone, as a share of the next one's", gt=0, le=1
    )
    freeze_epochs: int = _recipe(0, "first epochs, in which the heads alone are trained", ge=0, le=10_000)
    no_decay_on_norm_and_bias: bool = _recipe(False, "no weight decay on biases, norms, position embeddings and tokens")
    clip_grad_norm: float = _recipe(
        0.0, "longest gradient of a step, all weights together; 0: any", ge=0, allow_inf_nan=False
    )
    label_smoothing: float = _recipe(0.0, "share of each label that is spread over all classes, both heads", ge=0, lt=1)
    mixup: float = _recipe(0.0, "alpha of mixup, which blends two images and their labels; 0: off", ge=0, le=100)
    cutmix: float = _recipe(0.0, "alpha of cutmix, which pastes a part of another image; 0: off", ge=0, le=100)
    random_erasing: float = _recipe(0.0, "share of the training images from which a rectangle is erased", ge=0, le=1)
    crop_scale_min: float = _recipe(0.08, "least share of the image's area that a training crop shows", gt=0, le=1)
    color_jitter_strength: float = _recipe(1.0, "multiple of the color jitter; 0: none", ge=0, le=5)
    drop_path: float | None = _recipe(
        None, "stochastic depth of the last block, the first one's is 0; default: the backbone's own", ge=0, lt=1
    )
    norm_momentum: float | None = _recipe(
        None, "what a batch adds to the statistics of batch norm; default: the backbone's own", gt=0, le=1
    )
    ema_decay: float = _recipe(
        0.0, "decay of a moving average of the weights, which is then what is scored; 0: off", ge=0, lt=1
    )
    age_loss: Literal["cross_entropy", "soft_labels", "coral", "corn", "mean_variance"] = _recipe(
        "cross_entropy", "loss of the age groups; all others know their order"
    )
    weighting: Literal["inverse_frequency", "effective_number", "none"] = _recipe(
        "inverse_frequency", "weights of the classes in both losses"
    )
    sampler: Literal["shuffled", "balanced"] = _recipe(
        "shuffled", "balanced: every pair of age group and gender is drawn alike often"
    )

    # Machine.
    device: Literal["auto", "cuda", "mps", "cpu"] = field("auto", "auto takes cuda, then mps, then cpu", identity=False)
    num_workers: int = field(8, "processes that decode images while the cache is built", identity=False, ge=0)
    no_amp: bool = field(False, "compute in float32 on every device", tunable=True)
    amp_dtype: Literal["auto", "bf16", "fp16"] = field("auto", "bf16 on processors made for it, else fp16 on CUDA")
    channels_last: Literal["auto", "on", "off"] = field("auto", "memory format; auto asks the backbone")
    compile: bool = field(
        False, "torch.compile the model: 0.98 to 1.07x on a CPU after a minute of compiling; not measured on CUDA"
    )
    determinism: Literal["seeded", "strict", "off"] = field(
        "seeded", "seeded: fixed seeds; strict: deterministic kernels too; off: fastest kernels"
    )

    # Outputs.
    out_dir: str = field("runs/fairface_mt", "folder or object-store URI of this run's outputs", identity=False)
    results_csv: str | None = field(
        "runs/benchmark_results.csv", "benchmark CSV that gets this run's row", identity=False
    )
    resume: bool = field(False, "go on from the state in out_dir", identity=False)

    @model_validator(mode="before")
    @classmethod
    def _official_trains_on_no_copy_of_a_test_image(cls, values: Any) -> Any:
        """Let `official` drop shared copies by default: copies in train of val images are that protocol's known leak."""
        if isinstance(values, dict) and values.get("protocol") == "official":
            return {"drop_duplicates": "cross_split", **values}
        return values

    @model_validator(mode="before")
    @classmethod
    def _paths_as_text(cls, values: Any) -> Any:
        """Take a `pathlib.Path` for a path, and one folder for a list of one."""
        if not isinstance(values, Mapping):
            return values
        plain = {key: _plain(value) for key, value in values.items()}
        if isinstance(plain.get("image_root"), str):
            plain["image_root"] = (plain["image_root"],)
        return plain

    @property
    def amp(self) -> bool:
        """Whether automatic mixed precision is asked for; `machine.device.choose_amp_dtype` says where it is used."""
        return not self.no_amp

    def digest(self) -> str:
        """Return 12 hex digits that change when, and only when, a result-changing field does."""
        names = identity_fields()
        values = {k: v for k, v in self.model_dump(mode="json").items() if k in names}
        # Runs that were planned before a field existed keep their names.
        values = {k: v for k, v in values.items() if not self.is_as_before(k)}
        text = json.dumps(values, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def is_as_before(self, name: str) -> bool:
        """Whether a field that came later has its default, so that digests of older runs and data sets stand."""
        return _flag("added")[name] and getattr(self, name) == TrainConfig.model_fields[name].default

    def replace(self, **changes: Any) -> TrainConfig:
        """Return a checked copy with some fields changed."""
        return make_config({**self.model_dump(), **changes})

    @property
    def images_at_once(self) -> int:
        """Images that a training step holds in memory at a time."""
        return min(self.micro_batch_size or self.batch_size, self.batch_size)

    def with_at_most(self, images: int) -> TrainConfig:
        """Return a copy that holds no more images in memory at a time; the step's batch_size stays.

        Gradients are those of the whole batch; only batch norm sees the parts.
        """
        if self.images_at_once <= images:
            return self
        return self.replace(micro_batch_size=images, eval_batch_size=images)


def _plain(value: Any, *, listed: bool = False) -> Any:
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    # One level deep, as deep as any field is: a list from YAML may hold itself.
    if isinstance(value, list | tuple) and not listed:
        return [_plain(item, listed=True) for item in value]
    return value


@functools.cache
def _flag(flag: str) -> dict[str, Any]:
    return {k: typing.cast(dict, f.json_schema_extra)[flag] for k, f in TrainConfig.model_fields.items()}


def tunable_fields() -> frozenset[str]:
    """Names of the fields that a search space may vary."""
    return frozenset(name for name, tunable in _flag("tunable").items() if tunable)


def identity_fields() -> frozenset[str]:
    """Names of the fields that can change the trained weights."""
    return frozenset(name for name, identity in _flag("identity").items() if identity)


def data_fields(*kinds: Literal["where", "which"]) -> tuple[str, ...]:
    """Names of the fields that say where the data lie or which rows are used (both by default), in the order above."""
    return tuple(name for name, kind in _flag("data").items() if kind in (kinds or ("where", "which")))


def absolute_path(key: str, value: Any) -> Any:
    """Return a field's value, with a path made absolute now: a trial of a sweep runs in another working folder."""
    if key in ("weights", "weights_map") and isinstance(value, str) and value not in ("imagenet", "none"):
        return value if value.startswith(PACKAGE) else str(Path(value).expanduser().absolute())
    return value


def make_config(values: Mapping[str, Any], *, where: str = "config") -> TrainConfig:
    """Build a TrainConfig and turn every problem into a line a person can act on.

    Args:
        values: Field name to value; numbers may be text (`"3e-4"`), as PyYAML reads them.
        where: What to blame in messages, such as a file name.

    Raises:
        ConfigError: With one line for each unknown key or value out of range.
    """
    # Imported here: backbones.py needs no torch either, but the config stays at the bottom of the house.
    from fairface_core.backbones import check_image_size, check_micro_batch, spec_of

    problems = [
        unknown_key(where, key, TrainConfig.model_fields) for key in values if key not in TrainConfig.model_fields
    ]
    known = {key: value for key, value in values.items() if key in TrainConfig.model_fields}
    config: TrainConfig | None = None
    try:
        config = TrainConfig.model_validate(known)
    except ValidationError as error:
        problems += [f"{where}: {validation_problem('.'.join(map(str, i['loc'])), i)}" for i in error.errors()]
    texts = {key: os.fspath(value) for key, value in known.items() if isinstance(value, str | os.PathLike)}
    problems += [
        not_utf8(f"{where}: {key} = {shown(text, 200)}") for key, text in texts.items() if not is_text(str(text))
    ]
    try:
        if isinstance(name := known.get("backbone"), str):
            spec_of(name)
    except ConfigError as error:
        problems += [f"{where}: {problem}" for problem in error.problems]
        config = None
    if config is not None:
        checked = (
            check_image_size(config.backbone, config.image_size),
            check_micro_batch(config.backbone, config.micro_batch_size),
            *recipe_problems(config),
        )
        problems += [f"{where}: {problem}" for problem in checked if problem]
    if problems:
        raise ConfigError(problems)
    assert config is not None
    return config


def default_cache_dir() -> Path:
    """Folder of the decoded-image cache when none is named."""
    named = os.environ.get("FAIRFACE_CACHE_DIR")
    if named:
        return Path(named).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().absolute() / "fairface"
