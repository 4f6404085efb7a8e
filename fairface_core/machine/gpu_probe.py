"""Whether torch can compute on the GPUs of this machine: tried in a process of its own, `python -m ...gpu_probe`.

NVML counts GPUs whatever the driver's age; only a kernel that ran proves that one can be used. The caller stays free of
torch and of a CUDA context, and a driver that hangs or crashes takes nobody with it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_TIMEOUT_S = 120


@dataclass(frozen=True)
class Gpu:
    """One GPU as torch sees it.

    Attributes:
        name: Its name.
        capability: Compute capability, such as `9.0`.
        free_bytes: Memory that nobody holds.
        total_bytes: All of its memory.
        problem: What a convolution forward and backward ran into; empty if it ran.
    """

    name: str
    capability: str
    free_bytes: int
    total_bytes: int
    problem: str = ""


def probe_gpus(command: tuple[str, ...] = (sys.executable, "-m", "fairface_core.machine.gpu_probe")) -> list[Gpu] | str:
    """Return what torch can use here, or why it can use nothing, in torch's words."""
    # A worker of a Ray job has this package on its path in another way.
    path = os.pathsep.join([str(Path(__file__).resolve().parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path}
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False, env=environment)
    except subprocess.TimeoutExpired:
        return f"no answer within {_TIMEOUT_S} s"
    if run.returncode:
        return (run.stderr.strip().splitlines() or [f"the process ended with {run.returncode}"])[-1]
    answer = json.loads(run.stdout.splitlines()[-1])
    return answer if isinstance(answer, str) else [Gpu(**gpu) for gpu in answer]


def _main() -> None:
    import torch

    from fairface_core.machine.device import cuda_refusal

    if not torch.cuda.is_available():
        print(json.dumps(cuda_refusal()))
        return
    print(json.dumps([asdict(_try(torch.device("cuda", index))) for index in range(torch.cuda.device_count())]))


def _try(device: torch.device) -> Gpu:
    import torch

    facts = torch.cuda.get_device_properties(device)
    problem, free = "", 0
    try:
        free = torch.cuda.mem_get_info(device)[0]
        layer = torch.nn.Conv2d(3, 8, 3, device=device, dtype=torch.bfloat16)
        layer(torch.ones(2, 3, 16, 16, device=device, dtype=torch.bfloat16)).sum().backward()
        torch.cuda.synchronize(device)
    except RuntimeError as error:
        problem = str(error).strip().splitlines()[0]
    return Gpu(facts.name, f"{facts.major}.{facts.minor}", free, facts.total_memory, problem)


if __name__ == "__main__":
    _main()
