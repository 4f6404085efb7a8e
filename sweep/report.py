"""`python -m sweep.report RUN_DIR`: leaderboard.csv, report.html and model cards from the trial folders.

No Ray, no torch, no network; also for a sweep that is still running.
"""

from __future__ import annotations

import argparse
import base64
import functools
import hashlib
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from fairface_core.console import run_command
from fairface_core.storage import Folder, open_folder
from sweep import wording
from sweep.aggregate import BENCHMARK_CSV, LEADERBOARD_CSV, benchmark_rows, csv_of, one_writer, read_run
from sweep.card import card_name, render_card
from sweep.facts import scored_by
from sweep.leaderboard import Board, board_frame, build_board
from sweep.page import Page, build_page
from sweep.plot_style import COLORS, DARK, DARK_COLORS
from sweep.trial_plots import axis_words
from sweep.verdict import Verdict, judge

REPORT_HTML = "report.html"
TEMPLATES = Path(__file__).parent / "templates"
_MAX_LINE_CHARS = 2_000
# The same shapes as in the figures (plot_style.SYMBOLS).
_GLYPHS = "●■◆▲▼✚⬢★"


def write_report(folder: Folder) -> tuple[Board, Verdict]:
    """Rebuild everything that follows from a run's trial folders: both CSVs, the page, a card per ranked group.

    Raises:
        ConfigError: If the folder has no usable plan.
        StorageError: If a file cannot be written.
    """
    with one_writer(folder, BENCHMARK_CSV):
        folder.write(BENCHMARK_CSV, csv_of(benchmark_rows(read_run(folder))))
    with one_writer(folder, LEADERBOARD_CSV):
        board = build_board(read_run(folder))
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
        folder.write(REPORT_HTML, _bytes(render_page(build_page(board, verdict, cards))))
    return board, verdict


def _bytes(text: str) -> bytes:
    # JSON can hold half of a surrogate pair, which no file in UTF-8 can.
    return text.encode(errors="replace")


def render_page(page: Page) -> str:
    """Return the whole page as one HTML file that asks nothing of the network."""
    scripts = {"plotly": _plotly_script(), "page": Markup((TEMPLATES / "report.js").read_text(encoding="utf-8"))}
    # Only these two scripts may run, whatever text a run folder holds. Styles are inline: plotly sets them.
    hashes = " ".join(f"'sha256-{_sha256(text)}'" for text in scripts.values())
    policy = (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    figures = {plot.key: {**plot.figure.to_plotly_json(), "height": plot.height_px} for plot in page.plots()}
    return _environment().get_template("report.html.j2").render(
        page=page,
        run=page.run,
        policy=policy,
        scripts=scripts,
        styles=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
        palette=list(zip(COLORS, DARK_COLORS, strict=True)),
        glyphs=_GLYPHS,
        figures=_embedded(figures),
        dark=_embedded(DARK),
    )  # fmt: skip


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in ("number", "settings", "score", "signed", "span", "signed_span", "percent", "quantity", "millions",
                 "p_words", "duration", "counted", "probability", "points", "sd", "shortened"):  # fmt: skip
        environment.filters[name] = getattr(wording, name)
    environment.filters["axis_words"] = axis_words
    environment.filters["trial_href"] = lambda trial_id: f"trials/{quote(trial_id)}/"
    return environment


@functools.cache
def _plotly_script() -> Markup:
    from plotly.offline import get_plotlyjs

    # Inside a script element `</script` would end it, also within a string.
    return Markup(get_plotlyjs().replace("</script", "<\\/script"))


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _embedded(value: Any) -> Markup:
    """Return JSON that stands inside a script element: no character of it can end the element."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"), default=list)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m sweep.report",
        description="Rebuild benchmark_results.csv, leaderboard.csv, report.html and the model cards of a run folder.",
    )
    parser.add_argument("run_dir", metavar="RUN_DIR", help="folder of one sweep (or object-store URI): runs/<name>")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    arguments = parser.parse_args(argv)
    return run_command(lambda: _report(arguments.run_dir), debug=arguments.debug)


def _report(run_dir: str) -> int:
    folder = open_folder(run_dir)
    board, verdict = write_report(folder)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A name in a run folder, or a real minus sign, may be more than the terminal's encoding holds.
            stream.reconfigure(errors="replace")
    damaged = [(r.trial_id, text) for r in board.run.records for text in r.problems] + list(board.problems)
    lines = [
        f"{verdict.headline}. {verdict.sentence}",
        f"scored by {scored_by(board.run)}",
        *(f"note: {caveat}" for caveat in verdict.caveats),
        *(f"note: {trial_id}: {text}" for trial_id, text in damaged),
        *(f"note: {text}" for text in board.run.problems),
    ]
    for line in lines:
        print(wording.plain(line)[:_MAX_LINE_CHARS])
    for name in (REPORT_HTML, LEADERBOARD_CSV, BENCHMARK_CSV):
        print(f"{board.run.location}/{name}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
