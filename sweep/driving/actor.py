"""The Ray actor that runs one leg after another, and the signs of life that it leaves.

Traps of Ray 2.60 that this module guards against (tests/sweep/driving/test_driver.py):

- A reused actor whose thread has not ended 2 s after a stop fails the *next* trial. `reset_config` waits longer.
- The name that the dashboard shows of an actor is the one it had first: with reused actors, another trial's. Each leg
  names its process and its log lines instead.
- Nothing but an epoch reaches the driver from a worker that runs. A sign of life goes through the key-value store of
  the GCS, which needs no storage and reaches every node.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
from collections.abc import Iterator
from typing import Any

import ray
from ray import tune
from ray.experimental import internal_kv
from ray.tune.trainable import wrap_function

from fairface_core.machine import pulse
from sweep.driving.worker import ENDING_KEY, Task, run_leg
from sweep.policy.states import TRIAL_ID_KEY

# Keys of a leg's config beside those of policy/states.py.
TASK_KEY, LEG_KEY, NEEDS_KEY, PULSE_KEY, BEAT_S_KEY = "task", "leg", "needs", "pulse", "beat_s"
PULSE_NAMESPACE = b"fairface-sweep"
# A stopped trial has only to leave `tune.report`; a slow disk may hold its file lock for a while.
_THREAD_END_S = 60


def _train(config: dict[str, Any]) -> dict[str, Any]:
    """Run one leg inside a Ray actor; what it returns is its last report."""
    task = Task(**config[TASK_KEY])
    with _signs_of_life(config[PULSE_KEY].encode(), config[BEAT_S_KEY]):
        ending = run_leg(task, tune.report)
    last = {ENDING_KEY: dataclasses.asdict(ending)}
    if ending.kind in ("oom", "device"):
        # The process may hold a broken device or torn memory: say so, then let Ray end it.
        tune.report(last)
        raise RuntimeError(f"{ending.kind}: {ending.reason}")
    return last


@contextlib.contextmanager
def _signs_of_life(key: bytes, every_s: float) -> Iterator[None]:
    done = threading.Event()

    def watch() -> None:
        seen = pulse.beats()
        while not done.wait(every_s):
            if pulse.beats() != seen:
                seen = pulse.beats()
                # A GCS that does not answer is noticed by the driver in its own way.
                with contextlib.suppress(ray.exceptions.RayError, RuntimeError, OSError):
                    internal_kv._internal_kv_put(key, str(seen).encode(), overwrite=True, namespace=PULSE_NAMESPACE)

    thread = threading.Thread(target=watch, name="signs-of-life", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()


class TrialActor(wrap_function(_train, name="trial")):  # type: ignore[misc]
    """The actor that runs one leg after another; its name is what the Ray dashboard shows."""

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """Return what a leg needs."""
        needs = config[NEEDS_KEY]
        return tune.PlacementGroupFactory([{"CPU": needs["cpu"], "GPU": needs["gpu"]}])

    def step(self) -> dict[str, Any]:
        """Run to the next report, under the trial's name in `ps`, `py-spy` and the dashboard's process list."""
        with contextlib.suppress(ImportError):
            from ray._raylet import setproctitle  # type: ignore[attr-defined]

            setproctitle(f"ray::{self.config[TRIAL_ID_KEY]}")
        return super().step()

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take another leg, once the thread of the last one has ended."""
        os.environ.setdefault("TUNE_FUNCTION_THREAD_TIMEOUT_S", str(_THREAD_END_S))
        return super().reset_config(new_config)
