"""fit(): the epoch loop. What a run does; `recorder` says what of it reaches the disk, and when."""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fairface_core.backbones import input_size
from fairface_core.config.train_config import TrainConfig
from fairface_core.dataset.prepare import Data, Split, prepare_data
from fairface_core.errors import CheckpointError, StorageError
from fairface_core.files.folder import Folder, open_folder
from fairface_core.files.locks import locked_file
from fairface_core.machine.device import (
    choose_amp_dtype,
    choose_device,
    choose_memory_format,
    choose_scoring_dtype,
    peak_memory_gib,
    set_determinism,
)
from fairface_core.machine.provenance import provenance
from fairface_core.machine.pulse import beat
from fairface_core.model.adjust import adjust
from fairface_core.model.network import build_model, num_params
from fairface_core.model.objective import Objective
from fairface_core.model.weights import ensure_weights, file_digest
from fairface_core.scoring.metrics import Logits, constant_mean_f1, split_metrics
from fairface_core.training.augment import augment, draw_params
from fairface_core.training.batches import parts, train_batches
from fairface_core.training.checks import check_config
from fairface_core.training.inference import eval_batch_size, predict
from fairface_core.training.mixing import erase_, make_mixing
from fairface_core.training.schedule import epoch_lr, warmup_share
from fairface_core.training.seeding import derived_seed
from fairface_core.training.updates import Updates, freeze_backbone, scored_weights
from fairface_core.trial.epoch_writer import EpochWriter
from fairface_core.trial.recorder import Recorder
from fairface_core.trial.reports import EpochReport, TrialReport

# The mean of two class-weighted cross-entropies is about 1.4 at chance; a loss this far above it only grows.
DIVERGED_LOSS = 1e4
# A check reads the device, which waits for it: once in so many steps costs nothing that can be measured.
_STEPS_BETWEEN_CHECKS = 100
# A worker whose driver was killed ends within seconds.
LOCK_TIMEOUT_S = 60.0


def fit(
    config: TrainConfig, *, on_epoch: Callable[[EpochReport], None] | None = None, data: Data | None = None
) -> TrialReport:
    """Train one configuration and leave its complete folder in `config.out_dir`.

    Args:
        config: What to train. With `resume`, a state in `out_dir` is gone on from; the result equals, bit for bit on
            the CPU, that of a run which was never interrupted.
        on_epoch: Called for each epoch in order, by the calling thread, when all files of the epoch are on disk and none
            of a later one is; the next epoch may have begun to train. It may raise to end the run there.
        data: What `prepare_data(config)` returned, from whoever has called it already.

    Returns:
        The report of the best epoch, chosen on validation alone.

    Raises:
        FairfaceError: Before training, for anything wrong with config, data, weights or state.
        TrainingDiverged: When a loss or an output is not finite; the folder's status is then `diverged`.
        StorageError: When the folder refuses a write.
    """
    check_config(config)
    folder = open_folder(config.out_dir)
    with exclusive(folder):
        set_determinism(config.determinism)
        device = choose_device(config.device)
        if data is None:
            data = prepare_data(config)
        recorder = Recorder(config, folder, data)
        state = recorder.start()
        with EpochWriter(on_epoch) as writer:
            run = Run(config, recorder, writer, device, data)
            if state is not None:
                run.restore(state)
            for epoch in range(recorder.epoch + 1, config.epochs + 1):
                run.train_one_epoch(epoch)
            writer.finish()
        return recorder.trial_report()


@contextlib.contextmanager
def exclusive(folder: Folder) -> Iterator[None]:
    """Keep a second process out of the folder, such as the orphan of a driver that was killed."""
    path = folder.path()
    if path is None:
        yield
        return
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"out_dir {path}: cannot be made ({error.strerror or error})") from error
    try:
        with locked_file(path / ".lock", timeout_s=LOCK_TIMEOUT_S):
            yield
    except TimeoutError as error:
        raise StorageError(f"{path}: another process is training here; wait for it or end it") from error


class Run:
    """One fit in memory: what an epoch needs and what a checkpoint holds."""

    def __init__(
        self, config: TrainConfig, recorder: Recorder, writer: EpochWriter, device: torch.device, data: Data
    ) -> None:
        self.config, self.recorder, self.writer, self.device, self.data = config, recorder, writer, device, data
        self.image_size = input_size(config.backbone, config.image_size)
        self.amp_dtype = choose_amp_dtype(config, device)
        self.scoring_dtype = choose_scoring_dtype(config, device)
        self.memory_format = choose_memory_format(config)
        torch.manual_seed(derived_seed(config.seed, 0, "initialization"))
        self.model = build_model(
            config.backbone, image_size=config.image_size, dropout=config.dropout, weights=config.weights,
            weights_map=config.weights_map, age_loss=config.age_loss,
        ).to(device)  # fmt: skip
        adjust(self.model.feature_extractor, drop_path=config.drop_path, norm_momentum=config.norm_momentum)
        self.model.to(memory_format=self.memory_format)
        self.network: nn.Module = torch.compile(self.model) if config.compile else self.model  # type: ignore[assignment]
        self.updates = Updates(config, self.model, device, scaled=self.amp_dtype == torch.float16)
        # What is scored, selected by and saved as best.pt.
        self.scored: nn.Module = self.network if self.updates.averaged is None else self.updates.averaged
        self.mixing = make_mixing(config)
        self.objective = Objective.of(config, data.train.rows.age, data.train.rows.gender, device)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over the tensors of a saved state.

        Raises:
            CheckpointError: If they are not those of this model and optimizer.
        """
        try:
            self.model.load_state_dict(state["model"])
            self.updates.restore(state)
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise CheckpointError(
                f"{self.config.out_dir}: state.pt does not fit this model; delete the folder to train it anew"
            ) from error

    def state(self) -> dict[str, Any]:
        """Return a copy, in host memory, of the tensors to save. Generators need no saving: each epoch derives its own."""
        return {"model": _copied(self.model.state_dict()), **_copied(self.updates.state())}

    def train_one_epoch(self, epoch: int) -> None:
        """Train and validate an epoch, and begin to write it; the one before it is told of on the way."""
        config, recorder = self.config, self.recorder
        lr = epoch_lr(config, epoch)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        began, told_s = time.perf_counter(), self.writer.told_s
        train_loss = self.train(epoch, lr)
        train_s = time.perf_counter() - began - (self.writer.told_s - told_s)
        began = time.perf_counter()
        logits = self.predict(self.data.val)
        raw_mean_f1 = self._raw_mean_f1()
        eval_s = time.perf_counter() - began
        began, told_s = time.perf_counter(), self.writer.told_s
        self.writer.finish()
        write_wait_s = time.perf_counter() - began - (self.writer.told_s - told_s)
        if not logits.finite:
            recorder.diverged(epoch, "the outputs on validation are not finite")
        val = self.score(logits, self.data.val)
        best = recorder.best
        is_best = best is None or val["mean_f1"] > best.mean_f1
        peak_memory, peak_reserved = peak_memory_gib(self.device)
        report = EpochReport(
            epoch=epoch,
            lr=lr,
            train_loss=train_loss,
            val_loss=val["loss"],
            val_age_acc=val["age_acc"],
            val_age_f1m=val["age_f1m"],
            val_gen_acc=val["gen_acc"],
            val_gen_f1m=val["gen_f1m"],
            mean_f1=val["mean_f1"],
            best_epoch=epoch if best is None or is_best else best.epoch,
            best_mean_f1=val["mean_f1"] if best is None or is_best else best.mean_f1,
            train_s=train_s,
            eval_s=eval_s,
            images_per_s=len(self.data.train) / train_s,
            peak_memory_gib=peak_memory,
            constant_mean_f1=constant_mean_f1(self.data.val.rows.age, self.data.val.rows.gender),
            peak_reserved_gib=peak_reserved,
            write_wait_s=write_wait_s,
            val_images=len(self.data.val),
            raw_mean_f1=raw_mean_f1,
        )
        state = self.state()
        write_best = self._best_writer(epoch, logits, val, scored_weights(state)) if is_best else None

        def write() -> None:
            if write_best is not None:
                write_best()
            recorder.commit(report, state)

        self.writer.submit(report, write)

    def train(self, epoch: int, lr: float) -> float:
        """Train one epoch and return its mean loss."""
        config, data = self.config, self.data
        self.updates.set_lr(lr)
        # Dropout draws from the global generator, augmentation from its own, on the CPU for every device.
        torch.manual_seed(derived_seed(config.seed, epoch, "dropout"))
        generator = torch.Generator().manual_seed(derived_seed(config.seed, epoch, "augmentation"))
        erasing = torch.Generator().manual_seed(derived_seed(config.seed, epoch, "erasing"))
        self.network.train()
        if config.freeze_epochs:
            freeze_backbone(self.model, epoch <= config.freeze_epochs)
        loss_sum = torch.zeros((), device=self.device)
        batches = train_batches(
            data.cache, data.train, batch_size=config.batch_size, seed=config.seed, epoch=epoch, device=self.device,
            balanced=config.sampler == "balanced",
        )  # fmt: skip
        seen = 0
        with contextlib.closing(batches):
            for step, batch in enumerate(batches):
                seen += len(batch.age)
                if epoch <= config.warmup_epochs:
                    self.updates.set_lr(lr * warmup_share(epoch, seen / len(data.train)))
                params = draw_params(
                    len(batch.age), self.image_size, generator, config.crop_scale_min, config.color_jitter_strength
                )
                images = augment(batch.images, params, self.image_size, self.memory_format)
                if config.random_erasing:
                    erase_(images, config.random_erasing, erasing)
                age, gender = batch.age, batch.gender
                if self.mixing is not None:
                    images, age, gender = self.mixing(images, age, gender)
                loss_sum += self._step(images, age, gender) * len(age)
                beat()
                self.writer.poll()
                if step % _STEPS_BETWEEN_CHECKS == 0:
                    self._check_loss(epoch, loss_sum, seen)
        return self._check_loss(epoch, loss_sum, seen)

    def _step(self, images: Tensor, age: Tensor, gender: Tensor) -> Tensor:
        """Take one optimizer step on a batch and return its loss, a detached scalar on the device."""
        totals = self.objective.totals(age, gender)
        size = self.config.micro_batch_size or len(age)
        loss = torch.zeros((), device=self.device)
        for start, stop in parts(len(age), size, join_single=size > 1):
            piece = images[start:stop].contiguous(memory_format=self.memory_format)
            with torch.autocast(self.device.type, dtype=self.amp_dtype, enabled=self.amp_dtype is not None):
                age_logits, gender_logits = self.network(piece)
            piece_loss = self.objective.loss(age_logits, gender_logits, age[start:stop], gender[start:stop], totals)
            self.updates.scaler.scale(piece_loss).backward()
            loss += piece_loss.detach()
        self.updates.step()
        return loss

    def _check_loss(self, epoch: int, loss_sum: Tensor, seen: int) -> float:
        loss = loss_sum.item() / seen
        if not math.isfinite(loss) or loss > DIVERGED_LOSS:
            self.writer.finish()
            self.recorder.diverged(epoch, f"the training loss is {loss:.3g}")
        return loss

    def _raw_mean_f1(self) -> float:
        """Score the weights that are trained on validation, where their moving average is what counts."""
        if self.updates.averaged is None:
            return 0.0
        return self.score(self.predict(self.data.val, self.network), self.data.val)["mean_f1"]

    def predict(self, split: Split, network: nn.Module | None = None) -> Logits:
        """Return the outputs of the weights that are scored, or of a given network, for a split, in its order."""
        return predict(
            network or self.scored, self.data.cache, split, image_size=self.image_size,
            batch_size=eval_batch_size(self.config, self.device),
            device=self.device, amp_dtype=self.scoring_dtype, memory_format=self.memory_format,
        )  # fmt: skip

    def score(self, logits: Logits, split: Split) -> dict[str, float]:
        """Return the metrics of a split."""
        objective = self.objective
        return split_metrics(
            logits,
            split.rows,
            class_weights=(objective.age_weights.cpu().numpy(), objective.gender_weights.cpu().numpy()),
            age_loss_weight=objective.age_loss_weight,
            batch_size=self.config.batch_size,
        )

    def _best_writer(
        self, epoch: int, val_logits: Logits, val_metrics: dict[str, float], weights: Mapping[str, Tensor]
    ) -> Callable[[], None]:
        """Score the test split with the weights of a new best epoch; return what writes all that is said of them."""
        test = self.data.test
        began = time.perf_counter()
        test_logits = self.predict(test)
        test_s = time.perf_counter() - began
        return functools.partial(
            self.recorder.write_best,
            epoch,
            weights,
            val=(val_logits, val_metrics),
            test=(test_logits, self.score(test_logits, test)),
            model_facts=self.model_facts(),
            provenance=self.provenance(),
            eval_images_per_s=len(test) / test_s,
        )

    def model_facts(self) -> dict[str, Any]:
        """Return `report.json["model"]`."""
        config = self.config
        weights_path = ensure_weights(config.backbone, config.weights)
        return {
            "backbone": config.backbone,
            "num_params": num_params(self.model),
            "image_size": self.image_size,
            "weights": config.weights if config.weights in ("imagenet", "none") else "file",
            "weights_sha256": file_digest(weights_path) if weights_path else None,
            "scored_weights": "trained" if self.updates.averaged is None else "moving average",
        }

    def provenance(self) -> dict[str, Any]:
        """Return `report.json["provenance"]`."""
        config = self.config
        return provenance(
            self.device,
            seed=config.seed,
            config_digest=config.digest(),
            data_digest=self.data.digest,
            amp_dtype=str(self.amp_dtype).removeprefix("torch.") if self.amp_dtype else "float32",
            micro_batch_size=config.micro_batch_size,
        )


def _copied(value: Any) -> Any:
    """Return a nested dict or list with every tensor copied to host memory."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(item) for item in value)
    return value
