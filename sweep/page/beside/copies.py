"""The leaderboard as papers and README files want it: the text behind the page's two buttons."""

from __future__ import annotations

from collections.abc import Callable

from sweep import wording
from sweep.page.templating import escape_markdown
from sweep.results.facts import scored_by
from sweep.results.leaderboard import Board, Configuration

_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "−": "$-$", wording.NOTHING: "--",
    "\u202f": r"\,", "<": "$<$", ">": "$>$", "|": r"\textbar{}",
}  # fmt: skip


def latex_table(board: Board) -> str:
    r"""Return the ranked configurations as a LaTeX table; needs `\usepackage{booktabs}`."""
    names, rows = _cells(board, _latex)
    lines = [
        "% needs \\usepackage{booktabs}",
        "\\begin{table}",
        "  \\centering",
        f"  \\caption{{{_latex(_caption(board))}}}",
        f"  \\begin{{tabular}}{{l{'r' * (len(names) - 1)}}}",
        "    \\toprule",
        *(f"    {' & '.join(row)} \\\\" for row in (names,)),
        "    \\midrule",
        *(f"    {' & '.join(row)} \\\\" for row in rows),
        "    \\bottomrule",
        "  \\end{tabular}",
        "\\end{table}",
    ]
    return "\n".join(lines) + "\n"


def markdown_table(board: Board) -> str:
    """Return the ranked configurations as a Markdown table."""
    names, rows = _cells(board, escape_markdown)
    lines = [names, ["---", *["---:"] * (len(names) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{escape_markdown(_caption(board))}\n"


def _cells(board: Board, escape: Callable[[str], str]) -> tuple[list[str], list[list[str]]]:
    keys = board.run.swept_keys
    names = [board.run.group_by, *keys, "seeds", "val mean F1", "test mean F1", "95 % interval", "age F1", "gender F1"]
    rows = [_row(one, keys) for one in board.ranked]
    return [escape(name) for name in names], [[escape(cell) for cell in row] for row in rows]


def _row(one: Configuration, keys: tuple[str, ...]) -> list[str]:
    means = [_mean_and_sd(values) for values in (one.val_scores(), one.test_scores())]
    span = wording.span(*one.test_span) if one.test_span else wording.NOTHING
    heads = [wording.score(_mean(one.test_scores(metric))) for metric in ("age_f1m", "gen_f1m")]
    values = [wording.number(one.values[key]) for key in keys]
    return [one.group, *values, str(len(one.full)), *means, span, *heads]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _mean_and_sd(values: list[float]) -> str:
    sd = wording.sd(values)
    return wording.score(_mean(values)) + (f" ± {wording.score(sd)}" if sd is not None else "")


def _caption(board: Board) -> str:
    several = any(len(one.full) > 1 for one in board.ranked)
    spread = "mean ± standard deviation over seeds, 95 % intervals over seeds and test images" if several else (
        "one seed, 95 % intervals over test images"
    )  # fmt: skip
    return f"FairFace, age group and gender: full-budget runs, ranked by validation mean F1 ({spread}; {scored_by(board.run)})."


def _latex(text: str) -> str:
    return "".join(_LATEX.get(char, char) for char in wording.plain(text))
