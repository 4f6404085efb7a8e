"""What was asked of a run (space.yaml, plan.json), and whether it is asked again (sweep.json says what ran it).

A sweep is resumed with the same space and the same program, or not at all: scores from two of either do not compare.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fairface_core.errors import ConfigError
from fairface_core.files.folder import Folder, write_json
from fairface_core.machine.provenance import code_digest, git_commit, versions
from sweep.plan.extend import no_extension
from sweep.plan.plan import Plan, space_difference
from sweep.run_folder.records import RunRecord
from sweep.space.spec import SweepSpec


def write_new(run: Folder, spec: SweepSpec, plan: Plan) -> None:
    """Write what was asked. plan.json comes first: a folder that holds it can be resumed."""
    write_json(run, "plan.json", plan.to_json())
    complete(run, spec)


def complete(run: Folder, spec: SweepSpec) -> None:
    """Write space.yaml where a driver was killed between plan.json and it."""
    if not run.exists("space.yaml"):
        run.write("space.yaml", spec.recorded_text().encode())


def rewrite(run: Folder, spec: SweepSpec, plan: Plan) -> None:
    """Write what is asked of a run that is extended. Killed anywhere, no space.yaml stands beside the plan of another."""
    run.remove("space.yaml")
    write_json(run, "plan.json", plan.to_json())
    complete(run, spec)


def check_same(record: RunRecord, plan: Plan, *, force: bool, extend: bool = False) -> list[str]:
    """Compare a run with what is asked now.

    Args:
        record: The run as it stands on disk.
        plan: What is asked now, with the run's names (`sweep.plan.extend.adopt`).
        force: `--force`: go on with another version of the program.
        extend: `--extend`: more may be asked for, if all that the run holds is asked for too.

    Returns:
        What is different and was forced.

    Raises:
        ConfigError: The space differs, or the program does and `force` is not given; or a link stands in the place of
            a trial's folder, where the trial would write.
    """
    linked = [one for one in record.records if one.linked]
    if linked:
        raise ConfigError([f"{record.folder.uri}/trials/{one.trial_id}: {one.reason}" for one in linked])
    if extend and (lacking := no_extension(record.plan, plan)):
        raise ConfigError(
            [
                f"{record.folder.uri}: --extend takes a space that asks for everything that this run holds, and more: add "
                "values, seeds, backbones or samples, with the same epochs, data, scheduler and equal_within; or choose "
                "another --name",
                *lacking,
            ]
        )
    changed = [] if extend else space_difference(record.plan, plan)
    if changed:
        raise ConfigError(
            [
                f"{record.folder.uri}: this run was started with another space; go back to it (space.yaml there), "
                "or choose another --name; a space that only adds to it is taken by --extend",
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
