"""The one model of a search space: what its keys may hold, as pydantic reads it and as JSON Schema tells editors.

Nothing here knows a hyperparameter by name but the seed, over which a sweep averages, and the backbone, which has
overrides of its own. What may be swept is what TrainConfig declares tunable.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.json_schema import GenerateJsonSchema

from fairface_core.backbones import BACKBONES, TIMM_PATTERN
from fairface_core.config.train_config import TrainConfig, data_fields, identity_fields, tunable_fields
from fairface_core.errors import shown
from sweep.space.distributions import (
    BACKBONE,
    BUDGET,
    SEED,
    Distribution,
    distribution_type,
    mapping_of,
    value_type,
)
from sweep.space.scheduler import SchedulerSpec, SearchSpec, Section

# Fields that the sweep itself sets, and what to use instead.
RESERVED = {
    "root": "give data: {root: DIR} or --root DIR",
    "out_dir": "each trial has its own folder; give --storage and --name",
    "results_csv": "the sweep writes benchmark_results.csv into its run folder",
    "resume": "give --resume on the command line",
    "cache_dir": "set the environment variable FAIRFACE_CACHE_DIR",
}
DATA_FIELDS = tuple(key for key in data_fields() if key not in RESERVED)
# Two backbones whose mean_f1 differs by less are the same for practical purposes: half a standard error of the accuracy of
# age on FairFace's usual 2,191 test images.
EQUAL_WITHIN = 0.01
_NAME = re.compile(r"(?!.*\.\.)[^\W_](?:[\w .+-]{0,98}[\w+-])?")
_DURATION = r"^([0-9]+(?:\.[0-9]+)?) ?(s|m|h|d)$"
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_YEAR = 365 * _SECONDS["d"]


def _that(holds: Callable[[Any], object], accepted: str) -> AfterValidator:
    def check(value: Any) -> Any:
        if not holds(value):
            raise ValueError(accepted)
        return value

    return AfterValidator(check)


def _seconds(value: Any) -> Any:
    found = re.match(_DURATION, value) if isinstance(value, str) else None
    value = float(found[1]) * _SECONDS[found[2]] if found else value
    if value is None or value == "off":
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _YEAR:
        raise ValueError("accepted: a time such as 90s, 15m or 2h, or off")
    return float(value)


def _keys(names: Iterable[str], kind: Callable[[str], Any]) -> dict[str, Any]:
    told = {name: (TrainConfig.model_fields[name].description or "").replace("%%", "%") for name in names}
    return {name: Annotated[kind(name), Field(description=text)] for name, text in told.items()}


def _own(key: str) -> Any:
    """Return the type of what one backbone has of its own: a plain value is a grid of one."""
    single: Any = Annotated[value_type(key), AfterValidator(lambda value: Distribution("grid", (value,)))]
    return single | distribution_type(key) if key in tunable_fields() else single


# Of space.yaml: what follows is no key of it.
TYPED_TITLE = "# Changed on the command line:"
# Arguments of fairface_core.demo.folder.demo_root.
_LIMITS = {"num_train": (18, 10**6), "num_val": (18, 10**6), "image_px": (16, 1024), "seed": (0, 2**32 - 1)}
DEMO_SIZES: dict[str, Any] = {
    k: Annotated[int, Field(ge=low, le=most, strict=True)] for k, (low, most) in _LIMITS.items()
}
_FIXED = [key for key in TrainConfig.model_fields if key not in RESERVED]
SHARED = (SEED, BACKBONE, BUDGET, *DATA_FIELDS)  # alike for all backbones
_Name = Annotated[
    str,
    _that(_NAME.fullmatch, "accepted: up to 100 letters, digits, spaces and ._+- that begin with a letter or digit"),
    Field(json_schema_extra={"pattern": r"^(?![\s._+-])(?!.*\.\.)[^/\\]{1,100}$"}),
]
_Folder = Annotated[
    str,
    _that(str.strip, "accepted: a folder, or null to give --root DIR later"),
    AfterValidator(lambda value: str(Path(value).expanduser().absolute())),  # trials run in a folder of their own
]
_Demo = Annotated[
    Annotated[dict[str, int], mapping_of("Demo", DEMO_SIZES)] | bool | None,
    AfterValidator(lambda value: {} if value is True or value is None else None if value is False else value),
]
_Data = mapping_of(
    "Data",
    {
        "root": Annotated[_Folder | None, Field(description="data folder; --root fills it")],
        "demo": Annotated[_Demo, Field(description="draws faces instead")],
        **_keys(DATA_FIELDS, value_type),
    },
)
_Space = mapping_of("Space", _keys(sorted(tunable_fields()), distribution_type))
_Own = mapping_of("Own", _keys([key for key in _FIXED if key not in SHARED], _own))
_OwnOrNull = Annotated[dict[str, Distribution], _Own, BeforeValidator(lambda own: {} if own is None else own)]
_Backbone = Annotated[
    str, _that(lambda name: name in BACKBONES or re.match(TIMM_PATTERN, name), "accepted: a backbone")
]
_Fixed = mapping_of("Fixed", _keys(_FIXED, value_type))
_Seconds = Annotated[str, Field(pattern=_DURATION)] | Annotated[float, Field(gt=0, le=_YEAR)] | Literal["off"] | None
_Cpus = Annotated[float, Field(ge=0.01, le=4096)]
_Gpus = Annotated[
    Annotated[float, Field(ge=0, le=1)] | Literal["auto"],
    # Ray counts resources in 1/10,000.
    AfterValidator(lambda value: value if value == "auto" else round(float(value), 4)),
]


def _by_backbone(schema: dict[str, Any]) -> None:
    """Name the backbones in the JSON Schema, for editors."""
    own = schema.pop("additionalProperties")
    schema.update(
        properties=dict.fromkeys(BACKBONES, own), patternProperties={TIMM_PATTERN: own}, additionalProperties=False
    )


class BackboneResources(Section):
    """What a trial of one backbone needs; None takes the value of all trials."""

    cpu: _Cpus | None = None
    gpu: _Gpus | None = None


class ResourceSpec(Section):
    """What a trial needs."""

    cpu: _Cpus = Field(default=1.0, description="CPUs per trial; Ray's logical ones, so fractions are fine")
    gpu: _Gpus = Field(default="auto", description="GPUs per trial, 0 to 1; auto is 1 where there is a GPU, else 0")
    per_backbone: dict[_Backbone, BackboneResources] = Field(
        default={}, description="other needs of single backbones", json_schema_extra=_by_backbone
    )
    max_concurrent: Annotated[int, Field(ge=1)] | None = Field(default=None, description="most trials at a time")


class FailureSpec(Section):
    """What happens to a trial that crashes or hangs."""

    max_retries: int = Field(default=2, ge=0, le=100, description="further tries, each from the trial's last state")
    stall_timeout_s: Annotated[float | None, BeforeValidator(_seconds, _Seconds)] = Field(
        default=900.0, alias="stall_timeout", description="silence that ends a try: 90s, 15m, 2h, seconds or off"
    )


def _with_null(schema: dict[str, Any]) -> None:
    """Say in the JSON Schema what `SpaceFile` does: a key without a value is absent, and `space` must not be."""
    properties = schema["properties"]
    properties |= {key: {"anyOf": [told, {"type": "null"}]} for key, told in properties.items() if key != "space"}
    schema["required"] = ["space"]


class SpaceFile(Section):
    """The keys of a search space."""

    model_config = ConfigDict(json_schema_extra=_with_null)

    name: _Name | None = Field(default=None, description="of the run folder; without one <file stem>-<date>-<time>")
    data: Annotated[
        dict[str, Any],
        _Data,
        _that(lambda data: None in (data.get("root"), data.get("demo")), "accepted: root or demo, not both"),
        BeforeValidator(
            lambda v: {"demo": {}} if v == "demo" else v, Annotated[dict[str, Any], _Data] | Literal["demo"]
        ),
    ] = Field(default={}, description="the images: a folder or drawn faces, and policies")
    space: Annotated[
        dict[str, Distribution],
        _Space,
        _that(len, "names no key, so there is nothing to sweep; write space: {lr: {grid: [1e-4, 3e-4]}}"),
    ] = Field(default={}, validate_default=True, description="what is varied", json_schema_extra={"minProperties": 1})
    per_backbone: dict[_Backbone, _OwnOrNull] = Field(
        default={}, description="values that one backbone has of its own", json_schema_extra=_by_backbone
    )
    fixed: Annotated[dict[str, Any], _Fixed] = Field(default={}, description="one value for every trial")
    num_samples: int = Field(default=1, ge=1, description="draws for each combination of the grids")
    sample_seed: int = Field(default=0, ge=0, description="seed of the draws")
    search: SearchSpec = SearchSpec()
    equal_within: float = Field(
        default=EQUAL_WITHIN, gt=0, lt=1, description="differences in mean_f1 below it are none for practical purposes"
    )
    scheduler: SchedulerSpec = SchedulerSpec()
    resources: ResourceSpec = ResourceSpec()
    failures: FailureSpec = FailureSpec()

    @model_validator(mode="before")
    @classmethod
    def _without_null(cls, given: Any) -> Any:
        return {key: value for key, value in given.items() if value is not None} if isinstance(given, dict) else given


@cache
def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a search space, which is not to be changed."""
    return {"$schema": GenerateJsonSchema.schema_dialect, **SpaceFile.model_json_schema()}


class SweepSpec(SpaceFile):
    """What a search space asks for, checked (sweep/space/load.py does that).

    Attributes:
        path: The YAML file.
        text: Its text, as it stands in the file.
        overrides: What the command line changed, as typed: `--set fixed.epochs=3`.
        notes: What a reader should know before the sweep starts, one line each.
    """

    path: Path
    text: str
    overrides: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def root(self) -> str | None:
        """The data folder, absolute, or None where none was named."""
        return self.data.get("root")

    @property
    def demo(self) -> dict[str, Any] | None:
        """Sizes of the built-in faces (empty for the defaults), or None for images from `root`."""
        return self.data.get("demo")

    @property
    def policies(self) -> dict[str, Any]:
        """The data policies that were set, by TrainConfig field."""
        return {key: value for key, value in self.data.items() if key not in ("root", "demo")}

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that every configuration is run with, in the order of the space."""
        return self.values(SEED)

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """The seeds of the space, and those after the largest one that settling may add for the best."""
        wanted = self.scheduler.seeds
        further = max(0, wanted.up_to - len(self.seeds)) if wanted and self.scheduler.confirm == "settle" else 0
        return (*self.seeds, *range(max(self.seeds) + 1, max(self.seeds) + 1 + further))

    @property
    def backbones(self) -> tuple[str, ...]:
        """The backbones of the space, in its order."""
        return self.values(BACKBONE)

    @property
    def epochs(self) -> int:
        """The full budget of a trial, epochs."""
        return self.values(BUDGET)[0]

    def values(self, key: str) -> tuple[Any, ...]:
        """Return the values that a key which is not drawn takes: those of its grid, the fixed one or the default."""
        if key in self.space:
            assert self.space[key].kind == "grid", f"{key} is drawn"
            return self.space[key].values
        return (self.fixed.get(key, TrainConfig.model_fields[key].default),)

    def distributions(self, backbone: str) -> dict[str, Distribution]:
        """Return what one backbone's trials are crossed or drawn from, by field, without backbone and seed."""
        shared = {key: value for key, value in self.space.items() if key not in (BACKBONE, SEED)}
        return {**shared, **self.per_backbone.get(backbone, {})}

    def drawn(self) -> tuple[str, ...]:
        """Return the fields that are drawn at random for at least one backbone."""
        given = [item for backbone in self.backbones for item in self.distributions(backbone).items()]
        return tuple(dict.fromkeys(key for key, distribution in given if distribution.kind != "grid"))

    def run_name(self, now: datetime) -> str:
        """Return the name of the run folder."""
        stem = re.sub(r"[^\w.+-]+", "_", self.path.stem).strip("._-") or "sweep"
        return self.name or f"{stem[:60]}-{now:%Y%m%d-%H%M%S}"

    def recorded_text(self) -> str:
        """Return the text for the run folder's space.yaml: the file's, and what the command line changed."""
        if not self.overrides:
            return self.text
        typed = (" ".join(override.split()) for override in self.overrides)
        lines = [f"#   {text if text.isprintable() else shown(text, 500)}" for text in typed]
        return "\n".join([self.text.rstrip("\n"), "", TYPED_TITLE, *lines, ""])

    def canonical(self) -> dict[str, Any]:
        """Return what decides the trials and their scores, in one order and spelling, as JSON values.

        Left out: comments, order of keys, values that equal their default, and what cannot change a result (name, root,
        resources, failures, fields without identity).
        """
        defaults = {name: field.default for name, field in TrainConfig.model_fields.items()}
        identity = identity_fields()
        constant = {**self.fixed, **self.policies}
        scheduler = self.scheduler.model_dump(exclude_none=True)
        if self.scheduler.kind == "fifo":
            scheduler = {key: scheduler[key] for key in ("kind", "group_by")}
        elif self.scheduler.kind == "race":
            del scheduler["explore_seeds"]
        drawn = bool(self.drawn())
        out = {
            "data": None if self.demo is None else {"demo": self.demo},
            "fixed": {k: v for k, v in constant.items() if k in identity and v != defaults[k]},
            "space": {key: _canonical(key, value) for key, value in self.space.items()},
            "per_backbone": {
                name: {key: _canonical(key, value) for key, value in keys.items() if key in identity}
                for name, keys in self.per_backbone.items()
                if name in self.backbones
            },
            "num_samples": self.num_samples if drawn else None,
            "sample_seed": self.sample_seed if drawn else None,
            "search": None if self.search.kind == "random" else self.search.model_dump(),
            # What counts as equal is said before the scores are seen.
            "equal_within": None if self.equal_within == EQUAL_WITHIN else self.equal_within,
            "scheduler": scheduler,
        }
        kept = {key: value for key, value in out.items() if value not in (None, {})}
        return json.loads(json.dumps(kept, sort_keys=True))

    def digest(self) -> str:
        """Return 12 hex digits of `canonical()`: comments, white space and spelling do not change them."""
        return hashlib.sha256(json.dumps(self.canonical(), sort_keys=True).encode()).hexdigest()[:12]


def _canonical(key: str, distribution: Distribution) -> dict[str, Any]:
    """Return a distribution as JSON; the order of a grid matters for seeds only, of which the first ones explore."""
    spelled = distribution.to_json()
    if distribution.kind == "grid" and key != SEED:
        spelled["grid"] = sorted(distribution.values, key=lambda value: (str(type(value)), repr(value)))
    return spelled
