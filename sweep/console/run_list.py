"""`sweep.run --list`: one line a run of a storage folder: state, age, best score, what to type to go on."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from rich.console import Console

from fairface_core.errors import ConfigError, FairfaceError
from fairface_core.files.folder import Folder, open_folder
from sweep.console.words import print_words
from sweep.run_folder.going_on import command_to_go_on, count_trials, state_of
from sweep.run_folder.records import RunRecord, read_run
from sweep.wording import duration, plain, shortened

_STYLES = {"running": "green", "stopped": "yellow", "failed": "red", "damaged": "red"}


def list_runs(storage: str) -> list[dict[str, Any]]:
    """Return every run of a storage folder, the youngest first; see docs/json.md.

    Args:
        storage: Folder or object-store URI that run folders lie in.

    Raises:
        ConfigError: If there is no such folder.
    """
    folder = open_folder(storage)
    names = folder.names()
    runs = [_entry(folder.sub(name), storage, name) for name in names if folder.sub(name).exists("plan.json")]
    if not runs:
        raise ConfigError(f"{storage}: holds no run folder (one with a plan.json); name the folder given as --storage")
    return sorted(runs, key=lambda run: (run["started"] or "", run["run"]), reverse=True)


def _entry(folder: Folder, storage: str, name: str) -> dict[str, Any]:
    try:
        run = read_run(folder)
    except FairfaceError as error:
        return {"run": name, "state": "damaged", "problem": error.problems[0], "started": None, "age_s": None,
                "trials": {}, "best": None, "next": None}  # fmt: skip
    started = run.sweep.get("started")
    began = _time(started)
    return {
        "run": name,
        "state": state_of(run),
        "problem": None,
        "started": started if began else None,
        "age_s": None if began is None else round((datetime.now(timezone.utc) - began).total_seconds()),
        "trials": count_trials(run),
        "best": _best(run),
        "next": command_to_go_on(run, storage),
    }


def _best(run: RunRecord) -> dict[str, Any] | None:
    """Return the trial with the best validation score so far: no test score is quoted of a choice that is not final."""
    scored = [record for record in run.records if record.best_mean_f1 is not None]
    if not scored:
        return None
    best = max(scored, key=lambda record: record.best_mean_f1 or 0.0)
    return {"trial_id": best.trial_id, "group": best.group, "val_mean_f1": best.best_mean_f1}


def _time(text: object) -> datetime | None:
    try:
        when = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return when if when.tzinfo else None


def print_runs(console: Console, runs: list[dict[str, Any]]) -> None:
    """Print one line a run."""
    width = max(len(plain(run["run"])) for run in runs)
    for run in runs:
        state, best, trials = run["state"], run["best"], run["trials"]
        total = trials.get("all", 0)
        over = total - trials.get("planned", 0) - trials.get("running", 0)
        facts = [
            f"{duration(run['age_s'])} old" if run["age_s"] is not None else "age unknown",
            f"{over} of {total} trials over" if total else "",
            f"best val mean_f1 {best['val_mean_f1']:.3f} ({best['group']})" if best else "no score yet",
        ]
        rest = run["problem"] if run["problem"] else f"{', '.join(filter(None, facts))}; next: {run['next']}"
        print_words(
            console, (f"{plain(run['run']):<{width}}", "bold"), "  ", (f"{state:<8}", _STYLES.get(state, "")), "  ",
            shortened(plain(rest)), indent=width + 12,
        )  # fmt: skip
