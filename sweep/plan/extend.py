"""A larger plan for a run that has begun: what it holds already keeps its names, and nothing of it may be missing."""

from __future__ import annotations

from typing import Any

from fairface_core.config.train_config import make_config
from sweep.plan.plan import Plan, PlannedTrial, space_difference
from sweep.space.spec import SEED

# Parts of a space that an extension leaves alone: what a score means, what it is compared with, and what counts as equal,
# which is said before scores are seen.
_KEPT = ("data", "scheduler", "equal_within")


def adopt(old: Plan, new: Plan) -> Plan:
    """Return the new plan with the old one's names for every trial and configuration that both hold.

    Names show the keys that vary in a plan, so a larger space may word them anew; folders keep theirs. So do trials their
    part in the exploration: a seed that is listed before the others takes it from none that explored.
    """
    held: dict[str, PlannedTrial] = {}
    config_ids: dict[str, str] = {}
    for trial in old.trials:
        whole, config = _digests(trial.config)
        held[whole], config_ids[config] = trial, trial.config_id
    every_seed = new.scheduler.kind != "asha" or new.scheduler.explore_seeds == "all"
    trials = []
    for trial in new.trials:
        whole, config = _digests(trial.config)
        before = held.get(whole, trial)
        kept = {
            "trial_id": before.trial_id,
            "config_id": config_ids.get(config, trial.config_id),
            "explores": before.explores and (every_seed or whole in held or config not in config_ids),
        }
        trials.append(trial.model_copy(update=kept))
    assert len({trial.trial_id.casefold() for trial in trials}) == len(trials), "an old and a new trial share a name"
    return new.model_copy(update={"trials": tuple(trials)})


def no_extension(old: Plan, new: Plan) -> list[str]:
    """Word why a plan, with adopted names, does not extend another; empty if it holds all of it and compares alike."""
    gone = {trial.trial_id for trial in old.trials} - {trial.trial_id for trial in new.trials}
    changed = [key for key in _KEPT if old.space.get(key) != new.space.get(key)]
    if not gone and not changed and old.epochs == new.epochs and old.group_by == new.group_by:
        return []
    return space_difference(old, new)


def _digests(config: dict[str, Any]) -> tuple[str, str]:
    checked = make_config(config)
    return checked.digest(), checked.model_copy(update={SEED: 0}).digest()
