"""The leaderboard on the console."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from fairface_core.files.folder import open_folder
from sweep.console.leaderboard import leaderboard_table
from sweep.page.write import write_report
from sweep.results.leaderboard import build_board
from sweep.run_folder.records import read_run
from tests.sweep.run_folders import Shape, make_run


@pytest.mark.parametrize("width", [80, 120])
def test_the_leaderboard_holds_the_csvs_numbers_and_fits(tmp_path: Path, width: int) -> None:
    spaces = {"efficientnet_v2_s": (1e-4, 3e-4), "convnext_tiny": (3e-4,)}
    run = make_run(tmp_path / "run", Shape(spaces=spaces, seeds=(1, 2), epochs=3, num_val=90, num_test=90, asha=False))
    write_report(open_folder(run))
    csv = pd.read_csv(run / "leaderboard.csv")
    out = io.StringIO()
    board = build_board(read_run(open_folder(run)))
    Console(file=out, width=width).print(leaderboard_table(board, wide=width > 100))
    lines = [line.rstrip() for line in out.getvalue().splitlines() if line.strip()]
    assert max(map(len, lines)) <= width and "…" not in out.getvalue()
    assert len(lines) == 2 + len(csv)
    for line, row in zip(lines[2:], csv.to_dict("records"), strict=True):
        assert line.split()[:2] == [str(row["rank"]), row["group"]]
        assert f"{row['test_mean_f1_low']:.3f} to {row['test_mean_f1_high']:.3f}" in line
        for split in ("val", "test"):
            mean, sd = (f"{row[f'{split}_mean_f1{part}']:.3f}" for part in ("", "_sd"))
            assert (f"{mean} ± {sd}" if width > 100 else mean) in line
