"""How much each key decides whether a configuration is among the best of its group: PED-ANOVA, where Optuna is installed."""

from __future__ import annotations

import importlib.util
import random
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from sweep.results.leaderboard import Board, Configuration

# On a recorded surface of three keys, the one that decides came first in 20 of 20 random searches of so many configurations, and in
# 17 of 20 of 12 (benchmarks/results/search_2cores_2026-11.md).
FEWEST = 20
# PED-ANOVA's authors ask for five or more among the best.
_FEWEST_BEST, _BEST = 5, 0.1
_SHUFFLES = 100


@dataclass(frozen=True)
class Importance:
    """What each key decides in one group.

    Attributes:
        group: The group.
        num_configs: Configurations behind it.
        shares: Key to its share of the importance of all, most important first.
        chance: Key to the share of shuffled scores in which it was as important or more: small for a key that matters.
    """

    group: str
    num_configs: int
    shares: dict[str, float]
    chance: dict[str, float]


def has_optuna() -> bool:
    """Whether importances can be worked out here."""
    return importlib.util.find_spec("optuna") is not None


def is_asked(board: Board) -> bool:
    """Whether some group has configurations enough, and two keys or more that vary among them."""
    return any(_varied(_configs(board, group)) for group in board.run.groups)


def importance_of(board: Board, group: str) -> Importance | None:
    """Return what each key decides in a group; None with too few configurations, or keys, to say.

    The best are a tenth of the configurations, but five at least, by validation mean_f1; those that did not run in full rank below all
    that did, in the order of their epochs. Divergence between where the best lie and where all lie, key by key, is the importance: Watanabe,
    Bansal and Hutter, "PED-ANOVA: Efficiently Quantifying Hyperparameter Importance in Arbitrary Subspaces", IJCAI 2023,
    as Optuna has it.
    """
    configs = _configs(board, group)
    keys = _varied(configs)
    if not keys:
        return None
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    forms = {key: _form([one.values[key] for one in configs]) for key in keys}
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=max(_BEST, _FEWEST_BEST / len(configs)))

    def weights(ranks: Sequence[int]) -> dict[str, float]:
        study = optuna.create_study(direction="maximize")
        study.add_trials(
            [
                optuna.trial.create_trial(
                    params={key: form.of(one.values[key]) for key, form in forms.items()},
                    distributions={key: form.distribution for key, form in forms.items()},
                    value=float(rank),
                )
                for one, rank in zip(configs, ranks, strict=True)
            ]
        )
        with warnings.catch_warnings():
            # Shares cannot be held against shuffled ones: they add up to one by chance too.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.importance.get_param_importances(study, evaluator=evaluator, normalize=False)

    order = sorted(range(len(configs)), key=lambda place: standing_of(configs[place]))
    ranks = [order.index(place) for place in range(len(configs))]
    found = weights(ranks)
    chance = random.Random(0)
    shuffled = [weights(chance.sample(ranks, len(ranks))) for _ in range(_SHUFFLES)]
    whole = sum(found.values()) or 1.0
    return Importance(
        group,
        len(configs),
        {key: found[key] / whole for key in sorted(keys, key=lambda key: -found[key])},
        {key: fmean(one[key] >= found[key] for one in shuffled) for key in keys},
    )


def standing_of(one: Configuration) -> tuple[int, float]:
    """Return what configurations of a group are ordered by: epochs of the runs that count, and their mean validation score."""
    epochs = max((record.epochs_trained for record in one.shown), default=0)
    return epochs, fmean(one.val_scores() or [0.0])


def _configs(board: Board, group: str) -> list[Configuration]:
    found = [one for one in (*board.ranked, *board.partial) if one.group == group and one.shown]
    return found if len(found) >= FEWEST else []


def _varied(configs: Sequence[Configuration]) -> list[str]:
    keys = [
        key for key in (configs[0].values if configs else ()) if len({repr(one.values[key]) for one in configs}) > 1
    ]
    return keys if len(keys) > 1 else []


@dataclass(frozen=True)
class _Form:
    distribution: Any
    of: Any


def _form(values: Sequence[Any]) -> _Form:
    """Return Optuna's distribution over what was tried: a range of numbers, even in what tells them apart, or single values."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    different = sorted(dict.fromkeys(map(repr, values)))
    if numbers and len(different) > _FEWEST_BEST:
        low, high = float(min(values)), float(max(values))
        return _Form(FloatDistribution(low, high, log=low > 0 and high / low > 10), float)
    return _Form(CategoricalDistribution(range(len(different))), lambda value: different.index(repr(value)))
