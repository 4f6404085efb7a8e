"""`python -m sweep.report RUN_DIR`: leaderboard.csv, report.html and model cards from the trial folders.

No Ray, no torch, no network; also for a sweep that is still running.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from fairface_core.console import Parser, run_door
from fairface_core.files.folder import open_folder
from sweep import wording
from sweep.page.photographs import check_count
from sweep.page.write import REPORT_HTML, write_report
from sweep.results.benchmark import BENCHMARK_CSV
from sweep.results.beside.floors import parse_floor
from sweep.results.beside.gathered import Asked
from sweep.results.beside.outsiders import Outsider
from sweep.results.beside.suspects import SUSPECTS_CSV
from sweep.results.facts import scored_by
from sweep.results.leaderboard import LEADERBOARD_CSV

_MAX_LINE_CHARS = 2_000


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    return run_door(make_parser(), _report, argv)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = Parser(
        prog="python -m sweep.report",
        description="Rebuild benchmark_results.csv, leaderboard.csv, report.html and the model cards of a run folder.",
    )
    parser.add_argument("run_dir", metavar="RUN_DIR", help="folder of one sweep (or object-store URI): runs/<name>")
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
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser


def _report(flags: argparse.Namespace) -> int:
    check_count(flags.faces, flags.root)
    asked = Asked(flags.others, [parse_floor(text) for text in flags.floor], flags.faces or 0, flags.root)
    board, verdict, beside = write_report(open_folder(flags.run_dir), asked)
    damaged = [(r.trial_id, text) for r in board.run.records for text in r.problems] + list(board.problems)
    lines = [
        f"{verdict.headline}. {verdict.sentence}",
        f"scored by {scored_by(board.run)}",
        *(_beside(one) for one in beside.outsiders),
        *(f"floor {one.floor}: {one.sentence}" for one in beside.floors),
        *(f"note: {caveat}" for caveat in verdict.caveats),
        *(f"note: {trial_id}: {text}" for trial_id, text in damaged),
        *(f"note: {text}" for text in board.run.problems),
    ]
    for line in lines:
        print(wording.plain(line)[:_MAX_LINE_CHARS])
    written = [SUSPECTS_CSV] if beside.suspects else []
    for name in (*written, REPORT_HTML, LEADERBOARD_CSV, BENCHMARK_CSV):
        print(f"{board.run.location}/{name}")
    return 0


def _beside(one: Outsider) -> str:
    pair = one.against
    return (
        f"{one.name}: test mean_f1 {wording.score(one.test.mean)} ({wording.span(*one.test.ends)}), less {pair.b} "
        f"{wording.signed(pair.difference)} (95 % interval {wording.signed_span(pair.low, pair.high)}, "
        f"p {wording.p_words(pair.p_value)})"
    )


if __name__ == "__main__":
    raise SystemExit(main())
