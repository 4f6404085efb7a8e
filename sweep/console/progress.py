"""What a person sees while a sweep runs: a live table on a terminal, plain lines anywhere else.

Each finished trial gets one line in both. Everything shown is worked out from the ledger when it is drawn.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sweep.console.words import print_words, wrapped
from sweep.driving.ledger import Ledger
from sweep.driving.trials import Leg, Trial
from sweep.driving.worker import NOTES_KEY, Ending
from sweep.wording import and_more, counted, duration, plain

# A terminal is drawn this often, and a log that is no terminal gets a line of the state this often.
_DRAW_S = 0.5
_LINE_S = 60.0
_MAX_RUNNING_ROWS = 8
# The whole table with a long backbone's name and hours left; below it the columns are fewer and closer.
_WIDE_COLUMNS = 104
_STYLES = {"completed": "green", "stopped": "yellow", "diverged": "red", "failed": "bold red", "skipped": "dim"}


@dataclass(frozen=True)
class Tally:
    """The state of one group, or of all.

    Attributes:
        best: Best validation mean_f1 so far, None before the first epoch.
        running: Trials that a worker has.
        waiting: Trials that are still to run, or may be.
        done: Completed trials.
        stopped: Trials that the scheduler stopped.
        lost: Diverged and failed trials.
        epochs: Epochs trained.
        worst: Epochs if nothing were stopped early.
        left_s: Seconds left at most; None before the first epoch.
        guessed: Whether `left_s` holds a group that has trained no epoch, reckoned from the others by relative cost.
    """

    best: float | None
    running: int
    waiting: int
    done: int
    stopped: int
    lost: int
    epochs: int
    worst: int
    left_s: float | None
    guessed: bool = False


@dataclass
class Pace:
    """How long an epoch takes, by group; groups not seen yet are scaled by their relative cost."""

    costs: Mapping[str, float]
    _seconds: dict[str, float] = field(default_factory=dict)

    def note(self, group: str, epoch_s: float) -> None:
        """Take in an epoch; later ones count more."""
        before = self._seconds.get(group)
        self._seconds[group] = epoch_s if before is None else 0.7 * before + 0.3 * epoch_s

    def seen(self, group: str) -> bool:
        """Whether an epoch of this group was seen."""
        return group in self._seconds

    def epoch_s(self, group: str) -> float | None:
        """Return the seconds of one epoch of this group, None before any epoch was seen."""
        if group in self._seconds:
            return self._seconds[group]
        scaled = [seconds / self.costs[name] for name, seconds in self._seconds.items() if self.costs[name]]
        return self.costs[group] * sum(scaled) / len(scaled) if scaled else None


def epochs_left(ledger: Ledger, group: str) -> int:
    """Return how many epochs a group may still train at most: what explores, then the seeds of a winner."""
    choice, budget = ledger.choices()[group], ledger.plan.epochs
    trials = ledger.trials
    if choice.over:
        return sum(budget - len(trials[name].scores) for name in (*choice.confirm, *choice.later))
    if ledger.races:
        return sum(budget - len(t.scores) for t in ledger.groups[group] if t.status in ("planned", "running"))
    exploring = sum(budget - len(trials[name].scores) for name in choice.explore)
    exploring += budget * ledger.plan.trials_to_come(group, exploring=True)
    confirming: dict[str, int] = {}
    for trial in ledger.groups[group]:
        if trial.trial_id not in choice.explore and trial.status in ("planned", "stopped"):
            config = trial.planned.config_id
            confirming[config] = confirming.get(config, 0) + budget - len(trial.scores)
    return exploring + (max(confirming.values(), default=0) if ledger.confirms else 0)


class Progress:
    """Shows a running sweep.

    Args:
        ledger: The trials.
        console: Where to print.
        costs: Relative cost of an epoch, by group.
    """

    def __init__(self, ledger: Ledger, console: Console, costs: Mapping[str, float]) -> None:
        self._ledger, self._console, self._pace = ledger, console, Pace(costs)
        for trial in ledger.trials.values():
            for epoch in trial.history:
                self._note_pace(trial.group, epoch)
        self._began: dict[str, float] = {}
        self._spent: dict[str, float] = {}
        self._live: Live | None = None
        self._verdict = ""
        self._drawn = self._lined = time.monotonic()
        self._worst = {
            group: ledger.plan.model_copy(
                update={"trials": tuple(trial.planned for trial in trials)}
            ).worst_case_epochs()
            for group, trials in ledger.groups.items()
        }

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Keep the table on the screen; it is gone afterwards, the lines stay."""
        if not self._console.is_interactive:
            yield
            return
        with Live(self.table(), console=self._console, auto_refresh=False, transient=True) as live:
            self._live = live
            try:
                yield
            finally:
                self._live = None

    # What the driver tells.

    def began(self, leg: Leg) -> None:
        """A worker has a leg."""
        self._began[leg.trial.trial_id] = time.monotonic()

    def epoch(self, leg: Leg, figures: Mapping[str, Any]) -> None:
        """An epoch is complete."""
        self._note_pace(leg.trial.group, figures)
        for note in figures.get(NOTES_KEY, ()):
            self.note(f"{leg.trial.trial_id}: {note}")

    def _note_pace(self, group: str, figures: Mapping[str, Any]) -> None:
        seconds = [figures.get(name) for name in ("train_s", "eval_s")]
        self._pace.note(group, sum(float(s) for s in seconds if s is not None))

    def ended(self, leg: Leg, ending: Ending | None, again: bool) -> None:
        """A leg ended."""
        trial = leg.trial
        if trial.trial_id in self._began:
            seconds = time.monotonic() - self._began.pop(trial.trial_id)
            self._spent[trial.trial_id] = self._spent.get(trial.trial_id, 0.0) + seconds
        if again:
            self._line("retry", trial, trial.reason.removeprefix("retry after "), "yellow")
        else:
            # Of a race: its state lies on disk until the others are there.
            word = "waits" if trial.status == "planned" else trial.status
            self._line(word, trial, _result(trial), _STYLES.get(trial.status, ""))

    def tick(self) -> None:
        """Draw, if it is time."""
        now = time.monotonic()
        if self._live is not None and now - self._drawn > _DRAW_S:
            self._drawn = now
            self._live.update(self.table(), refresh=True)
        elif self._live is None and now - self._lined > _LINE_S:
            self._print((self.sentence(), "dim"))

    def note(self, text: str) -> None:
        """Print a line that a person should see."""
        self._print(("note: ", "yellow"), plain(text), indent=6)

    def hear(self, verdict: str) -> None:
        """Take in the verdict as the folders tell it now, in the words of the report; drawn with the table."""
        self._verdict = plain(verdict)

    # What is shown.

    def table(self) -> RenderableType:
        """Return the table of the groups, and what runs now; a terminal of 80 columns gets a closer one."""
        wide = self._console.width >= _WIDE_COLUMNS
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1) if wide else (0, 1, 0, 0))
        table.add_column(self._ledger.plan.group_by, no_wrap=True, overflow="ellipsis")
        for name in _WIDE_NAMES if wide else _NARROW_NAMES:
            table.add_column(name, justify="right", no_wrap=True)
        rows = {group: self.tally([group]) for group in self._ledger.groups}
        if len(rows) > 1:
            rows["all"] = self.tally(self._ledger.groups)
        for name, tally in rows.items():
            style = "bold" if name == "all" and len(rows) > 1 else ""
            table.add_row(Text(plain(name)), *_cells(tally, wide=wide, alone=name in self._ledger.groups), style=style)
        running = [trial for trial in self._ledger.trials.values() if trial.leg is not None and trial.leg.started]
        lines = [self._running_line(trial) for trial in running[:_MAX_RUNNING_ROWS]]
        if len(running) > len(lines):
            lines.append(Text(f"  {and_more(len(lines), len(running))}", style="dim"))
        if not running:
            lines.append(Text("  waiting for a worker", style="dim"))
        lines += wrapped(Text(self._verdict), self._console.width)
        return Group(table, *lines)

    def tally(self, groups: Iterable[str]) -> Tally:
        """Return the state of these groups together."""
        ledger, groups = self._ledger, list(groups)
        trials = [trial for group in groups for trial in ledger.groups[group]]
        running = sum(trial.leg is not None and trial.leg.started for trial in trials)
        parallel = max(1, sum(t.leg is not None and t.leg.started for t in ledger.trials.values()))
        times, guessed = [], False
        for group in groups:
            epochs, epoch_s = epochs_left(ledger, group), self._pace.epoch_s(group)
            times.append(0.0 if not epochs else None if epoch_s is None else epochs * epoch_s / parallel)
            guessed |= epochs > 0 and not self._pace.seen(group)
        known = [seconds for seconds in times if seconds is not None]
        return Tally(
            best=max((max(trial.scores) for trial in trials if trial.scores), default=None),
            running=running,
            waiting=ledger.count("planned", among=trials)
            + sum(ledger.plan.trials_to_come(group, exploring=False) for group in groups),
            done=ledger.count("completed", among=trials),
            stopped=ledger.count("stopped", among=trials),
            lost=ledger.count("diverged", "failed", among=trials),
            epochs=sum(len(trial.scores) for trial in trials),
            worst=sum(self._worst[group] for group in groups),
            left_s=sum(known) if len(known) == len(times) else None,
            guessed=guessed,
        )

    def sentence(self) -> str:
        """Return the state of the sweep in one line."""
        tally = self.tally(self._ledger.groups)
        best = "" if tally.best is None else f"; best mean_f1 {tally.best:.4f}"
        about = "about" if tally.guessed else "at most"
        left = "" if tally.left_s is None else f"; {about} {duration(tally.left_s)} left"
        return f"{self.counts()}; {tally.epochs:,} of {tally.worst:,} epochs{best}{left}"

    def counts(self) -> str:
        """Return how many trials stand where: `3 done, 2 running, 7 waiting`."""
        tally = self.tally(self._ledger.groups)
        numbers = {"done": tally.done, "stopped": tally.stopped, "failed": tally.lost, "running": tally.running}
        parts = [f"{number} {word}" for word, number in numbers.items() if number or word == "done"]
        return ", ".join([*parts, f"{tally.waiting} waiting"])

    def _running_line(self, trial: Trial) -> Text:
        began = self._began.get(trial.trial_id)
        since = "" if began is None else f", {duration(time.monotonic() - began)}"
        score = f", mean_f1 {trial.scores[-1]:.4f}" if trial.scores else ""
        phase = "confirming, " if trial.leg is not None and trial.leg.phase == "confirm" else ""
        epochs = f"epoch {len(trial.scores) + 1} of {self._ledger.plan.epochs}"
        line = f"  {trial.trial_id}: {phase}{epochs}{score}{since}"
        return Text(line, no_wrap=True, overflow="ellipsis")

    def _line(self, word: str, trial: Trial, text: str, style: str) -> None:
        spent = f"  {duration(self._spent[trial.trial_id])}" if trial.trial_id in self._spent else ""
        epochs = f"{len(trial.scores)}/{self._ledger.plan.epochs} epochs"
        rest = plain(f"  {trial.trial_id}  {epochs}{spent}  {text}".rstrip())
        self._print((f"{time.strftime('%H:%M:%S')}  ", "dim"), (f"{word:<9}", style), rest, indent=10)

    def _print(self, *parts: str | tuple[str, str], indent: int = 0) -> None:
        self._lined = time.monotonic()
        print_words(self._console, *parts, indent=indent)


_WIDE_NAMES = ("best mean_f1", "running", "waiting", "done", "stopped", "failed", "epochs", "left")
_NARROW_NAMES = ("best", "run", "done", "stop", "fail", "epochs", "left")


def _cells(tally: Tally, *, wide: bool, alone: bool) -> list[str]:
    """Word a row; `alone` is the row of one group, of which nothing is said before its first epoch.

    From the other groups' cost it was once told as 1 s: at 64 px a model's time has little to do with its arithmetic.
    """
    best = "–" if tally.best is None else f"{tally.best:.4f}"
    bound = "~" if tally.guessed else "≤"
    unknown = tally.left_s is None or (tally.guessed and alone)
    left = "–" if unknown else f"{bound} {duration(tally.left_s)}" if tally.left_s else ""
    waiting = (tally.waiting,) if wide else ()
    counts = (tally.running, *waiting, tally.done, tally.stopped, tally.lost)
    return [best, *map(str, counts), f"{tally.epochs:,}{' of ' if wide else '/'}{tally.worst:,}", left]


def _result(trial: Trial) -> str:
    if trial.status in ("diverged", "failed"):
        return trial.reason
    if trial.status == "stopped" and trial.stop is not None:
        cutoff = "" if trial.stop.cutoff is None else f" < {trial.stop.cutoff:.4f}"
        score = trial.stop.score if trial.stop.value is None else trial.stop.value
        return f"mean_f1 {score:.4f}{cutoff} at rung {trial.stop.rung:g}"
    if not trial.scores:
        return trial.reason
    best = max(trial.scores)
    return f"best mean_f1 {best:.4f} at epoch {trial.scores.index(best) + 1}"


def failure_table(trials: Iterable[Trial]) -> Table | None:
    """Return the trials that diverged or failed, with their reasons; None if there are none."""
    lost = [trial for trial in trials if trial.status in ("diverged", "failed")]
    if not lost:
        return None
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=f"{counted(len(lost), 'trial')} without a result")
    for name in ("trial", "status", "epochs", "reason"):
        table.add_column(name, overflow="fold", no_wrap=name != "reason")
    for trial in lost:
        table.add_row(Text(trial.trial_id), trial.status, str(len(trial.scores)), Text(plain(trial.reason)))
    return table
