"""An export proves itself: its own runtime answers for the test images, and must answer as the model does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fairface_core.dataset.prepare import Split
from fairface_core.errors import ExportError, one_line
from fairface_core.exporting.formats import Runtime
from fairface_core.exporting.graph import Kind, input_of
from fairface_core.images.cache import ImageCache
from fairface_core.labels import AGE_GROUPS, GENDERS
from fairface_core.scoring.intervals import mean_f1_difference

# How far a probability may be off in float32.
TOLERANCE = 1e-4
_BATCH = 64
# Beside whole batches: exporters have fixed the batch of the example, or broken that of one.
_FIRST_BATCHES = (1, 7)
_MAX_NAMED = 5


@dataclass(frozen=True)
class Scored:
    """Probabilities of all images of a split: float32 [N, 9] and [N, 2]."""

    age: np.ndarray
    gender: np.ndarray

    @property
    def answers(self) -> tuple[np.ndarray, np.ndarray]:
        """The likeliest labels, int64 [N] each."""
        return self.age.argmax(axis=1), self.gender.argmax(axis=1)


def score(run: Runtime, cache: ImageCache, split: Split, kind: Kind) -> Scored:
    """Answer for a split, in batches of 1, 7 and then 64 images."""
    ages, genders = [], []
    for images in batches(cache, split):
        age, gender = run(input_of(images, kind))
        ages.append(age)
        genders.append(gender)
    return Scored(np.concatenate(ages), np.concatenate(genders))


def batches(cache: ImageCache, split: Split) -> Iterator[np.ndarray]:
    """Yield a split's decoded images, uint8 [B, S, S, 3]."""
    bounds = np.cumsum([0, *_FIRST_BATCHES]).tolist()
    bounds += list(range(bounds[-1] + _BATCH, len(split), _BATCH))
    for start, stop in zip(bounds, [*bounds[1:], len(split)], strict=True):
        if rows := split.cache_rows[start:stop].tolist():
            yield cache.images[rows]


def check_equal(file: str, found: Scored, expected: Scored, split: Split) -> float:
    """Return the largest difference of a probability.

    Args:
        file: What to call the export.
        found: Its answers.
        expected: The model's.
        split: The images.

    Raises:
        ExportError: If an answer differs, or a probability by more than `TOLERANCE`; it names the images.
    """
    problems = []
    gaps = [np.abs(a - b).max(axis=1) for a, b in ((found.age, expected.age), (found.gender, expected.gender))]
    # A value that is not a number is no small difference.
    wrong = ~(np.maximum(*gaps) <= TOLERANCE)
    for a, b in zip(found.answers, expected.answers, strict=True):
        wrong |= a != b
    for at in np.flatnonzero(wrong)[:_MAX_NAMED]:
        said = [
            f"{task} {labels[a[at]]} where the model says {labels[b[at]]}" if a[at] != b[at] else ""
            for task, labels, a, b in (
                ("age", AGE_GROUPS, found.answers[0], expected.answers[0]),
                ("gender", GENDERS, found.answers[1], expected.answers[1]),
            )
        ]
        said.append(f"a probability off by {max(gaps[0][at], gaps[1][at]):.2g}")
        problems.append(f"{file}: {one_line(str(split.rows.file[at]))}: {', '.join(filter(None, said))}")
    if problems:
        num = int(wrong.sum())
        raise ExportError(
            [
                *problems,
                f"{file}: answers otherwise than the model for {num:,} of {len(split):,} test images; accepted is a "
                f"difference of {TOLERANCE:g} with the same answer; nothing was kept",
            ]
        )
    return float(max(gap.max() for gap in gaps))


def check_cost(file: str, found: Scored, expected: Scored, split: Split, max_loss: float) -> tuple[float, float, float]:
    """Return what a smaller model costs in mean_f1 on the test images: (cost, low, high), the 95 % interval over images.

    Raises:
        ExportError: If the cost is above `max_loss`.
    """
    rows = split.rows
    cost, low, high = mean_f1_difference(expected.answers, found.answers, rows.age, rows.gender)
    if not np.isfinite(found.age).all() or cost > max_loss:
        raise ExportError(
            f"{file}: costs {cost:.4f} of mean_f1 (95 % interval {low:+.4f} to {high:+.4f}), accepted is "
            f"{max_loss:g}; nothing was kept; leave it out, or raise --max-loss"
        )
    return cost, low, high
