"""What the plan of a sweep comes to for its workers."""

from __future__ import annotations

from fairface_core.files.folder import Folder
from sweep.cluster import connect
from sweep.driving.worker import FIT, Task, demo_folder
from sweep.plan.plan import Plan, PlannedTrial
from sweep.run_folder.records import RunRecord
from sweep.space.spec import SweepSpec


def auto_gpu_of(spec: SweepSpec, nodes: tuple[connect.Node, ...]) -> float:
    """Return what `gpu: auto` stands for on these machines."""
    wanted = spec.fixed.get("device") not in ("cpu", "mps")
    return float(wanted and any(node.gpus for node in nodes))


def todo_of(plan: Plan, record: RunRecord | None) -> list[PlannedTrial]:
    """Return the trials whose folders will still grow: those that hold no state yet.

    Args:
        plan: As many trials as the sweep will have. What a search has proposed meanwhile stands for as many of its draws.
        record: The run as it stands on disk; None for a new one.
    """
    begun = {one.trial_id for one in record.records if one.epochs_trained} if record else set()
    left = [trial for trial in plan.trials if trial.trial_id not in begun]
    return left[: len(plan.trials) - len(begun)]


def tasks_of(spec: SweepSpec, plan: Plan, run: Folder, fit: str) -> dict[str, Task]:
    """Return what the worker of each trial will get, by trial id."""
    demo = spec.demo if spec.demo is not None and fit == FIT else None
    root = str(demo_folder(demo)) if demo is not None else spec.root or ""
    tasks = {}
    for trial in plan.trials:
        own = {"out_dir": run.sub("trials", trial.trial_id).uri, "root": root, "results_csv": None, "resume": True}
        tasks[trial.trial_id] = Task(trial.trial_id, {**trial.config, **own}, gpu=trial.gpu, demo=demo, fit=fit)
    return tasks
