"""Draws run folders as a sweep would leave them, without training: for tests of everything that reads one.

Class scores are simulated first; predictions.parquet holds them, and every metric is computed from them with
scikit-learn, so that the files of a trial agree as those of a real one do. ASHA's stops follow from the histories.
The files are written by the project's own writers: a change of format cannot pass unseen.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from sklearn.metrics import accuracy_score, f1_score

from fairface_core.config.train_config import make_config
from fairface_core.files.folder import open_folder, read_json, write_json
from fairface_core.trial.reports import EpochReport
from fairface_core.trial.writing import (
    build_report,
    scored_details,
    write_confusions,
    write_history,
    write_predictions,
    write_status,
)
from sweep.plan.names import trial_name
from sweep.plan.plan import Plan, PlannedTrial
from sweep.space.scheduler import SchedulerSpec

RACES = ("White", "Black", "Latino_Hispanic", "East Asian", "Southeast Asian", "Indian", "Middle Eastern")
# Shares of the age groups in FairFace's validation labels, to two digits.
AGE_SHARES = np.array([0.02, 0.12, 0.11, 0.30, 0.21, 0.12, 0.07, 0.03, 0.02])
PROVENANCE = {
    "code_digest": "0f1e2d3c4b5a",
    "git_commit": None,
    "python": "3.11.2",
    "platform": "linux-x86_64",
    "versions": {"torch": "2.14.1", "torchvision": "0.29.1", "ray": "2.60.0"},
    "device": "cuda",
    "device_name": "drawn GPU",
    "data_digest": "c0ffee",
    "amp_dtype": "bfloat16",
}


@dataclass(frozen=True)
class Backbone:
    """What a simulated backbone does: its skill at its best learning rate, that rate, and what it costs."""

    skill: float
    best_lr: float
    num_params: int
    images_per_s: float
    memory_gib: float


BACKBONES = {
    "resnet50": Backbone(0.90, 3e-4, 25_072_715, 1310.0, 9.1),
    "convnext_tiny": Backbone(1.02, 3e-4, 28_402_795, 870.0, 11.8),
    "efficientnet_v2_s": Backbone(1.00, 3e-4, 21_162_203, 350.0, 24.6),
    "vit_b_16": Backbone(0.97, 3e-5, 86_390_539, 610.0, 13.9),
}


@dataclass(frozen=True)
class Shape:
    """How a run folder is drawn.

    Attributes:
        spaces: Backbone to its learning rates.
        ends: Trial position to a status other than the one it would have: failed, diverged, running, planned, skipped.
    """

    spaces: Mapping[str, Sequence[float]] = field(
        default_factory=lambda: {
            name: (1e-5, 3e-5, 1e-4) if name == "vit_b_16" else (1e-4, 3e-4, 1e-3) for name in BACKBONES
        }
    )
    seeds: Sequence[int] = (41, 42, 43)
    epochs: int = 20
    num_val: int = 900
    num_test: int = 500
    race: bool = True
    asha: bool = True
    ends: Mapping[int, str] = field(default_factory=dict)
    rng_seed: int = 0
    extra: Mapping[str, Sequence[Any]] = field(default_factory=dict)


class Images:
    """A split: labels, races, and how hard each image is for every model alike."""

    def __init__(self, num_rows: int, rng: np.random.Generator, *, race: bool, first_line: int) -> None:
        self.csv_name = "fairface_label_val.csv"
        self.line = np.arange(first_line, first_line + num_rows)
        self.file = np.array([f"val/{n}.jpg" for n in self.line - 1], dtype=object)
        self.age = rng.choice(9, num_rows, p=AGE_SHARES)
        self.age[:18] = np.arange(18) % 9
        self.gender = rng.integers(0, 2, num_rows)
        self.race = np.array(RACES, dtype=object)[rng.integers(0, 7, num_rows)] if race else None
        self.hard = rng.normal(size=(num_rows, 11))
        self.darker = np.isin(self.race, RACES[1:2]) * 0.5 if race else np.zeros(num_rows)

    def __len__(self) -> int:
        return len(self.age)


def draw_logits(images: Images, skill: float, rng: np.random.Generator) -> SimpleNamespace:
    """Return age logits [N, 9] and gender logits [N, 2] that are right more often the larger `skill` is."""
    noise = 0.8 * images.hard + 0.6 * rng.normal(size=images.hard.shape)
    distance = np.abs(np.arange(9) - images.age[:, None])
    age = skill * np.exp(-0.55 * distance) * 3.2 + noise[:, :9]
    gender = (skill * 2.1 - images.darker)[:, None] * (np.arange(2) == images.gender[:, None]) + 0.7 * noise[:, 9:]
    return SimpleNamespace(age=(1.2 * age).astype(np.float32), gender=(1.8 * gender).astype(np.float32))


def scores(logits: SimpleNamespace, images: Images) -> dict[str, float]:
    """Return a split's metrics, computed with scikit-learn; the loss is the plain cross-entropy."""
    age, gender = logits.age.argmax(1), logits.gender.argmax(1)
    age_f1m = f1_score(images.age, age, labels=range(9), average="macro", zero_division=0)
    gen_f1m = f1_score(images.gender, gender, labels=range(2), average="macro", zero_division=0)
    return {
        "loss": (_cross_entropy(logits.age, images.age) + _cross_entropy(logits.gender, images.gender)) / 2,
        "age_acc": float(accuracy_score(images.age, age)),
        "age_f1m": float(age_f1m),
        "gen_acc": float(accuracy_score(images.gender, gender)),
        "gen_f1m": float(gen_f1m),
        "mean_f1": float(age_f1m + gen_f1m) / 2,
    }


def _cross_entropy(logits: np.ndarray, truth: np.ndarray) -> float:
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    return float((np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(truth)), truth]).mean())


def make_run(folder: Path, shape: Shape | None = None) -> Path:
    """Draw a run folder; equal shapes give equal files."""
    shape = shape or Shape()
    rng = np.random.default_rng(shape.rng_seed)
    val = Images(shape.num_val, rng, race=shape.race, first_line=2)
    test = Images(shape.num_test, rng, race=shape.race, first_line=2 + shape.num_val)
    plan = [
        _planned(name, lr, seed, shape, dict(zip(shape.extra, values, strict=True)))
        for name, lrs in shape.spaces.items()
        for lr in lrs
        for values in itertools.product(*shape.extra.values())
        for seed in shape.seeds
    ]
    trials = [_Trial(planned, shape, val, test, rng) for planned in plan]
    if shape.asha:
        for name in shape.spaces:
            _halve([t for t in trials if t.planned["group"] == name], shape)
    run = open_folder(folder)
    for position, trial in enumerate(trials):
        trial.write(run.sub("trials", trial.planned["trial_id"]), shape.ends.get(position))
    drawn_plan = Plan(
        space_digest="5f0c2a1b9d3e",
        space={"space": {}},
        group_by="backbone",
        epochs=shape.epochs,
        scheduler=SchedulerSpec(kind="asha" if shape.asha else "fifo"),
        trials=tuple(PlannedTrial(**trial) for trial in plan),
    )
    write_json(run, "plan.json", drawn_plan.to_json())
    over = not {"running", "planned"} & set(shape.ends.values())
    write_json(run, "sweep.json", _sweep(done=over))
    run.write("space.yaml", _space_text(shape).encode())
    return folder


def _planned(name: str, lr: float, seed: int, shape: Shape, extra: dict[str, Any]) -> dict[str, Any]:
    values = {"backbone": name, "lr": lr, **extra, "epochs": shape.epochs, "batch_size": 128, "weight_decay": 1e-4}
    digests = [hashlib.sha256(repr(v).encode()).hexdigest() for v in (values, {**values, "seed": seed})]
    return {
        "trial_id": trial_name(name, {"lr": lr, **extra}, seed, digests[1]),
        "config": {**values, "seed": seed},
        "group": name,
        "seed": seed,
        "config_id": trial_name(name, {"lr": lr, **extra}, None, digests[0]),
        "explores": True,
        "cpu": 4.0,
        "gpu": 1.0,
    }


def add_seeds(folder: Path, num_trials: int) -> None:
    """Make a drawn run larger by copying its trials under further seeds: 20 times faster than drawing them."""
    run = open_folder(folder)
    plan = read_json(run, "plan.json")
    drawn = list(plan["trials"])
    for position in range(num_trials - len(drawn)):
        old = drawn[position % len(drawn)]
        seed = 1000 + position // len(drawn)
        new = {**old, "seed": seed, "config": {**old["config"], "seed": seed}}
        new["trial_id"] = f"{old['config_id']}-s{seed}"
        source, target = folder / "trials" / old["trial_id"], folder / "trials" / new["trial_id"]
        shutil.copytree(source, target)
        for name in ("report.json", "config.json"):
            facts = read_json(open_folder(target), name)
            facts["config"]["seed"] = seed
            write_json(open_folder(target), name, facts)
        plan["trials"].append(new)
    write_json(run, "plan.json", plan)


class _Trial:
    """A trial's scores at the full budget, and its curve to there; ASHA may then cut it short."""

    def __init__(
        self, planned: dict[str, Any], shape: Shape, val: Images, test: Images, rng: np.random.Generator
    ) -> None:
        self.planned, self.shape, self.val, self.test = planned, shape, val, test
        self.backbone = BACKBONES[planned["group"]]
        away = math.log10(planned["config"]["lr"] / self.backbone.best_lr)
        self.skill = self.backbone.skill * (1 - 0.35 * away**2) + 0.012 * rng.normal()
        self.rng_seed = int(rng.integers(2**32))
        self.tau = 2.2 if planned["group"] != "vit_b_16" else 4.0
        self.best_epoch = int(rng.integers(round(0.7 * shape.epochs), shape.epochs + 1)) or 1
        self.trained = shape.epochs
        self.stop: dict[str, Any] = {}
        self._score()

    def _score(self) -> None:
        """Draw predictions of the best epoch, and the curve that passes through their score."""
        rng = np.random.default_rng(self.rng_seed)
        self.val_logits = draw_logits(self.val, self.skill, rng)
        self.test_logits = draw_logits(self.test, self.skill, rng)
        self.val_metrics, self.test_metrics = (
            scores(self.val_logits, self.val),
            scores(self.test_logits, self.test),
        )
        epoch = np.arange(1, self.trained + 1)
        best = min(self.best_epoch, self.trained)
        share = 1 - 0.45 * np.exp(-epoch / self.tau) - 0.0015 * np.maximum(epoch - best, 0)
        share += 0.004 * rng.normal(size=self.trained)
        share[best - 1] = max(share.max(), 1e-3)
        curve = self.val_metrics["mean_f1"] * share / share[best - 1]
        curve[epoch != best] = np.minimum(curve[epoch != best], self.val_metrics["mean_f1"] - 1e-6)
        curve[best - 1] = self.val_metrics["mean_f1"]
        self.curve = curve.tolist()

    def stop_at(self, rung: int, cutoff: float) -> None:
        """End at a rung, below its cutoff."""
        self.trained = self.best_epoch = rung
        while True:
            self._score()
            if self.curve[-1] < cutoff or self.skill < 1e-3:
                break
            self.skill *= 0.96
        self.stop = {"kind": "asha", "rung": rung, "epoch": rung, "score": self.curve[-1], "cutoff": cutoff,
                     "phase": "explore"}  # fmt: skip

    def write(self, folder: Any, end: str | None) -> None:
        """Write the trial folder."""
        if end == "planned":
            return
        if end in ("skipped", "failed"):
            reason = {
                "skipped": "seed of a configuration that was not confirmed",
                "failed": "worker died (out of memory at batch_size 128); gave up after 3 attempts",
            }[end]
            write_status(folder, end, epochs_trained=0, reason=reason, attempts=3 if end == "failed" else 0)
            return
        if end in ("running", "diverged"):
            self.trained = min(self.trained, max(1, self.shape.epochs // 3))
            self.best_epoch = min(self.best_epoch, self.trained)
            self.stop = {}
            self._score()
        status = end or ("stopped" if self.stop else "completed")
        reason = {"diverged": f"epoch {self.trained + 1}: the training loss is nan; use a smaller learning rate",
                  "stopped": f"ASHA stopped it at epoch {self.trained}"}.get(status, "")  # fmt: skip
        config = make_config({**self.planned["config"], "out_dir": "runs/drawn", "root": "drawn"})
        images = (self.val, self.test)
        val_split, test_split = (SimpleNamespace(rows=rows) for rows in images)
        write_confusions(folder, self.test_logits, test_split)
        write_predictions(folder, {"val": (self.val_logits, val_split), "test": (self.test_logits, test_split)})
        history = self._history()
        best = max(history, key=lambda e: e.mean_f1)
        report = build_report(
            config,
            best_epoch=best.epoch,
            val_metrics=self.val_metrics,
            test_metrics=self.test_metrics,
            sections={
                **scored_details(self.test_logits, test_split),
                "data": {"rows": {"train": 86_744, "val": len(self.val), "test": len(self.test)},
                         "protocol": "seed", "repaired": {}},
                "model": {"backbone": config.backbone, "num_params": self.backbone.num_params, "image_size": 224,
                          "weights": "imagenet", "weights_sha256": None},
                "provenance": {**PROVENANCE, "config_digest": config.digest(), "seed": config.seed},
            },
        )  # fmt: skip
        report["epochs_trained"] = self.trained
        train_s = sum(e.train_s for e in history)
        seconds = train_s + sum(e.eval_s for e in history)
        report["timing"] = {
            "images_per_s": self.backbone.images_per_s, "eval_images_per_s": 2.6 * self.backbone.images_per_s,
            "epoch_s": seconds / len(history), "train_s": train_s, "eval_s": seconds - train_s,
            "peak_memory_gib": self.backbone.memory_gib, "gpu_hours": seconds / 3600,
        }  # fmt: skip
        write_json(folder, "config.json", {"schema_version": 1, "config": config.model_dump(mode="json")})
        write_json(folder, "report.json", report)
        write_history(folder, history)
        write_status(folder, status, epochs_trained=self.trained, reason=reason, detail=self.stop)

    def _history(self) -> list[EpochReport]:
        history: list[EpochReport] = []
        cosine = [(1 + math.cos(math.pi * k / self.shape.epochs)) / 2 for k in range(self.shape.epochs)]
        best_epoch, best = 1, -1.0
        for k, mean_f1 in enumerate(self.curve):
            if mean_f1 > best:
                best_epoch, best = k + 1, mean_f1
            share = mean_f1 / self.val_metrics["mean_f1"]
            history.append(
                EpochReport(
                    epoch=k + 1,
                    lr=self.planned["config"]["lr"] * cosine[k],
                    train_loss=1.6 - 0.9 * share,
                    val_loss=self.val_metrics["loss"] / share,
                    val_age_acc=self.val_metrics["age_acc"] * share,
                    val_age_f1m=self.val_metrics["age_f1m"] * share,
                    val_gen_acc=self.val_metrics["gen_acc"] * share,
                    val_gen_f1m=self.val_metrics["gen_f1m"] * share,
                    mean_f1=mean_f1,
                    best_epoch=best_epoch,
                    best_mean_f1=best,
                    train_s=86_744 / self.backbone.images_per_s,
                    eval_s=4.2,
                    images_per_s=self.backbone.images_per_s,
                    peak_memory_gib=self.backbone.memory_gib,
                )
            )
        return history


def rungs(epochs: int, grace: int = 3, factor: int = 3) -> list[int]:
    """Return ASHA's milestones below the full budget."""
    return list(itertools.takewhile(lambda e: e < epochs, (grace * factor**k for k in itertools.count())))


def _halve(trials: list[_Trial], shape: Shape) -> None:
    """Stop two thirds of a group at each rung; then give the best configuration's seeds their full budget back."""
    winner = max(
        {t.planned["config_id"] for t in trials},
        key=lambda c: np.mean([t.val_metrics["mean_f1"] for t in trials if t.planned["config_id"] == c]),
    )
    alive = list(trials)
    for rung in rungs(shape.epochs):
        ranked = sorted(alive, key=lambda t: -t.curve[rung - 1])
        keep = max(1, math.ceil(len(ranked) / 3))
        cutoff = ranked[keep - 1].curve[rung - 1]
        for trial in ranked[keep:]:
            if trial.planned["config_id"] != winner:
                trial.stop_at(rung, cutoff)
        alive = ranked[:keep]


def _sweep(*, done: bool) -> dict[str, Any]:
    session = {
        "started": "2026-03-01T08:00:00+00:00",
        "ended": "2026-03-02T03:12:45+00:00" if done else None,
        "exit_code": 0 if done else None,
        "code_digest": PROVENANCE["code_digest"],
        "versions": PROVENANCE["versions"],
        "num_nodes": 1,
    }
    return {"schema_version": 1, "space_file": "backbones.yaml", "sessions": [session]}


def _space_text(shape: Shape) -> str:
    lines = ["# Which backbone, at which learning rate? Drawn for a test.", "data: {root: null}", "space:"]
    lines.append(f"  backbone: {{grid: [{', '.join(shape.spaces)}]}}")
    lines.append(f"  lr: {{grid: [{', '.join(f'{lr:g}' for lr in next(iter(shape.spaces.values())))}]}}")
    lines.append(f"  seed: {{grid: [{', '.join(map(str, shape.seeds))}]}}")
    lines.append(f"fixed: {{epochs: {shape.epochs}, batch_size: 128, weight_decay: 1e-4}}")
    kind = "asha" if shape.asha else "fifo"
    lines.append(f"scheduler: {{kind: {kind}, grace_epochs: 3, reduction_factor: 3, confirm: true}}")
    return "\n".join(lines) + "\n"
