"""One `Tuner.fit` for a whole sweep: Ray places and runs legs, the ledger says which, the scheduler which are stopped.

Ray's part is small on purpose. A searcher hands over one leg at a time when the ledger names one; a callback tells the
ledger what became of it; retries, resume and confirm runs are new legs of the same trial folder. Ray's own state is
written to a cache folder, never read, and nothing of it is ever unpickled.

Traps of Ray 2.60 that this module guards against (tests/sweep/driving/test_driver.py):

- `Tuner` pickles itself, callbacks and searcher included, into `tuner.pkl`. Ours have an empty state.
- While nothing runs, Tune polls its searcher in a loop that looks at nothing else for up to 600 s. `suggest` never
  returns None then.
- `FailureConfig(max_failures)` retries every exception, those included that only repeat; ours is 0 and the ledger
  decides.
- After an exception in the loop `Tune` waits up to 600 s for its actors; an exception that is no `Exception` passes
  through at once, and `ray.shutdown` ends every process in a second or two.
- A trial whose reused actor cannot be reset is set to ERROR and no callback hears of it. Ended trials are looked through.
- A hung worker holds its actor for ever: nothing but an epoch reaches the driver. So workers leave a sign of life in
  the GCS's key-value store, and the driver kills those that stop.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.experimental import internal_kv
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from fairface_core.errors import ConfigError, FairfaceError
from sweep.cluster import connect
from sweep.cluster.signals import StopSignals
from sweep.driving.actor import BEAT_S_KEY, LEG_KEY, NEEDS_KEY, PULSE_KEY, PULSE_NAMESPACE, TASK_KEY, TrialActor
from sweep.driving.ledger import Ledger
from sweep.driving.placement import Needs, Placement
from sweep.driving.race_scheduler import RaceScheduler
from sweep.driving.trials import Flight, Leg, death
from sweep.driving.worker import ENDING_KEY, Ending, Task
from sweep.policy.asha import GroupedASHA
from sweep.policy.states import DECISIONS_FILE, GROUP_KEY, PHASE_KEY, TRIAL_ID_KEY, RungDecision

_REFRESH_CLUSTER_S = 5.0


@dataclass(frozen=True)
class Watcher:
    """Who wants to hear what happens. Each is called in the driver's thread and must be quick.

    Attributes:
        began: A worker has a leg.
        epoch: An epoch of a leg is complete; its figures.
        ended: A leg ended, and how (None: the scheduler stopped it); whether the trial will be tried again.
        note: Something that a person should know.
        tick: Called about ten times a second.
    """

    began: Callable[[Leg], None]
    epoch: Callable[[Leg, Mapping[str, Any]], None]
    ended: Callable[[Leg, Ending | None, bool], None]
    note: Callable[[str], None]
    tick: Callable[[], None]


def run_trials(
    ledger: Ledger,
    tasks: Mapping[str, Task],
    watcher: Watcher,
    signals: StopSignals,
    *,
    ray_dir: Path,
    max_legs: int | None,
    stall_timeout_s: float | None,
) -> None:
    """Run everything that the ledger names, until nothing is left.

    Args:
        ledger: Which trials run.
        tasks: What a worker needs to know, by trial id; attempt and the number of images at a time are filled in.
        watcher: Who is told.
        signals: Asked between any two events; its first signal ends the run with Interrupted.
        ray_dir: Folder for Ray's own state, on this machine.
        max_legs: Most trials at a time, None for as many as fit.
        stall_timeout_s: Seconds without progress after which a worker is killed, None for never.

    Raises:
        Interrupted: A signal asked to stop.
        FairfaceError: The driver itself cannot go on, such as for want of storage. Running trials are lost where
            they are and can be resumed.
    """
    try:
        scheduler = _scheduler(ledger)
        if ledger.finished:
            return
        events = _Events(ledger, tasks, watcher, signals, max_legs=max_legs, stall_timeout_s=stall_timeout_s)
        _tuner(events, scheduler, ray_dir).fit()
        assert ledger.finished, "Ray ended before the plan did"
    except _Broken as broken:
        raise broken.error from broken


def _scheduler(ledger: Ledger) -> FIFOScheduler:
    """Return the scheduler with its rungs as the trial folders tell them, and the ledger in line with both."""
    given = ledger.plan.scheduler
    if ledger.races:
        ledger.settle()

        def goes_on(trial_id: str, figures: Mapping[str, Any]) -> bool:
            with _breaking():
                return ledger.goes_on(trial_id, figures)

        return RaceScheduler(goes_on)

    def store(decision: RungDecision) -> None:
        with _breaking():
            ledger.decided(decision)

    scheduler = GroupedASHA(
        epochs=ledger.plan.epochs,
        # No rung lies before the last epoch: nothing is ever stopped.
        grace_epochs=given.grace_epochs if given.kind == "asha" else ledger.plan.epochs,
        reduction_factor=given.reduction_factor,
        on_decision=store,
    )
    try:
        scheduler.refill(ledger.states())
    except ValueError as error:
        raise ConfigError(f"{DECISIONS_FILE}: {error}") from error
    ledger.settle()
    return scheduler


def _tuner(events: _Events, scheduler: FIFOScheduler, ray_dir: Path) -> tune.Tuner:
    return tune.Tuner(
        TrialActor,
        tune_config=tune.TuneConfig(
            search_alg=PlanSearcher(events),
            scheduler=scheduler,
            # The searcher ends the run; a bound is asked for.
            num_samples=1_000_000,
            reuse_actors=True,
            trial_name_creator=_leg_name,
            trial_dirname_creator=_leg_name,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(ray_dir),
            callbacks=[events],
            failure_config=tune.FailureConfig(max_failures=0),
            verbose=0,
        ),
    )


class _Broken(BaseException):
    """The driver cannot go on; carries why through Ray's loop, which would wrap an Exception in text."""

    def __init__(self, error: FairfaceError) -> None:
        super().__init__(str(error))
        self.error = error


@contextlib.contextmanager
def _breaking() -> Iterator[None]:
    try:
        yield
    except FairfaceError as error:
        raise _Broken(error) from error


class PlanSearcher(Searcher):
    """Hands Ray the next leg of the ledger."""

    def __init__(self, events: _Events) -> None:
        super().__init__()
        self._events = events

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """Return the config of the next leg, None while there is none to hand over."""
        with _breaking():
            return self._events.next_config(trial_id)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The callback hears of it, with more detail."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: what runs next follows from the trial folders."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing."""

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing for `tuner.pkl`."""
        return {}


class _Events(tune.Callback):
    """What happens in Ray, told to the ledger."""

    def __init__(
        self,
        ledger: Ledger,
        tasks: Mapping[str, Task],
        watcher: Watcher,
        signals: StopSignals,
        *,
        max_legs: int | None,
        stall_timeout_s: float | None,
    ) -> None:
        self._ledger, self._tasks, self._watcher, self._signals = ledger, tasks, watcher, signals
        self._stall_timeout_s = stall_timeout_s
        nodes = connect.live_nodes()
        self._placement = Placement(sum(n.cpus for n in nodes), sum(n.gpus for n in nodes), max_legs)
        self._flights: dict[str, Flight] = {}
        self._stranded: set[Needs] = set()
        self._looked_at_cluster = self._looked_at_pulses = time.monotonic()

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing for `tuner.pkl`."""
        return {}

    def next_config(self, ray_id: str) -> dict[str, Any] | str | None:
        """Return the next leg as the config of a Ray trial."""
        leg = self._ledger.next_leg(self._placement)
        if leg is None:
            return None if self._flights else Searcher.FINISHED
        trial = leg.trial
        key = f"{trial.folder.uri}#{leg.number}"
        self._flights[ray_id] = Flight(leg, key.encode())
        task = dataclasses.replace(
            self._tasks[trial.trial_id],
            attempt=trial.attempts,
            at_most=self._ledger.at_most(trial),
            epochs_heard=len(trial.scores),
            taken_back=trial.taken_back,
        )
        return {
            TRIAL_ID_KEY: trial.trial_id,
            GROUP_KEY: trial.group,
            PHASE_KEY: leg.phase,
            LEG_KEY: leg.number,
            TASK_KEY: dataclasses.asdict(task),
            NEEDS_KEY: dataclasses.asdict(trial.needs),
            PULSE_KEY: key,
            BEAT_S_KEY: min(10.0, (self._stall_timeout_s or 40.0) / 4),
        }

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A worker has a leg."""
        flight = self._flights[trial.trial_id]
        flight.alive_at, flight.actor = time.monotonic(), trial.temporary_state.ray_actor
        self._placement.started(flight.leg.trial.needs)
        self._ledger.began(flight.leg)
        self._watcher.began(flight.leg)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """An epoch is complete, or a leg says how it ended."""
        flight = self._flights[trial.trial_id]
        flight.alive_at = time.monotonic()
        if ENDING_KEY in result:
            flight.ending = Ending(**result[ENDING_KEY])
            return
        with _breaking():
            self._ledger.epoch(flight.leg, result)
            self._watcher.epoch(flight.leg, result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A leg ended in order: the function returned, or the scheduler stopped it."""
        self._land(trial.trial_id, lambda flight: flight.ending)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A leg's process is gone, or its function raised."""
        self._land(trial.trial_id, lambda flight: flight.killed or flight.ending or death(trial.error_file))

    def _land(self, ray_id: str, how: Callable[[Flight], Ending | None]) -> None:
        flight = self._flights.pop(ray_id)
        leg = flight.leg
        self._placement.ended(leg.trial.needs, had_started=leg.started)
        internal_kv._internal_kv_del(flight.pulse_key, namespace=PULSE_NAMESPACE)
        with _breaking():
            ending = how(flight)
            again = self._ledger.ended(leg, ending)
            self._watcher.ended(leg, ending, again)

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """About ten times a second."""
        self._signals.check()
        now = time.monotonic()
        if now - self._looked_at_cluster > _REFRESH_CLUSTER_S:
            self._looked_at_cluster = now
            nodes = connect.live_nodes()
            self._placement.cpus, self._placement.gpus = (
                sum(n.cpus for n in nodes),
                sum(n.gpus for n in nodes),
            )
            self._tell_stranded(nodes)
        if self._stall_timeout_s and now - self._looked_at_pulses > min(5.0, self._stall_timeout_s / 4):
            self._looked_at_pulses = now
            self._end_stalled(now, self._stall_timeout_s)
        self._land_forgotten(trials)
        with _breaking():
            self._watcher.tick()

    def _tell_stranded(self, nodes: Sequence[connect.Node]) -> None:
        """Say once of legs that wait for a machine such as there is none left: Ray waits for one without a word."""
        waiting = {flight.leg.trial.needs for flight in self._flights.values() if not flight.leg.started}
        stranded = {needs for needs in waiting if not any(needs.fit_on(node.cpus, node.gpus) for node in nodes)}
        for needs in stranded - self._stranded:
            self._watcher.note(
                f"no machine of the cluster has {needs.cpu:g} CPU and {needs.gpu:g} GPU for a trial any more; those that "
                "need as much wait until one joins, or end this (Ctrl-C) and go on elsewhere with --resume"
            )
        self._stranded = stranded

    def _land_forgotten(self, trials: list[Any]) -> None:
        """Land legs that Ray has ended without a word: those whose reused actor refused them."""
        for trial in trials:
            if trial.trial_id in self._flights and trial.is_finished():
                refused = Ending("crash", "its worker could not be used again", retry=True)
                self._land(trial.trial_id, lambda flight, refused=refused: flight.ending or refused)  # type: ignore[misc]

    def _end_stalled(self, now: float, timeout_s: float) -> None:
        for flight in self._flights.values():
            if flight.actor is None or flight.killed is not None:
                continue
            beats = internal_kv._internal_kv_get(flight.pulse_key, namespace=PULSE_NAMESPACE)
            if beats != flight.beats:
                flight.beats, flight.alive_at = beats, now
            elif now - flight.alive_at > timeout_s:
                flight.killed = Ending("stalled", f"no progress for {timeout_s:g} s; its process was ended", retry=True)
                ray.kill(flight.actor)


def _leg_name(trial: Any) -> str:
    number = trial.config[LEG_KEY]
    return trial.config[TRIAL_ID_KEY] + (f"~{number}" if number > 1 else "")
