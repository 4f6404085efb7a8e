"""The run folder's own files: what was asked (space.yaml, plan.json) and what ran it (sweep.json).

A sweep is resumed with the same space and the same program, or not at all: scores from two of either do not compare.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from fairface_core.errors import ConfigError
from fairface_core.provenance import code_digest, git_commit, versions
from fairface_core.storage import Folder, write_json
from sweep.cluster import Cluster
from sweep.plan import space_difference
from sweep.plan_file import Plan
from sweep.records import RunRecord
from sweep.space import SweepSpec

SWEEP_JSON = "sweep.json"
_SCHEMA_VERSION = 1


def write_new(run: Folder, spec: SweepSpec, plan: Plan) -> None:
    """Write what was asked. plan.json comes first: a folder that holds it can be resumed."""
    write_json(run, "plan.json", plan.to_json())
    complete(run, spec)


def complete(run: Folder, spec: SweepSpec) -> None:
    """Write space.yaml where a driver was killed between plan.json and it."""
    if not run.exists("space.yaml"):
        run.write("space.yaml", spec.recorded_text().encode())


def check_same(record: RunRecord, plan: Plan, *, force: bool) -> list[str]:
    """Compare a run with what is asked now.

    Args:
        record: The run as it stands on disk.
        plan: What is asked now.
        force: `--force`: go on with another version of the program.

    Returns:
        What is different and was forced.

    Raises:
        ConfigError: The space differs, or the program does and `force` is not given; or a link stands in the place of
            a trial's folder, where the trial would write.
    """
    linked = [one for one in record.records if one.linked]
    if linked:
        raise ConfigError([f"{record.folder.uri}/trials/{one.trial_id}: {one.reason}" for one in linked])
    changed = space_difference(record.plan, plan)
    if changed:
        raise ConfigError(
            [
                f"{record.folder.uri}: this run was started with another space; go back to it (space.yaml there), "
                "or choose another --name",
                *changed,
            ]
        )
    code = _code_difference(_last_session(record.sweep))
    if code and not force:
        raise ConfigError(
            [
                f"{record.folder.uri}: this run was started with another version of the program; "
                "go back to it, or go on with this one by --force",
                *code,
            ]
        )
    return code


def _last_session(sweep: Mapping[str, Any]) -> Mapping[str, Any]:
    sessions = sweep.get("sessions")
    last = sessions[-1] if isinstance(sessions, list) and sessions else {}
    return last if isinstance(last, Mapping) else {}


def _code_difference(session: Mapping[str, Any]) -> list[str]:
    """Return one line for each part of the program that differs from the session's; none if it says nothing."""
    lines = []
    before = session.get("code_digest")
    if before is not None and before != code_digest():
        was, now = session.get("git_commit"), git_commit()
        commits = f" (commit {was}, now {now})" if was or now else ""
        lines.append(f"code: was {before}, is {code_digest()}{commits}")
    old = session.get("versions")
    for name, now in versions().items():
        was = old.get(name) if isinstance(old, Mapping) else None
        if was is not None and was != now:
            lines.append(f"{name}: was {was}, is {now}")
    return lines


class SessionLog:
    """sweep.json: who ran the sweep, when, on what, and how it ended."""

    def __init__(self, run: Folder, spec: SweepSpec, plan: Plan, before: Mapping[str, Any]) -> None:
        self._run = run
        sessions = before.get("sessions")
        self._earlier = list(sessions) if isinstance(sessions, list) else []
        self._facts = {
            "schema_version": _SCHEMA_VERSION,
            "space_digest": plan.space_digest,
            "space_file": spec.path.name,
            "command_line": list(spec.overrides),
            "num_trials": len(plan.trials),
            "worst_case_epochs": plan.worst_case_epochs(),
        }
        self._session: dict[str, Any] = {}

    def start(self, cluster: Cluster) -> None:
        """Note that trials are about to run."""
        self._session = {
            "started": _now(),
            "ended": None,
            "exit_code": None,
            "code_digest": code_digest(),
            "git_commit": git_commit(),
            "versions": versions(),
            "joined_cluster": cluster.joined,
            "num_nodes": len(cluster.nodes),
            "cpus": cluster.cpus,
            "gpus": cluster.gpus,
        }
        self._write()

    def end(self, exit_code: int) -> None:
        """Note how the session ended."""
        if self._session:
            self._session |= {"ended": _now(), "exit_code": exit_code}
            self._write()

    def _write(self) -> None:
        first = (self._earlier[0] if self._earlier else self._session).get("started")
        sessions = [*self._earlier, self._session]
        ended = self._session["ended"]
        write_json(self._run, SWEEP_JSON, {**self._facts, "started": first, "ended": ended, "sessions": sessions})


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
