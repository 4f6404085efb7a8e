"""Text on a terminal: header, verdict and notes are broken between words, in a log not at all."""

from __future__ import annotations

import io
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from fairface_core.files.folder import open_folder
from sweep.console.summary import print_closing, print_header
from sweep.console.words import print_words
from sweep.driving.placement import Placement
from sweep.results.leaderboard import build_board
from sweep.results.verdict import judge
from sweep.run_folder.records import read_run
from tests.sweep.console.test_progress import make
from tests.sweep.driving.test_ledger import figures, leg_of


def said(width: int, show: Any, *, terminal: bool = True) -> list[str]:
    out = io.StringIO()
    show(Console(file=out, force_terminal=terminal, color_system=None, width=width, highlight=False))
    return out.getvalue().splitlines()


def words(lines: list[str]) -> list[str]:
    """Without rules, and without the titles that a narrow leaderboard shortens."""
    return [word for word in " ".join(lines).split(" ") if set(word) - {"─"} and word not in ("n", "val", "test")]


CLUSTER: Any = SimpleNamespace(
    dashboard="http://127.0.0.1:8265", token_hint="ray get-auth-token", joined=False, cpus=2.0, gpus=0.0, nodes=(1,)
)


@pytest.mark.parametrize("width", [60, 80, 97, 110, 133])
def test_no_word_of_header_verdict_and_notes_is_broken(drawn_run: Path, tmp_path: Path, width: int) -> None:
    board = build_board(read_run(open_folder(drawn_run)))
    verdict = judge(board)
    ledger, progress, out = make(tmp_path, terminal=True, width=width)
    trial = next(iter(ledger.trials.values()))
    trial.status, trial.reason = "failed", "storage: cannot write state.pt: ENOSPC: no space left on device; free some"

    def show(console: Console) -> None:
        print_header(console, "backbones", ledger, CLUSTER, None)
        print_closing(console, ledger, board, verdict, ("leaderboard.csv",))

    lines = said(width, show)
    known = set(words(said(1000, show, terminal=False)))
    assert verdict.sentence.count("95\u202f%") > 2 and verdict.caveats
    assert [word for word in words(lines) if word not in known] == []
    assert [line for line in lines if len(line) > width and " " in line.strip()] == []
    # The lines of trials and their notes too.
    progress.note("a worker of " + "some machine " * 12 + "died")
    leg = leg_of(ledger, Placement(64, 0))
    ledger.epoch(leg, figures(1, 0.3))
    progress.ended(leg, None, False)
    plain = re.sub(r"\x1b\[[\d;?]*\w", "", out.getvalue())
    assert f" {leg.trial.trial_id}" in plain
    assert max(map(len, plain.splitlines())) <= max(width, len(leg.trial.trial_id) + 10)


def test_a_log_keeps_each_line_whole() -> None:
    text = "word " * 100 + "end"
    assert said(40, lambda console: print_words(console, text), terminal=False) == [text]


def test_the_narrow_space_keeps_a_number_and_its_sign_together() -> None:
    lines = said(13, lambda console: print_words(console, ("note: ", "dim"), "it was 95\u202f% of all", indent=6))
    assert lines == ["note: it was", "      95\u202f% of", "      all"]


def test_a_path_is_left_whole() -> None:
    path = "/a/very/long/path-with-hyphens/" + "x" * 60
    assert said(40, lambda console: print_words(console, f"results at {path}")) == ["results at", path]
