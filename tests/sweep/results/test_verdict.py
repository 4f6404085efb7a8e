"""The sentence at the top: it must never claim more than the intervals and the comparisons allow."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd
import pytest

from fairface_core.files.folder import open_folder
from sweep.results.leaderboard import Board, build_board
from sweep.results.planning import smallest_gap, what_decides
from sweep.results.verdict import Verdict, judge
from sweep.run_folder.records import read_run
from tests.sweep.results.test_benchmark import edit_json, recomputed
from tests.sweep.run_folders import Shape, make_run

PAIR = {"resnet50": (3e-4,), "convnext_tiny": (3e-4,)}
QUICK = {"epochs": 4, "num_val": 300, "num_test": 250, "asha": False, "race": False}


def judged(run: Path) -> tuple[Board, Verdict]:
    board = build_board(read_run(open_folder(run)))
    return board, judge(board)


def drawn(tmp_path: Path, **shape: Any) -> Path:
    return make_run(tmp_path / "run", Shape(**{**QUICK, **shape}))


def trials_of(run: Path, group: str) -> list[Path]:
    trials = json.loads((run / "plan.json").read_text())["trials"]
    return [run / "trials" / trial["trial_id"] for trial in trials if trial["group"] == group]


def test_a_clear_winner_is_called_ahead(tmp_path: Path) -> None:
    board, verdict = judged(drawn(tmp_path, spaces=PAIR, seeds=(1, 2, 3, 4), num_test=900))
    (pair,) = verdict.comparisons
    assert (pair.a, pair.b) == ("convnext_tiny", "resnet50")
    assert pair.p_holm is not None and pair.p_holm < 0.05 and pair.low > 0
    assert (verdict.kind, verdict.headline) == ("ahead", "convnext_tiny is ahead")
    assert "tie" not in verdict.sentence
    assert board.best_of_group["convnext_tiny"].rank == 1


def test_equal_backbones_are_called_a_tie(tmp_path: Path) -> None:
    spaces = {"efficientnet_v2_s": (3e-4,), "convnext_tiny": (3e-4,)}
    board, verdict = judged(drawn(tmp_path, spaces=spaces))
    a, b = board.best_of_group.values()
    assert a.test_span and b.test_span
    assert a.test_span[0] < b.test_span[1] and b.test_span[0] < a.test_span[1]
    assert verdict.kind == "tie"
    assert verdict.headline.startswith("A tie: ") and "It is a tie with" in verdict.sentence


@pytest.mark.parametrize("rng_seed", range(6))
def test_the_words_follow_from_the_comparisons(tmp_path: Path, rng_seed: int) -> None:
    spaces = {"resnet50": (3e-4,), "convnext_tiny": (3e-4,), "vit_b_16": (3e-5,)}
    board, verdict = judged(drawn(tmp_path, spaces=spaces, seeds=(1, 2, 3), rng_seed=rng_seed))
    leader = next(iter(board.best_of_group))
    against = [c for c in verdict.comparisons if c.a == leader]
    assert len(against) == 2 and len(verdict.comparisons) == 3
    outcomes = {c.b: c.verdict() for c in against}
    expected = "disagree" if "b" in outcomes.values() else "tie" if "tie" in outcomes.values() else "ahead"
    assert verdict.kind == expected
    for comparison in against:
        p_value = comparison.p_holm
        assert p_value is not None
        assert (outcomes[comparison.b] == "tie") == (p_value >= 0.05)
        assert comparison.b in verdict.sentence
    tied = [name for name, outcome in outcomes.items() if outcome == "tie"]
    assert ("It is a tie with" in verdict.sentence) == bool(tied)
    if expected == "tie":
        assert all(name in verdict.headline for name in [leader, *tied])


def test_overlapping_intervals_are_mentioned_where_the_pairs_still_tell_them_apart(tmp_path: Path) -> None:
    found = []
    for rng_seed in range(12):
        run = make_run(
            tmp_path / str(rng_seed),
            Shape(**{**QUICK, "spaces": PAIR, "seeds": (1, 2, 3), "num_test": 200, "rng_seed": rng_seed}),
        )
        board, verdict = judged(run)
        a, b = (one.test_span for one in board.best_of_group.values())
        assert a and b
        overlap = a[0] <= b[1] and b[0] <= a[1]
        assert ("overlap" in verdict.sentence) == (overlap and verdict.kind == "ahead")
        found.append((overlap, verdict.kind))
    assert (True, "ahead") in found, "no drawn run shows the case that this test is about"


def test_a_tie_by_correction_alone_says_so(tmp_path: Path) -> None:
    for rng_seed in range(20):
        spaces = {"resnet50": (3e-4,), "convnext_tiny": (3e-4,), "vit_b_16": (3e-5,), "efficientnet_v2_s": (3e-4,)}
        _, verdict = judged(
            make_run(
                tmp_path / str(rng_seed),
                Shape(**{**QUICK, "spaces": spaces, "seeds": (1, 2), "num_test": 150, "rng_seed": rng_seed}),
            )
        )
        leader = verdict.comparisons[0].a
        near = [c for c in verdict.comparisons if c.a == leader and c.verdict() == "tie" and c.low > 0]
        if near:
            assert "after correction for the number of pairs" in verdict.sentence
            return
    pytest.fail("no drawn run shows the case that this test is about")


@pytest.mark.parametrize("seeds", [(1,), (1, 2, 3)])
def test_validation_and_test_may_disagree_and_then_the_page_says_so(tmp_path: Path, seeds: tuple[int, ...]) -> None:
    run = drawn(tmp_path, spaces=PAIR, seeds=seeds)
    for trial in trials_of(run, "convnext_tiny"):
        table = pd.read_parquet(trial / "predictions.parquet")
        is_test = table["split"] == "test"
        table.loc[is_test, "age_pred"] = (table.loc[is_test, "age_true"] + 4) % 9
        table.to_parquet(trial / "predictions.parquet")
        edit_json(trial / "report.json", lambda r, t=trial: r["test_metrics"].update(recomputed(t, "test")))
    board, verdict = judged(run)
    assert next(iter(board.best_of_group)) == "convnext_tiny"
    assert (verdict.kind, verdict.headline) == ("disagree", "Validation and test disagree")
    assert "resnet50 (difference +0." in verdict.sentence and "is ahead of it" in verdict.sentence
    assert ("With one seed, either may be luck" in verdict.sentence) == (len(seeds) == 1)


def test_one_group_has_nothing_to_be_compared_with(tmp_path: Path) -> None:
    _, verdict = judged(drawn(tmp_path, spaces={"resnet50": (1e-4, 3e-4)}, seeds=(1,)))
    assert (verdict.kind, verdict.headline, verdict.comparisons) == ("alone", "resnet50, with no rival", ())
    assert "only backbone of this sweep" in verdict.sentence
    assert any("One seed only" in caveat for caveat in verdict.caveats)


def test_a_verdict_names_what_was_borrowed(tmp_path: Path) -> None:
    board, verdict = judged(drawn(tmp_path, spaces=PAIR, seeds=(1, 2)))
    dfs = {one.test.df for one in board.best_of_group.values() if one.test}
    expected = "Seed variance from 2 configurations: 2 degrees of freedom where a configuration's own seeds give 1."
    assert dfs == {1.75} and expected in verdict.caveats


def test_two_seeds_of_a_single_configuration_come_with_what_a_third_would_bring(tmp_path: Path) -> None:
    _, verdict = judged(drawn(tmp_path, spaces={"resnet50": (3e-4,)}, seeds=(1, 2)))
    assert any(caveat.startswith("Two seeds only for resnet50, and no other") for caveat in verdict.caveats)


def test_configurations_near_their_groups_best_lend_and_worse_ones_do_not(tmp_path: Path) -> None:
    run = drawn(tmp_path, spaces={"resnet50": (1e-4, 3e-4, 1e-3), "convnext_tiny": (3e-4,)}, seeds=(1, 2))
    board, _ = judged(run)
    best = {one.group: fmean(one.val_scores()) for one in board.best_of_group.values()}
    near = [one.config_id for one in board.ranked if fmean(one.val_scores()) >= best[one.group] - 0.03]
    assert [one.config_id for one in board.lending] == near and 2 <= len(near) < 4
    assert {one.config_id for one in board.lenders(board.ranked[0])} == {*near} - {board.ranked[0].config_id}


def test_a_tie_comes_with_what_would_decide_it(tmp_path: Path) -> None:
    spaces = {"efficientnet_v2_s": (3e-4,), "convnext_tiny": (3e-4,)}
    _, verdict = judged(drawn(tmp_path, spaces=spaces, seeds=(1, 2, 3)))
    (pair,) = verdict.comparisons
    gap = smallest_gap(pair.spread, 1)
    assert f"The smallest gap that this sweep would have seen in 80\u202f% of cases is {gap:.3f}." in verdict.caveats
    decides = what_decides(pair, 1)
    if abs(pair.difference) < 0.01:
        assert any("hardly worth deciding" in caveat for caveat in verdict.caveats)
    else:
        assert any(f"would take {decides.seeds} seeds of each instead of 3" in caveat for caveat in verdict.caveats)


def test_a_sharper_test_is_named_where_it_would_do(tmp_path: Path) -> None:
    run = drawn(tmp_path, spaces=PAIR, seeds=(1, 2), num_test=900)
    for trial in (trial for group in PAIR for trial in trials_of(run, group)):
        edit_json(trial / "report.json", lambda r: r["data"].update(csv_rows={"train": 1, "val": 12_000}))
    _, verdict = judged(run)
    assert verdict.kind == "tie"
    assert any(caveat.endswith("Protocol official, with 12,000, would do.") for caveat in verdict.caveats)


def test_a_small_difference_that_is_well_known_is_called_equal(tmp_path: Path) -> None:
    spaces = {"efficientnet_v2_s": (3e-4,), "convnext_tiny": (3e-4,)}
    run = drawn(tmp_path, spaces=spaces, seeds=(1, 2, 3))
    _, verdict = judged(run)
    assert verdict.kind == "tie"
    edit_json(run / "plan.json", lambda plan: plan.update(equal_within=0.2))
    _, verdict = judged(run)
    assert (verdict.kind, verdict.headline[:31]) == ("equal", "Equal for practical purposes: e")
    assert "For practical purposes it equals convnext_tiny (difference" in verdict.sentence
    assert "a difference of 0.2 or more is ruled out" in verdict.sentence


def test_one_seed_is_never_called_better(tmp_path: Path) -> None:
    board, verdict = judged(drawn(tmp_path, spaces=PAIR, seeds=(1,), num_test=900))
    (pair,) = verdict.comparisons
    assert pair.p_holm is not None and pair.p_holm < 0.05 and pair.difference > 0
    assert (verdict.kind, verdict.headline) == ("one seed", "convnext_tiny leads on one seed, which may be luck")
    assert "On these test images it is ahead of resnet50 (difference +0." in verdict.sentence
    assert "one seed cannot tell that from luck" in verdict.sentence and "It is ahead of" not in verdict.sentence
    assert any("Two or more seeds would show what is luck" in caveat for caveat in verdict.caveats)
    assert board.best_of_group["convnext_tiny"].rank == 1


@pytest.mark.parametrize("heads", [("age",), ("age", "gender")])
def test_a_model_that_answers_alike_everywhere_is_named(tmp_path: Path, heads: tuple[str, ...]) -> None:
    run = drawn(tmp_path, spaces=PAIR, seeds=(1, 2))
    for trial in trials_of(run, "resnet50"):
        table = pd.read_parquet(trial / "predictions.parquet")
        for head in heads:
            table.loc[table["split"] == "test", f"{head}_pred"] = 1
        table.to_parquet(trial / "predictions.parquet")
        edit_json(trial / "report.json", lambda r, t=trial: r["test_metrics"].update(recomputed(t, "test")))
    board, verdict = judged(run)
    words = {"age": "age group", "gender": "gender"}
    assert board.best_of_group["resnet50"].constant_heads == tuple(words[head] for head in heads)
    assert board.best_of_group["convnext_tiny"].constant_heads == ()
    (caveat,) = [text for text in verdict.caveats if "every test image the same" in text]
    assert caveat.startswith("resnet50 gives every test image the same age group")
    assert ("and gender" in caveat) == ("has learned nothing" in caveat) == (len(heads) == 2)


BF16, PLAIN = ["avx512f", "avx512_bf16"], ["avx512f"]


@pytest.mark.parametrize(
    ("resnets", "convnexts", "said"),
    [
        # What auto gives on one kind of CPU, whatever each backbone gains by: no difference.
        ([("bfloat16", BF16)] * 2, [("float32", BF16)] * 2, ""),
        ([("bfloat16", BF16), ("float32", PLAIN)], [("float32", BF16)] * 2, "bfloat16, float32"),
        ([("bfloat16", BF16)] * 2, [("float32", PLAIN)] * 2, "bfloat16, float32"),
        ([("float32", BF16)] * 2, [("float32", PLAIN)] * 2, ""),
    ],
)
def test_number_formats_that_differ_between_alike_trials_or_processors_are_told(
    tmp_path: Path, resnets: list[Any], convnexts: list[Any], said: str
) -> None:
    run = drawn(tmp_path, spaces=PAIR, seeds=(1, 2))
    for group, facts in (("resnet50", resnets), ("convnext_tiny", convnexts)):
        for trial, (amp_dtype, features) in zip(trials_of(run, group), facts, strict=True):
            had = {"device": "cpu", "amp_dtype": amp_dtype, "cpu_features": features}
            edit_json(trial / "report.json", lambda report, had=had: report["provenance"].update(had))
    told = [caveat for caveat in judged(run)[1].caveats if "number format" in caveat]
    assert told == ([f"The trials did not all compute in the same number format ({said})."] if said else [])


@pytest.mark.parametrize(
    ("decision", "groups", "said"),
    [
        ({"score": 0.18, "cutoff": 0.19}, ["resnet50"], "resnet50"),
        ({"score": 0.20, "cutoff": None}, ["resnet50", "convnext_tiny"], "resnet50 and convnext_tiny"),
        ({"score": 0.22, "cutoff": 0.21}, ["resnet50"], ""),
        # An older version had no such rule and stopped some all the same; one that stored no constant cannot tell.
        ({"score": 0.18, "cutoff": 0.19, "stop": True}, ["resnet50"], ""),
        ({"score": 0.18, "cutoff": 0.19, "constant": 0.0}, ["resnet50"], ""),
        ({"score": 0.21, "cutoff": None, "kind": "race", "value": 0.25}, ["resnet50"], "resnet50"),
        ({"score": 0.18, "cutoff": 0.15, "kind": "race", "value": 0.25}, ["resnet50"], ""),
    ],
)
def test_a_first_rung_that_saw_nothing_learned_is_named(
    tmp_path: Path, decision: dict[str, Any], groups: list[str], said: str
) -> None:
    """What its decisions say counts, not what the histories look like."""
    run = drawn(tmp_path, spaces=PAIR, seeds=(1, 2), epochs=8, asha=True)
    for order, trial in enumerate(trial for group in groups for trial in trials_of(run, group)):
        stored = {"trial_id": trial.name, "group": "g", "rung": 3, "epoch": 3, "stop": False, "order": order,
                  "constant": 0.2, **decision}  # fmt: skip
        (trial / "decisions.json").write_text(json.dumps({"schema_version": 1, "decisions": [stored]}))
    _, verdict = judged(run)
    found = [caveat for caveat in verdict.caveats if "constant answer" in caveat]
    assert len(found) == bool(said)
    assert all(caveat.startswith(f"At epoch 3, where trials of {said} are first compared") for caveat in found)


@pytest.mark.parametrize("end", ["planned", "failed", "diverged"])
def test_nothing_ranked_is_no_answer(tmp_path: Path, end: str) -> None:
    _, verdict = judged(drawn(tmp_path, spaces=PAIR, seeds=(1, 2), ends=dict.fromkeys(range(4), end)))
    assert (verdict.kind, verdict.headline) == ("none", "No answer yet")
    expected = "0 of 4 trials are over" if end == "planned" else "All 4 trials failed or diverged"
    assert expected in verdict.sentence


def test_a_running_sweep_says_that_it_is_not_over(tmp_path: Path) -> None:
    _, verdict = judged(drawn(tmp_path, spaces=PAIR, seeds=(1, 2), ends={0: "running", 1: "planned"}))
    assert (verdict.kind, verdict.headline) == ("alone", "Only convnext_tiny is ranked so far")
    assert "2 of 4 trials are still to end" in verdict.caveats[0]
    assert any("resnet50" in caveat and "not ranked" in caveat for caveat in verdict.caveats)


def test_a_running_sweep_without_a_full_run_says_what_is_best_so_far(tmp_path: Path) -> None:
    board, verdict = judged(drawn(tmp_path, spaces=PAIR, seeds=(1, 2), ends=dict.fromkeys(range(4), "running")))
    assert (verdict.kind, verdict.headline) == ("none", "No answer yet")
    best = max(board.run.records, key=lambda record: record.best_mean_f1 or 0.0)
    assert (
        f"so far is {best.best_mean_f1:.3f}, of {best.group} (seed {best.seed}) after 1 of 4 epochs" in verdict.sentence
    )


def test_damaged_predictions_end_in_no_comparison(tmp_path: Path) -> None:
    run = drawn(tmp_path, spaces=PAIR, seeds=(1, 2))
    (trials_of(run, "resnet50")[0] / "predictions.parquet").unlink()
    _, verdict = judged(run)
    assert (verdict.kind, verdict.headline) == ("not compared", "No comparison")
    assert "predictions of resnet50 are missing or damaged" in verdict.sentence


def test_different_test_images_end_in_no_comparison(tmp_path: Path) -> None:
    run = drawn(tmp_path, spaces=PAIR, seeds=(1, 2))
    for trial in trials_of(run, "resnet50"):
        table = pd.read_parquet(trial / "predictions.parquet")
        table["line"] += 1
        table.to_parquet(trial / "predictions.parquet")
    _, verdict = judged(run)
    assert verdict.kind == "not compared"
    assert "different test images" in verdict.sentence


def test_trials_of_different_data_or_code_are_a_caveat(tmp_path: Path) -> None:
    run = drawn(tmp_path, spaces=PAIR, seeds=(1, 2))
    edit_json(
        trials_of(run, "resnet50")[0] / "report.json",
        lambda r: r["provenance"].update(data_digest="other", code_digest="other"),
    )
    _, verdict = judged(run)
    assert sum("digests differ" in caveat for caveat in verdict.caveats) == 2


@pytest.mark.parametrize(("asked", "said"), [(None, True), (32, False)])
def test_parts_of_a_batch_are_a_caveat_where_the_plan_asked_for_none(
    tmp_path: Path, asked: int | None, said: bool
) -> None:
    run = drawn(tmp_path, spaces=PAIR, seeds=(1, 2))
    edit_json(
        run / "plan.json", lambda plan: [t["config"].update(micro_batch_size=asked) for t in plan["trials"] if asked]
    )
    for trial in trials_of(run, "resnet50"):
        edit_json(trial / "report.json", lambda r: r["provenance"].update(micro_batch_size=32))
    _, verdict = judged(run)
    found = [caveat for caveat in verdict.caveats if "Out of memory" in caveat]
    assert len(found) == said
    assert all("resnet50 (32 images)" in caveat for caveat in found)
