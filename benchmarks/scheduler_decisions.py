"""How long the scheduler takes to decide, at 10,000 trials and with no Ray controller.

    python -m benchmarks.scheduler_decisions

10,000 trials of 20 epochs in four groups, and all in one group, which is the worst case: a rung then holds up to
10,000 scores. 32 trials run side by side and each decision is timed on its own, in processor time (a program that
shares the cores does not count) and in wall time. `ratio` is the mean decision's processor time over the bar of 1 ms;
in the rows named `peer`, the time of plain Ray ASHA over ours for the same reports in the same order. Refilling the
rungs of 10,000 histories and choosing what a group runs next are timed too. The garbage collector is off meanwhile: a
full collection of a process with Ray loaded takes 80 ms and falls on whatever runs just then.
"""

from __future__ import annotations

import gc
import itertools
import time
from collections.abc import Iterator, Sequence
from types import SimpleNamespace

import numpy as np
from ray.tune.schedulers import AsyncHyperBandScheduler

from benchmarks.measure import Row, parser, ratio_row, say, show
from sweep.policy.asha import GroupedASHA
from sweep.policy.confirm import choose_group
from sweep.policy.states import RungDecision, TrialState

EPOCHS, GRACE, FACTOR, SLOTS, BAR_S = 20, 3, 3, 32, 1e-3


class Reports:
    """Trials that train side by side until they are told to stop."""

    def __init__(self, num_trials: int, num_groups: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.finals = rng.uniform(0.2, 0.8, num_trials).tolist()
        self.luck = rng.normal(0, 0.01, (num_trials, EPOCHS)).tolist()
        self.groups = [f"g{trial % num_groups}" for trial in range(num_trials)]
        self.stopped: set[int] = set()

    def __iter__(self) -> Iterator[tuple[int, int, float]]:
        """Yield trial, epoch and score in the order of arrival; add a trial to `stopped` to end it."""
        waiting = iter(range(len(self.finals)))
        running = [(trial, 0) for trial in itertools.islice(waiting, SLOTS)]
        while running:
            going = []
            for trial, epoch in running:
                yield trial, epoch + 1, self.finals[trial] * (epoch + 1) / EPOCHS + self.luck[trial][epoch]
                if epoch + 1 < EPOCHS and trial not in self.stopped:
                    going.append((trial, epoch + 1))
            running = going + [(trial, 0) for trial in itertools.islice(waiting, SLOTS - len(going))]


def clock() -> tuple[float, float]:
    """Return processor and wall seconds."""
    return time.thread_time(), time.perf_counter()


def since(began: tuple[float, float]) -> tuple[float, float]:
    """Return processor and wall seconds since."""
    now = clock()
    return now[0] - began[0], now[1] - began[1]


def ours(num_trials: int, num_groups: int, seed: int) -> tuple[np.ndarray, list[TrialState]]:
    """Return processor and wall seconds `[decisions, 2]` of each decision, and the trials' states at the end."""
    reports = Reports(num_trials, num_groups, seed)
    decisions: list[RungDecision] = []
    scheduler = GroupedASHA(epochs=EPOCHS, grace_epochs=GRACE, reduction_factor=FACTOR, on_decision=decisions.append)
    # A driver refills before it starts, an empty sweep too: it makes the groups' brackets.
    scheduler.refill(TrialState(group, group, group, 0, True) for group in sorted(set(reports.groups)))
    took: list[tuple[float, float]] = []
    scores: dict[int, list[float]] = {}
    for trial, epoch, score in reports:
        before = len(decisions)
        began = clock()
        answer = scheduler.on_epoch(f"t{trial}", reports.groups[trial], epoch, score)
        seconds = since(began)
        if len(decisions) > before:
            took.append(seconds)
        if answer == "stop":
            reports.stopped.add(trial)
        scores.setdefault(trial, []).append(score)
    states = [
        TrialState(
            f"t{trial}",
            reports.groups[trial],
            f"c{trial // 3}",
            trial % 3,
            True,
            "stopped" if trial in reports.stopped else "completed",
            tuple(history),
            scheduler.decisions_of(f"t{trial}"),
        )
        for trial, history in sorted(scores.items())
    ]
    return np.array(took), states


def rays(num_trials: int, num_groups: int, seed: int) -> np.ndarray:
    """Return the same for plain Ray ASHA, one scheduler a group."""
    reports = Reports(num_trials, num_groups, seed)
    schedulers = {
        group: AsyncHyperBandScheduler("epoch", "mean_f1", "max", EPOCHS, GRACE, FACTOR)
        for group in set(reports.groups)
    }
    took = []
    for trial, epoch, score in reports:
        shim = SimpleNamespace(trial_id=f"t{trial}")
        scheduler = schedulers[reports.groups[trial]]
        if epoch == 1:
            scheduler.on_trial_add(None, shim)  # type: ignore[arg-type]
        result = {"epoch": epoch, "mean_f1": score}
        began = clock()
        answer = scheduler.on_trial_result(None, shim, result)  # type: ignore[arg-type]
        seconds = since(began)
        if epoch in (GRACE, GRACE * FACTOR):
            took.append(seconds)
        if answer == "STOP" and epoch < EPOCHS:
            reports.stopped.add(trial)
    return np.array(took)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    arguments = parser(__doc__, "scheduler_decisions")
    arguments.add_argument("--trials", type=int, default=10_000)
    arguments.add_argument("--rounds", type=int, default=3)
    args = arguments.parse_args(argv)
    rows: list[Row] = []
    gc.disable()
    for num_groups in (4, 1):
        name = f"scheduler_decisions.{args.trials}_trials_{num_groups}_groups"
        ratios, medians, p99s, worst, walls, peers, refills, choices = ([] for _ in range(8))
        for turn in range(args.rounds):
            say(f"{name}, round {turn + 1}")
            took, states = ours(args.trials, num_groups, turn)
            peer = rays(args.trials, num_groups, turn)
            assert len(peer) == len(took), "both are asked at the same rungs"
            own_s = took[:, 0]
            medians.append(np.median(own_s))
            p99s.append(np.quantile(own_s, 0.99))
            worst.append(own_s.max())
            walls.append(np.median(took[:, 1]))
            ratios.append(own_s.mean() / BAR_S)
            peers.append(peer[:, 0].mean() / own_s.mean())
            began = clock()
            again = GroupedASHA(epochs=EPOCHS, grace_epochs=GRACE, reduction_factor=FACTOR)
            assert again.refill(states) == [], "all of it was decided"
            refills.append(since(began)[0])
            groups: dict[str, list[TrialState]] = {}
            for state in states:
                groups.setdefault(state.group, []).append(state)
            began = clock()
            for members in groups.values():
                choose_group(members)
            choices.append(since(began)[0] / num_groups)
        rows.append(
            ratio_row(
                f"{name}.mean_over_1_ms",
                ratios,
                goal=1,
                sense="<=",
                decisions=len(took),
                median_ms=1e3 * float(np.median(medians)),
                p99_ms=1e3 * float(np.median(p99s)),
                worst_ms=1e3 * float(max(worst)),
                median_wall_ms=1e3 * float(np.median(walls)),
                refill_s=float(np.median(refills)),
                choose_group_ms=1e3 * float(np.median(choices)),
            )
        )
        rows.append(ratio_row(f"{name}.peer", peers, peer="Ray's AsyncHyperBandScheduler alone, mean time over ours"))
    gc.enable()
    show(rows, as_json=args.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
