"""What a sweep and its trials become in a tracker, whichever it is; and the way to each tracker."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from fairface_core.config.train_config import identity_fields
from fairface_core.errors import ConfigError, StorageError
from sweep.page.card import card_name
from sweep.page.show import REPORT_HTML
from sweep.policy.states import OVER
from sweep.results.leaderboard import LEADERBOARD_CSV, Board
from sweep.results.verdict import Verdict
from sweep.run_folder.records import RunRecord, TrialRecord

Write = Callable[["Mirrored"], None]
# Name on the command line -> module that writes, what it imports.
TRACKERS = {
    "mlflow": ("sweep.trackers.to_mlflow", "mlflow"),
    "wandb": ("sweep.trackers.to_wandb", "wandb"),
    "trackio": ("sweep.trackers.to_trackio", "trackio"),
}


@dataclass(frozen=True)
class Files:
    """Files of a run, by name.

    Attributes:
        content: Name -> bytes.
    """

    content: dict[str, bytes]

    @cached_property
    def digest(self) -> str:
        """Changes with any of them."""
        found = {name: hashlib.sha256(data).hexdigest() for name, data in self.content.items()}
        return digest_of(found)


@dataclass(frozen=True)
class MirroredTrial:
    """One trial that has begun, as a tracker's run.

    Attributes:
        key: Its id in the tracker, the same from every machine: letters and digits.
        name: The trial id.
        group: Its backbone.
        params: What was asked of it: every value that decides its result.
        epochs: Metrics of epoch 1, 2, ...
        times_ms: When each epoch ended, as far as the folder tells: milliseconds since 1970, of the sweep's start and the
            seconds that the epochs took.
        scores: The test metrics of its best epoch, and that epoch; empty until it has ended.
        status: Its status, such as `stopped`.
        reason: Why, in words.
        files: report.json, once it has ended.
    """

    key: str
    name: str
    group: str
    params: dict[str, Any]
    epochs: tuple[dict[str, float], ...]
    times_ms: tuple[int, ...]
    scores: dict[str, float]
    status: str
    reason: str
    files: Files

    @property
    def ended(self) -> bool:
        """Whether it will not go on by itself."""
        return self.status in OVER

    def history_digest(self, num_epochs: int) -> str:
        """Return what the first epochs were: another one means that the trial was trained anew."""
        return digest_of(self.epochs[:num_epochs])

    @cached_property
    def digest(self) -> str:
        """Changes with anything that is mirrored."""
        return digest_of([self.params, self.epochs, self.scores, self.status, self.reason, self.files.digest])


@dataclass(frozen=True)
class Mirrored:
    """A sweep as a tracker's project.

    Attributes:
        key: Id of the sweep's own run in the tracker.
        name: The sweep's name.
        verdict: The answer.
        trials: The trials that have begun.
        files: Page, leaderboard, cards and space; none while the sweep runs.
        running: Whether more is to come.
        began_ms: When it was started, milliseconds since 1970.
    """

    key: str
    name: str
    verdict: str
    trials: tuple[MirroredTrial, ...]
    files: Files
    running: bool
    began_ms: int

    @cached_property
    def digest(self) -> str:
        """Changes with what the sweep's own run holds."""
        return digest_of([self.verdict, self.files.digest, self.running])


def open_tracker(name: str) -> Write:
    """Return the function that writes to a tracker.

    Raises:
        ConfigError: If its package is not installed.
    """
    module, package = TRACKERS[name]
    try:
        # Some print banners, and standard output may be for a program.
        with contextlib.redirect_stdout(sys.stderr):
            importlib.import_module(package)
    except ImportError as error:
        raise ConfigError(
            f'--to {name} needs the package {package} ({error}): pip install "fairface-sweep[{name}]"'
        ) from None
    writer: Write = importlib.import_module(module).write

    def write(run: Mirrored) -> None:
        with contextlib.redirect_stdout(sys.stderr):
            writer(run)

    return write


def mirrored(board: Board, verdict: Verdict, *, running: bool) -> Mirrored:
    """Return a run folder as a tracker's runs.

    Args:
        board: The leaderboard, and with it the run.
        verdict: The answer.
        running: Whether the sweep goes on: the page is sent when it is over.
    """
    run = board.run
    began = _milliseconds(run.sweep.get("started"))
    # Of another start it is another sweep, though it has the same name.
    key = digest_of([run.name, run.sweep.get("started")])
    trials = tuple(_trial(run, record, key, began) for record in run.records if record.begun and not record.linked)
    names = [REPORT_HTML, LEADERBOARD_CSV, "space.yaml", *(card_name(run, group) for group in board.best_of_group)]
    files = {} if running else _read(run, (), names)
    text = f"{verdict.headline}. {verdict.sentence}"
    return Mirrored(key, run.name, text, trials, Files(files), running, began)


def _trial(run: RunRecord, record: TrialRecord, sweep_key: str, began_ms: int) -> MirroredTrial:
    wanted = identity_fields()
    config = record.config | {k: v for k, v in (record.report or {}).get("config", {}).items() if k in wanted}
    epochs, times, now = [], [], float(began_ms)
    for row in record.history:
        epochs.append({k: float(v) for k, v in row.items() if v is not None and k != "epoch"})
        now += 1000 * ((row.get("train_s") or 0.0) + (row.get("eval_s") or 0.0))
        times.append(round(now))
    ended = record.status in OVER
    return MirroredTrial(
        key=digest_of([sweep_key, record.trial_id]),
        name=record.trial_id,
        group=record.group,
        params=dict(sorted(config.items())),
        epochs=tuple(epochs),
        times_ms=tuple(times),
        scores=_scores(record.report) if ended and record.report else {},
        status=record.status,
        reason=record.reason,
        files=Files(_read(run, ("trials", record.trial_id), ["report.json"]) if ended and record.report else {}),
    )


def _scores(report: dict[str, Any]) -> dict[str, float]:
    metrics = {f"test_{name}": float(v) for name, v in report["test_metrics"].items() if isinstance(v, int | float)}
    return {**metrics, "best_epoch": float(report["best_epoch"]), "best_mean_f1": float(report["mean_f1"])}


def _read(run: RunRecord, place: tuple[str, ...], names: list[str]) -> dict[str, bytes]:
    """Return the files that are there; one that is missing or damaged is named by the report, not here."""
    folder, found = run.folder.sub(*place) if place else run.folder, {}
    for name in names:
        with contextlib.suppress(FileNotFoundError, StorageError):
            found[name] = folder.read(name)
    return found


def _milliseconds(started: object) -> int:
    try:
        return round(1000 * datetime.fromisoformat(str(started)).timestamp())
    except ValueError:
        return 0


def digest_of(value: Any) -> str:
    """Return 16 letters and digits that stand for JSON values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]
