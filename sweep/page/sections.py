"""What report.html shows, section by section, as plain values. The templates only arrange them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sweep.page.beside.copies import latex_table, markdown_table
from sweep.page.best_trials import BestTrial, best_trials
from sweep.page.importance import has_optuna, importance_of, is_asked
from sweep.page.looks import looks_of
from sweep.page.plots.cost import FRONTS, front_plot
from sweep.page.plots.of_sweep import comparison_plot, learning_curves, response_plots, scores_plot
from sweep.page.plots.of_trial import age_error_plot, audit_plots, calibration_plots
from sweep.page.plots.race import race_plot
from sweep.page.plots.search import contours, importance_plot
from sweep.page.plots.style import Palette, Plot
from sweep.results.beside.gathered import Beside
from sweep.results.beside.outsiders import published_beside
from sweep.results.beside.suspects import SUSPECTS_CSV, Image
from sweep.results.facts import data_facts, protocol, provenance, scored_by, stops, tiles
from sweep.results.leaderboard import Board, Configuration
from sweep.results.ranks import allowed_ranks
from sweep.results.statistics import STATISTICS
from sweep.results.verdict import Verdict
from sweep.run_folder.records import RunRecord
from sweep.wording import axis_words

# The order in which a reader asks; race first, since that is what FairFace was collected for.
AUDIT_AXES = ("race", "race_x_gender", "gender", "age")
_PLOTTED_AXES = ("race", "age")
# Suspect labels in the page's table; the CSV has them all.
_SHOWN_SUSPECTS = 20


@dataclass(frozen=True)
class Findings:
    """What the sections are made of.

    Attributes:
        board: The leaderboard.
        verdict: The answer.
        cards: Group and file name of each model card.
        palette: Colors and symbols of the groups.
        best: The best trial of each ranked group, best group first.
        damages: Trial id (empty for the run's own files) and what is damaged there.
        beside: What stands beside the leaderboard.
        photos: `data:` URI of each image that is shown; empty unless photographs were asked for.
    """

    board: Board
    verdict: Verdict
    cards: list[tuple[str, str]]
    palette: Palette
    best: list[BestTrial]
    damages: list[tuple[str, str]]
    beside: Beside = field(default_factory=Beside)
    photos: Mapping[Image, str] = field(default_factory=dict)

    @property
    def run(self) -> RunRecord:
        """The run."""
        return self.board.run

    @property
    def order(self) -> list[str]:
        """The groups: ranked ones first, best first."""
        best = self.board.best_of_group
        return [*best, *(group for group in self.run.groups if group not in best)]

    @property
    def configurations(self) -> list[Configuration]:
        """Those of the best trials."""
        return [one.configuration for one in self.best]


@dataclass(frozen=True)
class Section:
    """One section of the page.

    Attributes:
        key: Its anchor and its template, `templates/sections/<key>.html.j2`.
        title: Its name in the list of sections.
        values: What the template calls `its`.
    """

    key: str
    title: str
    values: dict[str, Any]

    def plots(self) -> list[Plot]:
        """Return its figures: the values that are plots or lists of them."""
        return [plot for value in self.values.values() for plot in _plots_in(value)]


def _plots_in(value: Any) -> Iterator[Plot]:
    if isinstance(value, Plot):
        yield value
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _plots_in(one)


@dataclass(frozen=True)
class Page:
    """Everything the template needs.

    Attributes:
        run: The run.
        verdict: The answer.
        palette: Colors and symbols of the groups.
        tiles: Title, figure and note of the facts at the top.
        sections: Those that there is something to show in, in order.
    """

    run: RunRecord
    verdict: Verdict
    palette: Palette
    tiles: list[tuple[str, str, str]]
    sections: list[Section]

    @property
    def question(self) -> str:
        """The question that the space asks, in its first comment; empty if it has none."""
        first = self.run.space_text.lstrip().partition("\n")[0]
        text = first.lstrip("# ").removeprefix("Question:").strip()[:300] if first.startswith("#") else ""
        return text[:1].upper() + text[1:]

    def plots(self) -> list[Plot]:
        """Return every figure, in the order of the page."""
        return [plot for section in self.sections for plot in section.plots()]


def build_page(
    board: Board,
    verdict: Verdict,
    cards: list[tuple[str, str]],
    beside: Beside,
    photos: Mapping[Image, str],
) -> Page:
    """Work out every section of the page.

    Args:
        board: The leaderboard.
        verdict: The answer.
        cards: Group and file name of each model card.
        beside: What stands beside the leaderboard.
        photos: `data:` URI of each image to be shown.
    """
    best, problems = best_trials(board)
    palette = Palette(board.run.groups)
    findings = Findings(board, verdict, cards, palette, best, _damages(board, problems), beside, photos)
    sections = [
        Section(key, title, values) for key, title, build in SECTIONS if (values := build(findings)) is not None
    ]
    return Page(board.run, verdict, palette, tiles(board), sections)


def _leaderboard(found: Findings) -> dict[str, Any]:
    board = found.board
    return {
        "ranked": board.ranked,
        "partial": board.partial,
        "scores": scores_plot(board, found.palette),
        "scored_by": scored_by(found.run),
        "one_seed": any(len(one.full) == 1 for one in board.ranked),
        "copies": [("LaTeX", latex_table(board)), ("Markdown", markdown_table(board))] if board.ranked else [],
    }


def _comparisons(found: Findings) -> dict[str, Any] | None:
    pairs = found.verdict.comparisons
    if not pairs:
        return None
    best = found.board.best_of_group
    ranks = [(best[group], low, high) for group, (low, high) in allowed_ranks(pairs).items()]
    return {"pairs": pairs, "plot": comparison_plot(pairs), "ranks": ranks}


def _outsiders(found: Findings) -> dict[str, Any] | None:
    published = published_beside(found.board)
    outsiders = found.beside.outsiders
    return {"outsiders": outsiders, "published": published} if outsiders or published else None


def _ensembles(found: Findings) -> dict[str, Any] | None:
    ensembles = found.beside.ensembles
    return {"ensembles": ensembles} if ensembles else None


def _errors(found: Findings) -> dict[str, Any] | None:
    beside = found.beside
    if not beside.suspects and not found.photos:
        return None
    return {
        "beside": beside,
        "photos": found.photos,
        "shown": beside.suspects[:_SHOWN_SUSPECTS],
        "of_tasks": [(task, sum(one.task == task for one in beside.suspects)) for task in ("age", "gender")],
        "csv": SUSPECTS_CSV,
        "most": len(beside.worst),
        "leader": found.board.ranked[0],
    }


def _curves(found: Findings) -> dict[str, Any] | None:
    drawn = (learning_curves(found.board, group, found.palette) for group in found.order)
    curves = [plot for plot in drawn if plot]
    return {"curves": curves} if curves else None


def _course(found: Findings) -> dict[str, Any] | None:
    if found.run.plan.scheduler.kind != "race":
        return None
    drawn = (race_plot(found.run, group, found.palette) for group in found.order)
    races = [plot for plot in drawn if plot]
    return {"races": races} if races else None


def _looks(found: Findings) -> dict[str, Any] | None:
    rounds = looks_of(found.run)
    return {"rounds": rounds, "most": found.run.plan.most_seeds} if rounds else None


def _response(found: Findings) -> dict[str, Any] | None:
    responses = response_plots(found.board, found.palette)
    if not responses:
        return None
    asked, able = is_asked(found.board), has_optuna()
    known = [one for group in found.order if asked and able and (one := importance_of(found.board, group)) is not None]
    return {
        "responses": responses,
        "groups": found.order,
        "importances": [importance_plot(one, found.palette) for one in known],
        "lacks_optuna": asked and not able,
        "contours": contours(found.board, known, found.palette),
    }


def _analysis(found: Findings) -> dict[str, Any] | None:
    if not found.best:
        return None
    return {
        "best": found.best,
        "statistics": STATISTICS,
        "age_error": age_error_plot(found.configurations, found.palette),
        "calibrations": calibration_plots(found.configurations, found.palette),
    }


def _audit(found: Findings) -> dict[str, Any] | None:
    axes = [axis for axis in AUDIT_AXES if any(axis in _subgroups(one) for one in found.best)]
    audits = [
        (axis_words(axis), audit_plots(found.configurations, axis, found.palette))
        for axis in axes
        if axis in _PLOTTED_AXES
    ]
    return {"best": found.best, "axes": axes, "audits": audits, "floors": found.beside.floors} if axes else None


def _cost(found: Findings) -> dict[str, Any] | None:
    board = found.board
    plots = [plot for front in FRONTS if (plot := front_plot(board, front, found.palette)) is not None]
    if not plots:
        return None
    facts = (record.report["provenance"] for record in found.run.records if record.report)
    return {
        "plots": plots,
        "ranked": board.ranked,
        "groups": board.best_of_group,
        "on_gpu": any(one.cost("gpu_hours") for one in board.ranked),
        "several_devices": len({(fact["device"], fact.get("device_name")) for fact in facts}) > 1,
    }


def _failures(found: Findings) -> dict[str, Any]:
    losses = [record for record in found.run.records if record.status in ("failed", "diverged")]
    return {"stops": stops(found.run), "losses": losses, "damages": found.damages}


def _protocol(found: Findings) -> dict[str, Any]:
    return {"protocol": protocol(found.run), "data": data_facts(found.run)}


def _provenance(found: Findings) -> dict[str, Any]:
    return {"provenance": provenance(found.run), "cards": found.cards}


# Anchor, which is also the template's name; title in the list of sections; what it shows, None for no such section.
SECTIONS: tuple[tuple[str, str, Callable[[Findings], dict[str, Any] | None]], ...] = (
    ("leaderboard", "Leaderboard", _leaderboard),
    ("comparisons", "Comparisons", _comparisons),
    ("outsiders", "Beside others", _outsiders),
    ("ensembles", "Together", _ensembles),
    ("curves", "Curves", _curves),
    ("course", "Race", _course),
    ("looks", "Looks", _looks),
    ("response", "Response", _response),
    ("analysis", "Best trials", _analysis),
    ("audit", "Audit", _audit),
    ("errors", "Errors", _errors),
    ("cost", "Cost", _cost),
    ("failures", "Failures", _failures),
    ("trials", "Trials", lambda found: {}),
    ("protocol", "Protocol", _protocol),
    ("provenance", "Provenance", _provenance),
)


def _subgroups(best: BestTrial) -> dict[str, Any]:
    return best.report.get("subgroups", {}).get("by", {})


def _damages(board: Board, matrices: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return (trial id, or empty for the run's own files; what is damaged)."""
    found = [("", text) for text in board.run.problems]
    found += [(record.trial_id, text) for record in board.run.records for text in record.problems]
    found += board.problems
    return found + list(matrices)
