"""Trackio: one project a sweep, one run a trial, grouped by backbone, and one of the sweep's own name.

It writes Trackio's local database (TRACKIO_DIR); `trackio sync` takes a project from there to a Space.
"""

from __future__ import annotations

import os
import re
import tempfile
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import trackio

from fairface_core.errors import ConfigError
from sweep.trackers.mirror import Files, Mirrored, MirroredTrial, digest_of

_DIGEST, _EPOCHS, _HISTORY = "mirrored_digest", "mirrored_epochs", "mirrored_history"
_REMOTE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")


def write(run: Mirrored) -> None:
    """Bring Trackio's runs of a sweep up to what its folder says.

    Raises:
        ConfigError: The environment asks for a database on another machine.
    """
    for name in _REMOTE:
        if os.environ.get(name):
            raise ConfigError(
                f"--to trackio: {name} is set; it writes the local database alone, since another could not be asked what it "
                f"has: unset {name}, and take the project there by `trackio sync`"
            )
    project = re.sub(r"[^\w-]+", "-", run.name)
    for trial in run.trials:
        _write_trial(project, run, trial)
    _write_sweep(project, run)


def _write_trial(project: str, run: Mirrored, trial: MirroredTrial) -> None:
    past = _config(project, trial.name, trial.key)
    if past.get(_DIGEST) == trial.digest:
        return
    logged = int(past.get(_EPOCHS) or 0)
    if past and past.get(_HISTORY) != trial.history_digest(logged):
        trackio.SQLiteStorage.delete_run(project, trial.name, run_id=trial.key)
    rows: list[dict[str, Any]] = [*map(dict, trial.epochs)]
    steps, times = [*range(1, len(rows) + 1)], [*trial.times_ms]
    if trial.scores:
        rows, steps, times = [*rows, trial.scores], [*steps, len(trial.epochs)], [*times, times[-1]]
    # Without an epoch there is nothing to draw, yet a run that failed should be seen.
    rows, steps, times = (rows, steps, times) if rows else ([{"epochs": 0}], [0], [run.began_ms])
    marks = {_EPOCHS: len(trial.epochs), _HISTORY: trial.history_digest(len(trial.epochs))}
    config = {**trial.params, "sweep": run.name, "status": trial.status, "reason": trial.reason, **marks}
    about = (project, trial.name, trial.key, trial.group, run)
    _log(*about, config, rows, steps, times)
    _upload(project, trial.name, trial.group, "report", trial.files)
    # Last: what was cut off before is done again.
    _log(*about, {**config, _DIGEST: trial.digest}, rows, steps, times)


def _write_sweep(project: str, run: Mirrored) -> None:
    if _config(project, run.name, run.key).get(_DIGEST) == run.digest:
        return
    about, rows = (project, run.name, run.key, "sweep", run), ([{"trials": len(run.trials)}], [0], [run.began_ms])
    _log(*about, {"verdict": run.verdict}, *rows)
    _upload(project, run.name, "sweep", "page", run.files)
    _log(*about, {"verdict": run.verdict, _DIGEST: run.digest}, *rows)


def _log(
    project: str, name: str, key: str, group: str, run: Mirrored, config: dict[str, Any], rows: list[dict[str, Any]],
    steps: list[int], times_ms: list[int],
) -> None:  # fmt: skip
    """Log rows, of which those that are there already are left alone, and replace the config."""
    trackio.SQLiteStorage.bulk_log(
        project, name, rows, steps=steps, timestamps=[_iso(ms) for ms in times_ms], run_id=key,
        log_ids=[f"{key}-{step}-{digest_of(row)}" for step, row in zip(steps, rows, strict=True)],
        config={**config, "_Group": group, "_Created": _iso(run.began_ms)},
    )  # fmt: skip


def _config(project: str, name: str, key: str) -> dict[str, Any]:
    if not trackio.SQLiteStorage.get_project_db_path(project).exists():
        return {}
    return trackio.SQLiteStorage.get_run_config(project, name, run_id=key) or {}


def _upload(project: str, name: str, group: str, kind: str, files: Files) -> None:
    if not files.content:
        return
    live = trackio.init(
        project, name=name, group=group, resume="must", embed=False, auto_log_gpu=False, auto_log_cpu=False
    )
    artifact = trackio.Artifact(f"{name}-{kind}", type=kind)
    with tempfile.TemporaryDirectory() as folder:
        for file, data in files.content.items():
            (Path(folder) / file).write_bytes(data)
        artifact.add_dir(folder)
        live.log_artifact(artifact)
    trackio.finish()


def _iso(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, timezone.utc).isoformat()
