"""Where a run stands, and what to type to go on with it."""

from __future__ import annotations

import contextlib
import re
import shlex
from pathlib import Path
from typing import Any, Literal

from fairface_core.errors import StorageError
from fairface_core.files.folder import is_remote, read_json
from fairface_core.trial.reading import STATUSES
from sweep.run_folder.lock import driver_of
from sweep.run_folder.records import RunRecord
from sweep.space.spec import TYPED_TITLE

State = Literal["running", "stopped", "failed", "finished"]
_FLAG = re.compile(r"--[a-z][a-z-]*")
_TOLD_APART = ("--name", "--root")
_SET_ROOT = "data.root="


def state_of(run: RunRecord) -> State:
    """Return where a run stands.

    Returns:
        `running`: a driver is at work. `stopped`: nobody is, and trials are still to end. `failed`: all are over, and some
        failed or none was completed. `finished`: nothing is left to do.
    """
    if driver_of(run.folder):
        return "running"
    if run.running:
        return "stopped"
    return "failed" if run.count("failed") or not run.count("completed") else "finished"


def count_trials(run: RunRecord) -> dict[str, int]:
    """Return how many trials there are, and how many of each status."""
    return {"all": len(run.records), **{status: run.count(status) for status in STATUSES}}


def command_to_go_on(run: RunRecord, storage: str) -> str:
    """Return what to type next, for a shell.

    Args:
        run: The run.
        storage: Its storage as the reader would type it.
    """
    remote = is_remote(run.folder.uri)
    where = run.folder.uri if remote else f"{storage.rstrip('/')}/{run.name}"
    state = state_of(run)
    if state in ("running", "finished"):
        return shlex.join(["python", "-m", "sweep.report", where])
    # What failed runs again by --resume, what diverged only by --retry-failed.
    flag = "--retry-failed" if state == "failed" and not run.count("failed") else "--resume"
    again = ["--storage", storage, "--name", run.name, flag]
    if remote or not run.space_text:
        return f"(the command that began it) {shlex.join(again)}"
    return shlex.join(["python", "-m", "sweep.run", "--space", f"{where}/space.yaml", *_changes(run), *again])


def data_folder(run: RunRecord) -> str | None:
    """Return where the images of a run lie: by an absolute path, if any is known; None for drawn faces, or if nothing says it."""
    if run.plan.space.get("data"):
        return None
    typed = [
        value.removeprefix(_SET_ROOT) for flag, value in _typed(run) if flag == "--root" or value.startswith(_SET_ROOT)
    ]
    # What was typed last is what counts, but a relative one holds only where it was typed.
    if typed and Path(typed[-1]).is_absolute():
        return typed[-1]
    return _root_of_a_trial(run) or (typed[-1] if typed else None)


def _changes(run: RunRecord) -> list[str]:
    """Return what the command line changed in the space, as words; a data folder by its absolute path."""
    words = [
        word
        for flag, value in _typed(run)
        if flag not in _TOLD_APART and not value.startswith(_SET_ROOT)
        for word in (flag, value)
    ]
    root = data_folder(run)
    return [*words, "--root", root] if root else words


def _typed(run: RunRecord) -> list[tuple[str, str]]:
    """Return the flags that changed the space, with their values."""
    lines = run.sweep.get("command_line")
    if not isinstance(lines, list):
        # Killed before sweep.json was there: space.yaml says it too.
        lines = re.findall(r"^#   (--.+)$", run.space_text.rpartition(TYPED_TITLE)[2], re.MULTILINE)
    flags = [str(line).partition(" ") for line in lines]
    return [(flag, value) for flag, _, value in flags if _FLAG.fullmatch(flag)]


def _root_of_a_trial(run: RunRecord) -> str | None:
    for record in run.records:
        if record.begun and not record.linked:
            found: Any = None
            with contextlib.suppress(FileNotFoundError, StorageError):
                found = read_json(run.folder.sub("trials", record.trial_id), "config.json")
            config = found.get("config") if isinstance(found, dict) else None
            root = config.get("root") if isinstance(config, dict) else None
            if isinstance(root, str) and root:
                return root
    return None
