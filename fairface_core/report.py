"""The files of a finished epoch: report.json, confusion matrices, predictions, and the benchmark row."""

from __future__ import annotations

import csv
import dataclasses
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fairface_core.audit import subgroup_audit
from fairface_core.config import TrainConfig, identity_fields
from fairface_core.errors import ConfigError
from fairface_core.labels import AGE_GROUPS, GENDERS
from fairface_core.metrics import confusion, detail_metrics, probabilities
from fairface_core.storage import Folder, is_remote, open_folder, write_json

if TYPE_CHECKING:
    from fairface_core.dataset import Split
    from fairface_core.inference import Logits

REPORT_SCHEMA = 1
STATUS_SCHEMA = 1
# The original script's columns, in its order: a contract. Other columns only ever follow.
CONTRACT_COLUMNS = (
    "backbone", "epochs", "batch_size", "lr", "seed", "val_best_score", "test_loss", "test_age_acc",
    "test_age_f1m", "test_gen_acc", "test_gen_f1m", "out_dir", "ckpt_path",
)  # fmt: skip
# Rows that agree in these are the same run, run again.
_ROW_KEY = ("backbone", "epochs", "batch_size", "lr", "seed", "out_dir")


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
        """Return `loss, age_acc, age_f1m, gen_acc, gen_f1m, mean_f1` on the test split, of the best epoch."""
        return dict(self.report["test_metrics"])


def config_facts(config: TrainConfig) -> dict[str, Any]:
    """Return the fields that decide a result: no path of this machine, so equal runs give equal files."""
    names = identity_fields()
    return {key: value for key, value in config.model_dump(mode="json").items() if key in names}


def build_report(
    config: TrainConfig,
    *,
    best_epoch: int,
    val_metrics: Mapping[str, float],
    test_metrics: Mapping[str, float],
    test_details: Mapping[str, Any],
    data_counts: Mapping[str, Any],
    model: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the content of `report.json` for a new best epoch; its keys are only ever added to.

    `epochs_trained` and `timing` change with every epoch and are set by the trainer.
    """
    return {
        "schema_version": REPORT_SCHEMA,
        "age_labels": list(AGE_GROUPS),
        "gender_labels": list(GENDERS),
        "test_metrics": dict(test_metrics),
        "val_metrics": dict(val_metrics),
        "best_epoch": best_epoch,
        "mean_f1": val_metrics["mean_f1"],
        "epochs": config.epochs,
        "protocol": config.protocol,
        "data": dict(data_counts),
        **test_details,
        "model": dict(model),
        "config": config_facts(config),
        "provenance": dict(provenance),
    }


def scored_details(logits: Logits, split: Split) -> dict[str, Any]:
    """Return per-class, calibration and subgroup figures of one split, JSON-able."""
    rows = split.rows
    details = detail_metrics(logits.age, logits.gender, rows.age, rows.gender)
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


def read_history(folder: Folder) -> list[EpochReport]:
    """Read `history.csv`; a row that is not whole ends it. Older ones lack `constant_mean_f1`.

    Raises:
        FileNotFoundError: If it is not there.
    """
    history: list[EpochReport] = []
    for row in csv.DictReader(io.StringIO(folder.read("history.csv").decode("utf-8", "replace"), newline="")):
        try:
            values: dict[str, Any] = {name: float(row[name]) for name in EPOCH_FIGURES if name in row}
            values |= {name: int(row[name]) for name in ("epoch", "best_epoch")}
            history.append(EpochReport(**values))
        except (KeyError, TypeError, ValueError):
            break
    return history


def csv_bytes(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Return CSV text (UTF-8, LF) whose floats read back to the same bits; None and absent are empty."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([["" if row.get(name) is None else row[name] for name in names] for row in rows])
    return buffer.getvalue().encode()


def benchmark_row(report: Mapping[str, Any], out_dir: str) -> dict[str, Any]:
    """Return the 13 contract columns, then the added ones, of a report and the folder that holds it.

    Sweep and one-off run share this function: one name, one meaning.
    """
    config, test, timing = report["config"], report["test_metrics"], report["timing"]
    checkpoint = Folder(out_dir).uri_of(f"best_{config['backbone']}_seed{config['seed']}.pt")
    return {
        "backbone": config["backbone"],
        "epochs": config["epochs"],
        "batch_size": config["batch_size"],
        "lr": config["lr"],
        "seed": config["seed"],
        "val_best_score": report["mean_f1"],
        "test_loss": test["loss"],
        "test_age_acc": test["age_acc"],
        "test_age_f1m": test["age_f1m"],
        "test_gen_acc": test["gen_acc"],
        "test_gen_f1m": test["gen_f1m"],
        "out_dir": out_dir,
        "ckpt_path": checkpoint,
        "epochs_trained": report["epochs_trained"],
        "best_epoch": report["best_epoch"],
        "mean_f1": report["mean_f1"],
        "images_per_s": timing["images_per_s"],
        "num_params": report["model"]["num_params"],
        "device": report["provenance"]["device"],
        "protocol": report["protocol"],
    }


def upsert_row(results_csv: str | Path, row: Mapping[str, Any]) -> None:
    """Put a run's row into a benchmark CSV under a file lock; the same run's older row is replaced.

    A CSV that the original script began keeps its rows and columns.

    Raises:
        ConfigError: If the file is there and is not a benchmark CSV.
    """
    if is_remote(results_csv):
        location, mark, options = str(results_csv).partition("?")
        folder, _, name = location.rpartition("/")
        _rewrite(open_folder(folder + mark + options), name, row)
        return
    from filelock import FileLock

    # The user's own link is followed, here and not below: a folder reads no links.
    path = Path(results_csv).expanduser().resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        _rewrite(open_folder(path.parent), path.name, row)


def check_results_csv(results_csv: str | Path) -> None:
    """Raise ConfigError now, not after training, if a file of that name is something else."""
    if not is_remote(results_csv):
        path = Path(results_csv).expanduser().absolute()
        if path.exists():
            _read_rows(path.read_bytes(), str(path))


def _rewrite(folder: Folder, name: str, row: Mapping[str, Any]) -> None:
    try:
        names, rows = _read_rows(folder.read(name), f"{folder.uri}/{name}")
    except FileNotFoundError:
        names, rows = list(CONTRACT_COLUMNS), []
    names += [key for key in row if key not in names]
    mine = _key(row)
    rows = [old for old in rows if _key(old) != mine]
    folder.write(name, csv_bytes(names, [*rows, row]))


def _read_rows(raw: bytes, where: str) -> tuple[list[str], list[dict[str, Any]]]:
    try:
        reader = csv.DictReader(io.StringIO(raw.decode("utf-8-sig"), newline=""))
        names, rows = list(reader.fieldnames or []), list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"results_csv {where}: not a CSV ({error}); choose another file") from error
    missing = [name for name in CONTRACT_COLUMNS if name not in names]
    if raw.strip() and missing:
        raise ConfigError(
            f"results_csv {where}: not a benchmark CSV: column(s) {', '.join(missing)} missing; choose another file"
        )
    return names or list(CONTRACT_COLUMNS), rows


def _key(row: Mapping[str, Any]) -> tuple[str, ...]:
    parts = [str(row.get(name)) for name in _ROW_KEY[:-1]]
    # Floats compare as numbers: the original wrote 0.0003, a flag may say 3e-4.
    parts[3] = repr(float(parts[3])) if _is_number(parts[3]) else parts[3]
    return (*parts, os.path.normpath(str(row.get("out_dir"))))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
