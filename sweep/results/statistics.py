"""Single figures of a trial's report, each declared once: the page, the model card and the CSV find them here.

`fairface_core.scoring.metrics` computes them; `report.json` holds them under `path`. A report may come from a stranger:
what is no number there is no figure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sweep.wording import percent, score

# As in fairface_core/trial/reading.py: nobody measured what is larger.
_MOST = 1e15


@dataclass(frozen=True)
class Statistic:
    """One figure of the test images.

    Attributes:
        path: Where report.json holds it.
        title: Head of its column in the page's table of the best trials.
        sentence: What it is called in a model card; empty where the card has it in a table.
        words: How it is written.
        column: Its column in benchmark_results.csv; empty for none.
    """

    path: tuple[str, ...]
    title: str
    sentence: str
    words: Callable[[float | None], str]
    column: str = ""

    def of(self, report: Mapping[str, Any]) -> float | None:
        """Return its value in a report, None where there is none that can be used."""
        value: Any = report
        for key in self.path:
            value = value.get(key) if isinstance(value, Mapping) else None
        usable = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _MOST
        return value if usable else None


# In the order of the page. Accuracies are columns of the original script's already (`test_age_acc`, `test_gen_acc`).
STATISTICS = (
    Statistic(("test_metrics", "age_acc"), "age acc.", "", percent),
    Statistic(("age_error", "within_one_acc"), "within one group", "Age group right or one off", percent),
    Statistic(("age_error", "mean_abs_bins"), "mean error, groups", "Mean error of the age, in groups", score),
    Statistic(("test_metrics", "gen_acc"), "gender acc.", "", percent),
    Statistic(("both_acc",), "both right", "Age group and gender both right", percent),
    Statistic(("calibration", "age_ece"), "age ECE", "Expected calibration error of the age", score),
    Statistic(("calibration", "gender_ece"), "gender ECE", "Expected calibration error of the gender", score),
)
