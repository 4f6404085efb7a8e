"""An epoch is written while the next one trains; the order in which things are seen does not change."""

from __future__ import annotations

import json
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fairface_core import EpochReport, fit
from fairface_core.errors import StorageError, TrainingDiverged
from fairface_core.files.folder import open_folder, read_json
from fairface_core.training import fit as trainer
from fairface_core.trial import recorder
from fairface_core.trial.checkpoint import load_state
from fairface_core.trial.epoch_writer import EpochWriter
from tests.fairface_core.small_data import training_config as config


def slow_states(patch: pytest.MonkeyPatch, before: Callable[[], object]) -> None:
    """Call something before each state is written, in the thread that writes it."""
    own = recorder.save_state

    def save(*arguments: Any) -> None:
        before()
        own(*arguments)

    patch.setattr(recorder, "save_state", save)


def began_epochs(patch: pytest.MonkeyPatch, began: Callable[[int], object]) -> None:
    own = trainer.train_batches

    def batches(*arguments: Any, epoch: int, **more: Any) -> Any:
        began(epoch)
        return own(*arguments, epoch=epoch, **more)

    patch.setattr(trainer, "train_batches", batches)


def newest_state(out: Path) -> dict[str, Any]:
    folder = open_folder(out)
    digests = read_json(folder, "report.json")["provenance"]
    state = load_state(folder, config_digest=digests["config_digest"], data_digest=digests["data_digest"])
    assert state is not None
    return state


def test_the_next_epoch_trains_while_one_is_written(
    demo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A state that is not finished until the next epoch has begun would otherwise never be."""
    seen: list[tuple[str, int]] = []
    next_began = {epoch: threading.Event() for epoch in (1, 2, 3, 4)}
    next_began[4].set()
    states = iter((2, 3, 4))
    slow_states(monkeypatch, lambda: next_began[next(states)].wait(60) or pytest.fail("nothing trained meanwhile"))

    def began(epoch: int) -> None:
        seen.append(("began", epoch))
        next_began[epoch].set()

    def on_epoch(report: EpochReport) -> None:
        seen.append(("told", report.epoch))
        assert threading.current_thread() is threading.main_thread()
        assert len((tmp_path / "history.csv").read_text().splitlines()) == report.epoch + 1
        assert newest_state(tmp_path)["epoch"] == report.epoch

    began_epochs(monkeypatch, began)
    fit(config(demo_root, tmp_path), on_epoch=on_epoch)
    assert seen == [("began", 1), ("began", 2), ("told", 1), ("began", 3), ("told", 2), ("told", 3)]


def test_what_is_written_is_the_epoch_and_not_what_training_makes_of_it(
    demo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit(config(demo_root, tmp_path / "fast"))
    slow_states(monkeypatch, lambda: time.sleep(0.2))
    own = recorder.save_best

    def save_best(*arguments: Any, **more: Any) -> None:
        time.sleep(0.2)
        own(*arguments, **more)

    monkeypatch.setattr(recorder, "save_best", save_best)
    fit(config(demo_root, tmp_path / "slow"))
    for name in ("best.pt", "predictions.parquet"):
        assert (tmp_path / "fast" / name).read_bytes() == (tmp_path / "slow" / name).read_bytes(), name
    fast, slow = (newest_state(tmp_path / name) for name in ("fast", "slow"))
    assert fast["model"].keys() == slow["model"].keys()
    assert all(torch.equal(fast["model"][name], slow["model"][name]) for name in fast["model"])
    for number, moments in fast["optimizer"]["state"].items():
        for name, value in moments.items():
            assert torch.equal(value, slow["optimizer"]["state"][number][name])


def test_a_state_that_cannot_be_written_ends_the_run(
    demo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise StorageError("cannot write state.pt: ENOSPC")

    slow_states(monkeypatch, refuse)
    told: list[EpochReport] = []
    with pytest.raises(StorageError, match="ENOSPC"):
        fit(config(demo_root, tmp_path), on_epoch=told.append)
    assert told == []
    assert len((tmp_path / "history.csv").read_text().splitlines()) == 2, "no later epoch was written"


def test_an_epoch_that_is_still_written_is_told_before_the_next_one_diverges(
    demo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_states(monkeypatch, lambda: time.sleep(0.3))
    began_epochs(monkeypatch, lambda epoch: epoch == 2 and monkeypatch.setattr(trainer, "DIVERGED_LOSS", 0.0))
    told: list[int] = []
    with pytest.raises(TrainingDiverged, match="epoch 2"):
        fit(config(demo_root, tmp_path), on_epoch=lambda report: told.append(report.epoch))
    assert told == [1]
    status = json.loads((tmp_path / "status.json").read_text())
    assert (status["status"], status["epochs_trained"]) == ("diverged", 1)


def test_an_error_of_the_next_epoch_leaves_the_one_before_it_whole(
    demo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def began(epoch: int) -> None:
        if epoch == 2:
            raise MemoryError("CUDA out of memory")

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        slow_states(patch, lambda: time.sleep(0.3))
        began_epochs(patch, began)
        fit(config(demo_root, tmp_path))
    told: list[int] = []
    fit(config(demo_root, tmp_path, resume=True), on_epoch=lambda report: told.append(report.epoch))
    assert told == [2, 3]


def test_an_error_of_training_does_not_hide_one_of_writing() -> None:
    report = EpochReport(**dict.fromkeys(EpochReport.__dataclass_fields__, 1))

    def refuse() -> None:
        raise StorageError("cannot write state.pt: ENOSPC")

    with pytest.raises(MemoryError) as caught, EpochWriter() as writer:
        writer.submit(report, refuse)
        raise MemoryError("CUDA out of memory")
    assert "ENOSPC" in "".join(traceback.format_exception(caught.value))


def test_the_time_of_a_scheduler_is_not_that_of_training() -> None:
    report = EpochReport(**dict.fromkeys(EpochReport.__dataclass_fields__, 1))
    with EpochWriter(lambda _: time.sleep(0.1)) as writer:
        writer.submit(report, lambda: None)
        writer.finish()
        assert writer.told_s >= 0.1
        writer.finish()
