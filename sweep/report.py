"""`python -m sweep.report RUN_DIR`: leaderboard.csv, report.html and model cards from the trial folders.

No Ray, no torch, no network; also for a sweep that is still running.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fairface_core.console import Parser, print_json, run_door
from fairface_core.errors import ConfigError
from fairface_core.files.folder import Folder, open_folder
from sweep import wording
from sweep.page.photographs import check_count
from sweep.page.show import REPORT_HTML, open_page
from sweep.results.benchmark import BENCHMARK_CSV
from sweep.results.beside.floors import parse_floor
from sweep.results.beside.gathered import Asked, Beside
from sweep.results.beside.outsiders import Outsider
from sweep.results.beside.runs import lines
from sweep.results.beside.suspects import SUSPECTS_CSV
from sweep.results.document import document
from sweep.results.facts import scored_by
from sweep.results.leaderboard import LEADERBOARD_CSV, Board, build_board
from sweep.results.verdict import Verdict, judge
from sweep.run_folder.lock import driver_of
from sweep.run_folder.records import read_run
from sweep.trackers.mirror import mirrored, open_tracker

if TYPE_CHECKING:
    from rich.console import Console

FOLLOW_S = 60.0
_LOOK_S = 2.0
_MAX_LINE_CHARS = 2_000
_LOG_COLUMNS = 140


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    return run_door(make_parser(), _run, argv)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = Parser(
        prog="python -m sweep.report",
        description="Rebuild benchmark_results.csv, leaderboard.csv, report.html and the model cards of a run folder.",
    )
    parser.add_argument("run_dir", metavar="RUN_DIR", help="folder of one sweep (or object-store URI): runs/<name>")
    parser.add_argument("other", metavar="OTHER", nargs="?", help="a second run: compare the two instead")
    parser.add_argument(
        "--with", action="append", default=[], type=Path, dest="others", metavar="FILE",
        help="another model's answers, a CSV of file, age and gender, beside the leaderboard; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--faces", type=int, metavar="N",
        help="put photographs into the page: the N worst and N most doubtful test images of the winner, and N suspect "
        "labels; needs --root",
    )  # fmt: skip
    parser.add_argument("--root", type=Path, metavar="DIR", help="data folder of the sweep, for --faces")
    parser.add_argument(
        "--floor", action="append", default=[], metavar="METRIC=X",
        help="name the best configuration whose every group keeps a floor, such as gen_acc_worst_group=0.85",
    )  # fmt: skip
    parser.add_argument("--leaderboard", action="store_true", help="print the table and write nothing")
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    parser.add_argument(
        "--follow", action="store_true", help="do it again each minute until the sweep ends; the page reloads itself"
    )
    parser.add_argument(
        "--to", choices=("mlflow", "wandb", "trackio"),
        help="write trials as runs of this tracker too; where, its own environment variables say (docs/trackers.md)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object (with --follow, one a line)")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser


def _run(flags: argparse.Namespace) -> int:
    return _report(flags) if flags.other is None else _compare(flags)


def _compare(flags: argparse.Namespace) -> int:
    from sweep.page.write import write_comparison

    if any((flags.others, flags.faces, flags.floor, flags.leaderboard, flags.open, flags.follow, flags.to, flags.json)):
        raise ConfigError(f"{flags.other}: a second run goes with no flag; give them to the report of one")
    found, name = write_comparison(open_folder(flags.run_dir), open_folder(flags.other))
    for line in [*lines(found), f"{found.a.run.location}/{name}"]:
        print(wording.plain(line)[:_MAX_LINE_CHARS])
    return 0


def _report(flags: argparse.Namespace) -> int:
    check_count(flags.faces, flags.root)
    asked = Asked(flags.others, [parse_floor(text) for text in flags.floor], flags.faces or 0, flags.root)
    folder = open_folder(flags.run_dir)
    if flags.leaderboard and any((flags.others, flags.faces, flags.floor, flags.open, flags.to)):
        raise ConfigError("--leaderboard prints one table and writes nothing; it goes with --json and --follow alone")
    if flags.open and folder.path() is None:
        raise ConfigError("--open: a browser cannot open a page in an object store; copy report.html from there")
    write = open_tracker(flags.to) if flags.to else None
    said: object = None
    while True:
        # Asked before the folder is read: what ends meanwhile is read once more.
        follow = flags.follow and bool(driver_of(folder))
        reload_s = FOLLOW_S if follow else None
        board, verdict, beside, files = _look(folder) if flags.leaderboard else _write(folder, asked, reload_s)
        now = (verdict.headline, verdict.sentence, verdict.caveats, board.problems)
        if write is not None:
            write(mirrored(board, verdict, running=follow))
        if flags.json:
            print_json(document(board, verdict, files), indent=None if flags.follow else 2)
        elif now != said:
            _print(board, verdict, beside, files)
        if flags.open and said is None:
            open_page(Path(folder.uri_of(REPORT_HTML)))
        said = now
        if not follow:
            return 0
        _wait(folder)


def _look(folder: Folder) -> tuple[Board, Verdict, None, tuple[str, ...]]:
    board = build_board(read_run(folder))
    return board, judge(board), None, ()


def _write(folder: Folder, asked: Asked, reload_s: float | None) -> tuple[Board, Verdict, Beside, tuple[str, ...]]:
    # Imported late: the leaderboard alone needs no plotly.
    from sweep.page.write import write_report

    board, verdict, beside = write_report(folder, asked, reload_s=reload_s)
    suspects = (SUSPECTS_CSV,) if beside.suspects else ()
    return board, verdict, beside, (*suspects, REPORT_HTML, LEADERBOARD_CSV, BENCHMARK_CSV)


def _wait(folder: Folder) -> None:
    """Wait a minute, or until nobody drives the run any more."""
    until = time.monotonic() + FOLLOW_S
    while time.monotonic() < until and driver_of(folder):
        time.sleep(_LOOK_S)


def _print(board: Board, verdict: Verdict, beside: Beside | None, files: Sequence[str]) -> None:
    """Print the answer; without anything beside it, as a table."""
    damaged = [(r.trial_id, text) for r in board.run.records for text in r.problems]
    if beside is None:
        from sweep.console.leaderboard import print_leaderboard, print_notes

        console = _console()
        print_leaderboard(console, board, verdict)
        print_notes(console, (f"{trial_id}: {text}" for trial_id, text in damaged))
        print_notes(console, board.run.problems)
        return
    lines = [
        f"{verdict.headline}. {verdict.sentence}",
        f"scored by {scored_by(board.run)}",
        *(_beside(one) for one in beside.outsiders),
        *(f"floor {one.floor}: {one.sentence}" for one in beside.floors),
        *(f"note: {caveat}" for caveat in verdict.caveats),
        *(f"note: {trial_id}: {text}" for trial_id, text in [*damaged, *board.problems]),
        *(f"note: {text}" for text in board.run.problems),
    ]
    if sys.stdout.isatty():
        from sweep.console.words import print_words

        console = _console()
        for line in lines:
            print_words(console, wording.plain(line)[:_MAX_LINE_CHARS])
    else:
        for line in lines:
            print(wording.plain(line)[:_MAX_LINE_CHARS])
    for name in files:
        print(f"{board.run.location}/{name}")


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=_LOG_COLUMNS)


def _beside(one: Outsider) -> str:
    pair = one.against
    return (
        f"{one.name}: test mean_f1 {wording.score(one.test.mean)} ({wording.span(*one.test.ends)}), less {pair.b} "
        f"{wording.signed(pair.difference)} (95 % interval {wording.signed_span(pair.low, pair.high)}, "
        f"p {wording.p_words(pair.p_value)})"
    )


if __name__ == "__main__":
    raise SystemExit(main())
