"""What report.html shows, section by section, as plain values. The template only arranges them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fairface_core.errors import StorageError
from fairface_core.labels import AGE_GROUPS, GENDERS
from sweep.page.plot_style import Palette, Plot
from sweep.page.sweep_plots import comparison_plot, cost_plot, learning_curves, response_plots, scores_plot
from sweep.page.trial_plots import age_error_plot, audit_plots, calibration_plots
from sweep.results.facts import data_facts, protocol, provenance, scored_by, stops, tiles
from sweep.results.leaderboard import Board, Configuration
from sweep.results.verdict import Verdict
from sweep.run_folder.records import RunRecord, TrialRecord
from sweep.wording import axis_words

# The order in which a reader asks; race first, since that is what FairFace was collected for.
AUDIT_AXES = ("race", "race_x_gender", "gender", "age")
_PLOTTED_AXES = ("race", "age")


@dataclass(frozen=True)
class BestTrial:
    """The trial behind a group's detailed figures: the best seed, on validation, of its best configuration.

    Attributes:
        configuration: The configuration.
        record: The trial.
        matrices: Title and rows of each confusion matrix; a row is (label, counts, images).
    """

    configuration: Configuration
    record: TrialRecord
    matrices: tuple[tuple[str, tuple[str, ...], list[tuple[str, list[int], int]]], ...]

    @property
    def report(self) -> dict[str, Any]:
        """Its report.json."""
        assert self.record.report is not None
        return self.record.report

    @property
    def compared(self) -> bool:
        """Whether some of its subgroups have images enough to be compared."""
        gaps = (self.report.get("subgroups") or {}).get("largest_gap") or {}
        return any(metric for axis in gaps.values() for metric in (axis or {}).values())


@dataclass(frozen=True)
class Page:
    """Everything the template needs."""

    board: Board
    verdict: Verdict
    palette: Palette
    groups: list[str]
    tiles: list[tuple[str, str, str]]
    scores: Plot | None
    comparisons: Plot | None
    curves: list[Plot]
    responses: list[Plot]
    cost: Plot | None
    audits: list[tuple[str, list[Plot]]]
    calibrations: list[Plot]
    age_error: Plot | None
    best: list[BestTrial]
    audit_axes: list[str]
    losses: list[TrialRecord]
    damages: list[tuple[str, str]]
    stops: list[str]
    protocol: list[tuple[str, str]]
    data_facts: list[tuple[str, str]]
    provenance: list[tuple[str, list[tuple[str, str]]]]
    cards: list[tuple[str, str]]

    @property
    def run(self) -> RunRecord:
        """The run."""
        return self.board.run

    @property
    def question(self) -> str:
        """The question that the space asks, in its first comment; empty if it has none."""
        first = self.run.space_text.lstrip().partition("\n")[0]
        text = first.lstrip("# ").removeprefix("Question:").strip()[:300] if first.startswith("#") else ""
        return text[:1].upper() + text[1:]

    @property
    def on_gpu(self) -> bool:
        """Whether any ranked run used a GPU, so that GPU-hours are what it cost."""
        return any(one.cost("gpu_hours") for one in self.board.ranked)

    @property
    def scored_by(self) -> str:
        """The protocol, and what the policies left out."""
        return scored_by(self.run)

    @property
    def one_seed(self) -> bool:
        """Whether a ranked configuration has a single seed, so that its interval covers less."""
        return any(len(one.full) == 1 for one in self.board.ranked)

    @property
    def several_devices(self) -> bool:
        """Whether trials ran on different devices."""
        facts = (record.report["provenance"] for record in self.run.records if record.report)
        return len({(fact["device"], fact.get("device_name")) for fact in facts}) > 1

    @property
    def sections(self) -> list[tuple[str, str]]:
        """The sections that there is something to show in: anchor and title."""
        every = [
            ("leaderboard", "Leaderboard", True),
            ("comparisons", "Comparisons", bool(self.verdict.comparisons)),
            ("curves", "Curves", bool(self.curves)),
            ("response", "Response", bool(self.responses)),
            ("analysis", "Best trials", bool(self.best)),
            ("audit", "Audit", bool(self.audit_axes)),
            ("cost", "Cost", self.cost is not None),
            ("failures", "Failures", True),
            ("trials", "Trials", True),
            ("protocol", "Protocol", True),
            ("provenance", "Provenance", True),
        ]
        return [(key, title) for key, title, there in every if there]

    def plots(self) -> list[Plot]:
        """Return every figure, in the order of the page."""
        single = [self.scores, self.comparisons, self.cost, self.age_error]
        groups = [self.curves, self.responses, self.calibrations, *(plots for _, plots in self.audits)]
        return [plot for plot in single if plot] + [plot for plots in groups for plot in plots]


def build_page(board: Board, verdict: Verdict, cards: list[tuple[str, str]]) -> Page:
    """Work out every section of the page.

    Args:
        board: The leaderboard.
        verdict: The answer.
        cards: Group and file name of each model card.
    """
    run = board.run
    palette = Palette(run.groups)
    best, problems = _best_trials(board)
    configurations = [one.configuration for one in best]
    axes = [axis for axis in AUDIT_AXES if any(axis in _audit(one) for one in best)]
    order = [*board.best_of_group, *(group for group in run.groups if group not in board.best_of_group)]
    curves = (learning_curves(board, group, palette) for group in order)
    return Page(
        board=board,
        verdict=verdict,
        palette=palette,
        groups=order,
        tiles=tiles(board),
        scores=scores_plot(board, palette),
        comparisons=comparison_plot(verdict.comparisons),
        curves=[plot for plot in curves if plot],
        responses=response_plots(board, palette),
        cost=cost_plot(board, palette),
        audits=[
            (axis_words(axis), audit_plots(configurations, axis, palette)) for axis in axes if axis in _PLOTTED_AXES
        ],
        calibrations=calibration_plots(configurations, palette),
        age_error=age_error_plot(configurations, palette),
        best=best,
        audit_axes=axes,
        losses=[record for record in run.records if record.status in ("failed", "diverged")],
        damages=_damages(board, problems),
        stops=stops(run),
        protocol=protocol(run),
        data_facts=data_facts(run),
        provenance=provenance(run),
        cards=cards,
    )


def _audit(best: BestTrial) -> dict[str, Any]:
    return best.report.get("subgroups", {}).get("by", {})


def _best_trials(board: Board) -> tuple[list[BestTrial], list[tuple[str, str]]]:
    best: list[BestTrial] = []
    problems: list[tuple[str, str]] = []
    for configuration in board.best_of_group.values():
        record = configuration.best
        assert record is not None, "a ranked configuration has full runs"
        matrices = []
        for task, labels in (("age", AGE_GROUPS), ("gender", GENDERS)):
            counts = read_matrix(board.run, record, task, len(labels))
            if isinstance(counts, str):
                problems.append((record.trial_id, counts))
            else:
                rows = [(label, row, sum(row)) for label, row in zip(labels, counts, strict=True)]
                matrices.append((task, labels, rows))
        best.append(BestTrial(configuration, record, tuple(matrices)))
    return best, problems


def read_matrix(run: RunRecord, record: TrialRecord, task: str, size: int) -> list[list[int]] | str:
    """Return a trial's confusion matrix (rows = truth), or what is wrong with the file."""
    name = f"confusion_matrix_{task}.csv"
    try:
        text = run.folder.sub("trials", record.trial_id).read(name).decode("ascii")
        rows = [[int(cell) for cell in row] for row in csv.reader(io.StringIO(text)) if row]
    except FileNotFoundError:
        return f"{name}: missing"
    except (StorageError, ValueError, csv.Error):
        return f"{name}: damaged; {size} x {size} whole numbers are expected"
    if len(rows) != size or any(len(row) != size or min(row) < 0 for row in rows):
        return f"{name}: damaged; {size} x {size} whole numbers are expected"
    return rows


def _damages(board: Board, matrices: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return (trial id, or empty for the run's own files; what is damaged)."""
    found = [("", text) for text in board.run.problems]
    found += [(record.trial_id, text) for record in board.run.records for text in record.problems]
    found += board.problems
    return found + list(matrices)
