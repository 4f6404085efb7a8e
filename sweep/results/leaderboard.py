"""Trials -> configurations -> ranks. Chosen on validation alone, over full-budget runs alone."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from sweep.results.bootstrap import Metric
from sweep.results.predictions import Scored, read_scored
from sweep.results.stats import Interval, score_interval
from sweep.results.tables import typed_frame
from sweep.run_folder.records import RunRecord, TrialRecord

if TYPE_CHECKING:
    import pandas as pd

LEADERBOARD_CSV = "leaderboard.csv"

# What a leaderboard row averages over seeds, besides mean_f1.
TEST_METRICS: tuple[Metric, ...] = ("age_acc", "age_f1m", "gen_acc", "gen_f1m")
COSTS = ("images_per_s", "epoch_s", "peak_memory_gib", "gpu_hours")
_READERS = 8
# Validation has four times the images of test, so they matter less; 500 resamples give the width of an interval to 3 %
# and take 0.05 s a configuration at 8,763 images (2,000 took 0.21 s), which a sweep of 500 trials feels.
_VAL_RESAMPLES = 500
# How far below its group's best, in validation mean_f1, a configuration may be and still lend: on recorded curves, seeds of
# learning rates within this differed as the best one's do (0.35 to 2.1 times), those of others by 0.1 to 3.5 times as much. Lent
# by near rates too, two seeds tell a gap of 0.03 in 42 % of sweeps instead of 31, three in as many; lent by any, three lose a
# sixth of their power and intervals cover more than 97 % (benchmarks/results).
_LENDS_WITHIN = 0.03
# The validation images chose epoch and configuration: an interval from them lies too high, and says so.
_ENDS = {
    "val": ("val_mean_f1_optimistic_low", "val_mean_f1_optimistic_high"),
    "test": ("test_mean_f1_low", "test_mean_f1_high"),
}


@dataclass(frozen=True)
class Configuration:
    """All seeds of one configuration.

    Attributes:
        config_id: Its name.
        group: The value it is grouped by: its backbone.
        values: Swept keys and their values.
        records: Its trials, in plan order.
        rank: 1 for the best mean validation score among the full-budget configurations; None if it is not ranked.
        scored: Predictions of its full runs, in the order of `full`; empty if any of them cannot be used.
        val: Interval of its validation score; None without predictions.
        test: Interval of its test score; None without predictions.
    """

    config_id: str
    group: str
    values: dict[str, Any]
    records: tuple[TrialRecord, ...]
    rank: int | None = None
    scored: tuple[Scored, ...] = ()
    val: Interval | None = None
    test: Interval | None = None

    @cached_property
    def full(self) -> tuple[TrialRecord, ...]:
        """Its full-budget runs: what its scores are means over, once it is ranked."""
        return tuple(record for record in self.records if record.full_budget)

    @property
    def complete(self) -> bool:
        """Whether it may be ranked.

        Every seed had the full budget; a seed lost to a failure of the machine is let go, with a note, and so is one that
        settling did not need. A diverged one is not: the mean over the seeds that happened to survive would flatter the configuration.
        """
        lost = [record for record in self.records if record.status == "failed" or record.left]
        return bool(self.full) and len(self.full) + len(lost) == len(self.records)

    @property
    def shown(self) -> tuple[TrialRecord, ...]:
        """The runs that its row is about: the full ones where it is ranked, else those that got furthest.

        Seeds that were stopped at different rungs are not averaged: their scores differ by their epochs most of all.
        """
        if self.complete:
            return self.full
        reported = [record for record in self.records if record.report is not None]
        furthest = max((record.epochs_trained for record in reported), default=0)
        return tuple(record for record in reported if record.epochs_trained == furthest)

    @property
    def best(self) -> TrialRecord | None:
        """The run with the best validation score among those shown: its weights are the ones to use."""
        return max(self.shown, key=lambda record: record.best_mean_f1 or 0.0, default=None)

    @property
    def val_span(self) -> tuple[float, float] | None:
        """The ends of its validation interval, where there is one."""
        return self.val.ends if self.val else None

    @property
    def test_span(self) -> tuple[float, float] | None:
        """The ends of its test interval, where there is one."""
        return self.test.ends if self.test else None

    @property
    def constant_heads(self) -> tuple[str, ...]:
        """The heads that give every test image the same answer, with every seed; empty without predictions."""
        heads = [one.test.constant_heads for one in self.scored]
        return tuple(sorted(frozenset.intersection(*heads))) if heads else ()

    def val_scores(self) -> list[float]:
        """Return the best validation mean_f1 of each run shown."""
        return [float(record.report["mean_f1"]) for record in self.shown if record.report]

    def test_scores(self, metric: str = "mean_f1") -> list[float]:
        """Return a test metric of each run shown."""
        return [float(record.report["test_metrics"][metric]) for record in self.shown if record.report]

    def cost(self, name: str) -> float | None:
        """Return the mean of a `timing` entry over the runs shown; what was spent adds up over all its runs instead."""
        in_all = name in ("gpu_hours", "train_s")
        values = [record.timing(name) for record in (self.records if in_all else self.shown)]
        known = [value for value in values if value is not None]
        if not known:
            return None
        return sum(known) if in_all else fmean(known)

    @property
    def note(self) -> str:
        """What keeps it from being ranked, or what its mean leaves out; empty for a plain full-budget row."""
        parts: dict[str, list[str]] = {}
        for record in self.records:
            if not record.full_budget:
                parts.setdefault(_fate(record), []).append(str(record.seed))
        words = []
        for fate, seeds in parts.items():
            if len(seeds) == len(self.records) > 1:
                words.append(f"both seeds {fate}" if len(seeds) == 2 else f"all {len(seeds)} seeds {fate}")
            else:
                words.append(f"seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)} {fate}")
        return "; ".join(words)


def _fate(record: TrialRecord) -> str:
    epochs = record.report["epochs"] if record.report else record.config.get("epochs", "?")
    of = f"at epoch {record.epochs_trained} of {epochs}"
    if record.left:
        return "left by settling"
    if record.status == "completed":
        return "finished, but the report cannot be used"
    return {
        "planned": f"to go on from epoch {record.epochs_trained}" if record.epochs_trained else "still to come",
        "running": f"running, {of}",
        "stopped": {"asha": f"stopped by ASHA {of}", "race": f"fell in the race {of}"}.get(
            str(record.detail.get("kind")), f"stopped {of}"
        ),
        "diverged": f"diverged {of}",
        "failed": "failed" if not record.epochs_trained else f"failed {of}",
        "skipped": "not run",
    }[record.status]


@dataclass(frozen=True)
class Board:
    """The leaderboard.

    Attributes:
        run: The run it was made from.
        ranked: Full-budget configurations, best first.
        partial: The others, in order of how far they came and then of their best validation score.
        problems: Trials whose predictions cannot be used: (trial id, what is wrong).
    """

    run: RunRecord
    ranked: tuple[Configuration, ...]
    partial: tuple[Configuration, ...]
    problems: tuple[tuple[str, str], ...]

    @cached_property
    def lending(self) -> tuple[Configuration, ...]:
        """The configurations whose seeds tell others how seeds vary; see `lending`."""
        return lending(self.ranked)

    def lenders(self, *borrowers: Configuration) -> list[Configuration]:
        """Return those that lend to some configurations: on the same test images, and other ones."""
        return lenders(self.lending, *borrowers)

    @cached_property
    def best_of_group(self) -> dict[str, Configuration]:
        """The best ranked configuration of each group, best group first."""
        best: dict[str, Configuration] = {}
        for configuration in self.ranked:
            best.setdefault(configuration.group, configuration)
        return best


def build_board(run: RunRecord) -> Board:
    """Rank the configurations and work out their intervals from the stored predictions."""
    by_id: dict[tuple[str, str], list[TrialRecord]] = {}
    for record in run.records:
        by_id.setdefault((record.group, record.config_id), []).append(record)
    configurations = [
        Configuration(
            config_id,
            group,
            {key: records[0].config.get(key) for key in run.swept_keys},
            tuple(records),
        )
        for (group, config_id), records in by_id.items()
    ]
    ranked = [one for one in configurations if one.complete]
    ranked.sort(key=lambda one: (-fmean(one.val_scores()), one.config_id))
    partial = [one for one in configurations if not one.complete]
    partial.sort(key=lambda one: (-max(r.epochs_trained for r in one.records), -_best_so_far(one), one.config_id))
    wanted = [record for one in ranked for record in one.full]
    with ThreadPoolExecutor(_READERS) as pool:
        found = dict(zip((r.trial_id for r in wanted), pool.map(lambda r: read_scored(run, r), wanted), strict=True))
        ranked = [_with_predictions(rank, one, found) for rank, one in enumerate(ranked, start=1)]
        lent = lending(ranked)
        with_intervals = pool.map(lambda one: _with_intervals(one, lenders(lent, one)), ranked)
        problems = tuple((trial_id, text) for trial_id, text in found.items() if isinstance(text, str))
        return Board(run, tuple(with_intervals), tuple(partial), problems)


def _best_so_far(configuration: Configuration) -> float:
    return max((r.best_mean_f1 for r in configuration.records if r.best_mean_f1 is not None), default=0.0)


def lending(ranked: Sequence[Configuration]) -> tuple[Configuration, ...]:
    """Return the configurations whose seeds tell others how seeds vary.

    Two full runs or more, that learned something, and are about as good as the best of their group: see `_LENDS_WITHIN`
    and sweep/results/borrow.py.

    Args:
        ranked: Best first.
    """
    best: dict[str, float] = {}
    for one in ranked:
        best.setdefault(one.group, fmean(one.val_scores()))
    return tuple(
        one
        for one in ranked
        if len(one.scored) > 1 and not one.constant_heads and fmean(one.val_scores()) >= best[one.group] - _LENDS_WITHIN
    )


def lenders(lent: Sequence[Configuration], *borrowers: Configuration) -> list[Configuration]:
    """Return those of the lending configurations that were scored on the same images and are not borrowers themselves."""
    names = {(one.group, one.config_id) for one in borrowers}
    images = borrowers[0].scored[0].test_images if borrowers[0].scored else None
    return [one for one in lent if (one.group, one.config_id) not in names and one.scored[0].test_images == images]


def _with_predictions(rank: int, configuration: Configuration, found: dict[str, Scored | str]) -> Configuration:
    scored = [found[record.trial_id] for record in configuration.full]
    usable = tuple(one for one in scored if isinstance(one, Scored))
    if len(usable) < len(scored) or len({one.test_images for one in usable}) > 1:
        return replace(configuration, rank=rank)
    return replace(configuration, rank=rank, scored=usable)


def _with_intervals(one: Configuration, lent: Sequence[Configuration]) -> Configuration:
    if not one.scored:
        return one
    val, test = [other.val_scores() for other in lent], [other.test_scores() for other in lent]
    return replace(
        one,
        val=score_interval([each.val for each in one.scored], lenders=val, num_resamples=_VAL_RESAMPLES),
        test=score_interval([each.test for each in one.scored], lenders=test),
    )


def board_frame(board: Board) -> pd.DataFrame:
    """Return one row per configuration: ranked ones first, then the others without a rank."""
    return typed_frame(board_rows(board), _names(board))


def board_rows(board: Board) -> list[dict[str, Any]]:
    """Return the rows of `board_frame` as plain values, None where there is nothing to say."""
    names = _names(board)
    rows = [_row(one) for one in (*board.ranked, *board.partial)]
    return [{name: row.get(name) for name in names} for row in rows]


def _names(board: Board) -> list[str]:
    names = ["rank", "config_id", "group", *board.run.swept_keys, "full_budget", "num_seeds", "seeds"]
    for split in _ENDS:
        names += [f"{split}_mean_f1", f"{split}_mean_f1_sd", *_ENDS[split]]
    names += [f"test_{metric}{part}" for metric in TEST_METRICS for part in ("", "_sd")]
    return [*names, "epochs_trained", *COSTS, "num_params", "protocol", "note"]


def _row(one: Configuration) -> dict[str, Any]:
    row: dict[str, Any] = {
        "rank": one.rank,
        "config_id": one.config_id,
        "group": one.group,
        **one.values,
        "full_budget": one.complete,
        "num_seeds": len(one.shown),
        "seeds": " ".join(str(record.seed) for record in one.shown),
        **_mean_and_sd("val_mean_f1", one.val_scores()),
        **_mean_and_sd("test_mean_f1", one.test_scores()),
        "epochs_trained": sum(record.epochs_trained for record in one.records),
        "note": one.note,
    }
    for split, interval in (("val", one.val), ("test", one.test)):
        if interval is not None:
            row |= dict(zip(_ENDS[split], (interval.low, interval.high), strict=True))
    for metric in TEST_METRICS:
        row |= _mean_and_sd(f"test_{metric}", one.test_scores(metric))
    row |= {name: one.cost(name) for name in COSTS}
    if one.best is not None and one.best.report is not None:
        row |= {"num_params": one.best.report["model"]["num_params"], "protocol": one.best.report["protocol"]}
    return row


def _mean_and_sd(name: str, values: Sequence[float]) -> dict[str, float | None]:
    return {
        name: fmean(values) if values else None,
        f"{name}_sd": stdev(values) if len(values) > 1 else None,
    }
