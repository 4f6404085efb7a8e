"""Writes everything that follows from a run's trial folders: both CSVs, the page and the model cards; and of two runs."""

from __future__ import annotations

from typing import NamedTuple

from fairface_core.files.folder import Folder
from sweep.page.beside.compare import page_name, render_comparison
from sweep.page.card import card_name, render_card
from sweep.page.photographs import photographs
from sweep.page.render import render_page
from sweep.page.sections import build_page
from sweep.page.show import REPORT_HTML
from sweep.results.benchmark import write_benchmark
from sweep.results.beside.gathered import Asked, Beside, gather
from sweep.results.beside.runs import RunPair, compare_runs
from sweep.results.beside.suspects import SUSPECTS_CSV, suspects_csv
from sweep.results.leaderboard import LEADERBOARD_CSV, Board, board_frame, build_board
from sweep.results.tables import csv_of, one_writer
from sweep.results.verdict import Verdict, judge
from sweep.run_folder.records import read_run


class Written(NamedTuple):
    """What a report was made of.

    Attributes:
        board: The leaderboard.
        verdict: The answer.
        beside: What stands beside the leaderboard.
    """

    board: Board
    verdict: Verdict
    beside: Beside


def write_report(folder: Folder, asked: Asked | None = None, *, reload_s: float | None = None) -> Written:
    """Rebuild everything that follows from a run's trial folders: the CSVs, the page, a card per ranked group.

    Args:
        folder: The run folder.
        asked: What is asked for beyond it.
        reload_s: Seconds after which the page reloads itself, where it will be written again; None for never.

    Raises:
        ConfigError: If the folder has no usable plan, or nothing that what is asked for could be compared with.
        DataError: If a file of answers cannot be scored, or the photographs are not those of the run.
        StorageError: If a file cannot be written.
    """
    with one_writer(folder, LEADERBOARD_CSV):
        board = build_board(write_benchmark(folder))
        asked = asked or Asked()
        beside = gather(board, asked)
        best = board.ranked[0].best if board.ranked else None
        photos = (
            photographs(beside.images(asked.num_faces), best, asked.root)
            if asked.num_faces and best and asked.root
            else {}
        )
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
        if beside.suspects:
            folder.write(SUSPECTS_CSV, suspects_csv(beside.suspects))
        else:
            folder.remove(SUSPECTS_CSV)
        page = build_page(board, verdict, cards, beside, photos)
        folder.write(REPORT_HTML, _bytes(render_page(page, reload_s)))
    return Written(board, verdict, beside)


def write_comparison(folder: Folder, other: Folder) -> tuple[RunPair, str]:
    """Compare two runs, and write the page of it into the first one's folder; the second is only read.

    Returns:
        What was found, and the page's file name.

    Raises:
        ConfigError: If one of them has no usable plan.
        StorageError: If the page cannot be written.
    """
    found = compare_runs(build_board(read_run(folder)), build_board(read_run(other)))
    folder.write(page_name(found), _bytes(render_comparison(found)))
    return found, page_name(found)


def _bytes(text: str) -> bytes:
    # JSON can hold half of a surrogate pair, which no file in UTF-8 can.
    return text.encode(errors="replace")
