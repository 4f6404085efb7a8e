"""What an error means for a trial, and what a worker sees and says; no Ray."""

from __future__ import annotations

import errno
import os
import warnings
from pathlib import Path

import pytest
import torch

from fairface_core.config.train_config import make_config
from fairface_core.errors import CheckpointError, ConfigError, StorageError, TrainingDiverged
from fairface_core.files.folder import open_folder, read_json
from fairface_core.machine.device import cuda_refusal
from sweep.driving import worker
from sweep.driving.trials import death
from sweep.driving.worker import Ending, Task, classify, run_leg
from tests.sweep import fake_fit


def refused(code: int | None) -> StorageError:
    error = StorageError(f"cannot write state.pt: {code}")
    error.__cause__ = OSError(code, "no") if code else OSError("connection lost")
    return error


class OutOfMemoryError(RuntimeError):
    """As torch.cuda's, which needs CUDA to be raised."""


@pytest.mark.parametrize(
    ("error", "kind", "retry"),
    [
        (TrainingDiverged("epoch 2: the loss is nan"), "diverged", False),
        (OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"), "oom", True),
        (MemoryError(), "oom", True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "oom", True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "oom", True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "oom", True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOCATION_FAILED"), "oom", True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "device", True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), "device", True),
        (refused(errno.ENOSPC), "storage", False),
        (refused(errno.EROFS), "storage", False),
        (refused(errno.EACCES), "storage", False),
        (refused(errno.EIO), "storage", True),
        (refused(None), "storage", True),
        (ConnectionResetError(errno.ECONNRESET, "reset"), "storage", True),
        (FileNotFoundError(errno.ENOENT, "gone"), "storage", False),
        (ConfigError(["a", "b"]), "error", False),
        (CheckpointError("state.pt: damaged"), "error", False),
        (ValueError("a bug"), "error", False),
        (RuntimeError("shapes do not match"), "error", False),
        (ImportError("no module"), "error", False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_what_an_error_means(error: Exception, kind: str, retry: bool) -> None:
    ending = classify(error)
    assert (ending.kind, ending.retry) == (kind, retry)
    assert ending.reason
    assert "\n" not in ending.reason


def test_a_bug_comes_with_its_traceback_and_bad_input_without() -> None:
    try:
        raise ValueError("a bug")
    except ValueError as error:
        assert "test_worker.py" in classify(error).traceback
    assert classify(ConfigError("lr = -1")).traceback == ""


def task(tmp_path: Path, **changes: object) -> Task:
    config = {
        "backbone": "resnet18", "epochs": 3, "batch_size": 64, "weights": "none", "root": "/",
        "out_dir": str(tmp_path / "run" / "trials" / "t"), "results_csv": None, "resume": True,
    }  # fmt: skip
    return Task("t", config, **{"fit": "tests.sweep.fake_fit:fit", **changes})  # type: ignore[arg-type]


def test_a_leg_reports_each_epoch_and_its_end(tmp_path: Path) -> None:
    reports: list[dict[str, object]] = []
    assert run_leg(task(tmp_path, attempt=3), reports.append) == Ending("completed")
    assert [report["epoch"] for report in reports] == [1, 2, 3]
    assert all(isinstance(value, int | float) for report in reports for value in report.values())
    assert read_json(open_folder(tmp_path / "run" / "trials" / "t"), "status.json")["attempts"] == 3


def test_a_driver_that_is_killed_leaves_word_of_what_fits_into_memory(tmp_path: Path) -> None:
    folder = open_folder(tmp_path / "run" / "trials" / "t")
    run_leg(task(tmp_path, at_most=32, fit="tests.sweep.driving.test_worker:killed"), lambda _: None)
    assert read_json(folder, "status.json")["detail"] == {"images_at_once": 32}


def test_epochs_that_are_trained_again_are_told_once_and_recorded(tmp_path: Path) -> None:
    folder = open_folder(tmp_path / "run" / "trials" / "t")
    reports: list[dict[str, object]] = []

    def stop(report: dict[str, object]) -> None:
        reports.append(report)
        if len(reports) == 1:
            raise SystemExit

    with pytest.raises(SystemExit):
        run_leg(task(tmp_path, taken_back=7), stop)
    assert run_leg(task(tmp_path, taken_back=7, epochs_heard=1), stop).kind == "completed"
    told = "no training state was left after epoch 7: trained again from the first one"
    assert [report.get("notes") for report in reports] == [[told], None, None]
    run_leg(task(tmp_path, taken_back=7, fit="tests.sweep.driving.test_worker:killed"), stop)
    assert read_json(folder, "status.json")["detail"] == {"epochs_taken_back": 7}, "which fit keeps"


def killed(config: object, **_: object) -> None:
    raise ValueError("a process that ends before it writes")


def test_a_leg_that_is_stopped_writes_nothing_after_it(tmp_path: Path) -> None:
    def stop(report: dict[str, object]) -> None:
        if report["epoch"] == 2:
            raise SystemExit

    with pytest.raises(SystemExit):
        run_leg(task(tmp_path), stop)
    folder = open_folder(tmp_path / "run" / "trials" / "t")
    assert read_json(folder, "status.json")["epochs_trained"] == 2
    assert len(folder.read("history.csv").splitlines()) == 3


def test_a_missing_fit_is_an_ending_and_no_crash(tmp_path: Path) -> None:
    ending = run_leg(task(tmp_path, fit="no_such_module:fit"), lambda report: None)
    assert (ending.kind, ending.retry) == ("error", False)
    assert "no_such_module" in ending.reason


def test_a_trial_without_a_gpu_sees_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    run_leg(task(tmp_path, gpu=0.0), lambda report: None)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


def test_warnings_of_the_core_come_with_the_next_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged state that the one before it replaced must not go unseen."""
    source = Path(worker.fairface_core.__file__).parent / "trial/checkpoint.py"

    def fit(config: object, *, on_epoch: object) -> None:
        warnings.warn_explicit(
            "state.pt: damaged", UserWarning, str(source), 1, module="fairface_core.trial.checkpoint"
        )
        fake_fit.fit(config, on_epoch=on_epoch)  # type: ignore[arg-type]

    monkeypatch.setattr(fake_fit, "fit_and_warn", fit, raising=False)
    reports: list[dict[str, object]] = []
    with pytest.warns(UserWarning, match="damaged"):
        assert run_leg(task(tmp_path, fit="tests.sweep.fake_fit:fit_and_warn"), reports.append).kind == "completed"
    assert [report.get("notes") for report in reports] == [["state.pt: damaged"], None, None]


def test_a_gpu_that_was_given_and_cannot_be_used_is_no_reason_to_train_on_the_cpu(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("needs a machine whose GPU torch cannot use, or that has none")
    task = Task("t", {"root": "/nowhere", "out_dir": str(tmp_path / "t"), "epochs": 1, "weights": "none"}, gpu=0.5)
    ending = run_leg(task, lambda _: None)
    assert (ending.kind, ending.retry) == ("error", False)
    # torch's own words, whatever they are here.
    assert ending.reason == f"a GPU was given to this trial and torch cannot use it: {cuda_refusal()}"
    assert not (tmp_path / "t").exists()


def test_the_hosts_memory_is_no_question_of_the_batch(tmp_path: Path) -> None:
    error = tmp_path / "error.txt"
    error.write_text("ray.exceptions.OutOfMemoryError: Task was killed due to the node running low on memory.")
    assert (death(str(error)).kind, death(str(error)).retry) == ("crash", True)


def test_a_cap_on_images_is_one_on_all_that_a_trial_holds() -> None:
    config = make_config({"batch_size": 64})
    assert config.images_at_once == 64
    assert config.with_at_most(64) is config
    capped = config.with_at_most(16)
    assert (capped.micro_batch_size, capped.eval_batch_size, capped.images_at_once) == (16, 16, 16)
    assert capped.digest() == config.digest()
    assert capped.with_at_most(32) is capped
