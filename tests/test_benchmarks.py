"""Every benchmark program runs at a toy size and prints well-formed rows. Its figures mean nothing here."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import (
    gpu,
    plain_tune,
    predicting,
    race_saving,
    scale_model,
    search_saving,
    settling,
    sharing,
    startup,
    stats_coverage,
    step,
    sweep_overhead,
)
from benchmarks.gpu_facts import covered
from benchmarks.inputs import full_size_root
from benchmarks.measure import Row, Sample, interleave, rate_row, ratio_row, summary

TINY = ["--backbones", "mobilenet_v3_small", "--image_size", "32", "--batch_size", "6", "--steps", "3", "--rounds", "1",
        "--root", "demo", "--device", "cpu"]  # fmt: skip


def rows_of(program: Any, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    """Run a program with --json and check what holds for every row."""
    assert program.main([*arguments, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    for row in rows:
        assert {"name", "ratio", "goal", "n", "spread", "sense", "met"} <= row.keys()
        assert row["ratio"] is None or (math.isfinite(row["ratio"]) and row["n"] >= 1)
        assert row["ratio"] is not None or "not measured" in row["note"]
        assert (row["met"] is None) == (row["goal"] is None or row["ratio"] is None)
    assert len({row["name"] for row in rows}) == len(rows)
    return {row["name"]: row for row in rows}


def test_arms_take_turns_and_warm_up_is_thrown_away() -> None:
    order: list[str] = []

    def arm(name: str) -> Sample:
        order.append(name)
        return Sample(1.0, float(len(order)), 1.0)

    taken = interleave({"a": lambda: arm("a"), "b": lambda: arm("b")}, rounds=2, warm_up=1)
    assert order == ["b", "a", "a", "b", "b", "a"]
    assert [sample.wall_s for sample in taken["a"]] == [3.0, 6.0]


def test_a_ratio_is_taken_within_its_round() -> None:
    slow = [Sample(10, 1.0, 1.0), Sample(10, 10.0, 1.0), Sample(10, 2.0, 1.0)]
    twice = [Sample(10, sample.wall_s / 2, 0.25) for sample in slow]
    row = rate_row("x", twice, slow, goal=2.0)
    assert (row.ratio, row.spread, row.met) == (2.0, 0.0, True)
    assert row.facts["cpu_ratio"] == 4.0


def test_a_goal_may_be_a_ceiling() -> None:
    assert ratio_row("x", [1.1], goal=1.0, sense="<=").met is False
    assert ratio_row("x", [0.9], goal=1.0, sense="<=").met is True
    assert Row("x", None, 1.0).met is None


def test_the_spread_is_the_interquartile_range_over_the_median() -> None:
    assert summary([1.0, 2.0, 3.0, 4.0, 5.0]) == (3.0, pytest.approx(2 / 3))
    assert summary([7.0]) == (7.0, None)


def test_overlapping_kernels_count_once() -> None:
    assert covered([(0, 10), (5, 7), (20, 30), (25, 40)]) == 30


def test_the_full_size_folder_has_a_name_for_every_row(demo_root: Path, tmp_path: Path) -> None:
    root = full_size_root(demo_root, tmp_path / "full", num_train=500, num_val=210)
    lines = (root / "fairface_label_train.csv").read_text().splitlines()
    assert len(lines) == 501
    assert lines[500].startswith("train/500.jpg,")
    assert (root / "train" / "241.jpg").read_bytes() == (demo_root / "train" / "1.jpg").read_bytes()


@pytest.mark.timeout(600)
def test_step(capsys: pytest.CaptureFixture[str]) -> None:
    rows = rows_of(step, TINY, capsys)
    name = "step.mobilenet_v3_small@32.cpu"
    assert rows[f"{name}.real/constant"]["goal"] == 0.97
    assert rows[f"{name}.real/original"]["original_worker_start_s"] > 0
    assert rows[f"{name}.real/original"]["images_per_round"] == 18
    assert rows[f"{name}.bf16/fp32"]["ratio"] is None, "float32 is this network's choice on every CPU"
    if "step.mobilenet_v3_small.cuda.real/constant" in rows:
        assert rows["step.mobilenet_v3_small.cuda.real/constant"]["ratio"] is None


def test_predicting(capsys: pytest.CaptureFixture[str], demo_root: Path) -> None:
    arguments = ["--root", str(demo_root), "--models", "mobilenet_v3_small@32", "--num_images", "150", "--rounds", "1"]
    rows = rows_of(predicting, arguments, capsys)
    assert rows["predicting.mobilenet_v3_small@32.stream/constant"]["num_images"] == 150
    assert rows["predicting.mobilenet_v3_small@32.command/constant"]["goal"] == 1.15


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("stage", ["core", pytest.param("sweep", marks=pytest.mark.ray)])
def test_the_acceptance_of_a_gpu_rehearses_without_one(stage: str, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("a rehearsal for machines without a GPU")
    assert gpu.main([stage, "--out", str(tmp_path)]) == 0
    written = json.loads((tmp_path / f"gpu-{stage}.json").read_text())
    checks = {"core": "evaluate repeats report.json", "sweep": "every trial trained on the device"}
    assert written["checks"][checks[stage]]["ok"]
    assert (written["failed"], written["machine"]["gpu"]) == ([], None)
    assert {row["name"] for row in written["rows"]} >= (
        {"step.resnet18@48.cpu.real/constant", "gpu.resnet18@48.cpu.real/arithmetic_ceiling"}
        if stage == "core"
        else set()
    )


def test_a_check_that_fails_is_told_and_so_is_one_that_breaks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checks = gpu.Checks(tmp_path, [], 10)
    checks.check("right", True, figure=1.5)
    checks.check("wrong", False)
    with checks.part("broken"):
        raise RuntimeError("no kernel image")
    checks.measured([Row("slow", 0.5, 0.95)])
    assert checks.failed == ["wrong", "broken", *(["slow"] if torch.cuda.is_available() else [])]
    printed = capsys.readouterr().out
    assert "ok   right: figure 1.5" in printed
    assert "FAIL broken: error RuntimeError: no kernel image, at test_benchmarks.py:" in printed


@pytest.mark.skipif("not config.getoption('--runs')", reason="minutes long: starts Ray or whole runs; with --runs N")
@pytest.mark.timeout(600)
def test_startup(
    capsys: pytest.CaptureFixture[str], demo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(startup, "_IMPORTS", ("fairface_core",))
    arguments = ["--num_train", "40", "--num_val", "60", "--label_images", "4", "--rounds", "1", "--warm_up", "0"]
    rows = rows_of(startup, [*arguments, "--root", str(demo_root), "--work", str(tmp_path)], capsys)
    warm = rows["startup.warm/label_pass@224"]
    assert warm["phases_s"]["load_manifest"] >= 0
    assert warm["num_images"] == 100
    assert warm["warm_s"] > 0
    assert rows["startup.import fairface_core/torch"]["ratio"] < 0.5


@pytest.mark.skipif("not config.getoption('--runs')", reason="minutes long: starts Ray or whole runs; with --runs N")
@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux's /proc/PID/smaps")
@pytest.mark.timeout(600)
def test_sharing(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "--num_images",
        "36",
        "--batch_size",
        "12",
        "--image_size",
        "32",
        "--trials",
        "1",
        "2",
        "--rounds",
        "1",
    ]
    rows = rows_of(sharing, [*arguments, "--root", "demo"], capsys)
    two = rows["sharing.2_trials/one"]
    assert 0 < two["image_pss_mib"] < 1.5 * two["cache_mib"]
    assert two["image_rss_mib"] > 1.5 * rows["sharing.1_trials/one"]["image_rss_mib"]


@pytest.mark.skipif("not config.getoption('--runs')", reason="minutes long: starts Ray or whole runs; with --runs N")
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_sweep_overhead(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--kinds", "fake", "--trials", "2", "--epochs", "1", "--rounds", "1"]
    row = rows_of(sweep_overhead, arguments, capsys)["sweep_overhead.fake.2_trials"]
    assert 0 < row["overhead_s"] <= row["wall_s"]


@pytest.mark.skipif("not config.getoption('--runs')", reason="minutes long: starts Ray or whole runs; with --runs N")
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_plain_tune(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--backbones", "mobilenet_v3_small", "--lrs", "1e-3", "--num_train", "24", "--num_val", "60",
                 "--image_size", "32", "--batch_size", "8", "--epochs", "1", "--rounds", "1", "--slots", "1",
                 "--root", "demo"]  # fmt: skip
    rows = rows_of(plain_tune, arguments, capsys)
    assert rows["plain_tune.plain/ours"]["images"] == {"train": 24, "val": 48, "test": 12}
    assert 0 < rows["plain_tune.allowed/ours"]["ratio"] <= rows["plain_tune.schedule/ours"]["ratio"] < 1


def test_whole_trials_in_the_shortest_time() -> None:
    assert plain_tune.shortest_schedule([36, 36, 36, 6, 6, 6], 2) == 72
    # Longest first into whichever slot is free would take 7.
    assert plain_tune.shortest_schedule([3, 3, 2, 2, 2], 2) == 6
    assert plain_tune.shortest_schedule([5], 3) == 5


def test_the_scale_model_names_what_breaks_first(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    measured = tmp_path / "gpu.json"
    row = {"name": "step.resnet50@224.cuda.real/constant", "ratio": 0.97, "images_per_s": 2800.0}
    measured.write_text(json.dumps({"rows": [row]}))
    arguments = ["--backbones", "resnet50", "vit_b_16", "--measured", str(measured), "--storage_gb_per_s", "0.05"]
    rows = rows_of(scale_model, arguments, capsys)
    assert rows["scale_model.resnet50.64_gpus"]["breaks_first"] == "storage"
    assert rows["scale_model.resnet50.64_gpus"]["met"] is False
    assert rows["scale_model.resnet50.1_gpus"]["met"] is True
    assert "scale_model.vit_b_16.assumed.8_gpus" in rows


def test_the_scale_model_is_linear_in_trials_and_shares_nothing_it_does_not_have() -> None:
    machine = scale_model.Machine()
    small, large = (scale_model.Sweep(trials=trials) for trials in (10, 1000))
    short, long = (scale_model.sweep_s(sweep, machine, 1) for sweep in (small, large))
    assert long["training"] == pytest.approx(100 * short["training"])
    assert scale_model.sweep_s(large, machine, 8)["training"] == pytest.approx(long["training"] / 8)
    # Twice as many GPUs as the storage feeds are no faster.
    slow = scale_model.Machine(storage_gb_per_s=0.01)
    at_64, at_128 = (scale_model.sweep_s(large, slow, gpus)["training"] for gpus in (64, 128))
    assert at_128 == pytest.approx(at_64)


def test_the_scale_model_is_checked_against_a_run() -> None:
    """Four trials, two at a time: two epochs of 10 + 1 s each, the test split of 2 s scored once."""
    history = [{"train_s": 10.0, "eval_s": 1.0, "epoch": epoch, "best_epoch": 1} for epoch in (1, 2)]
    report = {"data": {"rows": {"test": 20}}, "timing": {"eval_images_per_s": 10.0}}
    session = {"started": "2026-11-24T08:00:00+00:00", "ended": "2026-11-24T08:01:05+00:00", "cpus": 2.0, "gpus": 0.0}
    run = SimpleNamespace(
        name="x",
        location="x",
        sweep={"sessions": [session]},
        plan=SimpleNamespace(trials=[SimpleNamespace(cpu=1, gpu=0)]),
        records=[SimpleNamespace(history=history, report=report)] * 4 + [SimpleNamespace(history=[], report=None)],
    )
    row = scale_model.check_row(run, scale_model.Machine(start_s=5.0))
    # 5 s to start, 4 x 24 s in two slots, half a trial's 24 s at the end: all of the clock's 65 s.
    assert row.ratio == pytest.approx(1.0)
    run.sweep["sessions"].append(session)
    with pytest.raises(ValueError, match="2 sessions"):
        scale_model.check_row(run, scale_model.Machine())


def test_a_process_that_maps_nothing_of_the_cache_has_no_image_memory(tmp_path: Path) -> None:
    if not Path("/proc/self/smaps").exists():
        pytest.skip("needs Linux's /proc/PID/smaps")
    sums = SimpleNamespace(**sharing.mapped_bytes("self", tmp_path))
    assert (sums.Pss, sums.Rss) == (0, 0)
    assert sums.other > 0


def test_every_bar_of_the_statistics_is_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    rows = rows_of(
        stats_coverage, ["--part", "scores", "--sweeps", "60", "--only", "gap 0.03$|4 backbones, equal$"], capsys
    )
    assert rows["power: 3 seeds, 4 backbones, gap 0.03: told apart"]["goal"] == 0.65
    for words, goal in (("scores cover", 0.02), ("differences cover", 0.02), ("copies called different", 0.05)):
        assert rows[f"2 seeds, 4 backbones, equal: {words}"]["goal"] == goal
    scenario = [
        "--part",
        "predictions",
        "--trials",
        "4",
        "--num-resamples",
        "20",
        "--only",
        "^copies: 2 seeds, luck 0.015",
    ]
    rows = rows_of(stats_coverage, scenario, capsys)
    assert rows["copies: 2 seeds, luck 0.015: called different"]["goal"] == 0.05


def test_race_saving(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--sweeps", "1", "--rates", "3", "--only", "simulated", "finetuned", "simulated_clear", "--settle"]
    rows = rows_of(race_saving, arguments, capsys)
    assert len(rows) == 3 * (2 * 3 + 2)
    clear = rows["race_saving.simulated_clear.3_rates.settle"]
    assert (clear["goal"], clear["seeds"]) == (3.5, pytest.approx(2, abs=0.5))
    for source in ("simulated", "finetuned"):
        assert 1 < rows[f"race_saving.{source}.3_rates"]["ratio"] < 3, "the winner runs in full"
        assert (
            0
            <= rows[f"race_saving.{source}.3_rates.regret"]["ratio"]
            <= rows[f"race_saving.{source}.3_rates.worst"]["ratio"]
        )


def test_settling(capsys: pytest.CaptureFixture[str]) -> None:
    rows = rows_of(
        settling, ["--sweeps", "2", "--only", "(copies: 2 backbones|gap 0.05: 4 backbones), up to 3 seeds$"], capsys
    )
    copies = rows["settling.copies: 2 backbones, up to 3 seeds: called different"]
    assert (copies["goal"], copies["sense"], copies["all_seeds_seeds"]) == (0.05, "<=", 3)
    assert 2 <= rows["settling.gap 0.05: 4 backbones, up to 3 seeds: told apart"]["settle_seeds"] <= 3


def test_search_saving(capsys: pytest.CaptureFixture[str]) -> None:
    rows = rows_of(search_saving, ["--runs", "2", "--only-tpe"], capsys)
    tpe, random_search = rows["search_saving.tpe"], rows["search_saving.random"]
    assert (tpe["goal"], tpe["sense"], random_search["goal"]) == (20, "<=", None)
    for row in (tpe, random_search):
        assert 1 <= row["ratio"] <= 64
        assert 0.2 < row["best_of_10"] <= row["best_of_20"] <= row["best_of_32"] <= random_search["best_point"]
