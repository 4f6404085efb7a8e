"""Everything that can be known wrong before the first trial, found together and told in one message.

Nothing that was on disk before is changed here. Images are decoded and weights fetched at the end, and only if nothing
is wrong: both can take minutes. On other machines of a cluster the first trial does that, under that machine's locks.
"""

from __future__ import annotations

import math
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairface_core.backbones import state_bytes
from fairface_core.config.train_config import TrainConfig, make_config
from fairface_core.errors import ConfigError, FairfaceError, StorageError
from fairface_core.files.folder import Folder, open_folder
from fairface_core.machine.gpu_probe import probe_gpus
from fairface_core.machine.provenance import code_digest, versions
from fairface_core.machine.resources import free_memory_bytes, local_gpus
from sweep.cluster.connect import Cluster, Node, on_every_node
from sweep.driving.placement import Needs, Placement
from sweep.driving.worker import FIT, Task, checks
from sweep.launch.gpu_checks import filled_gpus, gpu_problems, idle_gpus, slow_notes
from sweep.plan.cost import disk_bytes
from sweep.plan.plan import Plan, PlannedTrial
from sweep.wording import amount, counted, listing

# A worker that has imported torch and holds nothing: 0.45 GiB resident. With CUDA's libraries and pinned batches 2.5.
_WORKER_BYTES, _CUDA_WORKER_BYTES = 0.5 * 2**30, 2.5 * 2**30
# In units of one state: that state, the copy that is being written, and the gradients, at least a quarter of one.
_STATES_IN_MEMORY = 9 / 4
_NODE_TIMEOUT_S = 120.0
# `ray job submit --working-dir` runs a job in a copy below it and deletes that when the job is over (Ray 2.60).
_JOB_FOLDER = "working_dir_files"
_GIB = 2**30


@dataclass(frozen=True)
class Launch:
    """What is about to be launched.

    Attributes:
        run: The run folder.
        plan: The plan.
        tasks: What each trial's worker will get, by trial id.
        nodes: The machines that trials will run on.
        cluster: The cluster that was joined; None if Ray will be started here.
        max_legs: Most trials at a time, None for as many as fit.
        todo: Trials whose folders will still grow.
    """

    run: Folder
    plan: Plan
    tasks: Mapping[str, Task]
    nodes: tuple[Node, ...]
    cluster: Cluster | None
    max_legs: int | None
    todo: Sequence[PlannedTrial]


def check_name(run: Folder, *, resume: bool) -> None:
    """Raise ConfigError if the run folder is taken, or if there is nothing to resume."""
    problems = name_problems(run, resume=resume)
    if problems:
        raise ConfigError(problems)


def name_problems(run: Folder, *, resume: bool) -> list[str]:
    """Return what speaks against this run folder: that it is taken, or that it holds nothing to resume."""
    try:
        found = [name for name in run.names() if not name.startswith(".driver")]
    except (StorageError, OSError) as error:
        return [f"--storage: {error}"]
    if resume and "plan.json" not in found:
        return [
            f"{run.uri}: nothing to resume, it holds no plan.json; check --storage and --name, or leave out --resume"
        ]
    if found and not resume:
        return [f"{run.uri} exists already; go on with it by --resume, or choose another --name; nothing was changed"]
    return []


def check(
    launch: Launch,
    known: Sequence[str] = (),
    *,
    progress: Callable[[int, int], None] | None = None,
    yes: bool = False,
) -> list[str]:
    """Check everything that a sweep needs, then decode its images and fetch its weights.

    Args:
        launch: What is about to be launched.
        known: Problems that were found before, to be told with the others.
        progress: Called with (images done, images in all) while images are decoded.
        yes: Take estimates of disk and memory as notes, not as problems.

    Returns:
        Notes: what is not certain to go wrong.

    Raises:
        ConfigError: One line for each problem.
    """
    problems = [*known, *_check_needs(launch), *_check_storage(launch.run), *_check_nodes(launch)]
    estimates = [*_check_disk(launch), *_check_memory(launch)]
    share = max((min(trial.gpu, 1.0) for trial in launch.todo), default=0.0)
    if share and launch.cluster is None and not problems and _is_real(launch):
        seen = probe_gpus()
        problems += gpu_problems(seen, round(launch.nodes[0].gpus))
        estimates += filled_gpus(seen, share)
    notes = estimates if yes else []
    problems += [] if yes else [f"{estimate}; or --yes to go on regardless" for estimate in estimates]
    configs = _distinct_configs(launch.tasks.values())
    if problems:
        # Only what is quick to find: nobody waits for a download to hear of a typing error.
        problems += _collect(configs, _check_rows if _is_real(launch) else _check_nothing)
    else:
        fit = next(iter(launch.tasks.values())).fit
        module: Any = checks(fit)
        problems += _collect(configs, module.check_config)
        if not problems:
            unlike = {module.data_key(config): config for config in reversed(configs)}
            problems += _collect(list(unlike.values()), lambda config: module.prepare_data(config, progress=progress))
            sizes = Counter(Needs(trial.cpu, trial.gpu) for trial in launch.todo)
            notes = [*notes, *slow_notes(launch.nodes, launch.todo), *idle_gpus(launch.nodes, sizes, launch.max_legs)]
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return notes


def _is_real(launch: Launch) -> bool:
    return all(task.fit == FIT for task in launch.tasks.values())


def _check_nothing(config: TrainConfig) -> None:
    pass


def _check_rows(config: TrainConfig) -> None:
    from fairface_core.dataset.manifest import load_manifest

    if config.root:
        load_manifest(config)


def _collect(configs: Iterable[TrainConfig], look: Callable[[TrainConfig], object]) -> list[str]:
    """Return the problems that looking at each config raises; what many trials share is told once."""
    problems: dict[str, None] = {}
    for config in configs:
        try:
            look(config)
        except FairfaceError as error:
            problems.update(dict.fromkeys(error.problems))
    return list(problems)


def _distinct_configs(tasks: Iterable[Task]) -> list[TrainConfig]:
    """Return one config for each combination of values that are no numbers to be tuned.

    Weights, images and machines depend on names, switches and sizes; learning rates and seeds would only repeat each
    check (and each failing download) for every trial.
    """
    distinct: dict[str, TrainConfig] = {}
    for task in tasks:
        config = make_config(task.config)
        kept = {
            key: value
            for key, value in config.model_dump(mode="json").items()
            if not isinstance(value, float) and key not in ("out_dir", "seed")
        }
        distinct.setdefault(repr(sorted(kept.items(), key=lambda item: item[0])), config)
    return list(distinct.values())


def _check_needs(launch: Launch) -> list[str]:
    groups: dict[Needs, dict[str, None]] = {}
    for trial in launch.plan.trials:
        groups.setdefault(Needs(trial.cpu, trial.gpu), {})[trial.group] = None
    nodes = launch.nodes
    where = "the cluster has" if launch.cluster else "this machine has"
    largest = max(nodes, key=lambda node: (node.gpus, node.cpus), default=Node("", "", 0, 0))
    have = f"{where} {amount(sum(n.cpus for n in nodes), 'CPU')} and {amount(sum(n.gpus for n in nodes), 'GPU')}"
    if len(nodes) > 1:
        have += f", {amount(largest.cpus, 'CPU')} and {amount(largest.gpus, 'GPU')} on its largest machine"
    problems = []
    for needs, names in groups.items():
        if any(needs.fit_on(node.cpus, node.gpus) for node in nodes):
            continue
        wanted = (
            f"resources: a trial of {listing(list(names))} asks for {needs.cpu:g} CPU and {needs.gpu:g} GPU; {have}"
        )
        advice = []
        if all(needs.gpu > node.gpus for node in nodes):
            advice.append("--gpus-per-trial 0" if largest.gpus == 0 else f"--gpus-per-trial {largest.gpus:g} or less")
        if all(needs.cpu > node.cpus for node in nodes):
            advice.append(f"--cpus-per-trial {max(node.cpus for node in nodes):g} or less")
        problems.append(f"{wanted}; use {listing(advice)}" if advice else wanted)
    hidden = {
        trial.group: None
        for trial in launch.plan.trials
        if trial.gpu == 0 and launch.tasks[trial.trial_id].config.get("device") == "cuda"
    }
    if hidden:
        problems.append(
            f"device = 'cuda' for {listing(list(hidden))}, whose trials ask for no GPU; "
            "give resources: {gpu: 1} (or --gpus-per-trial), or device: auto"
        )
    return problems


def _check_storage(run: Folder) -> list[str]:
    path = run.path()
    if path is None:
        return _probe(run.uri.rpartition("/")[0])
    if _JOB_FOLDER in path.parts:
        return [
            f"--storage: {path} lies in Ray's copy of the working folder, which is deleted after the job; "
            "give an absolute path that all machines share, or an object-store URI"
        ]
    parent = _nearest(path)
    if not parent.is_dir():
        return [f"--storage: {parent} is a file; accepted: a folder, made if it is absent, or an object-store URI"]
    # pathlib cannot ask without trying, and trying would leave something behind.
    if not os.access(parent, os.W_OK | os.X_OK):
        return [f"--storage: {parent} cannot be written; choose another folder"]
    return []


def _nearest(path: Path) -> Path:
    return next(place for place in (path, *path.parents) if place.exists())


def _probe(uri: str) -> list[str]:
    """Write and remove a small file in a place, in words: what is wrong with it."""
    folder, name = open_folder(uri), f".preflight-{secrets.token_hex(4)}"
    try:
        folder.write(name, b"fairface")
        folder.remove(name)
    except (FairfaceError, OSError) as error:
        return [f"--storage {uri}: {error}"]
    return []


def look_at_node(storage: str, root: str | None, gpus: bool) -> dict[str, Any]:
    """Return what a worker sees on its machine; runs there."""
    return {
        "gpus": probe_gpus() if gpus and local_gpus() else None,
        "problems": _probe(storage),
        "root": root is None or Path(root).is_dir(),
        "code": code_digest(),
        "versions": versions(),
    }


def _check_nodes(launch: Launch) -> list[str]:
    """Ask a worker on each machine of a joined cluster what it sees."""
    if launch.cluster is None:
        return []
    task = next(iter(launch.tasks.values()))
    root = None if task.demo is not None else task.config.get("root")
    # The nearest folder that is there: the run folder itself must not be made before all is right.
    path = launch.run.path()
    storage = str(_nearest(path)) if path is not None else launch.run.uri.rpartition("/")[0]
    asked = (storage, root, any(trial.gpu for trial in launch.todo))
    problems = []
    for node, seen in on_every_node(look_at_node, asked, timeout_s=_NODE_TIMEOUT_S).items():
        where = f"machine {node.address}"
        if isinstance(seen, Exception):
            last = str(seen).strip().splitlines()[-1] if str(seen).strip() else type(seen).__name__
            problems.append(
                f"{where}: a worker cannot run this program there ({last}); install it there, or use "
                "`ray job submit --working-dir .`"
            )
            continue
        problems += [f"{where}: {problem}; give a --storage that all machines share" for problem in seen["problems"]]
        if not seen["root"]:
            problems.append(f"{where}: data folder {root} is not there; put the data at the same path on all machines")
        if seen["gpus"] is not None:
            problems += [f"{where}: {problem}" for problem in gpu_problems(seen["gpus"], round(node.gpus))]
        if seen["code"] != code_digest():
            problems.append(f"{where}: another version of this program (code {seen['code']}, here {code_digest()})")
        other = [f"{name} {seen['versions'].get(name)}" for name, mine in versions().items()
                 if seen["versions"].get(name) != mine]  # fmt: skip
        if other:
            problems.append(f"{where}: has {', '.join(other)}; here: {_of(versions(), other)}")
    return problems


def _of(mine: Mapping[str, str], other: Sequence[str]) -> str:
    return ", ".join(f"{name.split()[0]} {mine[name.split()[0]]}" for name in other)


def _check_disk(launch: Launch) -> list[str]:
    path = launch.run.path()
    if path is None or not launch.todo:
        return []
    free, needed = shutil.disk_usage(_nearest(path)).free, disk_bytes(launch.todo)
    if needed <= free:
        return []
    return [
        f"disk: {counted(len(launch.todo), 'trial')} may need up to {needed / _GIB:.1f} GiB for states and weights, "
        f"{_nearest(path)} has {free / _GIB:.1f} GiB free; choose another --storage, or a smaller space"
    ]


def _check_memory(launch: Launch) -> list[str]:
    """Compare the least that trials can do with, as many at a time as fit, with what this machine has free."""
    if launch.cluster is not None or not launch.todo:
        return []
    each: dict[Needs, float] = {}
    for trial in launch.todo:
        needs = Needs(trial.cpu, trial.gpu)
        # On a GPU the host holds the copy that is being written.
        worker, states = (_WORKER_BYTES, _STATES_IN_MEMORY) if trial.gpu == 0 else (_CUDA_WORKER_BYTES, 1)
        each[needs] = max(each.get(needs, 0.0), worker + states * state_bytes(trial.config))
    node = launch.nodes[0]
    free, worst = free_memory_bytes(), 0.0
    for needs, one in each.items():
        number = min(Placement(node.cpus, node.gpus).fitting(needs), launch.max_legs or 10**6, len(launch.todo))
        if number * one > max(worst, free):
            worst = number * one
            most = math.floor(free / one)
            advice = f"--max-concurrent {most}" if most else "smaller models"
            message = (
                f"memory: {counted(number, 'trial')} at a time need at least {worst / _GIB:.1f} GiB, "
                f"{free / _GIB:.1f} GiB are free; use {advice}"
            )
    return [message] if worst else []
