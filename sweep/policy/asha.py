"""ASHA per group on Ray's own ASHA, with decisions that survive a restart.

`GroupedASHA` keeps one `AsyncHyperBandScheduler` for each group, because one bracket over mixed backbones stops
the slow starter. It feeds them by our stable trial ids, so that what a rung holds does not depend on Ray's ids.
How to drive it:

1. `scheduler = GroupedASHA(epochs=20, grace_epochs=3, reduction_factor=3, on_decision=journal)`. `journal` stores
   each rung decision (`sweep.policy.states.RungDecision`) durably; it is called before the answer is given.
2. On resume, once: `new = scheduler.refill(states)` with every trial's history and stored decisions. It rebuilds
   the rungs and judges last epochs that were never judged. Add `new` to the states, then ask `sweep.policy.confirm.choose_group`.
3. Hand it to Ray: `TuneConfig(scheduler=scheduler, search_alg=...)`, without metric or mode. Each Ray trial's config
   holds `trial_id`, `group` and `phase`; each report holds `epoch` and `mean_f1`. Or, with no Ray controller,
   call `on_epoch(trial_id, group, epoch, score)` after each exploring epoch.

`kind: fifo` is `grace_epochs=epochs`: no rung lies before the last epoch.

Traps of Ray 2.60 that this module guards against (each has a test):

- A trial that is stopped never returns from its function, at `max_t` too. Here the last epoch is always told to
  continue, so that a full run returns and ends itself.
- ASHA tells a NaN score to continue and keeps it in the rung. Here it stops the trial and enters no rung.
- `TuneController` does not save its scheduler: after a restore every rung is empty. Hence `refill`.
- `Tuner` pickles its scheduler into `tuner.pkl`, callbacks included. Hence `__getstate__`.
- A trial that reports past a rung it never met is recorded in lower rungs with a later epoch's score. Here a rung
  is only asked at its own epoch.
- A rung is asked again, with one trial more, when a retried trial repeats its epoch under a new Ray trial. Here it
  gets the first answer.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler
from ray.tune.schedulers.async_hyperband import _Bracket

from fairface_core.trial.reports import CONSTANT_KEY
from sweep.policy.states import (
    CONFIRM,
    EPOCH_KEY,
    GROUP_KEY,
    PHASE_KEY,
    SCORE_KEY,
    TRIAL_ID_KEY,
    RungDecision,
    TrialState,
)


@dataclass(frozen=True)
class _Shim:
    """All that Ray's ASHA reads of a trial."""

    trial_id: str


class _NotingBracket(_Bracket):
    """Ray's bracket; it also remembers the cutoff it used and takes scores back on resume.

    Ray sorts all scores of a rung for each cutoff: 0.6 ms at 10,000. Here they stay sorted.
    """

    last_cutoff: float | None = None

    def __init__(self, min_t: float, max_t: float, reduction_factor: float, s: int) -> None:
        super().__init__(min_t, max_t, reduction_factor, s)  # type: ignore[arg-type]
        self._sorted: dict[float, list[float]] = {rung: [] for rung, _ in self._rungs}

    def cutoff(self, recorded: dict[str, float]) -> float | None:
        """Return what a score has to reach, to the bit as Ray computes it (a test compares them), and note it."""
        self.last_cutoff = None
        if recorded:
            scores = self._in_order(recorded)
            # numpy's percentile by linear interpolation, with its rounding; no score of a rung is NaN.
            position = (1 - 1 / self.rf) * 100 / 100 * (len(scores) - 1)
            below = min(int(position), len(scores) - 1)
            low, high = scores[below], scores[min(below + 1, len(scores) - 1)]
            share, width = position - below, high - low
            self.last_cutoff = high - width * (1 - share) if share >= 0.5 else low + width * share
        return self.last_cutoff

    def _in_order(self, recorded: dict[str, float]) -> list[float]:
        """Return the scores of a rung in rising order. A rung only grows, or loses a score that was never sorted in."""
        scores = self._sorted[next(rung for rung, held in self._rungs if held is recorded)]
        assert len(scores) <= len(recorded), "a score that was sorted in was taken out of its rung"
        for score in itertools.islice(reversed(recorded.values()), len(recorded) - len(scores)):
            bisect.insort(scores, score)
        return scores

    def milestones(self) -> list[float]:
        """Return where the rungs lie, in epochs, highest first."""
        return [milestone for milestone, _ in self._rungs]

    def scores(self, milestone: float) -> dict[str, float]:
        """Return the scores that a rung holds, by trial id."""
        return dict(self._rungs)[milestone]


class _Group:
    """One group's bracket."""

    def __init__(self, *, epochs: int, grace_epochs: int, reduction_factor: float) -> None:
        # max_t is never reached: the last epoch is not shown to Ray's scheduler.
        max_t = max(epochs, grace_epochs)
        # Any: it is given shims for trials and no controller.
        self._asha: Any = AsyncHyperBandScheduler(
            time_attr=EPOCH_KEY,
            metric=SCORE_KEY,
            mode="max",
            max_t=max_t,
            grace_period=grace_epochs,
            reduction_factor=reduction_factor,
        )
        self.bracket = _NotingBracket(grace_epochs, max_t, reduction_factor, 0)
        self._asha._brackets = [self.bracket]
        self._met: set[str] = set()
        # From the lowest up: where a small factor puts two rungs on one epoch, Ray asks the higher.
        judged = {math.ceil(milestone): milestone for milestone in reversed(self.bracket.milestones())}
        self.rung_at: dict[int, float] = {epoch: rung for epoch, rung in judged.items() if epoch < epochs}

    def check(self, decision: RungDecision) -> None:
        """Refuse a stored decision of a rung that is not there."""
        if self.rung_at.get(decision.epoch) != decision.rung:
            rungs = ", ".join(f"{rung:g}" for rung in sorted(self.rung_at.values()))
            raise ValueError(
                f"{decision.trial_id}: stored decision at rung {decision.rung:g}, epoch {decision.epoch}; "
                f"the rungs of this sweep are {rungs or 'none'}"
            )

    def judge(self, trial_id: str, epoch: int, score: float) -> bool:
        """Ask Ray's ASHA whether the trial is to stop."""
        shim = _Shim(trial_id)
        if trial_id not in self._met:
            self._met.add(trial_id)
            self._asha.on_trial_add(None, shim)
        action = self._asha.on_trial_result(None, shim, {EPOCH_KEY: epoch, SCORE_KEY: score})
        return bool(action == TrialScheduler.STOP)


class GroupedASHA(FIFOScheduler):
    """Asynchronous successive halving on validation mean_f1, one bracket a group.

    The rules are those of Li et al. 2020 in Ray's stop form: at epochs `grace_epochs * reduction_factor ** k` a trial
    is stopped if its score lies below the top `1 / reduction_factor` quantile of the scores that came before it.
    One rule is ours: a quantile that is not above what a constant answer scores stops nothing. Whoever set it has
    learned nothing yet. On recorded curves of a network that starts late this took the mean loss in score from 0.012
    to 0.002 at 3 learning rates, for 15 % more epochs (`benchmarks/results/asha_saving_2cores_2026-11.md`).

    Args:
        epochs: Full budget of a trial.
        grace_epochs: Epochs that every trial gets.
        reduction_factor: Above 1. Also the ratio between rungs.
        on_decision: Called with each new decision before the answer is given. What it raises propagates, and
            the decision then counts as not made.
    """

    # A decision must reach the trial before its next epoch begins.
    _supports_buffered_results = False

    def __init__(
        self,
        *,
        epochs: int,
        grace_epochs: int,
        reduction_factor: float,
        on_decision: Callable[[RungDecision], None] | None = None,
    ) -> None:
        assert epochs >= 1, "a trial has at least one epoch"
        assert grace_epochs >= 1, "every trial gets at least one epoch"
        assert reduction_factor > 1, "a rung has to be able to stop something"
        super().__init__()
        # `metric` stays None: Ray would refuse reports without the score, such as how a trial ended.
        self._epochs = epochs
        self._settings: dict[str, Any] = {
            "epochs": epochs,
            "grace_epochs": grace_epochs,
            "reduction_factor": reduction_factor,
        }
        self._on_decision = on_decision
        self._groups: dict[str, _Group] = {}
        self._decisions: dict[str, list[RungDecision]] = {}
        self._next_order = 0

    def on_epoch(
        self, trial_id: str, group: str, epoch: int, score: float, constant: float = 0.0
    ) -> Literal["continue", "stop"]:
        """Say whether an exploring trial goes on.

        Args:
            trial_id: Stable trial id.
            group: Its group.
            epoch: Epochs it has trained so far, from 1. Each epoch is reported; a repeated one gets the same answer.
            score: Validation mean_f1 after that epoch, in [0, 1]. Not finite: "stop", and no rung takes notice.
            constant: What the best constant answer scores there; a cutoff that is not above it stops nothing.

        Returns:
            "stop" if the trial is to end here; always "continue" at the last epoch, where it ends by itself.
        """
        if not math.isfinite(score) or self.stop_of(trial_id):
            return "stop"
        if epoch >= self._epochs:
            return "continue"
        bracket = self._group(group)
        rung = bracket.rung_at.get(epoch)
        if rung is None:
            return "continue"
        if trial_id in bracket.bracket.scores(rung):
            return "continue"
        return "stop" if self._judge(trial_id, group, rung, epoch, score, constant).stop else "continue"

    def _judge(self, trial_id: str, name: str, rung: float, epoch: int, score: float, constant: float) -> RungDecision:
        group = self._group(name)
        behind = group.judge(trial_id, epoch, score)
        cutoff = group.bracket.last_cutoff
        stop = behind and cutoff is not None and cutoff > constant
        decision = RungDecision(trial_id, name, rung, epoch, score, cutoff, stop, self._next_order, constant)
        try:
            if self._on_decision is not None:
                self._on_decision(decision)
        except BaseException:
            # A decision that nobody will remember is not made: asked again, the rung answers anew.
            del group.bracket.scores(rung)[trial_id]
            raise
        self._note(decision)
        return decision

    def refill(self, states: Iterable[TrialState]) -> list[RungDecision]:
        """Put back what every rung held, and judge the last epochs that were never judged.

        A rung holds the score of every trial that got there while exploring, stopped, lost and finished trials
        included. Stored decisions say which; where one is missing, the history does, and a trial whose history
        goes past a rung had been told to continue. Only a trial that is still exploring and whose last epoch is a
        rung's may have gone unjudged: it is judged now, in the order of `states`.

        Args:
            states: All planned trials, in plan order, with the statuses they will be resumed with.

        Returns:
            The new decisions, which `on_decision` has been called with.

        Raises:
            ValueError: A stored decision is not of this sweep's rungs.
        """
        assert not self._groups, "rungs are refilled once, before the first epoch is reported"
        states = tuple(states)
        unjudged: list[tuple[TrialState, float]] = []
        for state in states:
            group = self._group(state.group)
            for decision in state.decisions:
                group.check(decision)
                group.bracket.scores(decision.rung)[state.trial_id] = decision.score
                self._note(decision)
            for epoch, rung in group.rung_at.items():
                if epoch > len(state.explored) or any(d.rung == rung for d in state.decisions):
                    continue
                if not math.isfinite(state.explored[epoch - 1]):
                    continue
                if epoch == len(state.explored) and state.exploring:
                    unjudged.append((state, rung))
                else:
                    group.bracket.scores(rung)[state.trial_id] = state.explored[epoch - 1]
        return [
            self._judge(state.trial_id, state.group, rung, len(state.explored), state.explored[-1], state.constant)
            for state, rung in unjudged
        ]

    def _group(self, name: str) -> _Group:
        if name not in self._groups:
            self._groups[name] = _Group(**self._settings)
        return self._groups[name]

    def _note(self, decision: RungDecision) -> None:
        self._decisions.setdefault(decision.trial_id, []).append(decision)
        self._next_order = max(self._next_order, decision.order + 1)

    def decisions_of(self, trial_id: str) -> tuple[RungDecision, ...]:
        """Return what the rungs have said to a trial, in order."""
        return tuple(self._decisions.get(trial_id, ()))

    def stop_of(self, trial_id: str) -> RungDecision | None:
        """Return the decision that stopped a trial, if one did."""
        return next((decision for decision in self.decisions_of(trial_id) if decision.stop), None)

    def rungs(self) -> dict[str, dict[float, dict[str, float]]]:
        """Return what the rungs hold: group, rung, trial id, score. Rungs lie lowest first; groups appear once met."""
        return {
            name: {rung: dict(group.bracket.scores(rung)) for rung in sorted(group.rung_at.values())}
            for name, group in self._groups.items()
        }

    # Ray's interface. `choose_trial_to_run` is FIFO's, and adding, losing or ending a trial changes no rung.

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Answer a report of an epoch; others pass. Confirm runs go on, unless their score is not finite."""
        if EPOCH_KEY not in result:
            return TrialScheduler.CONTINUE
        score = float(result[SCORE_KEY])
        if trial.config[PHASE_KEY] == CONFIRM:
            return TrialScheduler.CONTINUE if math.isfinite(score) else TrialScheduler.STOP
        answer = self.on_epoch(
            trial.config[TRIAL_ID_KEY],
            trial.config[GROUP_KEY],
            int(result[EPOCH_KEY]),
            score,
            float(result.get(CONSTANT_KEY, 0.0)),
        )
        return TrialScheduler.STOP if answer == "stop" else TrialScheduler.CONTINUE

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Accept TuneConfig's metric and mode where they are absent or our own."""
        return metric in (None, SCORE_KEY) and mode in (None, "max")

    def debug_string(self) -> str:
        """Return the rungs of each group with their sizes."""
        sizes = (
            f"{name}: " + ", ".join(f"{len(scores)} in rung {rung:g}" for rung, scores in rungs.items())
            for name, rungs in self.rungs().items()
        )
        return "\n".join(["ASHA per group", *sizes])

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the callback: it may hold locks and open files, and `tuner.pkl` is never read back."""
        return {**self.__dict__, "_on_decision": None}
