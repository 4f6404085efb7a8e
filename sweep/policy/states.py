"""What is known of a trial that a rung or the confirm policy judges, and what its rungs said.

Why a trial folder holds `decisions.json` beside its history: a history alone cannot say whether a trial that
was killed right after a rung's epoch had been told to go on or had not been judged yet, nor that a trial now at
epoch 5 had been stopped at 3 while exploring and is being confirmed. The driver therefore stores every rung
decision before Ray hears of it (`GroupedASHA(on_decision=...)`): about two small writes a trial.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any, Literal

# Keys of a Ray trial's config by which scheduler and searcher know our trials; Ray's own ids change on resume.
TRIAL_ID_KEY = "trial_id"
GROUP_KEY = "group"
PHASE_KEY = "phase"
Phase = Literal["explore", "confirm"]
EXPLORE: Phase = "explore"
CONFIRM: Phase = "confirm"
# Keys of what a trial reports to Ray: epochs trained so far, counted from 1 also after a resume, and the score.
EPOCH_KEY = "epoch"
SCORE_KEY = "mean_f1"

# Statuses that end exploration; `stopped` without a decision is one whose decisions.json was lost.
ENDED = frozenset({"completed", "stopped", "diverged", "failed"})
# Those of a trial that will not go on by itself.
OVER = ENDED | {"skipped"}

# Kind of what a look of `sweep.policy.settle` said, beside `asha` and `race`.
SETTLE: Literal["settle"] = "settle"
DECISIONS_FILE = "decisions.json"
_SCHEMA_VERSION = 1


@dataclass(frozen=True)
class RungDecision:
    """What a rung said to a trial, and why.

    Attributes:
        trial_id: Our stable trial id.
        group: The group whose rung it was.
        rung: Epochs at which the rung lies; a fraction for a fractional reduction factor.
        epoch: The epoch that was judged, the first one at or above `rung`.
        score: The trial's validation mean_f1 at that epoch.
        cutoff: The score it had to reach; None for the first trial of a rung, which always passes.
        stop: Whether the trial was stopped.
        order: Position among all decisions of the sweep, from 0: the order in which trials arrived, by which
            every cutoff can be worked out again.
        constant: What the best answer that is the same for every image scores. A cutoff that is not above it stops
            nothing: those who set it have learned nothing yet, and their order is noise.
        kind: `asha`, or `race`, where configurations are compared and not trials; or `settle`, where winners of groups are:
            `rung` is then the number of the look, and `stop` leaves the group with the seeds it has.
        value: What a race or a look compares with `cutoff`: the configuration's value at the rung, see `sweep.policy.race`,
            or the winner's mean over its seeds.
    """

    trial_id: str
    group: str
    rung: float
    epoch: int
    score: float
    cutoff: float | None
    stop: bool
    order: int
    constant: float = 0.0
    kind: str = "asha"
    value: float | None = None

    @property
    def spared(self) -> bool:
        """Whether it lies below a cutoff that stops nothing."""
        return self.kind == "asha" and not self.stop and self.cutoff is not None and self.score < self.cutoff

    @property
    def of_look(self) -> str:
        """What a look said, in words."""
        if not self.stop:
            return "goes on"
        behind = self.cutoff is not None and self.value is not None and self.value < self.cutoff
        return "cannot be the best any more" if behind else "more seeds would hardly tell it from the best"

    def detail(self) -> dict[str, Any]:
        """Return what `status.json` holds under `detail` for a trial that this decision stopped."""
        return {
            "kind": self.kind,
            "rung": self.rung,
            "epoch": self.epoch,
            "score": self.score,
            "cutoff": self.cutoff,
            "phase": EXPLORE,
        }

    def reason(self) -> str:
        """Return the decision in one sentence."""
        if self.kind == "race":
            return self._race_reason()
        if self.kind == SETTLE:
            bound = "one seed" if self.cutoff is None else f"cutoff {self.cutoff:.4f}"
            mean = f"mean {SCORE_KEY} {self.value or 0.0:.4f}"
            return f"{self.group} after {self.rung:g} seeds: {self.of_look}; {mean}, {bound}"
        verdict = "stopped" if self.stop else "goes on"
        bound = "first in its rung" if self.cutoff is None else f"cutoff {self.cutoff:.4f}"
        if self.spared:
            bound += f", not above a constant answer's {self.constant:.4f}"
        return f"{verdict} by ASHA at epoch {self.epoch} (rung {self.rung:g}): {SCORE_KEY} {self.score:.4f}, {bound}"

    def _race_reason(self) -> str:
        if not self.stop and self.epoch < self.rung:
            return f"won the race at epoch {self.epoch}: value {self.value:.4f}" if self.value else "won the race"
        verdict = "fell" if self.stop else "goes on"
        if self.value is None:
            why = "its configuration lost a seed to divergence or to failures" if self.stop else "nothing to compare"
        elif self.cutoff is None:
            why = f"value {self.value:.4f}; nobody had learned anything yet"
        else:
            why = f"value {self.value:.4f}, cutoff {self.cutoff:.4f}"
        at = f", at its epoch {self.epoch}" if self.epoch < self.rung else ""
        return f"{verdict} in the race at rung {self.rung:g}{at}: {why}"


def decisions_to_json(decisions: Sequence[RungDecision]) -> dict[str, Any]:
    """Return the content of a trial's `decisions.json`."""
    return {"schema_version": _SCHEMA_VERSION, "decisions": [asdict(decision) for decision in decisions]}


def decisions_from_json(value: object) -> tuple[RungDecision, ...]:
    """Read the content of a trial's `decisions.json`.

    Raises:
        ValueError: Saying what is wrong with it.
    """
    if not isinstance(value, Mapping) or not isinstance(value.get("decisions"), list):
        raise ValueError('expected an object with a list "decisions"')
    if value.get("schema_version") != _SCHEMA_VERSION:
        raise ValueError(f"schema_version {value.get('schema_version')!r}, this version reads {_SCHEMA_VERSION}")
    return tuple(_decision(item, position) for position, item in enumerate(value["decisions"]))


def _decision(item: object, position: int) -> RungDecision:
    wanted: dict[str, tuple[type, ...]] = {
        "trial_id": (str,),
        "group": (str,),
        "rung": (int, float),
        "epoch": (int,),
        "score": (int, float),
        "cutoff": (int, float, type(None)),
        "stop": (bool,),
        "order": (int,),
        "constant": (int, float),
        "kind": (str,),
        "value": (int, float, type(None)),
    }
    assert wanted.keys() == {field.name for field in fields(RungDecision)}
    if isinstance(item, Mapping):
        # Decisions of earlier versions.
        item = {"constant": 0.0, "kind": "asha", "value": None, **item}
    if not isinstance(item, Mapping) or item.keys() != wanted.keys():
        raise ValueError(f"decision {position}: expected exactly the keys {', '.join(wanted)}")
    for name, types in wanted.items():
        # bool is an int to isinstance; as a number in a file it is damage.
        if not isinstance(item[name], types) or (isinstance(item[name], bool) and bool not in types):
            raise ValueError(f"decision {position}: {name} = {item[name]!r}")
    return RungDecision(**item)


@dataclass(frozen=True)
class TrialState:
    """All that the policy needs to know of a trial.

    Attributes:
        trial_id: Our stable trial id.
        group: What its score is compared within (the value of `group_by`).
        config_id: The same for all seeds of one configuration.
        seed: Its seed.
        explores: Whether it is among the seeds that explore; the others run for a winner only.
        status: planned, running, completed, stopped, diverged, failed or skipped. `failed` is final here: a
            driver that retries failed trials on resume hands them in as planned.
        scores: Validation mean_f1 of epochs 1..n, exploration and confirm together.
        decisions: What its rungs said.
        looks: What looks said of its group, see `sweep.policy.settle`.
        constant: What the best constant answer scores; 0 while no epoch has said so.
        val_images: Validation images behind each score; 0 while no epoch has said so.
    """

    trial_id: str
    group: str
    config_id: str
    seed: int
    explores: bool
    status: str = "planned"
    scores: tuple[float, ...] = ()
    decisions: tuple[RungDecision, ...] = ()
    constant: float = 0.0
    val_images: int = 0
    looks: tuple[RungDecision, ...] = ()

    @cached_property
    def stop(self) -> RungDecision | None:
        """The decision that ended its exploration, if one did."""
        return next((decision for decision in self.decisions if decision.stop), None)

    @cached_property
    def explored(self) -> tuple[float, ...]:
        """Scores of the epochs trained while exploring; what a confirm run adds never changes a choice.

        Where a stopped trial has lost its state and begins anew, its rung's word stands for them until they are there again.
        """
        if not self.explores or self.stop is None:
            return self.scores if self.explores else ()
        known = self.scores[: self.stop.epoch]
        return known if len(known) == self.stop.epoch else (self.stop.score,) * self.stop.epoch

    @property
    def exploring(self) -> bool:
        """Whether exploration still has to run it."""
        return self.explores and self.stop is None and self.status not in ENDED

    @property
    def lost(self) -> bool:
        """Whether it can never be a full run."""
        return self.status in ("diverged", "failed")

    @property
    def lost_exploring(self) -> bool:
        """Whether it was lost before its exploration was over."""
        return self.explores and self.lost and self.stop is None
