"""`python -m benchmarks.first_step FLAGS`: `python -m fairface_core.train FLAGS`, ended after its first optimizer step.

Prints one JSON object: `at` (CLOCK_MONOTONIC, which all processes share) and `phases_s`, the seconds spent in each
part of the start, in order. Nothing but the standard library is imported before the clock of the first phase runs.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

# Where the start spends its time: (module, attribute as that module calls it, name of the phase).
_PARTS = (
    ("fairface_core.training.fit", "check_config", "check_config"),
    ("fairface_core.dataset.prepare", "load_manifest", "load_manifest"),
    ("fairface_core.dataset.prepare", "open_cache", "open_cache"),
    ("fairface_core.training.fit", "build_model", "build_model"),
)


def main(flags: list[str]) -> None:
    """Train until the first step, print when that was, and leave at once."""
    phases: dict[str, float] = {}
    began = time.monotonic()
    import torch
    from torch.optim.optimizer import register_optimizer_step_post_hook

    phases["import torch"] = time.monotonic() - began
    began = time.monotonic()
    from fairface_core import train
    from fairface_core.training import fit as trainer

    phases["import fairface_core.training.fit"] = time.monotonic() - began
    for module, attribute, name in _PARTS:
        home = importlib.import_module(module)
        setattr(home, attribute, _counted(getattr(home, attribute), name, phases))
    first_epoch: list[float] = []
    own_train = trainer.Run.train

    def noted(self: Any, epoch: int, lr: float) -> float:
        first_epoch.append(time.monotonic())
        return own_train(self, epoch, lr)

    trainer.Run.train = noted  # type: ignore[method-assign]

    def leave(optimizer: torch.optim.Optimizer, arguments: object, options: object) -> NoReturn:
        now = time.monotonic()
        phases["first step"] = now - first_epoch[0]
        print(json.dumps({"at": now, "phases_s": phases}), flush=True)
        os._exit(0)

    register_optimizer_step_post_hook(leave)
    sys.exit(train.main(flags))


def _counted(function: Callable[..., Any], name: str, phases: dict[str, float]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        began = time.monotonic()
        try:
            return function(*arguments, **options)
        finally:
            phases[name] = phases.get(name, 0.0) + time.monotonic() - began
            phases[f"{name} calls"] = phases.get(f"{name} calls", 0) + 1

    return call


if __name__ == "__main__":
    main(sys.argv[1:])
