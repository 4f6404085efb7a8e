"""The leaderboard as LaTeX and Markdown: the numbers of leaderboard.csv, and nothing that a run folder's text can break."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

from fairface_core.files.folder import open_folder
from sweep.page.beside.copies import _latex, latex_table, markdown_table
from sweep.page.write import write_report
from sweep.results.leaderboard import Board, build_board
from sweep.run_folder.records import read_run
from tests.sweep.run_folders import Shape, make_run


@pytest.fixture(scope="module")
def board(drawn_run: Path) -> Board:
    return build_board(read_run(open_folder(drawn_run)))


def cells(line: str, by: str) -> list[str]:
    return [cell.strip() for cell in re.split(by, line.strip())]


def test_both_hold_the_numbers_of_the_csv(board: Board, drawn_copy: Path) -> None:
    write_report(open_folder(drawn_copy))
    csv = pd.read_csv(drawn_copy / "leaderboard.csv")
    csv = csv[csv["rank"].notna()]
    lines = latex_table(board).splitlines()
    body = lines[lines.index("    \\midrule") + 1 : lines.index("    \\bottomrule")]
    latex = [cells(line.removesuffix("\\\\"), "(?<!\\\\)&") for line in body]
    markdown = [cells(line.strip("|"), "(?<!\\\\)\\|") for line in markdown_table(board).splitlines()[2 : 2 + len(csv)]]
    assert len(latex) == len(markdown) == len(csv)
    for (_, row), tex, md in zip(csv.iterrows(), latex, markdown, strict=True):
        assert tex[0].replace("\\_", "_") == md[0] == row["group"]
        assert float(tex[1]) == float(md[1]) == row["lr"]
        assert md[2] == tex[2] == str(row["num_seeds"])
        for column, name in ((3, "val_mean_f1"), (4, "test_mean_f1")):
            expected = f"{row[name]:.3f} ± {row[f'{name}_sd']:.3f}"
            assert md[column] == expected
            assert tex[column] == expected.replace("±", "$\\pm$")
        assert md[5] == f"{row['test_mean_f1_low']:.3f} to {row['test_mean_f1_high']:.3f}"
        assert md[6:] == tex[6:] == [f"{row['test_age_f1m']:.3f}", f"{row['test_gen_f1m']:.3f}"]


def test_one_seed_has_no_deviation_and_the_caption_says_so(tmp_path: Path) -> None:
    shape = Shape(spaces={"resnet50": (3e-4,)}, seeds=(1,), epochs=3, num_val=60, num_test=40, asha=False)
    text = latex_table(build_board(read_run(open_folder(make_run(tmp_path / "run", shape)))))
    assert "pm" not in text
    assert "one seed, 95 \\% intervals over test images" in text


def test_no_text_leaves_its_cell() -> None:
    told = _latex("a & b \\ \\input{x} % $y$ #1 ~^ {|} <i>\nnext")
    commands = r"\\(textbackslash|textasciitilde|textasciicircum|textbar)\{\}|\$[<>]\$|\\[{}$&#_%]"
    assert re.sub(commands, "", told) == "a  b  inputx  y 1   innext"
