"""A model of a sweep on 1, 8 and 64 GPUs: what it needs of each part, and what breaks first.

    python -m benchmarks.scale_model --images_per_s resnet50=2800 vit_b_16=1400 --gather_per_s 50000
    python -m benchmarks.scale_model --measured gpu.json --storage_gb_per_s 0.5
    python -m benchmarks.scale_model --run-dir runs/<name> --start_s 9        # checked against a run

Pure arithmetic on measured figures: rates of one GPU, of one host core, of the disk, seconds of driver work per report.
A backbone without a measured rate is named `assumed`. The figure of a row is need over supply of its most loaded part:
above 1 that part holds the GPUs up. `--run-dir` checks the model against a run that was made in one go: with the rates
of its trials, which already hold what the machine did to them, the row `prediction` is the model's time over the clock's.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.inputs import FULL_TRAIN, FULL_VAL
from benchmarks.measure import Row, parser, show
from fairface_core.backbones import BACKBONES
from fairface_core.files.folder import open_folder
from sweep.driving.placement import Needs, Placement
from sweep.run_folder.records import RunRecord, TrialRecord, read_run

# float32: weights and two moments of AdamW in a state, weights in best.pt; a folder keeps two states.
_STATE_BYTES_PER_PARAM = 12
_WEIGHT_BYTES_PER_PARAM = 4
_KEPT_BYTES_PER_PARAM = 2 * _STATE_BYTES_PER_PARAM + _WEIGHT_BYTES_PER_PARAM


@dataclass(frozen=True)
class Machine:
    """What one node offers, and what was measured on it. Defaults are assumptions unless a source stands with them.

    Attributes:
        gpus_per_node: GPUs of a node.
        cores_per_node: Host cores of a node.
        memory_gib: Memory of a node.
        storage_gb_per_s: Bytes written per second to the folder that all nodes share, 1e9.
        network_gb_per_s: Bytes per second into a node, for the first copy of the images.
        gather_per_s: Images that one core gathers from the cache each second (about 50,000 at 224 px).
        decode_per_s: Images that one core decodes each second (3,200 with Pillow).
        start_s: Seconds from a fresh worker to its first step, the CUDA context included.
        report_s: Seconds of the driver's time for each epoch that is reported (Ray's own test: 9 ms a trial).
        step_cores: Cores that one trial keeps busy: one that launches kernels, one that gathers now and then.
        process_gib: Host memory of one trial beside the images.
    """

    gpus_per_node: int = 8
    cores_per_node: int = 96
    memory_gib: float = 512.0
    storage_gb_per_s: float = 1.0
    network_gb_per_s: float = 1.0
    gather_per_s: float = 50_000.0
    decode_per_s: float = 3_200.0
    start_s: float = 10.0
    report_s: float = 0.009
    step_cores: float = 1.1
    process_gib: float = 3.0


@dataclass(frozen=True)
class Sweep:
    """What is run.

    Attributes:
        trials: Number of trials.
        epochs: Full budget.
        share: Share of the full grid's epochs that is really trained (ASHA and confirm).
        num_train: Training images.
        num_val: Rows of the val CSV: 80 % scored each epoch, 20 % at each new best.
        image_px: Side of a cached image, pixels.
        images_per_s: Training rate of one GPU.
        eval_images_per_s: Evaluation rate of one GPU; None for three times the training rate.
        num_params: Parameters of the model.
    """

    trials: int = 1_000
    epochs: int = 20
    share: float = 1.0
    num_train: int = FULL_TRAIN
    num_val: int = FULL_VAL
    image_px: int = 224
    images_per_s: float = 2_500.0
    eval_images_per_s: float | None = None
    num_params: int = 25_100_000


def epoch_s(sweep: Sweep, machine: Machine) -> float:
    """Return the seconds of one epoch on one GPU that has the storage to itself, a new best each epoch (the worst).

    An epoch is written while the next one trains, so the longer of the two counts.
    """
    scoring = sweep.num_val / (sweep.eval_images_per_s or 3 * sweep.images_per_s)
    writing = bytes_per_epoch(sweep) / (machine.storage_gb_per_s * 1e9)
    return max(sweep.num_train / sweep.images_per_s + scoring, writing)


def bytes_per_epoch(sweep: Sweep) -> float:
    """Return what a trial writes after an epoch: its whole state, the best weights, and the small files."""
    return sweep.num_params * (_STATE_BYTES_PER_PARAM + _WEIGHT_BYTES_PER_PARAM) + 1e6


def needs(sweep: Sweep, machine: Machine, gpus: int) -> dict[str, float]:
    """Return need over supply of each resource while `gpus` trials run at once; above 1 it holds the GPUs up."""
    per_node = min(gpus, machine.gpus_per_node)
    cached_gib = (sweep.num_train + sweep.num_val) * 3 * sweep.image_px**2 / 2**30
    feeding = sweep.images_per_s / machine.gather_per_s
    one_epoch_s = epoch_s(sweep, machine)
    # The copy of the state that is being written.
    trial_gib = machine.process_gib + sweep.num_params * _STATE_BYTES_PER_PARAM / 2**30
    return {
        "host_cores": per_node * (machine.step_cores + feeding) / machine.cores_per_node,
        "host_memory": (cached_gib + per_node * trial_gib) / machine.memory_gib,
        "storage": gpus * bytes_per_epoch(sweep) / one_epoch_s / (machine.storage_gb_per_s * 1e9),
        "driver": gpus * machine.report_s / one_epoch_s,
    }


def sweep_s(sweep: Sweep, machine: Machine, gpus: int) -> dict[str, float]:
    """Return the seconds of the parts of a sweep; `total` is what a wall clock shows."""
    epochs = sweep.trials * sweep.epochs * sweep.share
    slowdown = max(1.0, *needs(sweep, machine, gpus).values())
    images = sweep.num_train + sweep.num_val
    # Each node fills its own cache; JPEGs are about 6 kB.
    cores = min(machine.cores_per_node, 32)
    cache = max(images / (machine.decode_per_s * cores), images * 6e3 / (machine.network_gb_per_s * 1e9))
    training = epochs * epoch_s(sweep, machine) * slowdown / gpus
    # At the end some GPUs have nothing left to do: half a trial on average.
    tail = 0.0 if gpus == 1 else 0.5 * sweep.epochs * epoch_s(sweep, machine)
    # Workers are reused, so each GPU pays one start.
    total = cache + machine.start_s + training + tail
    return {"cache": cache, "start": machine.start_s, "training": training, "tail": tail, "total": total}


def model_rows(sweep: Sweep, machine: Machine, gpu_counts: Sequence[int], label: str) -> list[Row]:
    """Return one row for each number of GPUs: its most loaded resource."""
    rows = []
    for gpus in gpu_counts:
        load = needs(sweep, machine, gpus)
        first = max(load, key=lambda name: load[name])
        parts = sweep_s(sweep, machine, gpus)
        alone = sweep_s(sweep, machine, 1)["total"]
        rows.append(
            Row(
                f"scale_model.{label}.{gpus}_gpus",
                load[first],
                1.0,
                1,
                sense="<=",
                facts={
                    "breaks_first": first,
                    "gpus_until_it_breaks": int(gpus / load[first]) if first in ("storage", "driver") else None,
                    **{f"{name}_load": value for name, value in load.items()},
                    "hours": parts["total"] / 3600,
                    "efficiency": alone / (gpus * parts["total"]),
                    "images_per_s_per_gpu": sweep.images_per_s / max(1.0, load[first]),
                    "cores_per_gpu": machine.step_cores + sweep.images_per_s / machine.gather_per_s,
                    "storage_gb_written": sweep.trials * sweep.epochs * sweep.share * bytes_per_epoch(sweep) / 1e9,
                    "disk_gb_kept": sweep.trials * sweep.num_params * _KEPT_BYTES_PER_PARAM / 1e9,
                },
            )
        )
    return rows


def check_row(run: RunRecord, machine: Machine) -> Row:
    """Return the model's time of a run over the wall time that the run took.

    Raises:
        ValueError: If it was not made in one go.
    """
    sessions = run.sweep.get("sessions", [])
    if len(sessions) != 1 or not sessions[0].get("ended"):
        raise ValueError(f"{run.location}: {len(sessions)} sessions; the check needs a run that was made in one go")
    began, ended = (datetime.fromisoformat(sessions[0][name]) for name in ("started", "ended"))
    wall_s = (ended - began).total_seconds()
    first = run.plan.trials[0]
    slots = Placement(sessions[0]["cpus"], sessions[0]["gpus"]).fitting(Needs(first.cpu, first.gpu))
    seconds = [_trial_s(record) for record in run.records if record.history]
    # As in `sweep_s`: half a trial on average until the last one ends.
    parts = {"start": machine.start_s, "training": sum(seconds) / slots, "tail": 0.5 * sum(seconds) / len(seconds)}
    if slots == 1:
        parts["tail"] = 0.0
    return Row(
        f"scale_model.{run.name}.prediction",
        sum(parts.values()) / wall_s,
        None,
        1,
        facts={"wall_s": wall_s, "slots": slots, "trials": len(seconds), **{f"{k}_s": v for k, v in parts.items()}},
    )


def _trial_s(record: TrialRecord) -> float:
    """Return the seconds that a trial's epochs need at its own rates, the test split scored at each new best."""
    assert record.report is not None
    rows = record.report["data"]["rows"]
    test_s = rows["test"] / record.report["timing"]["eval_images_per_s"]
    bests = sum(epoch["best_epoch"] == epoch["epoch"] for epoch in record.history)
    return sum(float(epoch["train_s"]) + float(epoch["eval_s"]) for epoch in record.history) + bests * test_s


def measured_rates(files: Sequence[Path]) -> dict[str, float]:
    """Return images/s by backbone from the rows that `gpu` or `step` wrote; figures of a GPU go first."""
    found: dict[str, float] = {}
    for device in ("cpu", "cuda"):
        for path in files:
            listed = json.loads(path.read_text(encoding="utf-8"))
            for row in listed["rows"] if isinstance(listed, dict) else listed:
                parts = row["name"].split(".")
                if row["name"].endswith(f".{device}.real/constant") and row["ratio"] is not None:
                    found[parts[1].partition("@")[0]] = row["images_per_s"]
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Work the model out and print it."""
    made = parser(__doc__, "scale_model")
    made.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 64])
    made.add_argument("--measured", type=Path, nargs="+", default=[], help="JSON of `gpu` or `step`")
    made.add_argument("--images_per_s", nargs="+", default=[], metavar="BACKBONE=RATE")
    made.add_argument("--backbones", nargs="+", default=["resnet50", "convnext_tiny", "efficientnet_v2_s", "vit_b_16"])
    for owner in (Sweep, Machine):
        for field in dataclasses.fields(owner):
            if field.name not in ("images_per_s", "num_params"):
                kind = int if isinstance(field.default, int) else float
                made.add_argument(f"--{field.name}", type=kind, default=field.default)
    made.add_argument("--run-dir", type=Path, default=None, help="check the model against this run, and no more")
    flags = made.parse_args(argv)
    rates = measured_rates(flags.measured) | dict(_pair(text) for text in flags.images_per_s)
    machine = Machine(**_chosen(Machine, vars(flags)))
    if flags.run_dir:
        show([check_row(read_run(open_folder(flags.run_dir)), machine)], as_json=flags.json)
        return 0
    rows = []
    for backbone in flags.backbones:
        spec = BACKBONES[backbone]
        rate = rates.get(backbone, _assumed_rate(spec.gmac))
        sweep = Sweep(**_chosen(Sweep, vars(flags)), images_per_s=rate, num_params=spec.num_params)
        label = backbone if backbone in rates else f"{backbone}.assumed"
        rows += model_rows(sweep, machine, flags.gpus, label)
    show(rows, as_json=flags.json)
    return 0


def _chosen(owner: type, flags: Mapping[str, Any]) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(owner)} - {"images_per_s", "num_params"}
    return {name: flags[name] for name in names}


def _assumed_rate(gmac: float) -> float:
    """Guess a rate where none was measured: 60 TFLOP/s of training, 6 FLOP for each forward multiply-add."""
    return 60e12 / (6e9 * gmac)


def _pair(text: str) -> tuple[str, float]:
    name, _, rate = text.partition("=")
    return name, float(rate)


if __name__ == "__main__":
    sys.exit(main())
