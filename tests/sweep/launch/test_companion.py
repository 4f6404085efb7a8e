"""The process beside a sweep: the live table's verdict is the report's, and the page is fresh until the sweep ends."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from fairface_core.files.folder import open_folder
from sweep.launch.companion import companion
from sweep.report import main as report
from sweep.run_folder.lock import locked
from tests.sweep.console.test_progress import make
from tests.sweep.test_run import wait_for

RELOADS = 'http-equiv="refresh"'


def companions(run: Path) -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if child.status() != psutil.STATUS_ZOMBIE and str(run) in child.cmdline():
                found.append(child)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("page", "stopped"), [(False, False), (True, True)])
def test_the_live_table_says_what_the_report_says(
    page: bool, stopped: bool, drawn_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    opened = tmp_path / "opened.txt"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" >> "{opened}"\n')
    browser.chmod(0o755)
    monkeypatch.setenv("BROWSER", f"{browser} %s")
    _, progress, _ = make(tmp_path, terminal=True, width=100)
    html = drawn_copy / "report.html"
    heard: list[str] = []

    def hear(verdict: str) -> None:
        heard.append(verdict)
        progress.hear(verdict)

    try:
        with locked(open_folder(drawn_copy)), companion(open_folder(drawn_copy), hear, page=page):
            wait_for(lambda: heard, "a verdict", 120)
            (process,) = companions(drawn_copy)
            assert process.nice() == 19
            assert html.exists() == page and (not page or RELOADS in html.read_text(encoding="utf-8"))
            if stopped:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        # Whoever is stopped does not wait for a page: it is written by itself.
        wait_for(lambda: not companions(drawn_copy), "its end", 60)
        assert not page or RELOADS not in html.read_text(encoding="utf-8")
    assert not companions(drawn_copy)
    assert opened.exists() == page and (not page or opened.read_text() == f"{html.as_uri()}\n")
    capsys.readouterr()
    assert report([str(drawn_copy)]) == 0
    said = capsys.readouterr().out.splitlines()[0]
    assert heard[0] == said
    out = io.StringIO()
    Console(file=out, width=100).print(progress.table())
    assert said in " ".join(" ".join(line.split(" ")) for line in out.getvalue().splitlines()).replace("  ", " ")
