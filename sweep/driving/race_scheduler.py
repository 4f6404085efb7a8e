"""A race as Ray sees it: after each epoch a leg runs on or ends, as the ledger says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from sweep.policy.states import EPOCH_KEY, TRIAL_ID_KEY


class RaceScheduler(FIFOScheduler):
    """Ends the legs of trials that wait or fell; which trial runs next is the ledger's to say.

    Args:
        goes_on: Told the trial id and the figures of an epoch before anyone else is; says whether the leg runs on.
    """

    # A decision must reach the trial before its next epoch begins.
    _supports_buffered_results = False

    def __init__(self, goes_on: Callable[[str, Mapping[str, Any]], bool]) -> None:
        super().__init__()
        self._goes_on = goes_on

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Answer a report of an epoch; others pass."""
        if EPOCH_KEY not in result or self._goes_on(trial.config[TRIAL_ID_KEY], result):
            return TrialScheduler.CONTINUE
        return TrialScheduler.STOP

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing for `tuner.pkl`."""
        return {}
