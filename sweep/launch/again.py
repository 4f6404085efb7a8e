"""One trial once more, in a folder of its own; and the winner on all the labels that chose it. No Ray is started."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairface_core.config.train_config import TrainConfig, absolute_path, make_config
from fairface_core.console import progress_bar
from fairface_core.errors import ConfigError, shown
from fairface_core.files.folder import Folder, open_folder
from sweep.driving.worker import demo_folder
from sweep.page.templating import environment
from sweep.results.leaderboard import build_board
from sweep.run_folder.going_on import data_folder
from sweep.run_folder.records import RunRecord, TrialRecord, read_run
from sweep.space.yaml_nodes import parse_yaml
from sweep.wording import percent, score, settings

# What says where the data lie and where files go: the command's own flags decide these.
_NOT_SET = ("root", "out_dir", "results_csv", "resume")


@dataclass(frozen=True)
class Wish:
    """What the command line says.

    Attributes:
        root: The data folder; None for that of the sweep.
        sets: `key=value` texts.
        name: Folder below the run's `reruns/`; None for the trial's name.
        resume: Whether to go on in a folder that is there.
    """

    root: str | None = None
    sets: Sequence[str] = ()
    name: str | None = None
    resume: bool = False


def rerun(target: str, wish: Wish) -> int:
    """Train one trial again, in `RUN/reruns/NAME`; return the exit code.

    Args:
        target: `RUN/TRIAL`, or the trial's folder `RUN/trials/TRIAL`.
        wish: What else the command line says.

    Raises:
        FairfaceError: If there is no such trial, a `--set` cannot be read, or the training fails.
    """
    where, _, trial_id = target.rstrip("/").rpartition("/")
    run = read_run(open_folder(where.removesuffix("/trials") or "."))
    record = next((one for one in run.records if one.trial_id == trial_id), None)
    if record is None:
        ids = [one.trial_id for one in run.records]
        raise ConfigError(
            f"--rerun {shown(target, 300)[1:-1]}: {run.location} plans no trial of this name; it has {len(ids)}, such as {ids[0]}"
        )
    changes = _changes(wish.sets)
    folder = _own_folder(run, "reruns", wish.name or record.trial_id + ("-changed" if changes else ""), wish)
    config = _config(run, record, folder, wish, changes)
    _as_before(record)
    # Imported now: torch takes the number of threads from the environment when it is loaded.
    from fairface_core import fit

    told = f" with {settings(changes)}" if changes else ""
    print(f"{record.trial_id}{told}: {config.epochs} epochs, into {folder.uri}", flush=True)
    with progress_bar("training") as progress:
        report = fit(config, on_epoch=lambda epoch: progress(epoch.epoch, config.epochs))
    print(
        f"validation mean_f1 {score(report.mean_f1)}, epoch {report.best_epoch}; test {score(report.test_metrics['mean_f1'])}"
    )
    if not changes:
        print(_compared(run.folder.sub("trials", record.trial_id), folder, record))
    print(f"{folder.uri}/report.json")
    return 0


def refit(target: str, wish: Wish) -> int:
    """Train the winner of a sweep on training and validation together, in `RUN/refit`; return the exit code.

    It is trained as long as its best run's best epoch, under the same schedule, with that run's seed.

    Args:
        target: The run folder.
        wish: What else the command line says; nothing may be set.

    Raises:
        FairfaceError: If nothing is ranked, or the training fails.
    """
    if wish.sets:
        raise ConfigError("--refit takes no --set: what was chosen is what is trained; --rerun RUN/TRIAL takes it")
    run = read_run(open_folder(target))
    board = build_board(run)
    record = board.ranked[0].best if board.ranked else None
    if record is None or record.report is None:
        raise ConfigError(f"--refit {shown(target, 300)[1:-1]}: no configuration has had its full budget yet")
    folder = _own_folder(run, "", wish.name or "refit", wish)
    config = _config(run, record, folder, wish, {})
    _as_before(record)
    from fairface_core.training.refit import refit as train_on_all

    best_epoch = int(record.report["best_epoch"])
    print(
        f"{record.trial_id}: {best_epoch} of {config.epochs} epochs on train and validation, into {folder.uri}",
        flush=True,
    )
    facts = {
        "of": record.trial_id, "config_id": record.config_id, "best_epoch": best_epoch,
        "validation_mean_f1_of_that_trial": record.report["mean_f1"],
        "test_metrics_of_that_trial": record.report["test_metrics"],
    }  # fmt: skip
    with progress_bar("training") as progress:
        report = train_on_all(
            config, epochs=best_epoch, facts=facts, on_epoch=lambda epoch, _: progress(epoch, best_epoch)
        )
    before, after = record.report["test_metrics"], report["test_metrics"]
    names = ("mean_f1", "age_acc", "age_f1m", "gen_acc", "gen_f1m")
    card = environment().get_template("refit_card.md.j2").render(
        report=report,
        run=run,
        group=record.group,
        rows=[(name, after[name], before[name]) for name in names],
        config=sorted(report["config"].items()),
    )  # fmt: skip
    folder.write("model_card.md", card.encode())
    print(
        f"test mean_f1 {score(after['mean_f1'])} (that trial: {score(before['mean_f1'])}), gender accuracy "
        f"{percent(after['gen_acc'])}; no validation score: those images were trained on"
    )
    print(f"{folder.uri}/model_card.md")
    return 0


def _changes(sets: Sequence[str]) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    problems = []
    for text in sets:
        name, equals, value = text.partition("=")
        name = name.strip().removeprefix("fixed.").removeprefix("data.")
        if not equals or name not in TrainConfig.model_fields or name in _NOT_SET:
            known = ", ".join(key for key in TrainConfig.model_fields if key not in _NOT_SET)
            problems.append(
                f"--set {shown(text, 200)[1:-1]}: cannot be set for one trial; accepted: key=value with one of {known}"
            )
            continue
        changes[name] = absolute_path(name, parse_yaml(value, f"--set {name}", is_file=False).value)
    if problems:
        raise ConfigError(problems)
    return changes


def _own_folder(run: RunRecord, below: str, name: str, wish: Wish) -> Folder:
    if name != Path(name).name or name in (".", ".."):
        raise ConfigError(
            f"--name {shown(name, 200)[1:-1]}: accepted: a plain folder name, which is made in the run folder"
        )
    folder = run.folder.sub(*([below] if below else []), name)
    if not wish.resume and any(folder.exists(file) for file in ("report.json", "state.pt", "plan.json")):
        raise ConfigError(f"{folder.uri}: is there already; go on with it by --resume, or choose another --name")
    return folder


def _config(run: RunRecord, record: TrialRecord, folder: Folder, wish: Wish, changes: Mapping[str, Any]) -> TrainConfig:
    own = {"out_dir": folder.uri, "root": wish.root or _root_of(run), "results_csv": None, "resume": True}
    config = make_config({**record.config, **changes, **own}, where=record.trial_id)
    at_most = (record.report or {}).get("provenance", {}).get("micro_batch_size")
    return config.with_at_most(at_most) if isinstance(at_most, int) and at_most > 0 else config


def _root_of(run: RunRecord) -> str:
    drawn = run.plan.space.get("data")
    if isinstance(drawn, dict) and isinstance(drawn.get("demo"), dict):
        return str(demo_folder(drawn["demo"]))
    root = data_folder(run)
    if root is None:
        raise ConfigError(f"{run.location}: no trial of it says where its data lie; give --root DIR")
    return root


def _as_before(record: TrialRecord) -> None:
    """Use as many threads as the trial had: on the CPU sums are split by them, and their last bits differ."""
    threads = (record.report or {}).get("provenance", {}).get("num_threads")
    if isinstance(threads, int) and 0 < threads <= 1024:
        os.environ["OMP_NUM_THREADS"] = str(threads)
        import torch

        torch.set_num_threads(threads)


def _compared(first: Folder, again: Folder, record: TrialRecord) -> str:
    if not record.full_budget:
        return f"the trial itself ended as {record.status} after {record.epochs_trained} epochs, so nothing is compared"
    differ = []
    for name in ("best.pt", "predictions.parquet"):
        try:
            if first.read(name) != again.read(name):
                differ.append(name)
        except FileNotFoundError:
            differ.append(f"{name} (missing)")
    if not differ:
        return "equal to the trial, bit for bit: best.pt and predictions.parquet"
    return (
        f"not equal to the trial in {' and '.join(differ)}: expected on another device, processor or version of torch, "
        "and on a GPU unless determinism is strict"
    )
