"""Search spaces for tests."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from sweep.plan.expand import make_plan
from sweep.plan.plan import Plan
from sweep.space.load import load_space
from sweep.space.spec import SweepSpec

# The README's space, with every part of the grammar.
DESIGN_SPACE = """
name: backbones
data: {root: null}
space:
  backbone: {grid: [resnet50, convnext_tiny, efficientnet_v2_s, vit_b_16]}
  lr: {grid: [1e-4, 3e-4, 1e-3]}
  seed: {grid: [41, 42, 43]}
per_backbone:
  vit_b_16: {lr: {grid: [1e-5, 3e-5, 1e-4]}}
fixed: {epochs: 20, batch_size: 128, weight_decay: 1e-4}
num_samples: 1
scheduler: {kind: asha, group_by: backbone, grace_epochs: 3, reduction_factor: 3, explore_seeds: all, confirm: true}
resources: {cpu: 4, gpu: 1, per_backbone: {resnet50: {gpu: 0.5}}}
failures: {max_retries: 2, stall_timeout: 15m}
"""

RANDOM_SPACE = """
space:
  backbone: {grid: [resnet18, resnet50]}
  lr: {loguniform: [1e-5, 1e-2]}
  batch_size: {randint: [16, 20]}
  seed: {grid: [1, 2]}
num_samples: 6
"""


def space(directory: Path, text: str, **options: Any) -> SweepSpec:
    """Write a search space to a file and load it."""
    path = directory / "space.yaml"
    path.write_text(textwrap.dedent(text), encoding="utf-8", newline="")
    return load_space(path, **options)


def plan_of(directory: Path, text: str, **options: Any) -> Plan:
    """Return the plan of a search space on a machine without GPUs."""
    return make_plan(space(directory, text, **options), auto_gpu=0)
