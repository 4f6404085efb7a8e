"""What a run reports: an epoch, a finished trial, and the small facts that both sides read from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

REPORT_SCHEMA = 1
STATUS_SCHEMA = 1
# The training state and the one before it. They stand here because a sweep's driver, which loads no torch, removes them.
STATE, PREVIOUS_STATE = STATE_FILES = ("state.pt", "state.prev.pt")
# What the best answer that is the same for every image would score: a column of history.csv.
CONSTANT_KEY = "constant_mean_f1"


@dataclass(frozen=True)
class EpochReport:
    """One finished epoch; its files are complete on disk before anyone sees this.

    Attributes:
        epoch: Counted from 1.
        lr: Learning rate of this epoch.
        train_loss: Mean joint loss of the training batches, with dropout and augmentation.
        val_loss: Joint loss on validation.
        val_age_acc: Accuracy of the 9 age groups on validation, 0..1.
        val_age_f1m: Macro-F1 of the 9 age groups on validation.
        val_gen_acc: Accuracy of gender on validation.
        val_gen_f1m: Macro-F1 of gender on validation.
        mean_f1: (val_age_f1m + val_gen_f1m) / 2: what everything is chosen by.
        best_epoch: Epoch of the best mean_f1 so far.
        best_mean_f1: That mean_f1.
        train_s: Seconds of training.
        eval_s: Seconds of validation.
        images_per_s: Training images per second.
        peak_memory_gib: Peak device memory on CUDA, else peak resident memory of the process, GiB.
        constant_mean_f1: mean_f1 on validation of the best answer that is the same for every image; 0 if not known.
        peak_reserved_gib: Most device memory that torch's allocator held, in use or not, GiB; 0 where it has none.
        write_wait_s: Seconds that training waited for the files of the epoch before.
        val_images: Validation images behind the scores; 0 if not known.
        raw_mean_f1: With `ema_decay`, mean_f1 on validation of the weights themselves, else 0; all other scores are of their
            moving average then.
    """

    epoch: int
    lr: float
    train_loss: float
    val_loss: float
    val_age_acc: float
    val_age_f1m: float
    val_gen_acc: float
    val_gen_f1m: float
    mean_f1: float
    best_epoch: int
    best_mean_f1: float
    train_s: float
    eval_s: float
    images_per_s: float
    peak_memory_gib: float
    constant_mean_f1: float = 0.0
    peak_reserved_gib: float = 0.0
    write_wait_s: float = 0.0
    val_images: int = 0
    raw_mean_f1: float = 0.0


# The columns of history.csv.
EPOCH_FIGURES = tuple(field.name for field in dataclasses.fields(EpochReport))


@dataclass(frozen=True)
class TrialReport:
    """What `fit` returns: the run as its folder tells it.

    Attributes:
        status: `completed`.
        best_epoch: Epoch of the weights in best.pt.
        mean_f1: Their validation mean_f1.
        epochs_trained: Epochs that were run in all, resumed ones included.
        history: One EpochReport an epoch.
        report: The content of report.json.
    """

    status: str
    best_epoch: int
    mean_f1: float
    epochs_trained: int
    history: tuple[EpochReport, ...]
    report: dict[str, Any]

    @property
    def test_metrics(self) -> dict[str, float]:
        """Return the figures of `scoring.metrics.split_metrics` on the test split, of the best epoch."""
        return dict(self.report["test_metrics"])


def best_name(config: Mapping[str, Any]) -> str:
    """Return the second name of `best.pt`, which tells it from those of other runs."""
    return f"best_{config['backbone'].replace('/', '_')}_seed{config['seed']}.pt"


def skips(counts: object) -> str:
    """Return what the policies left out of a run: `left out: 3 missing images, 12 duplicates`; empty for nothing.

    Args:
        counts: `report.json["data"]`, or whatever a stranger put in its place.
    """
    given: Mapping[str, Any] = counts if isinstance(counts, Mapping) else {}
    dropped = given.get("duplicates_dropped")
    numbers = {
        "missing image": given.get("missing_images_skipped"),
        "unreadable image": given.get("unreadable_images_skipped"),
        "repeated row": given.get("repeated_rows"),
        "duplicate": _total(dropped.values()) if isinstance(dropped, Mapping) else None,
    }
    parts = [f"{n:,} {word}{'' if n == 1 else 's'}" for word, n in numbers.items() if isinstance(n, int) and n > 0]
    return f"left out: {', '.join(parts)}" if parts else ""


def _total(numbers: Iterable[Any]) -> int:
    return sum(number for number in numbers if isinstance(number, int))


def constant_of(history: Sequence[Mapping[str, Any]]) -> float:
    """Return what the best constant answer scores, as the last epoch of a history says; 0 where it does not."""
    return float(history[-1].get(CONSTANT_KEY) or 0.0) if history else 0.0


def val_images_of(history: Sequence[Mapping[str, Any]]) -> int:
    """Return how many validation images the last epoch of a history was scored on; 0 where it does not say."""
    return int(history[-1].get("val_images") or 0) if history else 0
