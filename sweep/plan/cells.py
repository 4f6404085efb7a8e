"""The combinations of a space's grids, and what the random keys are in each: drawn at once, or what is known of a search."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fairface_core.config.train_config import TrainConfig, make_config
from fairface_core.errors import ConfigError
from sweep.plan.plan import Plan, PlannedTrial
from sweep.space.distributions import Distribution
from sweep.space.spec import BACKBONE, BUDGET, SEED, SweepSpec

# Draws that a search tries where a proposal is known already or its values do not go together; numbered beyond all others.
_TRIES, _FURTHER = 100, 1_000_000


@dataclass(frozen=True)
class Cell:
    """One combination of the grids of a backbone: what random keys are drawn for, and what a search has a study for.

    Attributes:
        values: The backbone and the values of the grids.
        drawn: The distributions of the random keys, in order of their names.
        spec: The space.
    """

    values: dict[str, Any]
    drawn: dict[str, Distribution]
    spec: SweepSpec

    @property
    def budget(self) -> int:
        """Configurations that it gets: `num_samples`, if its random keys can give so many."""
        if not self.drawn:
            return 1
        sizes = math.prod(distribution.size for distribution in self.drawn.values())
        return round(min(self.spec.num_samples, sizes)) if self.searched else self.spec.num_samples

    @property
    def searched(self) -> bool:
        """Whether its configurations are proposed one after another."""
        return bool(self.drawn) and self.spec.search.kind != "random"

    def fraction(self, key: str, sample: int) -> float:
        """Return a number in [0, 1) for one draw: 53 bits of a hash, so that more samples leave the first ones alone."""
        text = json.dumps([self.spec.sample_seed, sorted(self.values.items()), key, sample])
        return (int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 11) / 2**53

    def draw(self, sample: int) -> dict[str, Any]:
        """Return the random keys of one draw."""
        return {key: distribution.at(self.fraction(key, sample)) for key, distribution in self.drawn.items()}

    def defaults(self) -> dict[str, Any]:
        """Return the config's defaults, or the middle of a key's distribution where that does not hold its default."""
        plain = {key: TrainConfig.model_fields[key].default for key in self.drawn}
        return {key: plain[key] if one.holds(plain[key]) else one.at(0.5) for key, one in self.drawn.items()}

    def known(self, plan: Plan | None) -> list[dict[str, Any]]:
        """Return the random keys of every configuration that is known without a result, in the order of proposal.

        Those of the plan come first. The first of a search is the defaults, and the next are the draws of a random search.
        """
        if not self.searched:
            return [self.draw(sample) for sample in range(self.budget)]
        found = [{key: trial.config[key] for key in self.drawn} for trial in self.found_in(plan)][: self.budget]
        while len(found) < min(self.spec.search.startup, self.budget):
            number = len(found)
            fresh = self.fresh(found, self.draw(number) if number else self.defaults())
            if fresh is None:
                break
            found.append(fresh)
        # Where nothing goes together, the plan says what is wrong with the first.
        return found or [self.defaults()]

    def found_in(self, plan: Plan | None) -> list[PlannedTrial]:
        """Return a trial of each configuration that a plan has in this cell, in the plan's order."""
        found: dict[str, PlannedTrial] = {}
        for trial in plan.trials if plan else ():
            config = trial.config
            inside = all(config.get(key) == value for key, value in self.values.items())
            if inside and all(one.holds(config.get(key)) for key, one in self.drawn.items()):
                found.setdefault(trial.config_id, trial)
        return list(found.values())

    def fresh(self, known: Sequence[Mapping[str, Any]], proposed: dict[str, Any]) -> dict[str, Any] | None:
        """Return what was proposed, or, where it is known or its values do not go together, the first draw that will do.

        None if none of `_TRIES` draws does: the cell has no more.
        """
        first = _FURTHER * (1 + len(known))
        for values in itertools.chain([proposed], map(self.draw, range(first, first + _TRIES))):
            if values not in known and _goes_together({**constant(self.spec), **self.values, **values}):
                return values
        return None


def cells(spec: SweepSpec) -> list[Cell]:
    """Return the cells of a space, backbone after backbone."""
    found = []
    for backbone in spec.backbones:
        own = spec.distributions(backbone)
        grids = {key: d for key, d in sorted(own.items()) if d.kind == "grid"}
        drawn = {key: d for key, d in sorted(own.items()) if d.kind != "grid"}
        for point in itertools.product(*(grid.values for grid in grids.values())):
            found.append(Cell({BACKBONE: backbone, **dict(zip(grids, point, strict=True))}, drawn, spec))
    return found


def constant(spec: SweepSpec) -> dict[str, Any]:
    """Return the values that all trials of a space share."""
    return {**spec.policies, **{k: v for k, v in spec.fixed.items() if k != SEED}, BUDGET: spec.epochs}


def _goes_together(values: dict[str, Any]) -> bool:
    try:
        make_config(values)
    except ConfigError:
        return False
    return True
