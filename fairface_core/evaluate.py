"""`python -m fairface_core.evaluate`: score any checkpoint, ours or the original script's, or anybody's answers."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairface_core.config.flags import add_flags
from fairface_core.config.train_config import TrainConfig, data_fields, identity_fields, make_config
from fairface_core.console import Parser, print_json, progress_bar, run_door
from fairface_core.errors import CheckpointError, ConfigError, one_line, shown
from fairface_core.trial.reports import skips

if TYPE_CHECKING:
    from fairface_core.trial.checkpoint import Checkpoint

# The checkpoint decides the model; the caller decides where the data is and how it is split.
_FLAGS = (
    *data_fields(), "image_size", "batch_size", "eval_batch_size", "device", "num_workers", "channels_last",
)  # fmt: skip


def make_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = Parser(prog="python -m fairface_core.evaluate", description=__doc__)
    scored = parser.add_mutually_exclusive_group(required=True)
    scored.add_argument("--checkpoint", type=Path, help="a best.pt")
    scored.add_argument(
        "--predictions", type=Path, metavar="FILE",
        help="a CSV of file, age and gender (labels or probabilities) of any model, such as predict writes",
    )  # fmt: skip
    parser.add_argument("--split", choices=("test", "val"), default="test", help="what to score [test]")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_flags(parser, only=_FLAGS)
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Score a checkpoint or a file of answers and print the metrics; return the exit code."""
    return run_door(make_parser(), lambda flags: (_evaluate_answers if flags.predictions else _evaluate)(flags), argv)


def checkpoint_config(cfg: Mapping[str, Any], flags: Mapping[str, Any], *, where: str) -> TrainConfig:
    """Build the config that scores a checkpoint: its own fields where it has them, the caller's flags on top.

    The original script drew its split with `random_state=seed`, so a checkpoint that names no `split_seed` is scored
    on the split of its `seed`: the images that script printed its test metrics for. What became of copies was chosen
    for the checkpoint's own protocol: with another one, that one's default applies.
    """
    # What decides no result is this machine's affair and not the checkpoint's; its weights are in it, and the extra that
    # has their optimizer may not be here.
    left_out = {"weights", "weights_map", "optimizer"}
    known = {key: value for key, value in cfg.items() if key in identity_fields() - left_out}
    if "split_seed" not in known and "seed" in known:
        known["split_seed"] = known["seed"]
    own_protocol = known.get("protocol", TrainConfig.model_fields["protocol"].default)
    if flags.get("protocol", own_protocol) != own_protocol:
        known.pop("drop_duplicates", None)
    strays = [name for name in ("train_csv", "val_csv") if name not in flags and not _stays_in_root(known.get(name))]
    if strays:
        raise CheckpointError(
            [
                f"{where}: its configuration names {name} = {shown(str(known[name]), 200)}, which is not below the data "
                f"folder; give --{name} yourself"
                for name in strays
            ]
        )
    return make_config({**known, "weights": "none", **flags}, where=where)


def _stays_in_root(name: object) -> bool:
    """Whether a CSV that a checkpoint names lies below the data folder: a stranger's word opens nothing else."""
    if not isinstance(name, str):
        return True  # absent, or refused as no text
    return not (name.startswith("~") or Path(name).is_absolute() or ".." in Path(name).parts)


def _evaluate(arguments: argparse.Namespace) -> int:
    from fairface_core.trial.checkpoint import load_checkpoint, refuse_validation

    where = one_line(str(arguments.checkpoint))
    checkpoint = load_checkpoint(arguments.checkpoint)
    flags = {key: value for key, value in vars(arguments).items() if key in _FLAGS}
    try:
        config = checkpoint_config(checkpoint.cfg, flags, where=where)
    except ConfigError as error:
        raise CheckpointError(error.problems) from error
    if not config.root:
        raise ConfigError("root: no data folder given; use --root DIR")
    refuse_validation(checkpoint.cfg, arguments.split, where=where)
    result = _score(checkpoint, config, arguments.split, where=where)
    _show(result, f"{config.backbone}, epoch {result['epoch']}", arguments)
    return 0


def _evaluate_answers(arguments: argparse.Namespace) -> int:
    from fairface_core.prediction.scored import score_answers

    config = make_config({k: v for k, v in vars(arguments).items() if k in _FLAGS}, where="command line")
    if not config.root:
        raise ConfigError("root: no data folder given; use --root DIR")
    result = score_answers(arguments.predictions, config, arguments.split)
    _show(result, one_line(str(arguments.predictions)), arguments)
    return 0


def _show(result: Mapping[str, Any], name: str, arguments: argparse.Namespace) -> None:
    if arguments.json:
        print_json({"schema_version": 1, **dict(sorted(result.items()))})
        return
    facts = [
        f"{name}, {result['num_images']:,} {arguments.split} images, protocol {result['protocol']}, "
        f"split_seed {result['split_seed']}",
        skips(result["data"]),
        f"without an answer: {result['unanswered_images']:,}" if result.get("unanswered_images") else "",
    ]
    print("; ".join(filter(None, facts)))
    for key, value in result[f"{arguments.split}_metrics"].items():
        low, high = result["intervals"].get(key, (None, None))
        print(f"{key:8s} {value:.4f}" + ("" if low is None else f"  95 % interval {low:.4f} to {high:.4f}"))
    if result.get("published"):
        print("published, not run here, on FairFace's 10,954 val images:")
    for one in result.get("published", ()):
        year = f" ({one['year']})" if one["year"] else ""
        note = f"; {one['note']}" if one["note"] else ""
        print(
            f"  {one['model']}{year}: age_acc {one['age_acc']:.4f}, gen_acc {one['gen_acc']:.4f}{note} [{one['source']}]"
        )


def _score(checkpoint: Checkpoint, config: TrainConfig, split_name: str, *, where: str) -> dict[str, Any]:
    from fairface_core.backbones import input_size
    from fairface_core.dataset.prepare import prepare_data
    from fairface_core.machine.device import choose_device, choose_memory_format, choose_scoring_dtype
    from fairface_core.model.network import AgeGenderModel, load_weights
    from fairface_core.model.objective import loss_weights
    from fairface_core.prediction.scored import further_facts
    from fairface_core.scoring.metrics import split_metrics
    from fairface_core.training.inference import checkpoint_batch_size, predict
    from fairface_core.trial.writing import scored_details

    image_size = input_size(config.backbone, config.image_size)
    model = AgeGenderModel(
        config.backbone, image_size, config.dropout, age_loss=config.age_loss, normalization=checkpoint.normalization
    )
    load_weights(model, checkpoint.model, where=where)
    with progress_bar("decoding images") as progress:
        data = prepare_data(config, progress=progress)
    split = {"test": data.test, "val": data.val}[split_name]
    device = choose_device(config.device)
    memory_format = choose_memory_format(config)
    model.to(device).to(memory_format=memory_format)
    logits = predict(
        model, data.cache, split, image_size=image_size,
        batch_size=checkpoint_batch_size(config, device), device=device,
        amp_dtype=choose_scoring_dtype(config, device), memory_format=memory_format,
    )  # fmt: skip
    if not logits.finite:
        raise CheckpointError(
            f"{where}: its weights give outputs that are not finite; it is damaged, or training had diverged; "
            "no score is given for it"
        )
    metrics = split_metrics(
        logits,
        split.rows,
        class_weights=loss_weights(config, data.train.rows.age, data.train.rows.gender),
        age_loss_weight=config.age_loss_weight,
        batch_size=config.batch_size,
    )
    return {
        f"{split_name}_metrics": metrics,
        "num_images": len(split),
        "protocol": config.protocol,
        "split_seed": config.split_seed,
        "epoch": checkpoint.epoch,
        "backbone": config.backbone,
        "data": data.counts,
        **further_facts(logits.age.argmax(1), logits.gender.argmax(1), split.rows, config.protocol, split_name),
        **scored_details(logits, split),
    }


if __name__ == "__main__":
    sys.exit(main())
