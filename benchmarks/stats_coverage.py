"""Do the intervals of sweep/results/stats.py cover, and are two copies of one model called different too often?

    python -m benchmarks.stats_coverage --json                   # both parts, every bar a row; half an hour on one core
    python -m benchmarks.stats_coverage --part scores            # sweeps of few seeds (few_seeds.py), some minutes
    python -m benchmarks.stats_coverage --part predictions --trials 100     # a look at what follows

The part `predictions` tests the whole way from predictions to verdict. Each trial draws a test set and, for each configuration, some seeds of models with *known* population scores, asks
`sweep.results.stats` for its intervals, and looks whether they hold the truth. The models are ordinal: a face of age group k
is taken for `round(k + shift_k + sd * noise)`, its gender decided by `d' * (+-1) + noise > 0`. The noise of an image is
a sum of a part that all models share (hard faces, wrong labels), a part of the configuration and a part of the seed;
a seed also has luck: its sd and d' are scaled by `exp(luck)`. At sd 0.62 and d' 1.56 accuracy is 0.58 for age (nine
groups in the proportions of FairFace's val set, 24 of 2,191 images in the rarest), 0.94 for gender; mean_f1 is 0.748.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from benchmarks import few_seeds
from benchmarks.measure import Row, parser, say, show
from sweep.results.bootstrap import Predictions, resampled_scores
from sweep.results.stats import compare_all, score_interval

Floats = npt.NDArray[np.float64]

# Rows per age group in fairface_label_val.csv: 10,954 images.
VAL_COUNTS = np.array([199, 1356, 1181, 3300, 2330, 1353, 796, 321, 118])
POPULATION = VAL_COUNTS / VAL_COUNTS.sum()
# The plain bootstrap is a yardstick: every fourth trial is enough.
NAIVE_EVERY = 4
# The oldest are taken for younger, the youngest for a little older: what every published confusion matrix shows.
SHIFT = np.array([0.15, 0.05, 0.1, 0.0, 0.0, 0.0, -0.1, -0.25, -0.45])


@dataclass(frozen=True)
class Recipe:
    """One configuration.

    Attributes:
        age_sd: Noise of the age decision, in age groups.
        gender_d: Signal of the gender decision, in sds of its noise.
        luck: Standard deviation of the population mean_f1 over seeds.
    """

    age_sd: float = 0.62
    gender_d: float = 1.56
    luck: float = 0.003


@dataclass(frozen=True)
class Scenario:
    """What is simulated.

    Attributes:
        name: What a reader should know.
        recipes: The configurations.
        seeds: Seeds of each configuration.
        num_images: Test images.
        shared: Share of the noise variance that all models have in common.
        of_recipe: Share that the seeds of one configuration have in common; the rest is each seed's own.
        copies: All recipes are one and the same: any verdict but a tie is wrong.
        redraw: Draw the test images' age groups at random instead of in fixed (stratified) numbers.
    """

    name: str
    recipes: tuple[Recipe, ...]
    seeds: tuple[int, ...]
    num_images: int = 2191
    shared: float = 0.6
    of_recipe: float = 0.2
    copies: bool = False
    redraw: bool = False


A, B = Recipe(), Recipe(age_sd=0.60, gender_d=1.60)


def _with_luck(luck_a: float, luck_b: float) -> tuple[Recipe, Recipe]:
    return Recipe(luck=luck_a), Recipe(0.60, 1.60, luck_b)


def _copies(luck: float, number: int = 2) -> tuple[Recipe, ...]:
    return (Recipe(luck=luck),) * number


PAIRS = (
    Scenario("3 seeds, no luck", _with_luck(0.0, 0.0), (3, 3)),
    Scenario("3 seeds, luck 0.003", (A, B), (3, 3)),
    Scenario("3 seeds, luck 0.006", _with_luck(0.006, 0.006), (3, 3)),
    Scenario("3 seeds, luck 0.015", _with_luck(0.015, 0.015), (3, 3)),
    Scenario("3 seeds, luck 0.003 and 0.010", _with_luck(0.003, 0.010), (3, 3)),
    Scenario("5 seeds, luck 0.006", _with_luck(0.006, 0.006), (5, 5)),
    Scenario("2 seeds, no luck", _with_luck(0.0, 0.0), (2, 2)),
    Scenario("2 seeds, luck 0.003", (A, B), (2, 2)),
    Scenario("2 seeds, luck 0.010", _with_luck(0.010, 0.010), (2, 2)),
    Scenario("2 seeds, luck 0.003 and 0.010", _with_luck(0.003, 0.010), (2, 2)),
    Scenario("2 and 3 seeds, luck 0.006", _with_luck(0.006, 0.006), (2, 3)),
    Scenario("2 seeds, 500 images", (A, B), (2, 2), num_images=500),
    Scenario("2 seeds, 4 backbones", (A, B, A, B), (2,) * 4),
    Scenario("2 seeds, 4 backbones, luck 0.003 and one 0.010", (*_with_luck(0.010, 0.003), A, B), (2,) * 4),
    Scenario("1 seed each: the two trained models", _with_luck(0.006, 0.006), (1, 1)),
    Scenario("3 seeds, images redrawn", (A, B), (3, 3), redraw=True),
    Scenario("3 seeds, 500 images", (A, B), (3, 3), num_images=500),
    Scenario("3 seeds, 10,954 images", (A, B), (3, 3), num_images=10_954),
    Scenario("3 seeds, models that agree less", (A, B), (3, 3), shared=0.3, of_recipe=0.2),
    Scenario("3 seeds, weak models", (Recipe(1.3, 0.8), Recipe(1.2, 0.9)), (3, 3)),
)
COPIES = (
    Scenario("copies: 3 seeds, no luck", _copies(0.0), (3, 3), copies=True),
    Scenario("copies: 3 seeds, luck 0.003", _copies(0.003), (3, 3), copies=True),
    Scenario("copies: 3 seeds, luck 0.008", _copies(0.008), (3, 3), copies=True),
    Scenario("copies: 3 seeds, luck 0.015", _copies(0.015), (3, 3), copies=True),
    Scenario("copies: 2 seeds, luck 0.003", _copies(0.003), (2, 2), copies=True),
    Scenario("copies: 2 seeds, luck 0.015", _copies(0.015), (2, 2), copies=True),
    Scenario("copies: 1 seed, no luck", _copies(0.0), (1, 1), copies=True),
    Scenario("copies: 1 seed, luck 0.006", _copies(0.006), (1, 1), copies=True),
    Scenario("four copies, 3 seeds, any of 6 pairs", _copies(0.003, 4), (3,) * 4, copies=True),
    Scenario("four copies, 2 seeds, any of 6 pairs", _copies(0.006, 4), (2,) * 4, copies=True),
    Scenario("eight copies, 2 seeds, any of 28 pairs", _copies(0.006, 8), (2,) * 8, copies=True),
    Scenario("four copies, 5 seeds, 500 images", _copies(0.006, 4), (5,) * 4, num_images=500, copies=True),
)


@dataclass(frozen=True)
class Outcome:
    """Shares over the trials of one scenario.

    Attributes:
        trials: How many.
        difference: Intervals of the first pair's difference that hold the true one.
        score: Intervals of the first configuration's score that hold the true one.
        naive: Percentile intervals of the difference that a plain bootstrap of images and seeds gives, on every
            fourth trial (nan for one seed: nothing to resample).
        different: Trials in which one of a pair is called better.
        half_width: Median half width of the difference's interval.
        true_sd: Standard deviation of the estimated difference over the trials, around the truth.
    """

    trials: int
    difference: float
    score: float
    naive: float
    different: float
    half_width: float
    true_sd: float


def population_score(age_sd: float, gender_d: float) -> float:
    """Return the exact mean_f1 of a model on infinitely many images."""
    edges = np.concatenate([[-np.inf], np.arange(8) + 0.5, [np.inf]])
    rows = np.diff(ndtr((edges[None, :] - (np.arange(9) + SHIFT)[:, None]) / age_sd), axis=1)
    joint = POPULATION[:, None] * rows
    age = (2 * np.diag(joint) / (joint.sum(axis=0) + joint.sum(axis=1))).mean()
    return float((age + ndtr(gender_d)) / 2)  # both genders alike: macro-F1 is the accuracy


@lru_cache
def luck_scale(recipe: Recipe) -> float:
    """Return the sd of a seed's two luck draws (log of the noise) that gives the recipe's sd of mean_f1."""
    step = 1e-3
    age_slope, gender_slope = (
        (
            population_score(recipe.age_sd * np.exp(da), recipe.gender_d * np.exp(-dg))
            - population_score(recipe.age_sd * np.exp(-da), recipe.gender_d * np.exp(dg))
        )
        / (2 * step)
        for da, dg in ((step, 0.0), (0.0, step))
    )
    return recipe.luck / float(np.hypot(age_slope, gender_slope))


@lru_cache
def expected_score(recipe: Recipe) -> float:
    """Return the mean of the population score over seeds, by Gauss-Hermite quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(9)
    weights = weights / weights.sum()
    scale = luck_scale(recipe)
    return float(
        sum(
            wa * wg * population_score(recipe.age_sd * np.exp(scale * xa), recipe.gender_d * np.exp(-scale * xg))
            for xa, wa in zip(nodes, weights, strict=True)
            for xg, wg in zip(nodes, weights, strict=True)
        )
    )


def age_counts(num_images: int) -> npt.NDArray[np.int64]:
    """Return images per age group in FairFace's proportions, by largest remainders: 2,191 images hold 24 of 70+."""
    exact = POPULATION * num_images
    counts = np.floor(exact).astype(np.int64)
    counts[np.argsort(counts - exact)[: num_images - counts.sum()]] += 1
    return counts


def draw(scenario: Scenario, rng: np.random.Generator) -> tuple[dict[str, list[Predictions]], list[float]]:
    """Draw one test set and all models' predictions, and the true score of each configuration.

    With one seed the truth is that of the trained model, else the mean over all seeds there could be.
    """
    n = scenario.num_images
    age = rng.choice(9, n, p=POPULATION) if scenario.redraw else np.repeat(np.arange(9), age_counts(n))
    gender = rng.integers(0, 2, n) if scenario.redraw else np.arange(n) % 2
    shared = scenario.shared**0.5 * rng.standard_normal((2, n))
    own = (1 - scenario.shared - scenario.of_recipe) ** 0.5
    of_recipe = scenario.of_recipe**0.5 * rng.standard_normal((2, n))
    models: dict[str, list[Predictions]] = {}
    truths = []
    for i, (recipe, seeds) in enumerate(zip(scenario.recipes, scenario.seeds, strict=True)):
        if not scenario.copies:
            of_recipe = scenario.of_recipe**0.5 * rng.standard_normal((2, n))
        scale = luck_scale(recipe)
        runs = []
        for _ in range(seeds):
            noise = shared + of_recipe + own * rng.standard_normal((2, n))
            age_sd = recipe.age_sd * np.exp(scale * rng.standard_normal())
            gender_d = recipe.gender_d * np.exp(-scale * rng.standard_normal())
            age_pred = np.clip(np.rint(age + SHIFT[age] + age_sd * noise[0]), 0, 8).astype(np.int64)
            gender_pred = ((2 * gender - 1) * gender_d + noise[1] > 0).astype(np.int64)
            runs.append(Predictions(age, gender, age_pred, gender_pred))
        models[f"configuration {i}"] = runs
        one_model = population_score(age_sd, gender_d)
        truths.append(one_model if max(scenario.seeds) == 1 and not scenario.copies else expected_score(recipe))
    return models, truths


def naive_covers(pair: list[list[Predictions]], truth: float, num_resamples: int, seed: int) -> bool:
    """Look whether the plain bootstrap (images and seeds drawn with replacement, percentiles) holds the truth."""
    scores = resampled_scores([*pair[0], *pair[1]], num_resamples=num_resamples, seed=seed)
    rng = np.random.default_rng(seed + 1)
    means, start = [], 0
    for runs in pair:
        n = len(runs)
        drawn = rng.integers(0, n, (num_resamples, n)) + start
        means.append(scores[drawn, np.arange(num_resamples)[:, None]].mean(axis=1))
        start += n
    low, high = np.quantile(means[0] - means[1], [0.025, 0.975])
    return bool(low <= truth <= high)


def simulate(scenario: Scenario, *, trials: int, num_resamples: int, seed: int, naive: bool = True) -> Outcome:
    """Run the trials of one scenario."""
    rng = np.random.default_rng(seed)
    hits = np.zeros(4)
    half_widths: list[float] = []
    errors: list[float] = []
    for trial in range(trials):
        models, truths = draw(scenario, rng)
        comparisons = compare_all(models, num_resamples=num_resamples, seed=trial)
        first = list(models.values())
        one = comparisons[0]
        truth = truths[0] - truths[1]
        others = [[run.mean_f1 for run in runs] for runs in first[1:]]
        interval = score_interval(first[0], lenders=others, num_resamples=num_resamples, seed=trial)
        assert interval.low is not None and interval.high is not None
        hits += [
            one.low <= truth <= one.high,
            interval.low <= truths[0] <= interval.high,
            naive and trial % NAIVE_EVERY == 0 and naive_covers(first[:2], truth, num_resamples, trial),
            any(pair.verdict() in ("a", "b") for pair in comparisons),
        ]
        half_widths.append((one.high - one.low) / 2)
        errors.append(one.difference - truth)
    difference, score, plain, different = (float(count) for count in hits)
    return Outcome(
        trials,
        difference / trials,
        score / trials,
        plain / len(range(0, trials, NAIVE_EVERY)) if naive and min(scenario.seeds) > 1 else float("nan"),
        different / trials,
        float(np.median(half_widths)),
        float(np.sqrt(np.mean(np.square(errors)))),
    )


def rows(*, trials: int, num_resamples: int, seed: int, only: str) -> list[Row]:
    """Simulate every scenario whose name the pattern finds.

    Coverages are given as their distance from 95 %, which is to be 2 points at most; the coverage stands in the facts.
    """
    made = []
    for scenario in (*PAIRS, *COPIES):
        if not re.search(only, scenario.name):
            continue
        say(scenario.name)
        out = simulate(scenario, trials=trials, num_resamples=num_resamples, seed=seed)
        facts = {"plain_bootstrap": out.naive, "half_width": out.half_width, "true_sd": out.true_sd}
        # The interval of one seed does not claim to hold the mean over all seeds, which is what copies have in common.
        goal = None if scenario.copies and min(scenario.seeds) == 1 else 0.02
        for what, share in (("difference", out.difference), ("score", out.score)):
            about = {"coverage": share, **facts}
            made.append(
                Row(f"{scenario.name}: {what} covers", abs(share - 0.95), goal, trials, sense="<=", facts=about)
            )
        made.append(Row(f"{scenario.name}: called different", out.different, 0.05 if scenario.copies else None, trials,
                        sense="<="))  # fmt: skip
    return made


def main(argv: list[str] | None = None) -> int:
    """Print the rows of both parts, or of one."""
    arguments = parser(__doc__, "stats_coverage")
    arguments.add_argument("--part", choices=("scores", "predictions", "both"), default="both")
    arguments.add_argument("--sweeps", type=int, default=4000, help="sweeps a case, part scores")
    arguments.add_argument("--trials", type=int, default=1000, help="trials a scenario, part predictions")
    arguments.add_argument(
        "--num-resamples", type=int, default=200, help="bootstrap resamples a trial (the product: 2000)"
    )
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--only", default="", help="cases and scenarios whose name this pattern finds")
    args = arguments.parse_args(argv)
    made = []
    if args.part != "predictions":
        made += few_seeds.rows(sweeps=args.sweeps, seed=args.seed, only=args.only, progress=say)
    if args.part != "scores":
        made += rows(trials=args.trials, num_resamples=args.num_resamples, seed=args.seed, only=args.only)
    show(made, as_json=args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
