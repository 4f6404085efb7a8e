"""What a run was, in words: counts, protocol, data, provenance. Used by the page and the model cards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from fairface_core.trial.reports import skips
from sweep.results.leaderboard import Board
from sweep.run_folder.records import RunRecord, TrialRecord
from sweep.wording import counted, duration, listing, number, percent, quantity, shortened

PROTOCOLS = {
    "seed": "The validation CSV is split into 80 % validation and 20 % test, stratified by age group and gender, by a "
    "seed of its own: every trial is scored on the same test images.",
    "official": "The whole validation CSV is the test set; validation is carved from the training CSV.",
}
_MAX_PARTS = 20
_MAX_FACTS = 300
# Said of each trial alone, so not of the sweep.
_PER_TRIAL_FACTS = ("seed", "config_digest", "micro_batch_size")


def tiles(board: Board) -> list[tuple[str, str, str]]:
    """Return (title, figure, note) of the facts at the top."""
    run = board.run
    names = ("completed", "stopped", "running", "planned", "skipped", "diverged", "failed")
    counts = Counter(record.status for record in run.records)
    spent = sum(record.epochs_trained for record in run.records)
    worst = run.plan.worst_case_epochs()
    hours = sum(record.timing("gpu_hours") or 0.0 for record in run.records)
    seconds = sum(record.timing("train_s") or 0.0 for record in run.records)
    seeds = sorted({record.seed for record in run.records})
    tiles = [
        ("Trials", f"{len(run.records):,}", listing([f"{counts[n]:,} {n}" for n in names if counts[n]])),
        (
            "Configurations",
            f"{len(board.ranked) + len(board.partial):,}",
            f"{len(board.ranked):,} with the full budget of {counted(run.epochs, 'epoch')}",
        ),
        ("Seeds", f"{len(seeds)}", listing([str(seed) for seed in seeds[:5]]) + ("…" if len(seeds) > 5 else "")),
        ("Epochs trained", f"{spent:,}", f"{percent(spent / worst)} of the {worst:,} without early stops"),
    ]
    if hours:
        tiles.append(("GPU-hours", quantity(hours), "training and validation, all trials"))
    elif seconds:
        tiles.append(("Training time", duration(seconds), "all trials, added up"))
    test_rows = {_test_rows(record) for record in run.records if record.report}
    if len(test_rows) == 1 and (only := test_rows.pop()):
        tiles.append(("Test images", f"{only:,}", f"protocol {protocols(run)}; never used for a choice"))
    return tiles


def protocols(run: RunRecord) -> str:
    """Return the protocol of the reported scores: `seed`, `official`, or both where trials differ."""
    return listing(_protocol_names(run)) or "not known yet"


def _protocol_names(run: RunRecord) -> list[str]:
    return list(dict.fromkeys(record.report["protocol"] for record in run.records if record.report))


def scored_by(run: RunRecord) -> str:
    """Return what stands beside the scores: `protocol seed; left out: 3 missing images, 12 duplicates`."""
    left_out = dict.fromkeys(skips(record.report.get("data")) for record in run.records if record.report)
    return "; ".join([f"protocol {protocols(run)}", *filter(None, left_out)])


def _test_rows(record: TrialRecord) -> int | None:
    rows = (record.report or {}).get("data", {}).get("rows")
    count = rows.get("test") if isinstance(rows, Mapping) else None
    return count if isinstance(count, int) else None


def stops(run: RunRecord) -> list[str]:
    """Return one line per rung, and one for trials that were never needed."""
    at = Counter(r.epochs_trained for r in run.records if r.status == "stopped")
    lines = [f"{counted(n, 'trial')} stopped at epoch {epoch}" for epoch, n in sorted(at.items())]
    reasons = Counter(r.reason or "no reason given" for r in run.records if r.status == "skipped")
    return lines + [f"{counted(n, 'trial')} skipped: {reason}" for reason, n in reasons.items()]


def protocol(run: RunRecord) -> list[tuple[str, str]]:
    """Return (topic, sentence) of how the sweep was done."""
    scheduler = run.plan.scheduler
    rows = [
        ("Split", " ".join(PROTOCOLS.get(name, f"Protocol {name}.") for name in _protocol_names(run))),
        ("Score", "mean_f1 = (age macro-F1 + gender macro-F1) / 2, over 9 age groups and 2 genders."),
        (
            "Selection",
            "Epoch, configuration and rank are chosen on validation alone. Test scores are those of the weights that "
            "validation chose.",
        ),
        (
            "Ranking",
            "A configuration is ranked when every seed had the full budget; a seed lost to a failure of the machine is "
            "left out and named, one that settling did not need too, a diverged one is not let go. Partial configurations are listed apart.",
        ),
        (
            "Intervals",
            "95 %, over seeds and images: t intervals from the variance between seeds and a bootstrap of the images. Each "
            "configuration's variance is moved towards that of the sweep's other full-budget configurations of about "
            "their group's best score, which lend it degrees of freedom, few or none where its own seeds differ by much "
            "more. With one seed they speak of that trained model on other images only.",
        ),
        (
            "Comparisons",
            "Between each pair of groups' best configurations, paired on the same test images and over seeds; p-values "
            "are Holm-corrected for the number of pairs. A corrected p of 0.05 or more is called a tie, or equal for "
            f"practical purposes where a difference of {number(run.plan.equal_within)} or more is ruled out the same way. A "
            "configuration of one seed is never called better or worse: one seed cannot tell skill from luck.",
        ),
    ]
    if scheduler.kind != "fifo":
        confirm = " The best configuration of each group is then brought to the full budget for all seeds."
        if run.plan.most_seeds:
            confirm = (
                " The best configuration of each group then gets seeds in rounds, at the full budget, until validation tells it "
                f"apart from the best, further ones would hardly do so, or it has {run.plan.most_seeds}. The 5 % are spent over the looks (Kim and DeMets' 0.05 t^2)."
            )
        rungs = listing([number(rung) for rung in run.rungs])
        where = f"rungs at epochs {rungs}" if rungs else "no rung below the full budget"
        name = "ASHA" if scheduler.kind == "asha" else "Race"
        text = f"{name} within each {scheduler.group_by}, factor {number(scheduler.reduction_factor)}; {where}."
        rows.append(("Stopping", text + (confirm if scheduler.confirm else "")))
    else:
        rows.append(("Stopping", "None: every trial has the full budget."))
    rows += [("Note", note) for note in run.plan.notes]
    return [row for row in rows if row[1]]


def provenance(run: RunRecord) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return what made the results, (name, value) under two titles: the sweep's own facts, and those of its trials."""
    sweep = {"space_digest": run.plan.space_digest, **run.sweep}
    sweep.pop("schema_version", None)
    sweep["changed by --set"] = sweep.pop("command_line", None)
    facts = (record.report.get("provenance", {}) for record in run.records if record.report)
    trials = common({k: v for k, v in fact.items() if k not in _PER_TRIAL_FACTS} for fact in facts)
    return [("Sweep", flat(sweep)), ("Trials", trials)]


def data_facts(run: RunRecord) -> list[tuple[str, str]]:
    """Return (name, value) of the data that the trials were trained and scored on."""
    return common(record.report.get("data", {}) for record in run.records if record.report)


def common(facts: Iterable[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return what dicts of facts say; where they differ, each value with the number of trials that say it."""
    said: dict[str, Counter[str]] = {}
    for fact in facts:
        for key, value in flat(fact):
            said.setdefault(key, Counter())[value] += 1
    rows = []
    for key, values in said.items():
        if len(values) == 1:
            rows.append((key, next(iter(values))))
        else:
            shown = [f"{value} ({counted(n, 'trial')})" for value, n in values.most_common(4)]
            rows.append((key, ", ".join(shown) + (", …" if len(values) > 4 else "")))
    return rows


def _pair(name: str, item: Any) -> str:
    # A CSV whose column `age` is called `age`.
    return name if item == name else f"{name} {_plain(name, item)}"


def _plain(name: str, item: Any) -> str:
    if isinstance(item, int) and not isinstance(item, bool) and "seed" not in name:
        return f"{item:,}"
    return "none" if item is None else number(item)


def flat(value: Mapping[str, Any], prefix: str = "", depth: int = 0) -> list[tuple[str, str]]:
    """Return nested facts as lines: `rows` -> `test 2,191, train 86,744, val 8,763`."""
    rows: list[tuple[str, str]] = []
    for key, item in value.items():
        name = f"{prefix} {key}".strip().replace("_", " ")
        if isinstance(item, Mapping) and item and not any(isinstance(part, Mapping | list) for part in item.values()):
            rows.append((name, ", ".join(_pair(k, part) for k, part in [*item.items()][:_MAX_PARTS])))
        elif isinstance(item, Mapping) and depth < 3:
            rows += flat(item, name, depth + 1)
        elif isinstance(item, list | tuple) and item and all(isinstance(part, Mapping) for part in item) and depth < 3:
            for position, part in enumerate(item[:_MAX_PARTS], start=1):
                rows += flat(part, f"{name.removesuffix('s')} {position}", depth + 1)
        elif isinstance(item, list | tuple):
            rows.append((name, ", ".join(str(part) for part in item[:_MAX_PARTS]) or "none"))
        elif item is not None:
            rows.append((name, _plain(name, item)))
    return [(shortened(name, 200), shortened(text)) for name, text in rows[:_MAX_FACTS]]
