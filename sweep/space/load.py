"""Strict YAML -> SweepSpec. Every key is known, every value is checked, every problem names its line.

Nothing here knows a hyperparameter by name but the seed, over which a sweep averages, and the backbone, which has
overrides of its own. What may be swept is what TrainConfig declares tunable.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fairface_core.backbones import BACKBONES
from fairface_core.config import TrainConfig, tunable_fields, unknown_key
from fairface_core.errors import ConfigError
from sweep.space.cross_checks import cross_check, unknown_backbone
from sweep.space.distributions import Distribution, Grid
from sweep.space.overrides import apply_overrides
from sweep.space.sections import FailureSpec, ResourceSpec, SchedulerSpec, read_section
from sweep.space.spec import BACKBONE, BUDGET, SEED, SweepSpec
from sweep.space.values import BAD, DATA_FIELDS, check_distribution, check_value, read_data
from sweep.space.yaml_nodes import MAX_PROBLEMS, Node, read_yaml, source_of

__all__ = ["FailureSpec", "ResourceSpec", "SchedulerSpec", "SweepSpec", "load_space"]

TOP_KEYS = (
    "name",
    "data",
    "space",
    "per_backbone",
    "fixed",
    "num_samples",
    "sample_seed",
    "scheduler",
    "resources",
    "failures",
)
# Fields that the sweep itself sets, and what to use instead.
RESERVED = {
    "root": "give data: {root: DIR} or --root DIR",
    "out_dir": "each trial has its own folder; give --storage and --name",
    "results_csv": "the sweep writes benchmark_results.csv into its run folder",
    "resume": "give --resume on the command line",
    "cache_dir": "set the environment variable FAIRFACE_CACHE_DIR",
}
_NAME = re.compile(r"[^\W_](?:[\w .+-]{0,98}[\w+-])?")


def load_space(
    path: Path,
    *,
    sets: Sequence[str] = (),
    root: str | None = None,
    protocol: str | None = None,
    on_bad_image: str | None = None,
    drop_duplicates: str | None = None,
    name: str | None = None,
    scheduler: str | None = None,
    gpus_per_trial: float | None = None,
    cpus_per_trial: float | None = None,
    max_concurrent: int | None = None,
) -> SweepSpec:
    """Read and check a search space, with what the command line changes in it.

    Args:
        path: The YAML file.
        sets: `--set` texts, `key=value` with dotted keys and YAML values.
        root: `--root`: the data folder; it takes the place of `data: demo`.
        protocol: `--protocol`: `seed` or `official`.
        on_bad_image: `--on-bad-image`: `error` or `skip`.
        drop_duplicates: `--drop-duplicates`: `none`, `cross_split` or `all`.
        name: `--name`: name of the run folder.
        scheduler: `--scheduler`: `asha` or `fifo`.
        gpus_per_trial: `--gpus-per-trial`, for every backbone.
        cpus_per_trial: `--cpus-per-trial`, for every backbone.
        max_concurrent: `--max-concurrent`.

    Raises:
        ConfigError: One line for each problem, with file and line or the flag.
    """
    document, text = read_yaml(path)
    flags: dict[str, Any] = {
        "root": root,
        "protocol": protocol,
        "on_bad_image": on_bad_image,
        "drop_duplicates": drop_duplicates,
        "name": name,
        "scheduler": scheduler,
        "gpus_per_trial": gpus_per_trial,
        "cpus_per_trial": cpus_per_trial,
        "max_concurrent": max_concurrent,
    }
    problems: list[str] = []
    notes: list[str] = []
    document = apply_overrides(document, sets, flags, problems, notes)
    typed = [f"--set {text}" for text in sets]
    typed += [f"--{flag.replace('_', '-')} {value}" for flag, value in flags.items() if value is not None]
    values = _Checker(path, document, problems, notes).check()
    if problems:
        unique = list(dict.fromkeys(problems))
        rest = len(unique) - MAX_PROBLEMS
        raise ConfigError([*unique[:MAX_PROBLEMS], *([f"and {rest:,} more problems"] if rest > 0 else [])])
    return SweepSpec(path=path, text=text, overrides=tuple(typed), notes=tuple(dict.fromkeys(notes)), **values)


class _Checker:
    """Checks one document from top to bottom; collects problems and goes on as far as it can."""

    def __init__(self, path: Path, document: Node, problems: list[str], notes: list[str]) -> None:
        assert isinstance(document.value, dict), "read_yaml returns a mapping"
        self.path = path
        self.top: dict[str, Node] = document.value
        self.problems = problems
        self.notes = notes
        self.places: dict[str, Node] = {}  # TrainConfig field -> where fixed, data or space decides it

    def check(self) -> dict[str, Any]:
        self.problems += [
            unknown_key(node.where, key, TOP_KEYS) for key, node in self.top.items() if key not in TOP_KEYS
        ]
        get, problems = self.top.get, self.problems
        values: dict[str, Any] = {
            "name": self.name(),
            "data": self.data(),
            "fixed": self.fixed(),
            "space": self.space(),
            "per_backbone": self.per_backbone(),
            "num_samples": self.whole_number("num_samples", 1, least=1),
            "sample_seed": self.whole_number("sample_seed", 0, least=0),
            "scheduler": read_section(SchedulerSpec, get("scheduler"), "scheduler", problems),
            "resources": read_section(ResourceSpec, get("resources"), "resources", problems),
            "failures": read_section(FailureSpec, get("failures"), "failures", problems),
        }
        if not self.problems:
            spec = SweepSpec(path=self.path, text="", **values)
            cross_check(spec, self.top, self.problems, self.notes)
        return values

    def add(self, node: Node | None, text: str) -> None:
        self.problems.append(f"{node.where if node else source_of(self.path)}: {text}")

    def mapping(self, node: Node | None, title: str, example: str) -> dict[str, Node]:
        """Return the entries of a section; an absent or empty section has none."""
        if node is None or node.value is None:
            return {}
        if not isinstance(node.value, dict):
            self.add(node, f"{title} is {node.kind}; accepted: a mapping, such as {example}")
            return {}
        return node.value

    def whole_number(self, key: str, default: int, *, least: int) -> int:
        node = self.top.get(key)
        if node is None or node.value is None:
            return default
        value = node.value
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            self.add(node, f"{key} = {node.kind}; accepted: a whole number from {least}")
            return default
        return value

    def name(self) -> str | None:
        node = self.top.get("name")
        if node is None or node.value is None:
            return None
        name = node.value
        if not isinstance(name, str) or not _NAME.fullmatch(name) or ".." in name:
            self.add(
                node,
                f"name = {node.kind}; accepted: up to 100 letters, digits, spaces and ._+- "
                "that begin with a letter or digit (the run folder is <storage>/<name>)",
            )
            return None
        return name

    def data(self) -> dict[str, Any]:
        node = self.top.get("data")
        values = read_data(node, self.problems)
        if node is not None and isinstance(node.value, dict):
            self.places.update((key, child) for key, child in node.value.items() if key in values)
        return values

    def fixed(self) -> dict[str, Any]:
        out = {}
        for key, node in self.mapping(self.top.get("fixed"), "fixed", "{epochs: 20}").items():
            if self.is_field(key, node, "fixed"):
                self.claim(key, node, "fixed")
                value = check_value(key, node, self.problems)
                if value is not BAD:
                    out[key] = value
        return out

    def claim(self, key: str, node: Node, section: str) -> None:
        """Note that a section decides a field; two that decide the same one are a problem."""
        if key in self.places:
            self.add(
                node,
                f"{section}.{key} is decided a second time (first at {self.places[key].where}); keep one of them",
            )
        self.places[key] = node

    def is_field(self, key: str, node: Node, section: str) -> bool:
        fields = [name for name in TrainConfig.model_fields if name not in RESERVED]
        if key in RESERVED:
            self.add(node, f"{section}.{key} is set by the sweep itself; {RESERVED[key]}")
        elif key not in fields:
            self.problems.append(unknown_key(f"{node.where}: {section}", key, fields))
        else:
            return True
        return False

    def is_tunable(self, key: str, node: Node, section: str) -> bool:
        tunable = sorted(tunable_fields())
        if key in tunable:
            return True
        if key in RESERVED:
            self.add(node, f"{section}.{key} is set by the sweep itself; {RESERVED[key]}")
        elif key == BUDGET:
            self.add(node, f"{section}.{key}: the budget is the same for all trials; write fixed: {{{key}: ...}}")
        elif key not in TrainConfig.model_fields:
            self.problems.append(unknown_key(f"{node.where}: {section}", key, tunable))
        else:
            home = "data" if key in DATA_FIELDS else "fixed"
            self.add(
                node,
                f"{section}.{key} cannot be swept; give it one value under {home}; tunable: {', '.join(tunable)}",
            )
        return False

    def space(self) -> dict[str, Distribution]:
        node = self.top.get("space")
        entries = self.mapping(node, "space", "{lr: {grid: [1e-4, 3e-4]}}")
        if not entries and (node is None or node.value is None or node.value == {}):
            self.add(
                node,
                "space names no key, so there is nothing to sweep; write space: {lr: {grid: [1e-4, 3e-4]}}",
            )
        out = {}
        for key, child in entries.items():
            if not self.is_tunable(key, child, "space"):
                continue
            self.claim(key, child, "space")
            distribution = check_distribution(key, child, self.problems, self.notes)
            if distribution is None:
                continue
            if key in (SEED, BACKBONE) and not isinstance(distribution, Grid):
                self.add(
                    child,
                    f"space.{key} is a {distribution.kind}; accepted: a grid (every {key} meets every configuration)",
                )
                continue
            out[key] = distribution
        return out

    def per_backbone(self) -> dict[str, dict[str, Distribution]]:
        out: dict[str, dict[str, Distribution]] = {}
        example = "{vit_b_16: {lr: {grid: [1e-5]}}}"
        for name, node in self.mapping(self.top.get("per_backbone"), "per_backbone", example).items():
            if name not in BACKBONES:
                self.problems.append(unknown_backbone(node.where, "per_backbone", name))
                continue
            entries = self.mapping(node, f"per_backbone.{name}", "{lr: {grid: [1e-5]}}")
            own = {key: self.override(name, key, child) for key, child in entries.items()}
            out[name] = {key: distribution for key, distribution in own.items() if distribution is not None}
        return out

    def override(self, name: str, key: str, node: Node) -> Distribution | None:
        section = f"per_backbone.{name}"
        if key in (SEED, BACKBONE, BUDGET) or key in DATA_FIELDS:
            self.add(node, f"{section}.{key}: all backbones are compared on the same {key}; set it for all of them")
            return None
        if isinstance(node.value, dict | tuple) or key in RESERVED:
            if self.is_tunable(key, node, section):
                return check_distribution(key, node, self.problems, self.notes)
            return None
        if not self.is_field(key, node, section):
            return None
        value = check_value(key, node, self.problems)
        return None if value is BAD else Grid((value,))
