"""What `confirm: settle` promises and costs: copies called different, gaps told apart, seeds spent.

    python -m benchmarks.settling --json               # 1,000 sweeps a case: about 15 minutes on one core
    python -m benchmarks.settling --only "copies"      # the A/A test alone

Each sweep has the winners of 2 to 8 backbones, every one with the scores that its seeds would reach. The real policy runs seeds in
rounds, on validation; the statistics of the verdict (`moderate`, `Spread`, `holm`, `spent_level`) judge what came out, on test.
Scores are simulated as in benchmarks/few_seeds.py, twice: what images do to a backbone and a seed's private errors are drawn apart
for validation (four times the images) and test, a seed's luck is one and the same in both: lucky seeds, which
end rounds early, are lucky on test too. Case by case, `confirm: true` judges the same scores with all seeds at 5 %, and `unspent`
what the rounds left at 5 %, as if nobody had looked before.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import numpy.typing as npt

from benchmarks.few_seeds import CALM, EQUAL_DEVIATION, LOUD, OF_CONFIGURATION, PRIVATE
from benchmarks.measure import Row, parser, say, show
from sweep.policy.confirm import GroupChoice
from sweep.policy.settle import settle
from sweep.policy.spending import LEVEL, spent_level
from sweep.policy.states import TrialState
from sweep.results.borrow import Spread, moderate
from sweep.results.stats import holm
from sweep.space.spec import EQUAL_WITHIN

Floats = npt.NDArray[np.float64]

_VAL_IMAGES = 8_763
# Validation has four times the images of test.
_VAL_SCALE = 0.5
_SCORE = 0.74


@dataclass(frozen=True)
class Case:
    """One kind of sweep.

    Attributes:
        name: What a reader should know.
        deviations: Standard deviation between the seeds of each backbone, on the test images.
        most: Seeds that each can get.
        gap: By how much the first is better than the others, which are copies of one another.
        behind: By how much each further one lies below the one before it; instead of `gap`.
    """

    name: str
    deviations: tuple[float, ...]
    most: int = 3
    gap: float = 0.0
    behind: float = 0.0

    @property
    def truth(self) -> Floats:
        """True score of each, around `_SCORE`."""
        k = len(self.deviations)
        return np.array([self.gap] + [0.0] * (k - 1)) - self.behind * np.arange(k)


def drawn(case: Case, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Return validation and test scores of all seeds, `[backbones, most]` each."""
    shape = (len(case.deviations), case.most)
    luck = np.sqrt(np.square(case.deviations) - PRIVATE**2)[:, None] * rng.standard_normal(shape)
    out = []
    for scale in (_VAL_SCALE, 1.0):
        images = OF_CONFIGURATION * rng.standard_normal((shape[0], 1)) + PRIVATE * rng.standard_normal(shape)
        out.append(_SCORE + case.truth[:, None] + luck + scale * images)
    return out[0], out[1]


def seeds_run(val: Floats) -> list[int]:
    """Run rounds as the policy asks for them, and return how many seeds each backbone got."""
    most = val.shape[1]
    states = {
        str(g): [TrialState(f"{g}-{s}", str(g), str(g), s, s == 0, val_images=_VAL_IMAGES) for s in range(most)]
        for g in range(len(val))
    }
    while True:
        alone = {group: _all_seeds(group, trials) for group, trials in states.items()}
        choices = settle(alone, states, margin=EQUAL_WITHIN)
        looks = {d.trial_id: d for choice in choices.values() for d in choice.decisions}
        wanted = {name for choice in choices.values() for name in choice.confirm}
        if not looks and not wanted:
            return [sum(t.status == "completed" for t in trials) for trials in states.values()]
        for group, trials in states.items():
            for place, t in enumerate(trials):
                if t.trial_id in looks:
                    trials[place] = replace(t, looks=(*t.looks, looks[t.trial_id]))
                elif not looks and t.trial_id in wanted:
                    trials[place] = replace(t, status="completed", scores=(float(val[int(group), place]),))


def _all_seeds(group: str, trials: Sequence[TrialState]) -> GroupChoice:
    left = tuple(t.trial_id for t in trials if t.status != "completed")
    return GroupChoice(group, (), True, group, None, left, (), (), "", (), not left)


def better(test: Floats, seeds: npt.NDArray[np.int64], levels: Floats) -> npt.NDArray[np.bool_]:
    """Tell which pairs the verdict calls different, each judged at its own level.

    Args:
        test: Scores, `[sweeps, backbones, most]`.
        seeds: How many of them each backbone got, the first ones, `[sweeps, backbones]`.
        levels: `[sweeps, pairs]`.

    Returns:
        `[sweeps, pairs]`.
    """
    there = np.arange(test.shape[2]) < seeds[..., None]
    means = np.where(there, test, 0.0).sum(axis=2) / seeds
    squares = (np.where(there, test - means[..., None], 0.0) ** 2).sum(axis=2)
    own = np.where(seeds > 1, squares / np.maximum(seeds - 1, 1), np.nan)
    variance = moderate(own, seeds, least=PRIVATE**2)
    pairs = _pairs(test.shape[1])
    num_seeds = seeds[:, pairs].astype(np.float64)
    assert num_seeds.min() > 1, "no look before the second seed"
    private = np.full(num_seeds.shape, PRIVATE**2)
    spread = Spread(np.full(levels.shape, 2 * OF_CONFIGURATION**2), private, variance.own[:, pairs],
                    variance.moderated[:, pairs], variance.df[:, pairs], num_seeds)  # fmt: skip
    p_values = spread.p_value(np.abs(means[:, pairs[:, 0]] - means[:, pairs[:, 1]]))
    return holm(np.minimum(p_values * LEVEL / levels, 1.0)) < LEVEL


def _pairs(k: int) -> npt.NDArray[np.int64]:
    return np.array(list(combinations(range(k), 2)))


@dataclass(frozen=True)
class Count:
    """Shares of sweeps.

    Attributes:
        false: Those in which some copies are called different.
        apart: Pairs with the first backbone that are told apart.
        seeds: Mean number of seeds of a backbone.
    """

    false: float
    apart: float
    seeds: float


def simulate(case: Case, *, sweeps: int, seed: int = 0) -> dict[str, Count]:
    """Draw sweeps of one kind and judge them in three ways."""
    rng = np.random.default_rng(seed)
    val, test = map(np.array, zip(*(drawn(case, rng) for _ in range(sweeps)), strict=True))
    pairs = _pairs(len(case.deviations))
    got = np.array([seeds_run(one) for one in val])
    spent = np.array([spent_level(n, case.most) for n in range(case.most + 1)])[got[:, pairs].min(axis=2)]
    whole, every = np.full(spent.shape, LEVEL), np.full(got.shape, case.most)
    copies = case.truth[pairs[:, 0]] == case.truth[pairs[:, 1]]
    counts = {}
    for way, seeds, levels in (("settle", got, spent), ("unspent", got, whole), ("all_seeds", every, whole)):
        different = better(test, seeds, levels)
        false = float((different & copies).any(axis=1).mean())
        counts[way] = Count(false, float(different[:, pairs[:, 0] == 0].mean()), float(seeds.mean()))
    return counts


def cases() -> list[Case]:
    """Return the A/A test, and what is to be told apart."""
    made = []
    for most in (3, 10):
        for k in (2, 3, 4, 6, 8):
            where = f"copies: {k} backbones, up to {most} seeds"
            made.append(Case(where, (EQUAL_DEVIATION,) * k, most))
            made.append(Case(f"{where}, hardly any luck", (CALM,) * k, most))
            made.append(Case(f"{where}, one of threefold deviation", (CALM,) * (k - 1) + (LOUD,), most))
    for most in (3, 10):
        for gap in (0.01, 0.02, 0.03, 0.05):
            made.append(Case(f"gap {gap}: 4 backbones, up to {most} seeds", (EQUAL_DEVIATION,) * 4, most, gap))
        made.append(Case(f"in steps of 0.02: 4 backbones, up to {most} seeds", (EQUAL_DEVIATION,) * 4, most, 0.0, 0.02))
    return made


def rows(case: Case, *, sweeps: int, seed: int = 0) -> list[Row]:
    """Return what a case gives: false calls with their bar, or what was told apart; and seeds of each backbone."""
    counts = simulate(case, sweeps=sweeps, seed=seed)
    facts = {f"{way}_seeds": count.seeds for way, count in counts.items() if way != "unspent"}
    name = f"settling.{case.name}"
    if case.gap or case.behind:
        shares = {f"{way}_apart": count.apart for way, count in counts.items()}
        return [Row(f"{name}: told apart", counts["settle"].apart, None, sweeps, facts=shares | facts)]
    shares = {f"{way}_false": count.false for way, count in counts.items()}
    return [Row(f"{name}: called different", counts["settle"].false, 0.05, sweeps, sense="<=", facts=shares | facts)]


def main(argv: Sequence[str] | None = None) -> int:
    """Simulate and print."""
    arguments = parser(__doc__, "settling")
    arguments.add_argument("--sweeps", type=int, default=1000, help="sweeps a case")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--only", default="", help="cases whose name this pattern finds")
    args = arguments.parse_args(argv)
    made: list[Row] = []
    for case in cases():
        if re.search(args.only, case.name):
            say(case.name)
            made += rows(case, sweeps=args.sweeps, seed=args.seed)
    show(made, as_json=args.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
