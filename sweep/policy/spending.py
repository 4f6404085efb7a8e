"""How much of the 5 % each look of a sweep that looks repeatedly may use."""

from __future__ import annotations

import math
from functools import cache
from statistics import NormalDist

LEVEL = 0.05
SPEND_POWER = 2.0
# One seed shows no luck, so there is nothing to see before.
FIRST_LOOK = 2


def spent_level(num_seeds: int, most: int) -> float:
    """Return the two-sided level at which two groups are compared once the one with fewer seeds has this many.

    Up to t = n / most, 0.05 t^2 may be spent: the spending function of Kim and DeMets, "Design and analysis of group
    sequential tests based on the type I error spending rate function", Biometrika 74, 1987. The level of a look is that at
    which a Brownian motion first crosses with just the increment's probability (Lan and DeMets, "Discrete
    sequential boundaries for clinical trials", Biometrika 70, 1983, by the recursion of Armitage, McPherson and Rowe, J.
    R. Statist. Soc. A 132, 1969). The chance to cross at any look is then 5 %, so the promise holds whatever decides when to
    stop. Differences of means over seeds are alike from look to look at least as much as that motion is, for their
    test images stay the same: they cross less often.

    Args:
        num_seeds: Seeds of that group. One has the level of two; it shows no luck and is called neither better nor worse.
        most: Seeds that a group can get.
    """
    return _levels(most)[min(max(num_seeds, FIRST_LOOK), most) - FIRST_LOOK]


@cache
def _levels(most: int) -> tuple[float, ...]:
    import numpy as np  # only settling pays for it

    # Of a Brownian motion on [0, 1]: the levels come out within 1 %.
    grid, step = np.linspace(-6.0, 6.0, 1201, retstep=True)
    levels: list[float] = []
    # Density of the motion where it has not crossed, at the time of the last look.
    density, before, spent = np.where(np.abs(grid) < step / 2, 1 / step, 0.0), 0.0, 0.0
    for look in range(FIRST_LOOK, most + 1):
        now = look / most
        kernel = np.exp(-((grid[:, None] - grid) ** 2) / (2 * (now - before)))
        density = kernel @ density * step / math.sqrt(2 * math.pi * (now - before))
        tail = 2 * np.cumsum(density[::-1])[::-1] * step  # of lying further out than a point, either way
        allowed, spent = LEVEL * now**SPEND_POWER - spent, LEVEL * now**SPEND_POWER
        outer = grid >= 0
        bound = float(np.interp(-np.log(allowed), -np.log(np.maximum(tail[outer], 1e-300)), grid[outer] - step / 2))
        levels.append(2 * NormalDist().cdf(-bound / math.sqrt(now)))
        density = np.where(np.abs(grid) < bound, density, 0.0)
        before = now
    return tuple(levels)
