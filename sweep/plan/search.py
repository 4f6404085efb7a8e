"""Which configuration a search tries next: a pure function of the space, the plan and what its trials say.

Optuna's state is never stored. Each proposal is made by a sampler of its own, seeded from the space's `sample_seed`, the cell
(one combination of the grids: its study) and the number of the proposal, after it was told of every configuration of that cell in
the order of the plan. So nothing depends on the order in which results arrived, on how often a sweep was resumed, or on what
another cell has proposed. With one trial at a time the next proposal always follows from all before it; with several it follows
from those that are over when a machine is free for it, and those under way count as poor ones (constant liar), so that no two
machines try the same. Either way the plan holds it before it runs, and that entry is never worked out again.

What a study is told of a configuration (`sweep.policy.confirm.Worth`):

- In full: its score, by which winners are chosen.
- Stopped by ASHA: pruned at its last epoch with its score there. TPE ranks what is pruned below all that ran in full, and
  among itself first by the epoch and then by the score (`_split_trials` of Optuna 5), so scores of unlike budgets are never
  compared. benchmarks/results/search_2cores_2026-11.md has it beside other ways.
- Diverged: pruned without a value, which ranks below everything else.
- Failed: nothing, for a full disk says nothing of a learning rate.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from sweep.plan.cells import Cell, cells
from sweep.plan.expand import make_plan
from sweep.plan.extend import adopt
from sweep.plan.plan import Plan
from sweep.policy.confirm import Worth, worth_of
from sweep.policy.states import TrialState
from sweep.space.distributions import Distribution
from sweep.space.scheduler import SearchSpec
from sweep.space.spec import SweepSpec


def at_random(spec: SweepSpec) -> SweepSpec:
    """Return the space without its search: its plan has as many trials, and stands for what is not proposed yet."""
    return spec.model_copy(update={"search": SearchSpec()})


def grown(spec: SweepSpec, plan: Plan, group: str, states: Sequence[TrialState], *, auto_gpu: float) -> Plan:
    """Return a plan with one more configuration of a group that has some to come.

    Of several cells the one with the fewest configurations gets it. Where all that are left have nothing new to try, `to_come` of the
    group falls to 0 instead.

    Args:
        spec: The space.
        plan: What was planned so far; its trials keep their ids.
        group: The group.
        states: What its trials say.
        auto_gpu: What `gpu: auto` stands for.
    """
    trials: dict[str, list[TrialState]] = {}
    for state in states:
        trials.setdefault(state.config_id, []).append(state)
    told = {config_id: worth_of(seeds) for config_id, seeds in trials.items()}
    owing = [
        (cell, found) for cell in cells(spec) if cell.searched and (found := cell.found_in(plan))[0].group == group
    ]
    for cell, found in sorted(owing, key=lambda item: len(item[1])):
        if len(found) >= cell.budget:
            continue
        known = [{key: trial.config[key] for key in cell.drawn} for trial in found]
        proposed = propose(cell, list(zip(known, (told[trial.config_id] for trial in found), strict=True)), plan.epochs)
        fresh = cell.fresh(known, proposed)
        if fresh is not None:
            named = {"config": {**cell.values, **fresh}, "config_id": "proposed"}
            held = plan.model_copy(update={"trials": (*plan.trials, found[0].model_copy(update=named))})
            larger = adopt(plan, make_plan(spec, yes=True, auto_gpu=auto_gpu, held=held))
            # A group that had nothing new to try has nothing again.
            to_come = {name: min(number, plan.to_come[name]) for name, number in larger.to_come.items()}
            return larger.model_copy(update={"to_come": to_come})
    return plan.model_copy(update={"to_come": {**plan.to_come, group: 0}})


def propose(cell: Cell, told: Sequence[tuple[Mapping[str, Any], Worth]], epochs: int) -> dict[str, Any]:
    """Return the random keys of a cell's next configuration.

    Args:
        cell: The cell.
        told: Random keys and worth of each of its configurations, in the order of the plan.
        epochs: Full budget of a trial.
    """
    import optuna  # 0.3 s and an extra, which only a search needs

    optuna.logging.set_verbosity(optuna.logging.WARNING)  # no line on standard error for every study
    forms = {key: _form(distribution) for key, distribution in cell.drawn.items()}
    text = json.dumps([cell.spec.sample_seed, sorted(cell.values.items()), len(told)])
    sampler = optuna.samplers.TPESampler(
        multivariate=True,
        constant_liar=True,
        n_startup_trials=min(cell.spec.search.startup, len(told)),
        seed=int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big"),
    )
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for values, worth in told:
        outcome = _outcome(worth, epochs, optuna.trial.TrialState)
        if outcome is not None:
            params = {key: _index(cell.drawn[key], value) for key, value in values.items()}
            study.add_trial(optuna.trial.create_trial(params=params, distributions=forms, **outcome))
    asked = study.ask(forms).params
    return {key: _value(cell.drawn[key], value) for key, value in asked.items()}


def _outcome(worth: Worth, epochs: int, states: Any) -> dict[str, Any] | None:
    if not worth.over:
        return {"state": states.RUNNING}
    if worth.diverged:
        return {"state": states.PRUNED}
    if worth.score is None:
        return None
    if worth.epochs < epochs:
        return {"state": states.PRUNED, "intermediate_values": {worth.epochs: worth.score}}
    return {"state": states.COMPLETE, "value": worth.score}


def _form(distribution: Distribution) -> Any:
    """Return Optuna's distribution; of a choice, of the places in its list, whose values may be anything."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if distribution.kind == "choice":
        return CategoricalDistribution(range(len(distribution.values)))
    low, high = distribution.values
    if distribution.kind == "randint":
        return IntDistribution(low, high - 1)
    return FloatDistribution(low, high, log=distribution.kind == "loguniform")


def _index(distribution: Distribution, value: Any) -> Any:
    return distribution.values.index(value) if distribution.kind == "choice" else value


def _value(distribution: Distribution, value: Any) -> Any:
    if distribution.kind == "choice":
        return distribution.values[value]
    return value if distribution.kind == "randint" else distribution.nearest(value)
