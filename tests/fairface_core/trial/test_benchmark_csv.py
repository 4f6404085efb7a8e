"""The benchmark CSV: the contract's columns, upserts, files that the original script began, foreign files."""

from __future__ import annotations

import csv
import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from fairface_core.errors import ConfigError
from fairface_core.files.folder import csv_bytes
from fairface_core.trial.benchmark_csv import CONTRACT_COLUMNS, benchmark_row, check_results_csv, upsert_row


def report(**changes: Any) -> dict[str, Any]:
    config = {"backbone": "resnet18", "epochs": 6, "batch_size": 64, "lr": 0.001, "seed": 41, **changes}
    return {
        "config": config,
        "mean_f1": 0.45,
        "epochs_trained": 6,
        "best_epoch": 5,
        "protocol": "seed",
        "test_metrics": {"loss": 1.1, "age_acc": 0.4, "age_f1m": 0.3, "gen_acc": 0.7, "gen_f1m": 0.69, "mean_f1": 0.5},
        "timing": {"images_per_s": 190.0},
        "model": {"num_params": 11},
        "provenance": {"device": "cpu"},
    }


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_contract_columns_come_first_and_in_order() -> None:
    row = benchmark_row(report(), "runs/x")
    assert CONTRACT_COLUMNS == (
        "backbone", "epochs", "batch_size", "lr", "seed", "val_best_score", "test_loss", "test_age_acc", "test_age_f1m",
        "test_gen_acc", "test_gen_f1m", "out_dir", "ckpt_path",
    )  # fmt: skip
    assert tuple(row)[:13] == CONTRACT_COLUMNS
    assert row["ckpt_path"] == "runs/x/best_resnet18_seed41.pt"
    assert row["val_best_score"] == 0.45
    assert {"epochs_trained", "mean_f1", "images_per_s", "num_params", "device"} <= row.keys()


def test_a_run_replaces_its_own_row_only(tmp_path: Path) -> None:
    path = tmp_path / "new" / "b.csv"
    upsert_row(path, benchmark_row(report(), "runs/x"))
    upsert_row(path, benchmark_row(report(seed=42), "runs/x"))
    again = report()
    again["mean_f1"] = 0.46
    upsert_row(path, benchmark_row(again, "runs/x/"))
    assert [(r["seed"], r["val_best_score"]) for r in rows(path)] == [("42", "0.45"), ("41", "0.46")]


def test_a_csv_of_the_original_script_keeps_its_rows_and_columns(tmp_path: Path) -> None:
    path = tmp_path / "b.csv"
    old = dict.fromkeys(CONTRACT_COLUMNS, "1")
    path.write_bytes(csv_bytes([*CONTRACT_COLUMNS, "note"], [{**old, "note": "a, b"}]).replace(b"\n", b"\r\n"))
    upsert_row(path, benchmark_row(report(), "runs/x"))
    first, second = rows(path)
    assert first["note"] == "a, b"
    assert all(first[name] == "1" for name in CONTRACT_COLUMNS)
    assert second["backbone"] == "resnet18"
    assert list(first)[:14] == [*CONTRACT_COLUMNS, "note"]


@pytest.mark.parametrize("content", [b"a,b\n1,2\n", b"\xff\xfe\x00", b"backbone,epochs\n"])
def test_a_file_that_is_no_benchmark_csv_is_refused_and_untouched(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "b.csv"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="choose another file"):
        check_results_csv(path)
    with pytest.raises(ConfigError, match="choose another file"):
        upsert_row(path, benchmark_row(report(), "runs/x"))
    assert path.read_bytes() == content


def _write_many(path: Path, first: int) -> None:
    for seed in range(first, first + 10):
        upsert_row(path, benchmark_row(report(seed=seed), "runs/x"))


def test_four_writers_at_once_lose_no_row(tmp_path: Path) -> None:
    path = tmp_path / "b.csv"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_many, args=(path, 100 * k)) for k in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert sorted(int(r["seed"]) for r in rows(path)) == [100 * k + i for k in range(4) for i in range(10)]


def test_floats_survive_to_the_last_bit(tmp_path: Path) -> None:
    value = 0.1 + 0.2
    path = tmp_path / "b.csv"
    path.write_bytes(csv_bytes(["a", "b"], [{"a": value, "b": None}]))
    assert float(rows(path)[0]["a"]) == value
    assert rows(path)[0]["b"] == ""
