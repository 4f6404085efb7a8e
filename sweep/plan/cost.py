"""What a plan can cost: the disk its trials need, and the epochs that it is expected to train."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence

from fairface_core.backbones import state_bytes, weights_bytes
from sweep.plan.plan import Plan, PlannedTrial
from sweep.space.spec import BACKBONE

# The simulation's time grows with the square of a group: 20 draws of 4 groups of 9 trials took 0.8 s on one core.
_MAX_DRAWS = 20
# How far neighbors lie apart in a made-up race, and seeds of one configuration: about as on the recorded curves. Groups that
# are settled lie as far apart as neighbors.
_STEP, _LUCK = 0.02, 0.004
_MAX_WORK = 8_000  # sum over draws and groups of (trials in the group) squared: about 1 s


def disk_bytes(trials: Sequence[PlannedTrial]) -> int:
    """Return roughly how many bytes the folders of these trials take: two states and the best weights each.

    Seeds that do not explore run for one configuration of their group.
    """
    total, others = 0, dict[str, dict[str, int]]()
    for trial in trials:
        size = 2 * state_bytes(trial.config) + weights_bytes(trial.config[BACKBONE])
        if trial.explores:
            total += size
        else:
            group = others.setdefault(trial.group, {})
            group[trial.config_id] = group.get(trial.config_id, 0) + size
    return total + sum(max(sizes.values()) for sizes in others.values())


def expected_epochs(plan: Plan) -> dict[str, float] | None:
    """Return how many epochs each group trains if the better configuration is better at every epoch.

    The real scheduler and the real confirm policy run on made-up curves: in each draw the configurations of a group
    get random ranks, which their seeds share but for a little, and so do groups that are settled. The mean of up to
    `_MAX_DRAWS` draws from a fixed seed; None for a plan without early stopping, or too large to simulate in about a second.
    """
    groups = plan.groups()
    race, settles = plan.scheduler.kind == "race", plan.most_seeds is not None
    draws = min(_MAX_DRAWS, _MAX_WORK // sum(len(trials) ** 2 for trials in groups.values()))
    if plan.scheduler.kind == "fifo" or plan.epochs > 1_000 or draws == 0:
        return None
    from sweep.policy.simulate import Curve, plan_states, simulate  # imports Ray's ASHA

    explorers = len({trial.seed for trial in plan.trials if trial.explores})
    total = dict.fromkeys(groups, 0)
    for draw in range(draws):
        sweep: dict[str, list[Curve]] = {}
        standing = random.Random(draw).sample(range(len(groups)), len(groups)) if settles else [0] * len(groups)
        for place, (group, trials) in enumerate(groups.items()):
            generator = random.Random(draw + place * draws if settles else draw)
            configs = list(dict.fromkeys(trial.config_id for trial in trials))
            ranks = dict(zip(configs, generator.sample(range(len(configs)), len(configs)), strict=True))
            curves = []
            for trial in trials:
                rank = ranks[trial.config_id]
                if race or settles:
                    level = 0.75 - _STEP * (rank + standing[place])
                    scores = _rising(level + generator.gauss(0, _LUCK), plan.epochs)
                else:
                    scores = ((1 + rank + 0.5 * generator.random()) / (2 + len(configs)),) * plan.epochs
                curves.append(Curve(trial.trial_id, trial.group, trial.config_id, trial.seed, scores))
            sweep[group] = curves
        for together in [[*itertools.chain(*sweep.values())]] if settles else sweep.values():
            states = plan_states(together, explore_seeds=explorers)
            ended = simulate(
                together,
                states,
                grace_epochs=plan.scheduler.grace_epochs,
                reduction_factor=plan.scheduler.reduction_factor,
                confirm=plan.scheduler.confirm,
                race=race,
                margin=plan.equal_within,
            )
            for state in ended.states:
                total[state.group] += len(state.scores)
    return {group: epochs / draws for group, epochs in total.items()}


def _rising(final: float, epochs: int) -> tuple[float, ...]:
    """Return a curve for a race, which looks at how far scores lie apart and how fast they rise, not at ranks alone."""
    return tuple(final * (1 - 0.25 * math.exp(-8 * epoch / epochs)) for epoch in range(1, epochs + 1))
