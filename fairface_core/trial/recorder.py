"""One run's folder: what is written when, so that a kill at any instant loses no epoch that anyone has heard of.

After a new best: weights, matrices, predictions. Then report, history and status. Last the training state, which
commits the epoch. A run that is killed in between repeats that epoch from the state before it and writes the same
bytes again; what the next epoch had trained meanwhile (epoch_writer.py) is lost with it.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any, NoReturn

from torch import Tensor

from fairface_core.config.train_config import TrainConfig
from fairface_core.dataset.prepare import Data
from fairface_core.errors import CheckpointError, TrainingDiverged
from fairface_core.files.folder import Folder, write_json
from fairface_core.scoring.conformal import calibrate
from fairface_core.scoring.metrics import Logits
from fairface_core.trial.benchmark_csv import benchmark_row, upsert_row
from fairface_core.trial.checkpoint import load_state, normalization_facts, remove_states, save_best, save_state
from fairface_core.trial.reading import read_history, read_status
from fairface_core.trial.reports import EpochReport, TrialReport, best_name
from fairface_core.trial.writing import (
    build_report,
    config_facts,
    scored_details,
    write_confusions,
    write_history,
    write_predictions,
    write_status,
)


class Recorder:
    """Keeps history and report of a run, and writes its folder.

    Attributes:
        history: The epochs that are committed or about to be.
        report: The content of report.json; empty before the first epoch.
    """

    def __init__(self, config: TrainConfig, folder: Folder, data: Data) -> None:
        self.config, self.folder, self.data = config, folder, data
        self.history: list[EpochReport] = []
        self.report: dict[str, Any] = {}
        self._attempts = 1
        self._detail: Mapping[str, Any] = {}  # what the sweep says of a trial that runs
        self._timing: dict[str, Any] = {}

    @property
    def epoch(self) -> int:
        """Epochs finished."""
        return len(self.history)

    @property
    def best(self) -> EpochReport | None:
        """The epoch with the best mean_f1, the earliest of equals."""
        return max(self.history, key=lambda e: (e.mean_f1, -e.epoch), default=None)

    def start(self) -> Mapping[str, Any] | None:
        """Bring the folder's files in line with its training state; return the state to go on from, if any.

        Raises:
            CheckpointError: If there is something to resume and it is damaged, lost or of another configuration.
        """
        state = self._load() if self.config.resume else None
        if state is None:
            remove_states(self.folder)
        else:
            try:
                self.history = [EpochReport(**values) for values in state["history"]]
                self.report = dict(state["report"])
            except (KeyError, TypeError, ValueError) as error:
                raise CheckpointError(
                    f"{self.folder.uri}: state.pt holds no history or report of a run; delete the folder to train it anew"
                ) from error
            write_json(self.folder, "report.json", self.report)
        facts = {"schema_version": 1, "config": self.config.model_dump(mode="json")}
        write_json(self.folder, "config.json", facts)
        write_history(self.folder, self.history)
        self._write_status()
        return state

    def _load(self) -> Mapping[str, Any] | None:
        folder = self.folder
        found = read_status(folder)[0]
        self._attempts = found.attempts
        self._detail = found.detail if found.status == "running" else {}
        state = load_state(folder, config_digest=self.config.digest(), data_digest=self.data.digest)
        epochs, damages = read_history(folder)
        if state is None and (len(epochs) > 1 or damages):
            raise CheckpointError(
                f"{folder.uri}: epochs were trained here but their state.pt is gone; "
                "bring it back, or delete the folder to train it anew"
            )
        if state is None and epochs:
            # A kill between the first history and the first state looks the same as a state that was removed then.
            warnings.warn(f"{folder.uri}: epoch 1 left no state.pt and is trained again", stacklevel=2)
        return state

    def write_best(
        self,
        epoch: int,
        weights: Mapping[str, Tensor],
        *,
        val: tuple[Logits, dict[str, float]],
        test: tuple[Logits, dict[str, float]],
        model_facts: Mapping[str, Any],
        provenance: Mapping[str, Any],
        eval_images_per_s: float,
    ) -> None:
        """Write the weights of a new best epoch and everything that is said of them.

        Args:
            epoch: The epoch, counted from 1.
            weights: The model's state dict.
            val: Logits and metrics of the validation split.
            test: The same of the test split.
            model_facts: `report.json["model"]`.
            provenance: `report.json["provenance"]`.
            eval_images_per_s: Measured on the test split.
        """
        config, folder, data = self.config, self.folder, self.data
        facts = config_facts(config)
        cfg = {**facts, **normalization_facts(config.backbone)}
        save_best(folder, weights, cfg, epoch, alias=best_name(facts))
        write_confusions(folder, test[0], data.test)
        write_predictions(folder, {"val": (val[0], data.val), "test": (test[0], data.test)})
        self.report = build_report(
            config,
            best_epoch=epoch,
            val_metrics=val[1],
            test_metrics=test[1],
            sections={
                **scored_details(test[0], data.test), "data": data.counts, "model": model_facts, "provenance": provenance,
                "conformal": calibrate(val[0], data.val.rows),
            },
        )  # fmt: skip
        self._timing["eval_images_per_s"] = eval_images_per_s

    def commit(self, epoch: EpochReport, tensors: Mapping[str, Any]) -> None:
        """Write an epoch's report, history and status, then the state with these tensors."""
        self.history.append(epoch)
        self.report["epochs_trained"] = epoch.epoch
        self.report["timing"] = {**self.report.get("timing", {}), **self._timing, **self._totals()}
        write_json(self.folder, "report.json", self.report)
        write_history(self.folder, self.history)
        self._write_status()
        save_state(
            self.folder,
            {
                "config_digest": self.config.digest(),
                "data_digest": self.data.digest,
                "epoch": epoch.epoch,
                "history": [dataclasses.asdict(e) for e in self.history],
                "report": self.report,
                **tensors,
            },
        )
        if self.epoch == self.config.epochs and self.config.results_csv:
            upsert_row(self.config.results_csv, benchmark_row(self.report, self.folder.uri))

    def diverged(self, epoch: int, what: str) -> NoReturn:
        """Write the status `diverged` and raise TrainingDiverged."""
        reason = f"epoch {epoch}: {what} at lr = {self.config.lr:g}; use a smaller learning rate"
        self._write_status("diverged", reason, {"kind": "diverged", "epoch": epoch})
        raise TrainingDiverged(reason)

    def trial_report(self) -> TrialReport:
        """Return the run as its folder tells it."""
        return TrialReport(
            status="completed",
            best_epoch=self.report["best_epoch"],
            mean_f1=self.report["mean_f1"],
            epochs_trained=self.epoch,
            history=tuple(self.history),
            report=self.report,
        )

    def _totals(self) -> dict[str, Any]:
        train_s = sum(e.train_s for e in self.history)
        eval_s = sum(e.eval_s for e in self.history)
        on_gpu = self.report["provenance"]["device"] == "cuda"
        return {
            "images_per_s": len(self.data.train) * len(self.history) / train_s,
            "epoch_s": (train_s + eval_s) / len(self.history),
            "train_s": train_s,
            "eval_s": eval_s,
            "peak_memory_gib": max(e.peak_memory_gib for e in self.history),
            "gpu_hours": (train_s + eval_s) / 3600 if on_gpu else 0.0,
        }

    def _write_status(
        self, status: str | None = None, reason: str = "", detail: Mapping[str, Any] | None = None
    ) -> None:
        # The last epoch's files already say `completed`: a scheduler may end the process right after it is reported.
        status = status or ("completed" if self.epoch >= self.config.epochs else "running")
        detail = self._detail if detail is None else detail
        write_status(
            self.folder, status, reason=reason, detail=detail, epochs_trained=self.epoch, attempts=self._attempts
        )
