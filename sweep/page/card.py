"""Model cards: what a person must know before using a group's best weights (Mitchell et al., FAT* 2019)."""

from __future__ import annotations

import re

from sweep.page.templating import environment
from sweep.results.bootstrap import Metric
from sweep.results.facts import PROTOCOLS, data_facts, flat
from sweep.results.leaderboard import TEST_METRICS, Board, Configuration
from sweep.results.statistics import STATISTICS
from sweep.results.stats import score_interval
from sweep.results.verdict import Verdict
from sweep.run_folder.records import RunRecord

# They give the width of an interval to 3 %; four more metrics a card are not to cost seconds.
_NUM_RESAMPLES = 500
_PROVENANCE = ("code_digest", "git_commit", "python", "versions", "device_name", "data_digest")


def card_name(run: RunRecord, group: str) -> str:
    """Return the file name of a group's card: `model_card_<group>.md`, in safe characters."""
    names = [re.sub(r"[^A-Za-z0-9_.-]+", "_", name)[:80] for name in run.groups]
    name = names[run.groups.index(group)]
    suffix = "" if names.count(name) == 1 else f"_{run.groups.index(group)}"
    return f"model_card_{name}{suffix}.md"


def render_card(board: Board, verdict: Verdict, group: str) -> str:
    """Return the card of a ranked group's best trial, as Markdown."""
    configuration = board.best_of_group[group]
    record = configuration.best
    assert record is not None and record.report is not None, "a ranked configuration has full runs"
    report = record.report
    metrics = [("mean_f1", configuration.test_scores(), configuration.test_span)]
    metrics += [(name, configuration.test_scores(name), _ends(board, configuration, name)) for name in TEST_METRICS]
    figures = [(one.sentence, one.words(value)) for one in STATISTICS if (value := one.of(report)) is not None]
    return environment().get_template("model_card.md.j2").render(
        run=board.run,
        group=group,
        one=configuration,
        record=record,
        report=report,
        metrics=metrics,
        split=PROTOCOLS.get(report["protocol"], f"Protocol {report['protocol']}."),
        verdict=verdict,
        model=flat(report["model"]),
        settings=sorted(report["config"].items()),
        data=data_facts(board.run),
        provenance=flat({k: v for k, v in report["provenance"].items() if k in _PROVENANCE}),
        audit=report.get("subgroups"),
        statistics=[(sentence, words) for sentence, words in figures if sentence],
    )  # fmt: skip


def _ends(board: Board, one: Configuration, metric: Metric) -> tuple[float, float] | None:
    """Return the ends of a metric's interval; without predictions there is none, as for mean_f1."""
    if one.test is None:
        return None
    lent = [other.test_scores(metric) for other in board.lenders(one)]
    seeds = [scored.test for scored in one.scored]
    return score_interval(seeds, lenders=lent, metric=metric, num_resamples=_NUM_RESAMPLES).ends
