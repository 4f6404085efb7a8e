"""SweepSpec: what a search space asks for, once every key and value of it was checked (sweep/space/load.py does that).

Nothing here knows a hyperparameter by name but the seed, over which a sweep averages, and the backbone, which has
overrides of its own.
"""

from __future__ import annotations

import hashlib
import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from fairface_core.config import TrainConfig, identity_fields
from sweep.space.distributions import Distribution, Grid
from sweep.space.scalars import shown
from sweep.space.sections import FailureSpec, ResourceSpec, SchedulerSpec

SEED, BACKBONE, BUDGET = "seed", "backbone", "epochs"


class SweepSpec(BaseModel):
    """What a search space asks for, checked.

    Attributes:
        path: The YAML file.
        text: Its text, as it stands in the file.
        overrides: What the command line changed, as typed: `--set fixed.epochs=3`.
        name: Name of the run folder; None for `<file stem>-<date>-<time>`.
        data: `root` (absolute path or None), `demo` (None, or a dict of sizes for the built-in faces), and the data
            policies that were set, by TrainConfig field.
        space: TrainConfig field to distribution.
        per_backbone: Backbone to field to distribution; a grid of one value for a plain value.
        fixed: TrainConfig field to value.
        num_samples: Draws for each combination of the grids.
        sample_seed: Seed of the draws.
        scheduler: When trials are stopped.
        resources: What a trial needs.
        failures: What happens to one that crashes or hangs.
        notes: What a reader should know before the sweep starts, one line each.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    path: Path
    text: str
    overrides: tuple[str, ...] = ()
    name: str | None = None
    data: dict[str, Any] = {}
    space: dict[str, Any] = {}
    per_backbone: dict[str, dict[str, Any]] = {}
    fixed: dict[str, Any] = {}
    num_samples: int = 1
    sample_seed: int = 0
    scheduler: SchedulerSpec = SchedulerSpec()
    resources: ResourceSpec = ResourceSpec()
    failures: FailureSpec = FailureSpec()
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
            assert isinstance(self.space[key], Grid), f"{key} is drawn"
            return self.space[key].values
        return (self.fixed.get(key, TrainConfig.model_fields[key].default),)

    def distributions(self, backbone: str) -> dict[str, Distribution]:
        """Return what one backbone's trials are crossed or drawn from, by field, without backbone and seed."""
        shared = {key: value for key, value in self.space.items() if key not in (BACKBONE, SEED)}
        return {**shared, **self.per_backbone.get(backbone, {})}

    def drawn(self) -> tuple[str, ...]:
        """Return the fields that are drawn at random for at least one backbone."""
        keys = [
            key
            for backbone in self.backbones
            for key, distribution in self.distributions(backbone).items()
            if not isinstance(distribution, Grid)
        ]
        return tuple(dict.fromkeys(keys))

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
        return "\n".join([self.text.rstrip("\n"), "", "# Changed on the command line:", *lines, ""])

    def canonical(self) -> dict[str, Any]:
        """Return what decides the trials and their scores, in one order and spelling, as JSON values.

        Left out: comments, order of keys, values that equal their default, and what cannot change a result (name, root,
        resources, failures, fields without identity).
        """
        defaults = {name: field.default for name, field in TrainConfig.model_fields.items()}
        identity = identity_fields()
        constant = {**self.fixed, **self.policies}
        scheduler = self.scheduler.model_dump()
        if self.scheduler.kind == "fifo":
            scheduler = {key: scheduler[key] for key in ("kind", "group_by")}
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
    if isinstance(distribution, Grid) and key != SEED:
        spelled[Grid.kind] = sorted(distribution.values, key=lambda value: (str(type(value)), repr(value)))
    return spelled
