"""What a person sees while a sweep runs, on a terminal and in a log."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fairface_core.files.folder import open_folder
from sweep.console.progress import Pace, Progress, epochs_left, failure_table
from sweep.driving.ledger import Ledger
from sweep.driving.placement import Placement
from sweep.driving.worker import Ending
from sweep.plan.expand import make_plan
from sweep.policy.states import RungDecision
from sweep.run_folder.request import write_new
from sweep.space.load import load_space
from tests.sweep import fake_sweeps
from tests.sweep.driving.test_ledger import ASHA, figures, leg_of
from tests.sweep.driving.test_race_ledger import EPOCHS, Sweep


def make(
    tmp_path: Path, *, terminal: bool = False, width: int = 140, **changes: Any
) -> tuple[Ledger, Progress, io.StringIO]:
    spec = load_space(fake_sweeps.write_space(tmp_path, scheduler=ASHA, **changes))
    plan = make_plan(spec, auto_gpu=0.0)
    run = open_folder(tmp_path / "run")
    write_new(run, spec, plan)
    ledger = Ledger(run, plan, confirm=True, max_retries=2)
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=width, highlight=False)
    return ledger, Progress(ledger, console, {"resnet18": 2.0, "mobilenet_v3_small": 1.0}), out


def shown(progress: Progress, width: int = 140) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(progress.table())
    return out.getvalue()


def test_the_table_counts_what_there_is(tmp_path: Path) -> None:
    ledger, progress, _ = make(tmp_path)
    placement = Placement(2, 0)
    leg = leg_of(ledger, placement)
    progress.began(leg)
    assert "waiting for a worker" not in shown(progress)
    for epoch, score in ((1, 0.31), (2, 0.42)):
        ledger.epoch(leg, figures(epoch, score))
        progress.epoch(leg, figures(epoch, score))
    rows = {line.split()[0]: line.split() for line in shown(progress).splitlines() if line.strip()}
    group = leg.trial.group
    assert rows[group][1:7] == ["0.4200", "1", "5", "0", "0", "0"]
    assert rows[group][7:10] == ["2", "of", "24"]
    assert rows["all"][1:7] == ["0.4200", "1", "11", "0", "0", "0"]
    assert f"  {leg.trial.trial_id}: epoch 3 of 4, mean_f1 0.4200" in shown(progress)
    # 2 s an epoch of resnet18, 1 s of the group that costs half; one trial at a time.
    tally = progress.tally(ledger.groups)
    assert tally.left_s == pytest.approx(
        2.0 * epochs_left(ledger, "resnet18") + epochs_left(ledger, "mobilenet_v3_small")
    )


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_a_terminal_whole(tmp_path: Path, width: int) -> None:
    backbones = {"grid": ["efficientnet_v2_s", "mobilenet_v3_small"]}
    space = {"backbone": backbones, "lr": {"grid": [1e-4, 3e-4]}, "seed": {"grid": [41, 42]}}
    ledger, progress, _ = make(tmp_path, width=width, space=space, fixed={"epochs": 300})
    progress._pace = Pace({"efficientnet_v2_s": 3.0, "mobilenet_v3_small": 1.0})
    for _ in range(2):
        leg = leg_of(ledger, Placement(64, 0))
        progress.began(leg)
        ledger.epoch(leg, figures(1, 0.31))
        progress.epoch(leg, figures(1, 0.31) | {"train_s": 90.0})
    lines = [line.rstrip() for line in shown(progress, width).splitlines() if line.strip()]
    assert max(map(len, lines)) <= width
    rows = {line.split()[0]: line for line in lines}
    # A title, a rule, a row per backbone and one for all, then what runs: no cell is cut or wrapped.
    assert len(lines) == 2 + 3 + 2
    assert {"efficientnet_v2_s", "mobilenet_v3_small", "all"} <= set(rows)
    assert "…" not in "".join(lines[:5])
    assert ("2 of 2,400" if width == 120 else "2/2,400") in rows["all"] and "0.3100" in rows["all"]
    # Of a backbone that has not begun nothing is known, and of all of them together about as much as of the other.
    assert " h " in rows["all"] and "~" in rows["all"]
    assert "≤" in rows["efficientnet_v2_s"] and rows["mobilenet_v3_small"].split()[-1] == "–"
    while (leg := leg_of(ledger, Placement(64, 0))).trial.group != "mobilenet_v3_small":
        pass
    ledger.epoch(leg, figures(1, 0.31))
    progress.epoch(leg, figures(1, 0.31) | {"train_s": 90.0})
    assert "~" not in shown(progress, width) and "at most" in progress.sentence()


def test_what_is_left_is_a_bound(tmp_path: Path) -> None:
    ledger, _, _ = make(tmp_path, space={"backbone": {"grid": ["resnet18"]}})
    assert epochs_left(ledger, "resnet18") == 6 * 4
    placement = Placement(64, 0)
    legs = [leg_of(ledger, placement) for _ in range(6)]
    for order, leg in enumerate(legs):
        ledger.epoch(leg, figures(1, 0.1 + 0.01 * order))
        trial = leg.trial
        ledger.decided(RungDecision(trial.trial_id, trial.group, 1.0, 1, 0.1, 0.5, stop=True, order=order))
        ledger.ended(leg, None)
    # Two seeds of one configuration are confirmed, three epochs each.
    assert epochs_left(ledger, "resnet18") == 2 * 3


def test_pace_is_scaled_to_groups_not_seen_yet() -> None:
    pace = Pace({"big": 10.0, "small": 1.0})
    assert pace.epoch_s("big") is None
    pace.note("small", 3.0)
    assert pace.epoch_s("small") == 3.0
    assert pace.epoch_s("big") == pytest.approx(30.0)
    pace.note("small", 13.0)
    assert pace.epoch_s("small") == pytest.approx(6.0)


def test_each_end_is_one_line(tmp_path: Path) -> None:
    ledger, progress, out = make(tmp_path)
    placement = Placement(64, 0)
    stopped, failed, retried, done = (leg_of(ledger, placement) for _ in range(4))
    for leg in (stopped, failed, retried, done):
        progress.began(leg)
        ledger.epoch(leg, figures(1, 0.3))
    trial = stopped.trial
    ledger.decided(RungDecision(trial.trial_id, trial.group, 1.0, 1, 0.3, 0.35, stop=True, order=0))
    endings = [
        (stopped, None), (failed, Ending("error", "ValueError: [red]not markup[/red]")),
        (retried, Ending("crash", "its process was killed", retry=True)), (done, Ending("completed")),
    ]  # fmt: skip
    for leg, ending in endings:
        progress.ended(leg, ending, ledger.ended(leg, ending))
    lines = out.getvalue().splitlines()
    assert len(lines) == 4
    for line, word, text in zip(
        lines,
        ("stopped", "failed", "retry", "completed"),
        ("0.3000 < 0.3500 at rung 1", "ValueError: [red]not markup[/red]", "crash: its process was killed",
         "best mean_f1 0.3000 at epoch 1"),
        strict=True,
    ):  # fmt: skip
        assert line.split()[1] == word
        assert "1/4 epochs" in line
        assert text in line


def test_a_trial_that_waits_for_its_race_says_so(tmp_path: Path) -> None:
    race = Sweep(tmp_path / "s")
    out = io.StringIO()
    progress = Progress(race.ledger, Console(file=out, width=140, highlight=False), {"resnet18": 2.0})
    race.hand_out(12)
    leg = race.legs[0]
    race.step(leg)
    assert leg.trial.status == "planned"
    progress.ended(leg, None, False)
    assert out.getvalue().split()[1:4] == ["waits", leg.trial.trial_id, f"1/{EPOCHS}"]


def test_a_log_gets_a_line_now_and_then(tmp_path: Path) -> None:
    ledger, progress, out = make(tmp_path)
    progress.tick()
    assert out.getvalue() == ""
    progress._lined -= 3600
    progress.tick()
    progress.tick()
    assert out.getvalue().splitlines() == ["0 done, 12 waiting; 0 of 48 epochs"]
    assert ledger.count("planned") == 12


def test_a_terminal_gets_a_table_that_goes_away(tmp_path: Path) -> None:
    _, progress, out = make(tmp_path, terminal=True)
    with progress.shown():
        progress._drawn -= 10
        progress.tick()
        progress.note("something happened")
    text = out.getvalue()
    assert "best mean_f1" in text
    assert "something happened" in text
    assert text.rstrip().endswith("\x1b[?25h") or "\x1b[2K" in text, "the table is erased at the end"


def test_the_table_of_failures(tmp_path: Path) -> None:
    ledger, _, _ = make(tmp_path)
    assert failure_table(ledger.trials.values()) is None
    trial = next(iter(ledger.trials.values()))
    trial.status, trial.reason = "failed", "storage: cannot write [state.pt]: ENOSPC"
    table = failure_table(ledger.trials.values())
    out = io.StringIO()
    Console(file=out, width=160).print(table)
    assert "1 trial without a result" in out.getvalue()
    assert "storage: cannot write [state.pt]: ENOSPC" in out.getvalue()
