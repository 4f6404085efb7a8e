"""Which configuration keeps a floor for every group of people, with an interval's lower end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fairface_core.errors import ConfigError, shown
from fairface_core.scoring.audit import MIN_IMAGES, group_rows
from fairface_core.trial.stored import Stored
from sweep.results.beside.candidates import Candidate
from sweep.results.leaderboard import Board, Configuration
from sweep.wording import axis_words, counted, percent, settings

_METRICS = ("gen_acc", "age_acc")
_ENDING = "_worst_group"


@dataclass(frozen=True)
class Floor:
    """What every group must reach.

    Attributes:
        metric: `gen_acc` or `age_acc`.
        value: The least accuracy, 0 to 1.
    """

    metric: str
    value: float

    def __str__(self) -> str:
        """Return it as it is typed."""
        return f"{self.metric}{_ENDING}={self.value:g}"


@dataclass(frozen=True)
class WorstGroup:
    """The group with the lowest lower end among all seeds of a configuration.

    Attributes:
        name: Such as `race × gender Black x Female`.
        n: Its images.
        value: Its accuracy, in the seed where it is worst.
        low: The lower end of its Wilson 95 % interval there.
    """

    name: str
    n: int
    value: float
    low: float


@dataclass(frozen=True)
class FloorAnswer:
    """What holds a floor.

    Attributes:
        floor: The floor.
        kept_by: The best-ranked configuration that keeps it; None if none does.
        nearest: The one to speak of: `kept_by`, or the configuration whose worst group is best.
        val: Its worst group on validation, which decides.
        test: The same group on test, in the seed where it is worst; None where test has no such group.
        num_small: Groups that have too few validation images to be judged.
    """

    floor: Floor
    kept_by: Configuration | None
    nearest: Configuration
    val: WorstGroup
    test: WorstGroup | None
    num_small: int

    @property
    def sentence(self) -> str:
        """Say it in words."""
        one, worst = self.nearest, self.val
        told = ", ".join([one.group, *([settings(one.values)] if one.values else []), f"rank {one.rank}"])
        begin = f"kept by {told}" if self.kept_by else f"kept by no configuration; nearest is {told}"
        parts = [
            f"{begin}: the lowest group on validation is {worst.name} with {percent(worst.value)} of {worst.n:,} images, "
            f"lower end of its 95 % interval {percent(worst.low)}"
        ]
        if self.test is not None:
            parts.append(
                f"on test that group has {percent(self.test.value)} of {self.test.n:,}, lower end {percent(self.test.low)}"
            )
        if self.num_small:
            parts.append(f"{counted(self.num_small, 'group')} of fewer than {MIN_IMAGES} images could not be judged")
        return "; ".join(parts)


def parse_floor(text: str) -> Floor:
    """Read `gen_acc_worst_group=0.85`.

    Raises:
        ConfigError: If it says something else.
    """
    name, _, number = text.partition("=")
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    metric = name.strip().removesuffix(_ENDING)
    if metric not in _METRICS or not name.strip().endswith(_ENDING) or not 0 < value < 1:
        raise ConfigError(
            f"--floor {shown(text, 100)[1:-1]}: accepted are gen_acc_worst_group=X and age_acc_worst_group=X with X "
            "between 0 and 1, such as --floor gen_acc_worst_group=0.85"
        )
    return Floor(metric, value)


def answer_floor(board: Board, candidates: Sequence[Candidate], floor: Floor) -> FloorAnswer:
    """Say which configuration keeps a floor: for every group that is large enough, and with every seed.

    Validation decides, as everywhere; the groups are those of the audit: gender, age group, race, race x gender.

    Raises:
        ConfigError: If no configuration is ranked whose predictions can be used.
    """
    by_id = {one.record.trial_id: one for one in candidates}
    judged: list[tuple[Configuration, WorstGroup, int]] = []
    for one in board.ranked:
        members = [by_id[record.trial_id] for record in one.full if record.trial_id in by_id]
        if len(members) < len(one.full):
            continue
        groups = [row for member in members for row in _groups(member.val, floor.metric)]
        large = [group for group, small in groups if not small]
        if large:
            judged.append((one, min(large, key=lambda group: group.low), (len(groups) - len(large)) // len(members)))
    if not judged:
        raise ConfigError(
            f"--floor {floor}: no ranked configuration in {board.run.location} has predictions that can be used"
        )
    kept = next((entry for entry in judged if entry[1].low >= floor.value), None)
    nearest, worst, num_small = kept or max(judged, key=lambda entry: entry[1].low)
    on_test = [
        group
        for record in nearest.full
        for group, _ in _groups(by_id[record.trial_id].test, floor.metric)
        if group.name == worst.name
    ]
    test = min(on_test, key=lambda group: group.low, default=None)
    return FloorAnswer(floor, kept[0] if kept else None, nearest, worst, test, num_small)


def _groups(stored: Stored, metric: str) -> list[tuple[WorstGroup, bool]]:
    """Return the groups of one seed, and of each whether it is too small to be judged."""
    by = group_rows(
        stored.age_prob.argmax(axis=1), stored.gender_prob.argmax(axis=1), stored.age, stored.gender, _race(stored)
    )
    return [
        (
            WorstGroup(f"{axis_words(axis)} {row['group']}", row["n"], row[metric], row[f"{metric}_low"]),
            row["too_small"],
        )
        for axis, rows in by.items()
        for row in rows
    ]


def _race(stored: Stored) -> Any:
    import numpy as np

    return None if stored.race is None else np.array(stored.race, dtype=object)
