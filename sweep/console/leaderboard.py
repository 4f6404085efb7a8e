"""The leaderboard and its verdict as text: at the end of a sweep, and of `sweep.report --leaderboard`, which needs no Ray."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sweep.console.words import print_words
from sweep.results.facts import scored_by
from sweep.results.leaderboard import Board, Configuration
from sweep.results.verdict import Verdict
from sweep.wording import and_more, number, plain, quantity, score, sd, span

_MAX_ROWS = 12
# The leaderboard with standard deviations and speeds; a terminal of 80 columns goes without them.
_WIDE_COLUMNS = 110


def print_leaderboard(console: Console, board: Board, verdict: Verdict) -> None:
    """Print the ranked configurations, what follows from them, and what is to be known of it."""
    if board.ranked:
        console.print(leaderboard_table(board, wide=console.width >= _WIDE_COLUMNS))
        print_words(console, plain(f"scored by {scored_by(board.run)}"), style="dim")
    print_words(console, plain(f"{verdict.headline}. {verdict.sentence}"), style="bold")
    print_notes(console, verdict.caveats)
    print_notes(console, (f"{name}: {problem}" for name, problem in board.problems))


def print_notes(console: Console, notes: Iterable[str]) -> None:
    """Print what a reader should know, one line each."""
    for note in notes:
        print_words(console, ("note: ", "yellow"), plain(note), indent=6)


def leaderboard_table(board: Board, *, wide: bool) -> Table:
    """Return the ranked configurations: mean, sd and number of seeds, validation and test, the test's interval.

    Args:
        board: The leaderboard.
        wide: With standard deviations and speeds; else for 80 columns.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1) if wide else (0, 1, 0, 0))
    table.add_column("", justify="right")
    table.add_column(Text(plain(board.run.group_by)), no_wrap=True)
    for key in board.run.swept_keys:
        table.add_column(Text(plain(key)), justify="right", no_wrap=True)
    names = ("seeds", "val mean_f1", "test mean_f1", "95 % interval", "images/s")
    for name in names if wide else ("n", "val", "test", "95 % interval"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in board.ranked[:_MAX_ROWS]:
        table.add_row(*_cells(one, board.run.swept_keys, wide=wide))
    if len(board.ranked) > _MAX_ROWS:
        table.add_row("", and_more(_MAX_ROWS, len(board.ranked)))
    return table


def _cells(one: Configuration, keys: Sequence[str], *, wide: bool) -> list[Text]:
    val, test = (_mean(scores, wide=wide) for scores in (one.val_scores(), one.test_scores()))
    values = [number(one.values.get(key)) for key in keys]
    cells = [str(one.rank), one.group, *values, str(len(one.full)), val, test, span(*(one.test_span or (None, None)))]
    if wide:
        cells.append(quantity(one.cost("images_per_s")))
    return [Text(plain(cell)) for cell in cells]


def _mean(scores: Sequence[float], *, wide: bool) -> str:
    spread = sd(scores)
    return score(fmean(scores)) + (f" ± {score(spread)}" if wide and spread is not None else "")
