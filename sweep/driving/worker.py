"""What a worker process runs: one leg of one trial, from its own state to its end or to the next stop. No ray here.

A leg tells how it ended instead of raising, wherever it can: the driver then needs no unpickled exception to decide
between a retry and an end. Only the death of the process is left for Ray to tell.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import errno
import functools
import gc
import importlib
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, cast

import fairface_core
from fairface_core.config.train_config import TrainConfig, default_cache_dir, make_config
from fairface_core.errors import ConfigError, FairfaceError, StorageError, TrainingDiverged, ran_out_of_memory
from fairface_core.files.folder import open_folder
from fairface_core.trial.reading import read_history
from fairface_core.trial.writing import write_status

# The seam: the function that trains, and the module that is asked before (beside it, where none is named).
FIT = "fairface_core.training.fit:fit"
_CHECKS = {FIT: "fairface_core.training.checks"}
# Key of a trial's last report to Ray; its value is an Ending as a dict.
ENDING_KEY = "ending"
NOTES_KEY = "notes"
# Of status.json's detail: images at a time that a trial which ran out of memory goes on with.
AT_MOST_KEY = "images_at_once"
TAKEN_BACK_KEY = "epochs_taken_back"

EndingKind = Literal["completed", "diverged", "oom", "device", "storage", "error", "crash", "stalled"]
# The file system says no, and will say it again.
_LASTING = frozenset(
    (
        errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.ENOTDIR,
        errno.EISDIR, errno.ENAMETOOLONG, errno.ENOENT, errno.EEXIST, errno.EINVAL, errno.ELOOP,
    )
)  # fmt: skip
_DEVICE_WORDS = ("cuda error", "cudnn", "cublas", "nccl", "hip error", "mps backend", "device-side assert")
_TRACEBACK_LINES = 60
# Of its share of a GPU a trial's tensors get what a CUDA context (0.5 GiB on an H200) and fragments leave.
_KEPT_SHARE, _CONTEXT_BYTES = 0.95, 0.5 * 2**30


@dataclass(frozen=True)
class Ending:
    """How a leg ended.

    Attributes:
        kind: What happened. `crash` and `stalled` are the driver's words for a process that is gone or was killed.
        reason: One sentence; empty for `completed`.
        retry: Whether another try from the last state may go better.
        at_once: For `oom`, images that were in memory at a time.
        traceback: For `error.txt` and --debug; empty where the reason says it all.
    """

    kind: EndingKind
    reason: str = ""
    retry: bool = False
    traceback: str = ""
    at_once: int | None = None


@dataclass(frozen=True)
class Task:
    """One leg, as it crosses from the driver to a worker.

    Attributes:
        trial_id: Our stable id.
        config: TrainConfig fields, paths absolute.
        attempt: 1 for the first try of the trial, one more after each failure.
        gpu: GPUs that were given to it, 0 to 1.
        at_most: Images that it may hold in memory at a time, for more did not fit; None for as many as it asks for.
        epochs_heard: Epochs whose figures the driver has. A worker that died between writing an epoch and reporting it
            leaves more on disk.
        taken_back: Epochs that are trained again, for no training state was left to go on from.
        demo: Sizes of the built-in faces, to be drawn where they are absent; None for images of the user's.
        fit: `module:function` of the seam.
    """

    trial_id: str
    config: dict[str, Any]
    attempt: int = 1
    gpu: float = 0.0
    at_most: int | None = None
    epochs_heard: int = 0
    taken_back: int = 0
    demo: dict[str, int] | None = None
    fit: str = FIT


def seam(fit: str) -> Callable[..., Any]:
    """Return the function that trains, from `module:function`."""
    return cast("Callable[..., Any]", getattr(importlib.import_module(fit.partition(":")[0]), fit.partition(":")[2]))


def checks(fit: str) -> ModuleType:
    """Return the module with `check_config`, `data_key` and `prepare_data` for a `module:function` that trains."""
    return importlib.import_module(_CHECKS.get(fit, fit.partition(":")[0]))


def demo_folder(sizes: Mapping[str, int]) -> Path:
    """Return the folder of the built-in faces on this node; they are drawn if they are not there."""
    from fairface_core.demo.folder import demo_root

    return demo_root(default_cache_dir(), **sizes)


def run_leg(task: Task, report: Callable[[dict[str, Any]], None]) -> Ending:
    """Train a trial from its last state.

    Args:
        task: The leg.
        report: Called with each epoch's figures, when all files of the epoch are on disk. It may raise SystemExit to
            end the leg there; nothing is written after it.

    Returns:
        How it ended.
    """
    print(f"{task.trial_id}: attempt {task.attempt}, process {os.getpid()}", flush=True)
    notes: list[str] = []

    def tell(figures: dict[str, Any]) -> None:
        print(f"{task.trial_id}: epoch {figures['epoch']}, mean_f1 {figures['mean_f1']:.4f}", flush=True)
        if notes:
            figures[NOTES_KEY] = notes.copy()
            notes.clear()
        report(figures)

    config: TrainConfig | None = None
    # What the leg before held, should it have been ended in the middle of a step.
    _free_memory()
    try:
        with _noted_warnings(notes):
            _limit_gpu(task)
            fit = seam(task.fit)
            _spare_imports()
            config = _config(task)
            folder = open_folder(config.out_dir)
            # `fit` keeps attempts and detail as it finds them, and may repeat the last epoch, with the same figures.
            written, damages = read_history(folder)
            notes += damages
            detail = {} if task.at_most is None else {AT_MOST_KEY: task.at_most}
            if task.taken_back:
                detail[TAKEN_BACK_KEY] = task.taken_back
                if not written:
                    notes.append(
                        f"no training state was left after epoch {task.taken_back}: trained again from the first one"
                    )
            write_status(folder, "running", epochs_trained=len(written), attempts=task.attempt, detail=detail)
            # Otherwise a rung at such an epoch would never be asked.
            for figures in written[task.epochs_heard :]:
                tell(figures)
            fit(config, on_epoch=lambda epoch: tell(dataclasses.asdict(epoch)))
        ending = Ending("completed")
    except Exception as error:  # noqa: BLE001 - the border of the process: whatever it is, the driver words it
        ending = classify(error)
        if ending.kind == "oom" and config is not None:
            ending = dataclasses.replace(ending, at_once=config.images_at_once)
    finally:
        _free_memory()
    print(f"{task.trial_id}: {ending.kind} {ending.reason}\n{ending.traceback}".rstrip(), flush=True)
    return ending


def classify(error: Exception) -> Ending:
    """Say what an exception means for the trial: whether it would only repeat, and in what words it is told."""
    text = str(error).strip()
    first = next(iter(text.splitlines()), type(error).__name__)
    if isinstance(error, TrainingDiverged):
        return Ending("diverged", first)
    if ran_out_of_memory(error):
        return Ending("oom", first, retry=True)
    trace = "".join(traceback.format_exception(error)[-_TRACEBACK_LINES:])
    if isinstance(error, StorageError | OSError):
        code = error.errno if isinstance(error, OSError) else getattr(error.__cause__, "errno", None)
        return Ending("storage", text.replace("\n", "; "), retry=code not in _LASTING, traceback=trace)
    if isinstance(error, FairfaceError):
        return Ending("error", "; ".join(error.problems))
    if isinstance(error, RuntimeError) and any(word in text.lower() for word in _DEVICE_WORDS):
        return Ending("device", f"{type(error).__name__}: {first}", retry=True, traceback=trace)
    return Ending("error", f"{type(error).__name__}: {first}", traceback=trace)


def _config(task: Task) -> TrainConfig:
    # The built-in faces lie in each node's own cache folder.
    root = {} if task.demo is None else {"root": str(demo_folder(task.demo))}
    config = make_config({**task.config, **root})
    return config if task.at_most is None else config.with_at_most(task.at_most)


@contextlib.contextmanager
def _noted_warnings(notes: list[str]) -> Iterator[None]:
    """Collect what our own code warns of, such as a damaged state that the one before it replaced."""
    ours = str(Path(fairface_core.__file__).resolve().parent) + os.sep
    shown = warnings.showwarning

    def note(message: Any, category: type[Warning], filename: str, *rest: Any, **options: Any) -> None:
        if filename.startswith(ours):
            notes.append(str(message))
        shown(message, category, filename, *rest, **options)

    with warnings.catch_warnings():
        warnings.filterwarnings("always", category=UserWarning, module=r"fairface_core\.")
        warnings.showwarning = note
        yield


def _limit_gpu(task: Task) -> None:
    """Hide GPUs that were not given (Ray 2.60 leaves them visible to a worker with 0), and keep to a share of one.

    Raises:
        ConfigError: A GPU was given and torch cannot use it; without this word the trial would train on the CPU.
    """
    if task.gpu == 0:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        return
    if task.fit != FIT:
        return  # a `fit` that needs no torch has no use for a GPU
    import torch

    from fairface_core.machine.device import cuda_refusal

    if not torch.cuda.is_available():
        raise ConfigError(f"a GPU was given to this trial and torch cannot use it: {cuda_refusal()}")
    if task.gpu < 1:
        # One trial that wants too much runs out of memory itself, and not its neighbor.
        total = torch.cuda.get_device_properties(0).total_memory
        share = _KEPT_SHARE * task.gpu - _CONTEXT_BYTES / total
        torch.cuda.set_per_process_memory_fraction(max(share, _KEPT_SHARE * task.gpu / 2))


@functools.cache
def _spare_imports() -> None:
    """Take what the imports made out of the collector's rounds, once: with torch and Ray loaded each took 80 ms a trial."""
    gc.collect()
    gc.freeze()


def _free_memory() -> None:
    """Give back what the trial held: the process may train another one next."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    # Ray runs each trial in a new thread, and glibc gives threads heaps of their own: what one trial freed the next would
    # not use. A reused worker kept 42 MiB in each of its heaps (a small network at 32 px; tests/faults/test_soak.py).
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
