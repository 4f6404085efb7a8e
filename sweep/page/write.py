"""Writes everything that follows from a run's trial folders: both CSVs, the page and the model cards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fairface_core.files.folder import Folder
from sweep.page.card import card_name, render_card
from sweep.page.render import render_page
from sweep.page.sections import build_page
from sweep.results.benchmark import write_benchmark
from sweep.results.beside.outsiders import read_outsiders
from sweep.results.leaderboard import LEADERBOARD_CSV, Board, board_frame, build_board
from sweep.results.tables import csv_of, one_writer
from sweep.results.verdict import Verdict, judge

REPORT_HTML = "report.html"


def write_report(folder: Folder, others: Sequence[Path] = ()) -> tuple[Board, Verdict]:
    """Rebuild everything that follows from a run's trial folders: both CSVs, the page, a card per ranked group.

    Args:
        folder: The run folder.
        others: Files of other models' answers, to be shown beside the leaderboard.

    Raises:
        ConfigError: If the folder has no usable plan, or nothing that `others` could be compared with.
        DataError: If one of `others` cannot be scored.
        StorageError: If a file cannot be written.
    """
    with one_writer(folder, LEADERBOARD_CSV):
        board = build_board(write_benchmark(folder))
        outsiders = read_outsiders(board, others)
        folder.write(LEADERBOARD_CSV, csv_of(board_frame(board)))
        verdict = judge(board)
        cards = []
        for group in board.run.groups:
            name = card_name(board.run, group)
            if group in board.best_of_group:
                cards.append((group, name))
                folder.write(name, _bytes(render_card(board, verdict, group)))
            else:
                # A group may lose its rank, when a file is damaged: its old card must not outlive it.
                folder.remove(name)
        folder.write(REPORT_HTML, _bytes(render_page(build_page(board, verdict, cards, outsiders))))
    return board, verdict


def _bytes(text: str) -> bytes:
    # JSON can hold half of a surrogate pair, which no file in UTF-8 can.
    return text.encode(errors="replace")
