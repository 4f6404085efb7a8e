"""The files of a finished epoch: report.json, confusion matrices, predictions, status and history."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fairface_core.config.train_config import TrainConfig, identity_fields
from fairface_core.files.folder import Folder, csv_bytes, write_json
from fairface_core.labels import AGE_GROUPS, GENDERS
from fairface_core.scoring.audit import subgroup_audit
from fairface_core.scoring.metrics import confusion, detail_metrics, probabilities
from fairface_core.trial.reports import EPOCH_FIGURES, REPORT_SCHEMA, STATUS_SCHEMA, EpochReport

if TYPE_CHECKING:
    from fairface_core.dataset.prepare import Split
    from fairface_core.scoring.metrics import Logits


def config_facts(config: TrainConfig) -> dict[str, Any]:
    """Return the fields that decide a result: no path of this machine, so equal runs give equal files."""
    names = identity_fields()
    return {key: value for key, value in config.model_dump(mode="json").items() if key in names}


def build_report(
    config: TrainConfig,
    *,
    best_epoch: int,
    val_metrics: Mapping[str, float] | None,
    test_metrics: Mapping[str, float],
    sections: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the content of `report.json` for a new best epoch; its keys are only ever added to.

    `epochs_trained` and `timing` change with every epoch and are set by the recorder.

    Args:
        config: What was trained.
        best_epoch: The epoch, counted from 1.
        val_metrics: `split_metrics` of the validation split; None where validation was trained on.
        test_metrics: The same of the test split.
        sections: Further keys: `data`, `model`, `provenance`, and what `scored_details` says of the test split.
    """
    return {
        "schema_version": REPORT_SCHEMA,
        "age_labels": list(AGE_GROUPS),
        "gender_labels": list(GENDERS),
        "test_metrics": dict(test_metrics),
        "val_metrics": dict(val_metrics) if val_metrics else None,
        "best_epoch": best_epoch,
        "mean_f1": val_metrics["mean_f1"] if val_metrics else None,
        "epochs": config.epochs,
        "protocol": config.protocol,
        "config": config_facts(config),
        **sections,
    }


def scored_details(logits: Logits, split: Split) -> dict[str, Any]:
    """Return per-class, calibration and subgroup figures of one split, JSON-able."""
    rows = split.rows
    details = detail_metrics(logits, rows)
    audit = subgroup_audit(logits.age.argmax(1), logits.gender.argmax(1), rows.age, rows.gender, rows.race)
    return {**details, "subgroups": audit}


def write_confusions(folder: Folder, logits: Logits, split: Split) -> None:
    """Write both confusion matrices: integers, rows = truth, no header."""
    for name, predicted, truth, classes in (
        ("age", logits.age.argmax(1), split.rows.age, len(AGE_GROUPS)),
        ("gender", logits.gender.argmax(1), split.rows.gender, len(GENDERS)),
    ):
        matrix = confusion(predicted, truth, classes)
        text = "".join(",".join(str(int(n)) for n in row) + "\n" for row in matrix)
        folder.write(f"confusion_matrix_{name}.csv", text.encode())


def write_predictions(folder: Folder, scored: Mapping[str, tuple[Logits, Split]]) -> None:
    """Write `predictions.parquet`: one row an image, so that any later analysis needs no new run."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = []
    for name, (logits, split) in scored.items():
        rows = split.rows
        columns: dict[str, Any] = {
            "split": pa.array([name] * len(rows)).dictionary_encode(),
            "csv": pa.array([rows.csv_name] * len(rows)).dictionary_encode(),
            "line": rows.line.astype(np.int64),
            "file": pa.array([str(f) for f in rows.file]),
            "age_true": rows.age.astype(np.int8),
            "gender_true": rows.gender.astype(np.int8),
            "age_pred": logits.age.argmax(1).astype(np.int8),
            "gender_pred": logits.gender.argmax(1).astype(np.int8),
        }
        for task, values in (("age", logits.age), ("gender", logits.gender)):
            shares = probabilities(values)
            for k in range(values.shape[1]):
                columns[f"{task}_prob_{k}"] = shares[:, k]
        if rows.race is not None:
            columns["race"] = pa.array([str(r) for r in rows.race]).dictionary_encode()
        tables.append(pa.table(columns))
    table = pa.concat_tables(tables, promote_options="default").unify_dictionaries()

    folder.write("predictions.parquet", lambda file: pq.write_table(table, file, compression="zstd"))


def write_status(
    folder: Folder,
    status: str,
    *,
    epochs_trained: int,
    reason: str = "",
    detail: Mapping[str, Any] | None = None,
    attempts: int = 1,
) -> None:
    """Write `status.json`: planned, running, completed, stopped, diverged, failed or skipped, and why."""
    write_json(
        folder,
        "status.json",
        {
            "schema_version": STATUS_SCHEMA, "status": status, "reason": reason, "detail": dict(detail or {}),
            "epochs_trained": epochs_trained, "attempts": attempts,
        },
    )  # fmt: skip


def write_history(folder: Folder, history: Sequence[EpochReport]) -> None:
    """Write `history.csv`, one row an epoch, whole each time."""
    folder.write("history.csv", csv_bytes(EPOCH_FIGURES, [dataclasses.asdict(epoch) for epoch in history]))
