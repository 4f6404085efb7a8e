"""TrainConfig: one field = one flag = one YAML key = one CSV column.

The flags of `python -m fairface_core.train` and the keys that a search space may hold are generated from
this class, so they cannot drift apart. Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from fairface_core.config.wording import unknown_key, validation_problem
from fairface_core.errors import ConfigError, is_text, not_utf8, shown

# Fields that came after the first release: they enter digests only where they are set.
_ADDED = frozenset({"margin", "cache_px", "weights_map"})
# What begins so names a file inside an installed Python package: `package:NAME/inner/file.pth`.
PACKAGE = "package:"
# YAML reads 0.25 as a number.
Margin = Annotated[
    Literal["0.25", "1.25"],
    BeforeValidator(
        lambda value: str(value) if isinstance(value, float) else value,
        json_schema_input_type=Literal["0.25", "1.25"] | float,
    ),
]


def _field(
    default: Any,
    text: str,
    *,
    tunable: bool = False,
    identity: bool = True,
    data: Literal["where", "which"] | None = None,
    **limits: Any,
) -> Any:
    """Declare a config field.

    Args:
        default: The default value.
        text: Help text, with the unit.
        tunable: Whether a search space may vary it.
        identity: Whether it can change the trained weights. Only such fields enter `digest()`.
        data: Whether it says `where` the data lie, or `which` of the rows are used; None for all other fields. The
            commands that read data take these flags, a space's `data:` these keys; `which` enters the digest of the data.
        **limits: pydantic bounds (gt, ge, le, ...).
    """
    extra: dict[str, Any] = {"tunable": tunable, "identity": identity, "data": data}
    return Field(default, description=text, json_schema_extra=extra, **limits)


class TrainConfig(BaseModel):
    """Everything that decides one training run. Immutable; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, protected_namespaces=())

    # Data.
    root: str = _field("", "data folder: label CSVs and images", identity=False, data="where")
    train_csv: str = _field("fairface_label_train.csv", "training labels, relative to root or absolute", data="where")
    val_csv: str = _field("fairface_label_val.csv", "validation labels, relative to root or absolute", data="where")
    img_col: str = _field(
        "file", "image column of the CSVs; its usual other names are found by themselves", data="where"
    )
    margin: Margin | None = _field(None, "margin around the face, where root holds both: 0.25 or 1.25", data="which")
    image_root: tuple[str, ...] = _field((), "further folders that images may lie in", identity=False, data="where")
    protocol: Literal["seed", "official"] = _field(
        "seed",
        "seed: the val CSV gives 80 %% validation, 20 %% test; official: the whole val CSV is the test set "
        "and validation is carved from train",
        data="which",
    )
    split_seed: int = _field(
        42, "seed of the validation/test split; apart from --seed", data="which", ge=0, le=2**32 - 1
    )
    on_bad_image: Literal["error", "skip"] = _field(
        "error", "what to do with unreadable or missing images", data="which"
    )
    drop_duplicates: Literal["none", "cross_split", "all"] = _field(
        "none",
        "byte-identical images: keep, drop those shared by train and val, or drop all but one; protocol official drops "
        "the shared ones unless told otherwise",
        data="which",
    )
    limit_train: int | None = _field(None, "use this many training rows, stratified", tunable=True, data="which", ge=18)
    limit_val: int | None = _field(None, "use this many rows of the val CSV, stratified", data="which", ge=18)
    cache_px: int | None = _field(
        None, "side of the images in the cache, pixels; default: image_size, at most 224", data="where", ge=32, le=1024
    )
    cache_dir: str | None = _field(
        None, "decoded-image cache; default $FAIRFACE_CACHE_DIR or ~/.cache/fairface", identity=False, data="where"
    )

    # Model.
    backbone: str = _field("resnet50", "torchvision backbone, or timm/NAME", tunable=True)
    weights: str = _field(
        "imagenet", "imagenet, none, the path of a .pth or .safetensors file, or package:NAME/FILE", tunable=True
    )
    weights_map: str | None = _field(
        None, "YAML file of PATTERN: REPLACEMENT for a weights file whose names are another program's", tunable=True
    )
    image_size: int | None = _field(
        None, "square input in pixels; default: the backbone's own", tunable=True, ge=32, le=1024
    )
    dropout: float = _field(0.2, "dropout of both heads, a share", tunable=True, ge=0, lt=1)

    # Optimisation.
    epochs: int = _field(20, "full budget in epochs; also the length of the cosine", ge=1, le=10_000)
    batch_size: int = _field(128, "images per optimizer step", tunable=True, ge=2, le=65_536)
    micro_batch_size: int | None = _field(
        None, "images per forward pass; gradients are accumulated to batch_size", identity=False, ge=1
    )
    eval_batch_size: int | None = _field(None, "images per evaluation pass", identity=False, ge=1)
    lr: float = _field(3e-4, "peak learning rate of AdamW", tunable=True, gt=0, allow_inf_nan=False)
    weight_decay: float = _field(1e-4, "weight decay of AdamW", tunable=True, ge=0, allow_inf_nan=False)
    age_loss_weight: float = _field(0.5, "weight of the age loss; gender gets the rest", tunable=True, ge=0, le=1)
    seed: int = _field(42, "seed of initialisation, epoch order and augmentation", tunable=True, ge=0, le=2**32 - 1)

    # Machine.
    device: Literal["auto", "cuda", "mps", "cpu"] = _field(
        "auto", "auto takes cuda, then mps, then cpu", identity=False
    )
    num_workers: int = _field(8, "processes that decode images while the cache is built", identity=False, ge=0)
    no_amp: bool = _field(False, "compute in float32 on every device", tunable=True)
    amp_dtype: Literal["auto", "bf16", "fp16"] = _field("auto", "bf16 on processors made for it, else fp16 on CUDA")
    channels_last: Literal["auto", "on", "off"] = _field("auto", "memory format; auto asks the backbone")
    compile: bool = _field(
        False, "torch.compile the model: 0.98 to 1.07x on a CPU after a minute of compiling; not measured on CUDA"
    )
    determinism: Literal["seeded", "strict", "off"] = _field(
        "seeded", "seeded: fixed seeds; strict: deterministic kernels too; off: fastest kernels"
    )

    # Outputs.
    out_dir: str = _field("runs/fairface_mt", "folder or object-store URI of this run's outputs", identity=False)
    results_csv: str | None = _field(
        "runs/benchmark_results.csv", "benchmark CSV that gets this run's row", identity=False
    )
    resume: bool = _field(False, "go on from the state in out_dir", identity=False)

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
        return name in _ADDED and getattr(self, name) == TrainConfig.model_fields[name].default

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
