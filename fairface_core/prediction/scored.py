"""Scores of answers that came in a file: the split, the metrics and the audit are those of a checkpoint's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fairface_core.config.train_config import TrainConfig
from fairface_core.dataset.manifest import load_manifest
from fairface_core.dataset.prepare import Split
from fairface_core.dataset.rows import Rows
from fairface_core.labels import AGE_GROUPS, GENDERS
from fairface_core.prediction.given import Answers, read_answers
from fairface_core.scoring.audit import wilson
from fairface_core.scoring.intervals import mean_f1_interval
from fairface_core.scoring.metrics import Logits, split_metrics
from fairface_core.scoring.published import PUBLISHED
from fairface_core.trial.writing import scored_details

# Log of a probability that was rounded to 0.
_LEAST = 1e-12


def score_answers(path: Path, config: TrainConfig, split_name: str) -> dict[str, Any]:
    """Score a CSV of answers on the split that a configuration describes; no image is decoded.

    Args:
        path: See `read_answers`.
        config: Its data fields are used.
        split_name: `test` or `val`.

    Returns:
        What `evaluate --json` prints. Without probabilities there are no `loss` and no `calibration`.

    Raises:
        DataError: With one line for each problem of the data or of the answers.
    """
    manifest = load_manifest(config)
    rows = {"test": manifest.test, "val": manifest.val}[split_name]
    answers = read_answers(
        path,
        rows.file.tolist(),
        img_col=config.img_col,
        allow_missing=config.on_bad_image == "skip",
        also=[place.rpartition("//")[2] for place in rows.path.tolist()] if rows.in_parquet else (),
    )
    scored = rows.take(answers.index)
    logits, has_prob = _logits(answers)
    metrics = split_metrics(
        logits,
        scored,
        class_weights=loss_weights(manifest.train),
        age_loss_weight=config.age_loss_weight,
        batch_size=config.batch_size,
    )
    details = scored_details(logits, Split(scored, np.full(len(scored), -1)))
    if not has_prob:
        del metrics["loss"], details["calibration"]
    return {
        f"{split_name}_metrics": metrics,
        "num_images": len(scored),
        "unanswered_images": len(rows) - len(scored),
        "rows_about_other_images": answers.num_other,
        "protocol": config.protocol,
        "split_seed": config.split_seed,
        "data": manifest.counts,
        **further_facts(answers.age, answers.gender, scored, config.protocol, split_name),
        **details,
    }


def further_facts(age: np.ndarray, gender: np.ndarray, rows: Rows, protocol: str, split_name: str) -> dict[str, Any]:
    """Return the 95 % intervals over images, and what others published where it was scored on the same images.

    Args:
        age: int `[N]`, the answers, 0..8.
        gender: int `[N]`, 0..1.
        rows: The images and their labels.
        protocol: `seed` or `official`.
        split_name: `test` or `val`.
    """
    n = len(rows)
    facts: dict[str, Any] = {
        "intervals": {
            "mean_f1": mean_f1_interval(age, gender, rows.age, rows.gender)[1:],
            "age_acc": wilson(int((age == rows.age).sum()), n),
            "gen_acc": wilson(int((gender == rows.gender).sum()), n),
        }
    }
    if protocol == "official" and split_name == "test":
        facts["published"] = [one._asdict() for one in PUBLISHED]
    return facts


def loss_weights(train: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Return the loss's class weights of age [9] and gender [2], as training counts them."""
    # Imported here: it imports torch, which nothing else of this needs.
    from fairface_core.model.objective import class_weights

    return class_weights(train.age, len(AGE_GROUPS)), class_weights(train.gender, len(GENDERS))


def _logits(answers: Answers) -> tuple[Logits, bool]:
    """Return logits whose softmax is the probabilities, or which merely say the answers; and which of the two."""
    pairs = ((answers.age_prob, answers.age, len(AGE_GROUPS)), (answers.gender_prob, answers.gender, len(GENDERS)))
    logits = []
    for prob, chosen, k in pairs:
        one = np.eye(k)[chosen] if prob is None else np.log(np.maximum(prob, _LEAST))
        at = np.arange(len(chosen))
        # Probabilities that rounding made equal: the label says which of them was the answer.
        one[at, chosen] = np.where(one.argmax(axis=1) == chosen, one[at, chosen], np.nextafter(one.max(axis=1), np.inf))
        logits.append(one)
    return Logits(*logits), answers.age_prob is not None and answers.gender_prob is not None
