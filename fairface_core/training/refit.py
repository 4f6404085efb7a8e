"""refit(): train once more on training and validation together, for a length that was chosen before."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from fairface_core.config.train_config import TrainConfig
from fairface_core.dataset.prepare import Data, Split, prepare_data
from fairface_core.dataset.rows import Rows
from fairface_core.errors import ConfigError
from fairface_core.files.folder import open_folder, write_json
from fairface_core.machine.device import choose_device, set_determinism
from fairface_core.training.checks import check_config
from fairface_core.training.fit import Run, exclusive
from fairface_core.training.schedule import epoch_lr
from fairface_core.training.updates import scored_weights
from fairface_core.trial.checkpoint import REFIT_KEY, load_state, remove_states, save_best, save_state
from fairface_core.trial.epoch_writer import EpochWriter
from fairface_core.trial.recorder import Recorder
from fairface_core.trial.reports import best_name
from fairface_core.trial.writing import (
    build_report,
    config_facts,
    scored_details,
    write_confusions,
    write_predictions,
    write_status,
)


def refit(
    config: TrainConfig,
    *,
    epochs: int,
    facts: Mapping[str, Any],
    on_epoch: Callable[[int, float], None] | None = None,
) -> dict[str, Any]:
    """Train a configuration on training and validation images, and leave weights and report in `config.out_dir`.

    Nothing is chosen: the weights are those after the last epoch. Learning rates are those of the first `epochs` of the
    schedule over `config.epochs`, under which that length was found. With `resume`, a state in `out_dir` is gone on from.

    Args:
        config: What to train.
        epochs: How many epochs, 1 to `config.epochs`.
        facts: Where the length came from: goes into `report.json["refit"]`.
        on_epoch: Called after each epoch with its number and training loss, when its state is on disk.

    Returns:
        The content of report.json. It has no validation score, no thresholds of prediction sets, and `mean_f1` is None.

    Raises:
        FairfaceError: As `fairface_core.fit` does.
    """
    check_config(config)
    if not 1 <= epochs <= config.epochs:
        raise ConfigError(f"epochs {epochs}: accepted are 1 to {config.epochs}, the length of the schedule")
    folder = open_folder(config.out_dir)
    with exclusive(folder):
        set_determinism(config.determinism)
        data = _joined(prepare_data(config))
        digests = {"config_digest": config.digest(), "data_digest": f"{data.digest} with validation, {epochs} epochs"}
        state = load_state(folder, **digests) if config.resume else None
        if state is None:
            remove_states(folder)
        write_json(folder, "config.json", {"schema_version": 1, "config": config.model_dump(mode="json")})
        done = int(state["epoch"]) if state else 0
        spent = float(state["train_s"]) if state else 0.0
        recorder = Recorder(config, folder, data)
        with EpochWriter(None) as writer:
            run = Run(config, recorder, writer, choose_device(config.device), data)
            if state is not None:
                run.restore(state)
            for epoch in range(done + 1, epochs + 1):
                write_status(folder, "running", epochs_trained=epoch - 1)
                began = time.perf_counter()
                loss = run.train(epoch, epoch_lr(config, epoch))
                spent += time.perf_counter() - began
                save_state(folder, {**digests, "epoch": epoch, "train_s": spent, **run.state()})
                if on_epoch is not None:
                    on_epoch(epoch, loss)
        began = time.perf_counter()
        logits = run.predict(data.test)
        test_s = time.perf_counter() - began
        if not logits.finite:
            recorder.diverged(epochs, "the outputs on test are not finite")
        told = config_facts(config)
        save_best(folder, scored_weights(run.state()), {**told, REFIT_KEY: True}, epochs, alias=best_name(told))
        write_confusions(folder, logits, data.test)
        write_predictions(folder, {"test": (logits, data.test)})
        report = build_report(
            config,
            best_epoch=epochs,
            val_metrics=None,
            test_metrics=run.score(logits, data.test),
            sections={
                **scored_details(logits, data.test), "data": data.counts, "model": run.model_facts(),
                "provenance": run.provenance(), "epochs_trained": epochs,
                "refit": {**facts, "trained_on": "train and validation", "chosen_by": None},
                "timing": {"images_per_s": len(data.train) * epochs / spent, "train_s": spent,
                           "eval_images_per_s": len(data.test) / test_s},
            },
        )  # fmt: skip
        write_json(folder, "report.json", report)
        write_status(folder, "completed", epochs_trained=epochs)
        remove_states(folder)
        return report


def _joined(data: Data) -> Data:
    """Return the same data with the validation images among the training ones, and none for validation."""
    train, val = data.train, data.val
    rows = Rows(
        csv_name=f"{train.rows.csv_name}+{val.rows.csv_name}",
        **{
            name: np.concatenate([getattr(train.rows, name), getattr(val.rows, name)])
            for name in ("line", "file", "path", "age", "gender")
        },
        race=None,
        in_parquet=train.rows.in_parquet,
    )
    nothing = Split(val.rows.take(np.array([], dtype=np.int64)), np.array([], dtype=np.int64))
    counts = {**data.counts, "rows": {"train": len(rows), "val": 0, "test": len(data.test)}}
    joined = Split(rows, np.concatenate([train.cache_rows, val.cache_rows]))
    return replace(data, train=joined, val=nothing, counts=counts)
