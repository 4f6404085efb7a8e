"""The acceptance on a GPU, in two stages; every check prints one line.

    python -m benchmarks.gpu core --out DIR      # about 5 minutes on an H200: pixels, waits, memory, numbers, speed
    python -m benchmarks.gpu sweep --out DIR     # about 2 minutes: eight trials at a quarter of a GPU, and one that must halve

Run it in the repository's root. `DIR/gpu-STAGE.json` gets the machine, the checks and the rows (`scale_model --measured`
reads them). The exit code is 1 if a check fails. Without CUDA both rehearse on the CPU at a toy size.

A machine without a network needs, as wheels in a folder on PYTHONPATH, what its Python lacks of: pydantic, pydantic-core,
annotated-types, typing-inspection, pyarrow and tensorboardX for `core`; ray, jsonschema, referencing, rpds-py,
jsonschema-specifications and plotly besides for `sweep`. Ray's wheel without its `jars` folder is 43 MiB.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import Row, machine

STAGES = ("core", "sweep")


class Checks:
    """What was checked and measured so far.

    Attributes:
        device: What is accepted: CUDA, or the CPU in a rehearsal.
        work: Folder for data, caches and runs.
        backbones: Which are measured.
        rows: Figures, in the form of the other benchmarks.
        failed: Names of checks that do not hold.
    """

    def __init__(self, work: Path, backbones: Sequence[str], seconds: float) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.work, self.backbones = work, tuple(backbones)
        self.rows: list[Row] = []
        self.failed: list[str] = []
        self._facts: dict[str, dict[str, Any]] = {}
        self._began, self._seconds = time.monotonic(), seconds

    @property
    def on_gpu(self) -> bool:
        """Whether this is no rehearsal."""
        return self.device.type == "cuda"

    @property
    def time_is_up(self) -> bool:
        """Whether only what must be done should still be begun."""
        return time.monotonic() - self._began > self._seconds

    def check(self, name: str, holds: bool, **facts: Any) -> None:
        """Note a check and print it."""
        self._facts[name] = {"ok": bool(holds), **facts}
        if not holds:
            self.failed.append(name)
        seconds = time.monotonic() - self._began
        shown = ", ".join(
            f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in facts.items()
        )
        print(f"[{seconds:4.0f} s] {'ok  ' if holds else 'FAIL'} {name}: {shown}", flush=True)

    def measured(self, rows: Sequence[Row], *, bound: bool = True) -> None:
        """Keep rows; one with a goal is a check too (on a GPU: a rehearsal's speed says nothing)."""
        self.rows += rows
        for row in rows:
            holds = row.met is not False or not (self.on_gpu and bound)
            self.check(row.name, holds, ratio=row.ratio, goal=row.goal, n=row.n, spread=row.spread, **row.facts)

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Turn an exception into a failed check: one broken part must not cost the others their turn."""
        try:
            yield
        except Exception as error:  # noqa: BLE001
            at = traceback.extract_tb(error.__traceback__)[-1]
            self.check(
                name, False, error=f"{type(error).__name__}: {error}"[:400], at=f"{Path(at.filename).name}:{at.lineno}"
            )
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()

    def write(self, out: Path, stage: str) -> None:
        """Write everything as JSON."""
        gpu: dict[str, Any] | None = None
        if self.on_gpu:
            facts = torch.cuda.get_device_properties(0)
            gpu = {"name": facts.name, "gib": facts.total_memory / 2**30, "capability": f"{facts.major}.{facts.minor}"}
        content = {
            "machine": {**machine(), "gpu": gpu},
            "checks": self._facts,
            "rows": [row.as_dict() for row in self.rows],
            "failed": self.failed,
        }
        (out / f"gpu-{stage}.json").write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one stage."""
    from benchmarks import gpu_checks, gpu_speed, gpu_sweep
    from benchmarks.step import BACKBONES

    made = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("stage", choices=STAGES)
    made.add_argument("--out", type=Path, default=Path(), help="folder of the JSON file [here]")
    made.add_argument(
        "--backbones", nargs="+", metavar="NAME", default=None, help="[the four; resnet18 in a rehearsal]"
    )
    made.add_argument("--seconds", type=float, default=280, help="after so long torch.compile is left out [280]")
    flags = made.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="fairface-gpu-", ignore_cleanup_errors=True) as temporary:
        backbones = flags.backbones or (BACKBONES if torch.cuda.is_available() else ("resnet18",))
        checks = Checks(Path(temporary), backbones, flags.seconds)
        try:
            if flags.stage == "core":
                gpu_checks.run(checks)
                gpu_speed.run(checks)
            else:
                gpu_sweep.run(checks)
        finally:
            checks.write(flags.out, flags.stage)
    print(f"failed: {checks.failed or 'nothing'}")
    return bool(checks.failed)


if __name__ == "__main__":
    sys.exit(main())
