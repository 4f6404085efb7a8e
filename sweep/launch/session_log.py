"""sweep.json: which sessions ran a sweep, on what, and how they ended."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from fairface_core.files.folder import Folder, write_json
from fairface_core.machine.provenance import code_digest, git_commit, versions
from sweep.cluster.connect import Cluster
from sweep.plan.plan import Plan
from sweep.space.spec import SweepSpec

SWEEP_JSON = "sweep.json"
_SCHEMA_VERSION = 1


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
            "num_trials": plan.num_trials,
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
