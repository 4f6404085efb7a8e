"""A sweep from its checked space to its report: preflight, run folder, Ray, trials, results."""

from __future__ import annotations

import contextlib
import platform
import secrets
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from fairface_core.backbones import relative_cost
from fairface_core.console import print_json, print_problems, progress_bar, stdout_is_lost
from fairface_core.errors import ConfigError, FairfaceError, StorageError
from fairface_core.files.folder import Folder, open_folder
from sweep.cluster import connect
from sweep.cluster.head_watch import HeadWatch
from sweep.cluster.owner_only import private_folder
from sweep.cluster.signals import Interrupted, StopSignals, end_now
from sweep.console.leaderboard import print_notes
from sweep.console.progress import Progress
from sweep.console.summary import print_closing, print_header
from sweep.console.words import print_words
from sweep.driving.search_ledger import Grow, SearchLedger
from sweep.driving.trials import Leg
from sweep.driving.worker import FIT, Ending, Task
from sweep.launch.companion import accompanied
from sweep.launch.preflight import Launch, check, check_name, name_problems
from sweep.launch.session_log import SessionLog
from sweep.launch.tasks import auto_gpu_of, tasks_of, todo_of
from sweep.launch.tensorboard import Curves
from sweep.page.show import REPORT_HTML, open_page
from sweep.plan.expand import make_plan
from sweep.plan.extend import adopt
from sweep.plan.plan import Plan
from sweep.plan.search import at_random, grown
from sweep.policy.states import TrialState
from sweep.results.benchmark import BenchmarkTable
from sweep.run_folder.lock import RunLock, locked
from sweep.run_folder.records import RunRecord, read_run
from sweep.run_folder.request import check_same, complete, rewrite, write_new
from sweep.space.spec import SweepSpec


@dataclass(frozen=True)
class Options:
    """What the command line says beside the space.

    Attributes:
        storage: Folder or object-store URI that run folders lie in.
        address: Of a Ray cluster to join; None to start Ray here.
        resume: Go on with a run.
        extend: Go on with a run, which takes a larger space; with `resume`.
        retry_failed: Run trials that diverged again too; with `resume`, which does so with those that failed.
        force: Go on though the program has changed.
        yes: Go on though an estimate says that it may not fit, or that it is very large.
        json: Print the results as one JSON object on standard output.
        open_page: Open the page in a browser, and write it anew each minute.
        fit: `module:function` that trains; tests give a fake.
    """

    storage: str = "runs"
    address: str | None = None
    resume: bool = False
    extend: bool = False
    retry_failed: bool = False
    force: bool = False
    yes: bool = False
    json: bool = False
    open_page: bool = False
    fit: str = FIT


def launch(spec: SweepSpec, options: Options, signals: StopSignals, console: Console) -> int:
    """Run a sweep, or go on with one.

    Args:
        spec: The space.
        options: What the command line says beside it.
        signals: Entered; asked whether to stop.
        console: Where everything but problems is printed.

    Returns:
        The exit code: 0, or 1 if a trial failed or none was completed.

    Raises:
        FairfaceError: Bad input (exit code 2; nothing was changed), or a storage that refuses.
        Interrupted: A signal asked to stop. Everything can be resumed.
    """
    if options.resume and spec.name is None:
        raise ConfigError("--resume: which run? give its --name (the space names none)")
    run = run_folder(spec, options.storage)
    try:
        return _launch(spec, run, options, signals, console)
    except Interrupted as stop:
        if not stop.told:
            there = options.resume
            with contextlib.suppress(StorageError):
                there = there or run.exists("plan.json")
            how = f"go on with --resume --name {_name(run)}" if there else "no run was begun"
            print(f"stopped by {stop.name}; {how}", file=sys.stderr)
        raise


def _launch(spec: SweepSpec, run: Folder, options: Options, signals: StopSignals, console: Console) -> int:
    if options.resume:
        check_name(run, resume=True)
    connect.prepare(options.address)
    with contextlib.ExitStack() as stack:
        joined = stack.enter_context(connect.connected(options.address)) if options.address else None
        signals.install()
        nodes = joined.nodes if joined else (connect.this_machine(),)
        auto_gpu, record, lock = auto_gpu_of(spec, nodes), None, None
        plan = make_plan(spec, yes=options.yes, auto_gpu=auto_gpu)
        notes = [*plan.notes]
        if options.resume:
            lock = stack.enter_context(locked(run))
            record = read_run(run)
            if plan.to_come:
                plan = make_plan(spec, yes=options.yes, auto_gpu=auto_gpu, held=record.plan)
            plan = adopt(record.plan, plan)
            notes += check_same(record, plan, force=options.force, extend=options.extend)
            complete(run, spec)
        # With as many trials as a search will have proposed at its end: what they need is checked before the first of them.
        whole = make_plan(at_random(spec), yes=options.yes, auto_gpu=auto_gpu) if plan.to_come else plan
        tasks = tasks_of(spec, plan, run, options.fit)

        def grow(plan: Plan, group: str, states: Sequence[TrialState]) -> Plan:
            larger = grown(spec, plan, group, states, auto_gpu=auto_gpu)
            tasks.update(tasks_of(spec, larger, run, options.fit))
            return larger

        session = _Session(spec, run, plan, tasks, record, signals, console, options, grow)
        if session.over:
            code = session.results()
            if options.open_page:
                open_page(Path(run.uri_of(REPORT_HTML)))
            return code
        with progress_bar("decoding images") as progress:
            taken = [] if options.resume else name_problems(run, resume=False)
            max_legs = _max_legs(spec, joined)
            asked = tasks_of(spec, whole, run, options.fit)
            request = Launch(run, whole, asked, nodes, joined, max_legs, todo_of(whole, record))
            notes += check(request, taken, progress=progress, yes=options.yes)
        cluster = joined or stack.enter_context(connect.connected(None))
        signals.install()
        if lock is None:
            # Only now is anything written: a start that fails leaves the name free, and until here another driver may
            # have taken it.
            lock = stack.enter_context(locked(run))
            check_name(run, resume=False)
            write_new(run, spec, plan)
        elif options.extend:
            rewrite(run, spec, plan)
        return session.conduct(cluster, lock, notes)


def run_folder(spec: SweepSpec, storage: str) -> Folder:
    """Return where a run lies; it need not be there."""
    # Two unnamed sweeps may begin in the same second, as those of a job array do.
    mark = "" if spec.name else f"-{secrets.token_hex(3)}"
    return open_folder(storage).sub(spec.run_name(datetime.now()) + mark)


def _name(run: Folder) -> str:
    return run.uri.rpartition("/")[2]


def _max_legs(spec: SweepSpec, joined: connect.Cluster | None) -> int | None:
    """Return the most trials at a time; one where they would share Apple's GPU, which has no limits for each."""
    on_mps = joined is None and sys.platform == "darwin" and platform.machine() == "arm64"
    return spec.resources.max_concurrent or (1 if on_mps else None)


class _Session:
    """One driver's work on a run folder."""

    def __init__(
        self,
        spec: SweepSpec,
        run: Folder,
        plan: Plan,
        tasks: Mapping[str, Task],
        record: RunRecord | None,
        signals: StopSignals,
        console: Console,
        options: Options,
        grow: Grow,
    ) -> None:
        self._options = options
        self._again = ("failed", "diverged") if options.retry_failed else ("failed",)
        self._spec, self._run, self._tasks = spec, run, tasks
        self._signals, self._console = signals, console
        confirm = plan.scheduler.kind != "fifo" and plan.scheduler.confirm is not False
        retries = spec.failures.max_retries
        self._ledger = SearchLedger(run, plan, confirm=confirm, max_retries=retries, record=record, grow=grow)
        self._log = SessionLog(run, spec, plan, record.sweep if record else {})
        costs = {
            group: max(relative_cost(trial.planned.config) for trial in trials) / plan.epochs
            for group, trials in self._ledger.groups.items()
        }
        self._progress = Progress(self._ledger, console, costs)
        self._curves = Curves()
        self._table = BenchmarkTable(run)

    @property
    def over(self) -> bool:
        """Whether nothing is left to run, nor to be tried again."""
        return self._ledger.finished and self._ledger.count("running", *self._again) == 0

    def conduct(self, cluster: connect.Cluster, lock: RunLock, notes: list[str]) -> int:
        """Run the trials, let go of Ray, and write the results."""
        from sweep.driving import driver

        self._signals.install()
        max_legs = _max_legs(self._spec, cluster if cluster.joined else None)
        print_header(self._console, self._name, self._ledger, cluster, max_legs)
        print_notes(self._console, [*notes, *self._ledger.notes])
        self._ledger.open_for_resume(self._again)
        self._log.start(cluster)
        watcher = driver.Watcher(self._began, self._epoch, self._ended, self._progress.note, lambda: self._tick(lock))
        try:
            with (
                self._watched(cluster),
                _ray_dir() as ray_dir,
                contextlib.closing(self._curves),
                accompanied(self._console, self._run, self._progress.hear, page=self._options.open_page),
                self._progress.shown(),
                self._signals.deferred(),
            ):
                driver.run_trials(
                    self._ledger,
                    self._tasks,
                    watcher,
                    self._signals,
                    ray_dir=ray_dir,
                    max_legs=max_legs,
                    stall_timeout_s=self._spec.failures.stall_timeout_s,
                )
        except Interrupted as stop:
            connect.leave()
            self._ledger.interrupted(stop.name)
            self._close(stop.exit_code)
            last = f"stopped by {stop.name}: {self._progress.counts()}; go on with --resume --name {self._name}"
            print_words(self._console, last)
            if stdout_is_lost():
                print(last, file=sys.stderr)
            stop.told = True
            raise
        except FairfaceError as error:
            connect.leave()
            self._close(error.exit_code)
            raise
        connect.leave()
        return self.results()

    @property
    def _name(self) -> str:
        return _name(self._run)

    def results(self) -> int:
        """Write everything that follows from the trial folders, print it, and return the exit code."""
        from sweep.page.write import write_report
        from sweep.results.benchmark import BENCHMARK_CSV
        from sweep.results.document import document
        from sweep.results.leaderboard import LEADERBOARD_CSV

        self._table.finish()
        ledger = self._ledger
        failed = ledger.count("failed") > 0 or ledger.count("completed") == 0
        self._log.end(int(failed))
        files = (LEADERBOARD_CSV, BENCHMARK_CSV, REPORT_HTML)
        written = write_report(self._run)
        print_closing(self._console, ledger, written.board, written.verdict, files)
        if self._options.json:
            found = document(written.board, written.verdict, files)
            print_json({**found, "state": "failed" if failed else "finished"})
        return int(failed)

    def _watched(self, cluster: connect.Cluster) -> contextlib.AbstractContextManager[object]:
        """Watch the head of a cluster that is not ours; a Ray of our own ends with this process."""

        def lost(reason: str) -> None:
            error = FairfaceError(
                f"the head of the cluster at {cluster.address} is gone or does not answer ({reason}); when a cluster is up again, or on "
                f"this machine with --address local, go on with --resume --name {self._name}"
            )
            # The driver's thread may hang inside Ray: this is all that is still said and written.
            self._console.show_cursor()
            print_problems(error)
            self._close(1)
            end_now(1)

        return HeadWatch(cluster.address, lost) if cluster.joined else contextlib.nullcontext()

    def _close(self, exit_code: int) -> None:
        """Leave the run folder consistent, as far as its storage still takes anything."""
        with contextlib.suppress(StorageError):
            self._table.finish()
            self._table.write()
            self._log.end(exit_code)

    def _began(self, leg: Leg) -> None:
        self._progress.began(leg)
        if self._ledger.plan.to_come:
            # The plan may have grown by it.
            self._table.changed()
        folder = leg.trial.folder.path()
        if folder is not None:
            self._curves.begin(leg.trial.trial_id, folder, leg.trial.history)

    def _epoch(self, leg: Leg, figures: Mapping[str, Any]) -> None:
        self._curves.add(leg.trial.trial_id, figures)
        self._progress.epoch(leg, figures)

    def _ended(self, leg: Leg, ending: Ending | None, again: bool) -> None:
        self._curves.end(leg.trial.trial_id)
        self._progress.ended(leg, ending, again)
        self._table.changed()

    def _tick(self, lock: RunLock) -> None:
        self._progress.tick()
        lock.renew()
        self._table.tick()


@contextlib.contextmanager
def _ray_dir() -> Iterator[Path]:
    """Hold a private folder for Ray's own state, which is never read.

    Not in the run folder: Ray 2.60 writes there from its own loop, and a full or read-only storage would end the sweep
    in a traceback of Ray's instead of one failed trial.
    """
    with private_folder() as folder:
        folder.mkdir()
        yield folder
