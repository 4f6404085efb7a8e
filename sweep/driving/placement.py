"""How many legs are handed to Ray at a time, so that Ray starts them in our order and nothing that fits waits.

Traps of Ray 2.60 that decide this (tests/sweep/driving/test_placement.py):

- Among waiting trials of equal needs Tune picks an arbitrary one when a reused actor comes free (it pops a set), and
  placement groups that wait are retried with random delays. So of equal legs only one may wait in Ray at a time
  beyond those that fit now; which one is next is ours to say.
- By default a search algorithm has one trial waiting in all: a small trial then idles behind a big one.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Needs:
    """What a leg takes from the cluster while it runs."""

    cpu: float
    gpu: float

    def fit_on(self, cpus: float, gpus: float) -> bool:
        """Whether one machine of this size can ever run the leg."""
        return self.cpu <= cpus and self.gpu <= gpus


@dataclass
class Placement:
    """Counts what was handed to Ray.

    Attributes:
        cpus: CPUs of the cluster.
        gpus: GPUs of the cluster.
        max_legs: Most legs at a time, None for as many as fit.
        waiting: Handed over and not started yet, by needs.
        running: Started, by needs.
    """

    cpus: float
    gpus: float
    max_legs: int | None = None
    waiting: Counter[Needs] = field(default_factory=Counter)
    running: Counter[Needs] = field(default_factory=Counter)

    def may_submit(self, needs: Needs) -> bool:
        """Whether one more leg of these needs may be handed to Ray now."""
        if self.max_legs is not None and self.waiting.total() + self.running.total() >= self.max_legs:
            return False
        return self.waiting[needs] == 0 or self.fitting(needs) >= 1

    def fitting(self, needs: Needs) -> int:
        """How many more legs of these needs fit beside all that were handed over, on one machine of that size.

        On several machines it is an upper bound: one leg too many then waits in Ray, which changes nothing but whose
        turn it is.
        """
        cpu = self.cpus - sum(count * one.cpu for one, count in self.running.items())
        gpu = self.gpus - sum(count * one.gpu for one, count in self.running.items())
        for one, count in self.waiting.items():
            # Those that fit start now; a big one that does not must not keep small ones out.
            starting = count if one == needs else min(count, _times(cpu, gpu, one))
            cpu, gpu = cpu - starting * one.cpu, gpu - starting * one.gpu
        fits = _times(cpu, gpu, needs)
        if needs.gpu > 0:
            # A share of a GPU lies on one GPU: two trials of 0.6 do not share three.
            most = math.floor(self.gpus) * math.floor(1 / needs.gpu + 1e-6)
            fits = min(fits, max(0, most - self.waiting[needs] - self.running[needs]))
        return fits

    def submitted(self, needs: Needs) -> None:
        """Note that a leg was handed to Ray."""
        self.waiting[needs] += 1

    def started(self, needs: Needs) -> None:
        """Note that a leg that waited runs now."""
        _take(self.waiting, needs)
        self.running[needs] += 1

    def ended(self, needs: Needs, *, had_started: bool) -> None:
        """Note that a leg is gone."""
        _take(self.running if had_started else self.waiting, needs)


def _times(cpu: float, gpu: float, needs: Needs) -> int:
    shares = [(cpu, needs.cpu), (gpu, needs.gpu)]
    # Ray counts in 1/10,000; 0.1 + 0.2 must not make a difference.
    return max(0, min((math.floor(free / need + 1e-6) for free, need in shares if need > 0), default=1))


def _take(counter: Counter[Needs], needs: Needs) -> None:
    assert counter[needs] > 0, needs
    counter[needs] -= 1
    if not counter[needs]:
        del counter[needs]
