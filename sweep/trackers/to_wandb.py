"""Weights & Biases: one project a sweep, one run a trial, grouped by backbone, and one of the sweep's own name.

Where to is W&B's own affair: WANDB_MODE, WANDB_BASE_URL, WANDB_ENTITY, WANDB_DIR and their kin; WANDB_PROJECT in place of
the sweep's name. Offline there is no server that could be asked what it has: the folder of a run that is out of date is
written anew, whole, so that `wandb sync` finds one folder a trial.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb
from wandb.errors import Error

from fairface_core.console import tell
from fairface_core.errors import ConfigError, StorageError
from sweep.trackers.mirror import Files, Mirrored, MirroredTrial

_DIGEST, _EPOCHS, _HISTORY = "mirrored_digest", "mirrored_epochs", "mirrored_history"
_MARKS = "mirrored.json"


def write(run: Mirrored) -> None:
    """Bring W&B's runs of a sweep up to what its folder says.

    Raises:
        ConfigError: W&B is turned off.
        StorageError: W&B refused something.
    """
    settings = wandb.setup().settings
    if settings.mode == "disabled":
        raise ConfigError(
            "--to wandb: WANDB_MODE is disabled, so that nothing would be written; accepted: online, offline"
        )
    home = Path(settings.wandb_dir) if settings.mode == "offline" else None
    try:
        for trial in run.trials:
            _write_trial(run, trial, home)
        _write_sweep(run, home)
    except Error as error:
        raise StorageError(f"W&B: {error}") from error


def _write_trial(run: Mirrored, trial: MirroredTrial, home: Path | None) -> None:
    past = _offline(home, trial.key)
    if _marks(past).get(_DIGEST) == trial.digest:
        return
    config = {**trial.params, "sweep": run.name}
    with _begun(run, trial.key, trial.name, group=trial.group, job_type="trial", config=config) as live:
        # Of a run that goes on, the server's summary; offline every folder begins anew.
        marks = dict(live.summary) if home is None else {}
        if marks.get(_DIGEST) == trial.digest:
            return
        logged = int(marks.get(_EPOCHS) or 0)
        if logged and marks.get(_HISTORY) != trial.history_digest(logged):
            tell(f"note: {trial.name} was trained anew since; W&B keeps the {logged} epochs that it has")
        for step, (epoch, when) in enumerate(zip(trial.epochs, trial.times_ms, strict=True), start=1):
            if step > logged:
                live.log({**epoch, "_timestamp": when / 1000}, step=step)
        _upload(live, trial.name, "report", trial.files)
        last = max(logged, len(trial.epochs))
        marks = {_EPOCHS: last, _HISTORY: trial.history_digest(last), _DIGEST: trial.digest}
        live.summary.update({**trial.scores, "status": trial.status, "reason": trial.reason, **marks})
        live.finish(exit_code=int(trial.status in ("failed", "diverged")))
    _replace(past, home, trial.key, marks)


def _write_sweep(run: Mirrored, home: Path | None) -> None:
    past = _offline(home, run.key)
    if _marks(past).get(_DIGEST) == run.digest:
        return
    with _begun(run, run.key, run.name, group="sweep", job_type="sweep", config={}, notes=run.verdict) as live:
        if home is None and live.summary.get(_DIGEST) == run.digest:
            return
        _upload(live, run.name, "page", run.files)
        marks = {_DIGEST: run.digest}
        live.summary.update({"verdict": run.verdict, **marks})
    _replace(past, home, run.key, marks)


def _begun(run: Mirrored, key: str, name: str, **more: Any) -> Any:
    settings = wandb.Settings(
        # It mirrors another program's run: of this process, its machine and its code there is nothing to tell.
        silent=True, console="off", disable_git=True, save_code=False, x_disable_stats=True, x_disable_meta=True,
        x_disable_machine_info=True, x_save_requirements=False,
    )  # fmt: skip
    project = os.environ.get("WANDB_PROJECT") or run.name
    offline = wandb.setup().settings.mode == "offline"
    return wandb.init(
        project=project, id=key, name=name, resume=None if offline else "allow", settings=settings, reinit="return_previous",
        **more,
    )  # fmt: skip


def _upload(live: Any, name: str, kind: str, files: Files) -> None:
    """Log files as an artifact: W&B makes no new version of equal ones."""
    if not files.content:
        return
    artifact = wandb.Artifact(f"{name}-{kind}"[:128], type=kind)
    with tempfile.TemporaryDirectory() as folder:
        for file, data in files.content.items():
            (Path(folder) / file).write_bytes(data)
        artifact.add_dir(folder)
        live.log_artifact(artifact)


def _offline(home: Path | None, key: str) -> list[Path]:
    """Return the folders that hold a run that waits for `wandb sync`."""
    return [] if home is None else sorted(home.glob(f"offline-run-*-{key}"))


def _marks(folders: list[Path]) -> Mapping[str, Any]:
    for folder in folders:
        try:
            found = json.loads((folder / _MARKS).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(found, dict):
            return found
    return {}


def _replace(past: list[Path], home: Path | None, key: str, marks: Mapping[str, Any]) -> None:
    for folder in _offline(home, key):
        if folder in past:
            shutil.rmtree(folder)
        else:
            (folder / _MARKS).write_text(json.dumps(marks), encoding="utf-8")
