"""Which ranks the comparisons of a table allow."""

from __future__ import annotations

from collections.abc import Sequence

from sweep.results.stats import Comparison


def allowed_ranks(comparisons: Sequence[Comparison]) -> dict[str, tuple[int, int]]:
    """Return the best and the worst rank that each configuration can have, by test mean_f1.

    Its best rank is one more than the number of those called better; its worst leaves below it only those called worse.
    Holm's correction keeps all calls of a table right in 95 % of sweeps, and so all ranks together. Source: Mogstad, Romano, Shaikh and Wilhelm, "Inference for Ranks with Applications to Mobility across
    Neighbourhoods and Academic Achievement across Countries", Review of Economic Studies 91, 2024, section 3.

    Args:
        comparisons: Of all pairs.
    """
    names = list(dict.fromkeys(name for pair in comparisons for name in (pair.a, pair.b)))
    better = dict.fromkeys(names, 0)
    worse = dict.fromkeys(names, 0)
    for pair in comparisons:
        outcome = pair.verdict()
        if outcome in ("a", "b"):
            ahead, behind = (pair.a, pair.b) if outcome == "a" else (pair.b, pair.a)
            better[behind] += 1
            worse[ahead] += 1
    return {name: (1 + better[name], len(names) - worse[name]) for name in names}
