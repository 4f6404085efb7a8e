"""MLflow: one experiment a sweep, one run a trial, and one of the sweep's own name for page and cards.

Where to is MLflow's own affair: MLFLOW_TRACKING_URI and its kin; MLFLOW_EXPERIMENT_NAME in place of the sweep's name.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from fairface_core.errors import StorageError
from sweep.trackers.mirror import Files, Mirrored, MirroredTrial

_KEY, _DIGEST, _EPOCHS, _HISTORY = "fairface.key", "fairface.digest", "fairface.epochs", "fairface.history"
_STATUS = {"completed": "FINISHED", "stopped": "FINISHED", "skipped": "FINISHED", "planned": "SCHEDULED",
           "running": "RUNNING", "diverged": "FAILED", "failed": "FAILED"}  # fmt: skip
# Of one request: MLflow's own limits.
_MAX_METRICS, _MAX_PARAMS, _MAX_PARAM_CHARS = 1_000, 100, 6_000


def write(run: Mirrored) -> None:
    """Bring MLflow's runs of a sweep up to what its folder says.

    Raises:
        StorageError: The server refused something.
    """
    try:
        client = MlflowClient()
        experiment = _experiment(client, os.environ.get("MLFLOW_EXPERIMENT_NAME") or run.name)
        known = {found.data.tags[_KEY]: found for found in _runs(client, experiment, run.key)}
        for trial in run.trials:
            _write_trial(client, experiment, run, trial, known.get(trial.key))
        _write_sweep(client, experiment, run, known.get(run.key))
    except MlflowException as error:
        raise StorageError(f"MLflow: {str(error).partition(chr(10))[0]}") from error


def _experiment(client: MlflowClient, name: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        return str(client.create_experiment(name))
    if found.lifecycle_stage == "deleted":
        raise StorageError(
            f"MLflow: experiment {name} was deleted; restore it, or set MLFLOW_EXPERIMENT_NAME to another"
        )
    return str(found.experiment_id)


def _runs(client: MlflowClient, experiment: str, sweep_key: str) -> Iterator[Any]:
    token = None
    while True:
        page = client.search_runs([experiment], f"tags.`fairface.sweep` = '{sweep_key}'", page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _write_trial(client: MlflowClient, experiment: str, run: Mirrored, trial: MirroredTrial, found: Any) -> None:
    tags = found.data.tags if found else {}
    if tags.get(_DIGEST) == trial.digest:
        return
    logged = int(tags.get(_EPOCHS, 0))
    if found and tags.get(_HISTORY, "") != (trial.history_digest(logged) if logged else ""):
        # Trained anew, by --retry-failed perhaps: metrics that were logged cannot be taken back.
        client.delete_run(found.info.run_id)
        found, logged = None, 0
    if found is None:
        labels = {"fairface.sweep": run.key, _KEY: trial.key, "sweep": run.name, "backbone": trial.group}
        found = client.create_run(experiment, run.began_ms, tags=labels, run_name=trial.name)
    run_id = found.info.run_id
    params = [Param(key, str(value)[:_MAX_PARAM_CHARS]) for key, value in trial.params.items()]
    for start in range(0, len(params), _MAX_PARAMS):
        client.log_batch(run_id, params=params[start : start + _MAX_PARAMS])
    new = [
        Metric(name, value, when, step)
        for step, (epoch, when) in enumerate(zip(trial.epochs, trial.times_ms, strict=True), start=1)
        if step > logged
        for name, value in epoch.items()
    ]
    end_ms = trial.times_ms[-1] if trial.times_ms else run.began_ms
    new += [Metric(name, value, end_ms, len(trial.epochs)) for name, value in trial.scores.items()]
    for start in range(0, len(new), _MAX_METRICS):
        client.log_batch(run_id, metrics=new[start : start + _MAX_METRICS])
    _upload(client, run_id, trial.files, tags)
    _settle(client, run_id, _STATUS[trial.status], end_ms)
    history = trial.history_digest(len(trial.epochs)) if trial.epochs else ""
    # Last: what was cut off before is done again, and MLflow keeps an equal metric once.
    marks = {"status": trial.status, "reason": trial.reason, _EPOCHS: str(len(trial.epochs)), _HISTORY: history,
             "fairface.files": trial.files.digest, _DIGEST: trial.digest}  # fmt: skip
    client.log_batch(run_id, tags=[RunTag(name, value) for name, value in marks.items()])


def _write_sweep(client: MlflowClient, experiment: str, run: Mirrored, found: Any) -> None:
    tags = found.data.tags if found else {}
    if tags.get(_DIGEST) == run.digest:
        return
    if found is None:
        labels = {"fairface.sweep": run.key, _KEY: run.key, "sweep": run.name}
        found = client.create_run(experiment, run.began_ms, tags=labels, run_name=run.name)
    run_id = found.info.run_id
    _upload(client, run_id, run.files, tags)
    _settle(client, run_id, "RUNNING" if run.running else "FINISHED", run.began_ms)
    marks = {
        "verdict": run.verdict,
        "mlflow.note.content": run.verdict,
        "fairface.files": run.files.digest,
        _DIGEST: run.digest,
    }
    client.log_batch(run_id, tags=[RunTag(name, value) for name, value in marks.items()])


def _upload(client: MlflowClient, run_id: str, files: Files, tags: dict[str, str]) -> None:
    if not files.content or tags.get("fairface.files") == files.digest:
        return
    with tempfile.TemporaryDirectory() as folder:
        for name, data in files.content.items():
            (Path(folder) / name).write_bytes(data)
        client.log_artifacts(run_id, folder)


def _settle(client: MlflowClient, run_id: str, status: str, end_ms: int) -> None:
    if status in ("RUNNING", "SCHEDULED"):
        client.update_run(run_id, status=status)
    else:
        client.set_terminated(run_id, status, end_ms)
