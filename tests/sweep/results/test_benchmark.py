"""Records, both CSVs, ranks and intervals, against an independent reading of predictions.parquet."""

from __future__ import annotations

import dataclasses
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, f1_score

from fairface_core.errors import ConfigError, StorageError
from fairface_core.files.folder import open_folder
from fairface_core.trial.benchmark_csv import CONTRACT_COLUMNS
from sweep.page.write import write_report
from sweep.results.benchmark import BENCHMARK_CSV, benchmark_rows, write_benchmark
from sweep.results.bootstrap import Predictions
from sweep.results.leaderboard import LEADERBOARD_CSV, board_frame, build_board
from sweep.results.stats import score_interval
from sweep.results.tables import one_writer
from sweep.run_folder.records import read_run
from tests.sweep.run_folders import Shape, make_run

TINY = Shape(
    spaces={"resnet50": (1e-4, 3e-4), "convnext_tiny": (3e-4,)},
    seeds=(1, 2),
    epochs=6,
    num_val=120,
    num_test=90,
    asha=False,
)


def recomputed(trial: Path, split: str) -> dict[str, float]:
    """Score a trial's predictions.parquet with pandas and scikit-learn alone."""
    table = pd.read_parquet(trial / "predictions.parquet")
    rows = table[table["split"] == split]
    age_f1m = f1_score(rows["age_true"], rows["age_pred"], labels=range(9), average="macro", zero_division=0)
    gen_f1m = f1_score(rows["gender_true"], rows["gender_pred"], labels=range(2), average="macro", zero_division=0)
    return {
        "age_acc": float(accuracy_score(rows["age_true"], rows["age_pred"])),
        "age_f1m": float(age_f1m),
        "gen_acc": float(accuracy_score(rows["gender_true"], rows["gender_pred"])),
        "gen_f1m": float(gen_f1m),
        "mean_f1": (float(age_f1m) + float(gen_f1m)) / 2,
    }


def spread(values: list[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def edit_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def completed_trial(run: Path) -> Path:
    return next(r for r in trial_folders(run) if json.loads((r / "status.json").read_text())["status"] == "completed")


def trial_folders(run: Path) -> list[Path]:
    return [run / "trials" / trial["trial_id"] for trial in json.loads((run / "plan.json").read_text())["trials"]]


def record_of(run: Path, trial: Path) -> Any:
    return next(r for r in read_run(open_folder(run)).records if r.trial_id == trial.name)


def test_the_benchmark_has_one_row_per_planned_trial_and_the_contract_first(drawn_run: Path) -> None:
    table = benchmark_rows(read_run(open_folder(drawn_run)))
    assert list(table.columns[:13]) == list(CONTRACT_COLUMNS)
    assert {"trial_id", "status", "epochs_trained", "mean_f1", "images_per_s", "num_params", "device"} <= set(table)
    assert table["trial_id"].tolist() == [trial.name for trial in trial_folders(drawn_run)]


def test_benchmark_numbers_agree_with_the_predictions(drawn_run: Path) -> None:
    write_benchmark(open_folder(drawn_run))
    table = pd.read_csv(drawn_run / BENCHMARK_CSV).set_index("trial_id")
    assert len(table) == 36
    for trial in trial_folders(drawn_run):
        row, val, test = table.loc[trial.name], recomputed(trial, "val"), recomputed(trial, "test")
        assert row["val_best_score"] == pytest.approx(val["mean_f1"], abs=1e-9)
        assert row["mean_f1"] == pytest.approx(val["mean_f1"], abs=1e-9)
        for metric in ("age_acc", "age_f1m", "gen_acc", "gen_f1m"):
            assert row[f"test_{metric}"] == pytest.approx(test[metric], abs=1e-9), metric


def test_leaderboard_numbers_agree_with_the_predictions(drawn_run: Path) -> None:
    write_report(open_folder(drawn_run))
    table = pd.read_csv(drawn_run / LEADERBOARD_CSV)
    by_config: dict[str, list[Path]] = {}
    for trial in json.loads((drawn_run / "plan.json").read_text())["trials"]:
        by_config.setdefault(trial["config_id"], []).append(drawn_run / "trials" / trial["trial_id"])
    assert sorted(table["config_id"]) == sorted(by_config)
    for row in table.to_dict("records"):
        epochs = {t: json.loads((t / "status.json").read_text())["epochs_trained"] for t in by_config[row["config_id"]]}
        trials = [trial for trial, trained in epochs.items() if trained == max(epochs.values())]
        assert row["num_seeds"] == len(trials)
        for split in ("val", "test"):
            scores = [recomputed(trial, split) for trial in trials]
            mean_f1 = [one["mean_f1"] for one in scores]
            assert row[f"{split}_mean_f1"] == pytest.approx(np.mean(mean_f1), abs=1e-9)
            assert row[f"{split}_mean_f1_sd"] == pytest.approx(spread(mean_f1), abs=1e-9, nan_ok=True)
        for metric in ("age_acc", "age_f1m", "gen_acc", "gen_f1m"):
            values = [one[metric] for one in scores]
            assert row[f"test_{metric}"] == pytest.approx(np.mean(values), abs=1e-9)
            assert row[f"test_{metric}_sd"] == pytest.approx(spread(values), abs=1e-9, nan_ok=True)


def test_intervals_are_those_of_the_statistics_on_the_stored_predictions(drawn_run: Path) -> None:
    board = build_board(read_run(open_folder(drawn_run)))
    table = board_frame(board)
    assert set(table["protocol"]) == {"seed"}
    best = table.iloc[0]
    found = []
    for trial in json.loads((drawn_run / "plan.json").read_text())["trials"]:
        if trial["config_id"] == best["config_id"]:
            rows = pd.read_parquet(drawn_run / "trials" / trial["trial_id"] / "predictions.parquet").query(
                "split == 'test'"
            )
            found.append(
                Predictions(
                    *(rows[n].to_numpy(np.int64) for n in ("age_true", "gender_true", "age_pred", "gender_pred"))
                )
            )
    lent = [one.test_scores() for one in board.lenders(board.ranked[0])]
    interval = score_interval(found, lenders=lent)
    assert lent and interval.df > score_interval(found).df
    assert (best["test_mean_f1_low"], best["test_mean_f1_high"]) == (interval.low, interval.high)
    ranked = table[table["rank"].notna()]
    for split, ends in (("val", "val_mean_f1_optimistic"), ("test", "test_mean_f1")):
        assert (ranked[f"{ends}_low"] < ranked[f"{split}_mean_f1"]).all()
        assert (ranked[f"{split}_mean_f1"] < ranked[f"{ends}_high"]).all()
    assert table[table["rank"].isna()]["test_mean_f1_low"].isna().all()


def test_only_full_budget_configurations_are_ranked_by_validation(drawn_run: Path) -> None:
    table = board_frame(build_board(read_run(open_folder(drawn_run))))
    ranked, partial = table[table["rank"].notna()], table[table["rank"].isna()]
    assert ranked["rank"].tolist() == list(range(1, len(ranked) + 1))
    assert ranked["val_mean_f1"].is_monotonic_decreasing
    assert ranked["full_budget"].all() and not partial["full_budget"].any()
    assert len(ranked) >= 4 and len(partial) >= 4
    assert (ranked["epochs_trained"] == 3 * 20).all()
    assert partial["note"].str.contains(r"stopped by ASHA at epoch \d+ of 20").all()


def test_seeds_that_got_less_far_are_not_averaged(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", Shape(**{**vars(TINY), "ends": {0: "diverged"}}))
    first, second = trial_folders(run)[:2]
    row = (
        board_frame(build_board(read_run(open_folder(run))))
        .query("config_id.str.startswith('resnet50-lr1e-4')")
        .iloc[0]
    )
    assert pd.isna(row["rank"]) and (row["num_seeds"], row["seeds"]) == (1, "2")
    assert row["val_mean_f1"] == pytest.approx(recomputed(second, "val")["mean_f1"], abs=1e-9)
    assert recomputed(first, "val")["mean_f1"] != pytest.approx(row["val_mean_f1"], abs=1e-3)


def test_the_test_split_never_moves_a_rank(drawn_copy: Path) -> None:
    before = board_frame(build_board(read_run(open_folder(drawn_copy))))
    worst, first = before["test_mean_f1"].min(), before.iloc[0]["config_id"]
    for trial in json.loads((drawn_copy / "plan.json").read_text())["trials"]:
        if trial["config_id"] == first:
            folder = drawn_copy / "trials" / trial["trial_id"]
            table = pd.read_parquet(folder / "predictions.parquet")
            is_test = table["split"] == "test"
            table.loc[is_test, "age_pred"] = (table.loc[is_test, "age_true"] + 4) % 9
            table.to_parquet(folder / "predictions.parquet")
            edit_json(
                folder / "report.json", lambda report, f=folder: report["test_metrics"].update(recomputed(f, "test"))
            )
    after = board_frame(build_board(read_run(open_folder(drawn_copy))))
    assert after["config_id"].tolist() == before["config_id"].tolist()
    assert after.iloc[0]["test_mean_f1"] < worst
    assert after.iloc[0]["test_mean_f1_high"] < before.iloc[0]["test_mean_f1_low"]


def test_both_csvs_are_a_function_of_the_folders(drawn_copy: Path) -> None:
    run = open_folder(drawn_copy)
    write_report(run)
    first = [(drawn_copy / name).read_bytes() for name in (BENCHMARK_CSV, LEADERBOARD_CSV)]
    for name in (BENCHMARK_CSV, LEADERBOARD_CSV):
        (drawn_copy / name).unlink()
    write_report(run)
    assert [(drawn_copy / name).read_bytes() for name in (BENCHMARK_CSV, LEADERBOARD_CSV)] == first


def test_a_location_holds_no_credentials(drawn_run: Path) -> None:
    run = read_run(open_folder(drawn_run))
    assert run.location == str(drawn_run)
    remote = dataclasses.replace(run, folder=open_folder("s3://key:secret@bucket/runs/a?region=x&access=y"))
    assert (remote.location, remote.name) == ("s3://bucket/runs/a", "a")
    assert "secret" not in benchmark_rows(remote).to_csv() and "access" not in benchmark_rows(remote).to_csv()


def test_whole_numbers_stay_whole_where_cells_are_empty(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", Shape(**{**vars(TINY), "ends": {0: "planned"}}))
    write_report(open_folder(run))
    text = pd.read_csv(run / BENCHMARK_CSV, dtype=str)
    assert text["num_params"].isna().sum() == 1
    assert text["num_params"].dropna().str.fullmatch(r"\d+").all()
    assert set(text["epochs_trained"]) == {"0", "6"}
    assert pd.read_csv(run / LEADERBOARD_CSV, dtype=str)["rank"].dropna().tolist() == ["1", "2"]


@pytest.mark.parametrize(
    ("end", "ranked", "note"),
    [
        ("failed", True, "seed 1 failed"),
        ("diverged", False, "seed 1 diverged at epoch 2 of 6"),
        ("running", False, "seed 1 running, at epoch 2 of 6"),
        ("planned", False, "seed 1 still to come"),
        ("skipped", False, "seed 1 not run"),
    ],
)
def test_what_a_lost_seed_does_to_its_configuration(tmp_path: Path, end: str, ranked: bool, note: str) -> None:
    run = make_run(tmp_path / "run", Shape(**{**vars(TINY), "ends": {0: end}}))
    first = json.loads((run / "plan.json").read_text())["trials"][0]["config_id"]
    row = board_frame(build_board(read_run(open_folder(run)))).set_index("config_id").loc[first]
    assert pd.notna(row["rank"]) == ranked
    assert row["note"] == note
    if ranked:
        assert (row["num_seeds"], row["seeds"]) == (1, "2")


def test_a_swept_key_is_a_column_of_both_tables(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", Shape(**{**vars(TINY), "extra": {"dropout": (0.1, 0.3)}, "seeds": (1,)}))
    record = read_run(open_folder(run))
    assert set(record.swept_keys) == {"lr", "dropout"}
    assert sorted(set(benchmark_rows(record)["dropout"])) == [0.1, 0.3]
    assert sorted(set(board_frame(build_board(record))["dropout"])) == [0.1, 0.3]


@pytest.mark.parametrize("keep", [0, 1, 200])
def test_a_torn_report_is_named_and_left_out(drawn_copy: Path, keep: int) -> None:
    trial = completed_trial(drawn_copy)
    report = trial / "report.json"
    report.write_bytes(report.read_bytes()[:keep])
    record = record_of(drawn_copy, trial)
    assert record.report is None and not record.full_budget
    assert "report.json: cannot be read as JSON; the file is damaged" in record.problem
    row = benchmark_rows(read_run(open_folder(drawn_copy))).set_index("trial_id").loc[trial.name]
    assert pd.isna(row["test_loss"]) and row["val_best_score"] is not None
    assert row["reason"] == record.problem and row["lr"] == record.config["lr"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r.pop("test_metrics"), "test_metrics"),
        (lambda r: r["test_metrics"].update(age_acc="0.9"), "test_metrics.age_acc"),
        (lambda r: r["test_metrics"].update(age_f1m=1.5), "test_metrics.age_f1m"),
        (lambda r: r.update(mean_f1=float("nan")), "mean_f1"),
        (lambda r: r.update(schema_version=99), "schema_version is 99"),
        (lambda r: r["config"].update(lr=0.5), "the report of another trial"),
        (lambda r: r["config"].pop("batch_size"), "config lacks batch_size"),
        (lambda r: r["timing"].update(images_per_s=[1]), "timing.images_per_s"),
        (lambda r: r["provenance"].update(data_digest={"a": 1}), "provenance.data_digest"),
        (lambda r: r.clear(), "schema_version is None"),
    ],
)
def test_a_report_of_the_wrong_shape_is_named_and_left_out(drawn_copy: Path, change: Any, words: str) -> None:
    trial = completed_trial(drawn_copy)
    edit_json(trial / "report.json", change)
    record = record_of(drawn_copy, trial)
    assert record.report is None
    assert words in record.problem


def test_a_damaged_section_is_dropped_and_the_rest_of_the_report_stands(drawn_copy: Path) -> None:
    trial = completed_trial(drawn_copy)
    edit_json(trial / "report.json", lambda r: r["subgroups"]["by"]["race"][0].update(n="many"))
    record = record_of(drawn_copy, trial)
    assert record.full_budget and "subgroups" not in record.report and "calibration" in record.report
    assert "subgroups left out" in record.problem


def test_a_damaged_status_is_a_failure_that_says_so(drawn_copy: Path) -> None:
    trial = completed_trial(drawn_copy)
    (trial / "status.json").write_text("{")
    record = record_of(drawn_copy, trial)
    assert (record.status, record.full_budget) == ("failed", False)
    assert "status.json" in record.problem


def test_a_torn_history_keeps_its_whole_rows(drawn_copy: Path) -> None:
    trial = completed_trial(drawn_copy)
    lines = (trial / "history.csv").read_text().splitlines(keepends=True)
    (trial / "history.csv").write_text("".join(lines[:5]) + lines[5][:9])
    record = record_of(drawn_copy, trial)
    assert [epoch["epoch"] for epoch in record.history] == [1, 2, 3, 4]
    assert "history.csv: the row of epoch 5 is damaged" in record.problem


@pytest.mark.parametrize("content", [b"", b"PAR1", b"\x00" * 4000])
def test_damaged_predictions_cost_the_interval_and_nothing_else(drawn_copy: Path, content: bytes) -> None:
    trial = completed_trial(drawn_copy)
    (trial / "predictions.parquet").write_bytes(content)
    board = build_board(read_run(open_folder(drawn_copy)))
    assert [trial_id for trial_id, _ in board.problems] == [trial.name]
    hurt = [one for one in board.ranked if any(r.trial_id == trial.name for r in one.full)]
    assert len(hurt) == 1 and hurt[0].test is None and hurt[0].test_scores()
    assert all(one.test for one in board.ranked if one is not hurt[0])


def test_predictions_that_do_not_give_the_report_are_refused(drawn_copy: Path) -> None:
    trial = completed_trial(drawn_copy)
    table = pd.read_parquet(trial / "predictions.parquet")
    table["age_pred"] = 0
    table.to_parquet(trial / "predictions.parquet")
    ((trial_id, problem),) = build_board(read_run(open_folder(drawn_copy))).problems
    assert trial_id == trial.name
    assert "report.json says" in problem


def test_a_trial_folder_that_is_gone_is_a_planned_trial(drawn_copy: Path) -> None:
    trial = completed_trial(drawn_copy)
    shutil.rmtree(trial)
    record = record_of(drawn_copy, trial)
    assert (record.status, record.history, record.report, record.problem) == ("planned", [], None, "")


def test_without_a_plan_there_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"plan\.json: no such file"):
        read_run(open_folder(tmp_path / "nowhere"))
    assert not (tmp_path / "nowhere").exists()


def test_a_damaged_plan_is_an_error_that_names_it(drawn_copy: Path) -> None:
    (drawn_copy / "plan.json").write_text('{"trials": [')
    with pytest.raises(StorageError, match=r"plan\.json"):
        read_run(open_folder(drawn_copy))


@pytest.mark.parametrize("name", ["../../etc", "a/b", "", ".hidden"])
def test_a_trial_id_that_leaves_its_folder_is_refused(drawn_copy: Path, name: str) -> None:
    edit_json(drawn_copy / "plan.json", lambda plan: plan["trials"][0].update(trial_id=name))
    with pytest.raises(ConfigError, match="trial_id"):
        read_run(open_folder(drawn_copy))


def test_the_runs_own_files_may_be_missing(drawn_copy: Path) -> None:
    (drawn_copy / "space.yaml").unlink()
    (drawn_copy / "sweep.json").write_text("[]")
    run = read_run(open_folder(drawn_copy))
    assert (run.space_text, run.sweep) == ("", {})
    assert len(run.problems) == 2


def test_a_second_writer_waits_for_the_first(tmp_path: Path) -> None:
    (tmp_path / "plan.json").touch()
    folder, order = open_folder(tmp_path), []

    def write() -> None:
        with one_writer(folder, LEADERBOARD_CSV):
            order.append("second")

    with one_writer(folder, LEADERBOARD_CSV):
        thread = threading.Thread(target=write)
        thread.start()
        thread.join(timeout=0.3)
        assert thread.is_alive()
        order.append("first")
    thread.join(timeout=10)
    assert order == ["first", "second"]
