"""The benchmark CSV: the original script's columns, the row of a report, and a one-off run's upsert."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fairface_core.errors import ConfigError
from fairface_core.files.folder import Folder, csv_bytes, is_remote, open_folder
from fairface_core.files.locks import locked_file
from fairface_core.trial.reports import best_name

# The original script's columns, in its order: a contract. Other columns only ever follow.
CONTRACT_COLUMNS = (
    "backbone", "epochs", "batch_size", "lr", "seed", "val_best_score", "test_loss", "test_age_acc",
    "test_age_f1m", "test_gen_acc", "test_gen_f1m", "out_dir", "ckpt_path",
)  # fmt: skip
# Rows that agree in these are the same run, run again.
_ROW_KEY = ("backbone", "epochs", "batch_size", "lr", "seed", "out_dir")


def benchmark_row(report: Mapping[str, Any], out_dir: str) -> dict[str, Any]:
    """Return the 13 contract columns, then the added ones, of a report and the folder that holds it.

    Sweep and one-off run share this function: one name, one meaning.
    """
    config, test, timing = report["config"], report["test_metrics"], report["timing"]
    checkpoint = Folder(out_dir).uri_of(best_name(config))
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
    # The user's own link is followed, here and not below: a folder reads no links.
    path = Path(results_csv).expanduser().resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked_file(path.with_name(f".{path.name}.lock")):
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
