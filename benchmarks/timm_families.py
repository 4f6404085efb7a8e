"""One network of each of timm's families through everything that a backbone has to do, as rows of a Markdown table.

    python -m benchmarks.timm_families --work DIR                      # the families below
    python -m benchmarks.timm_families --work DIR timm/ghostnet_100@64

For each, on drawn faces: two epochs; the same run ended after its first epoch and resumed (losses and weights must be equal to
the bit); `evaluate` on its checkpoint (must give the report's figures); an ONNX file (proved by onnxruntime on the test images).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import torch

from fairface_core import evaluate, export, fit
from fairface_core.backbones import spec_of
from fairface_core.config.train_config import TrainConfig, make_config
from fairface_core.demo.folder import demo_root
from fairface_core.errors import FairfaceError
from fairface_core.timm_models import PREFIX, counted
from fairface_core.trial.reports import EpochReport

FAMILIES = (
    "convnextv2_atto@64", "efficientnet_b0@64", "tf_efficientnet_lite0@64", "mobilenetv4_conv_small_035@64",
    "mobilenetv4_conv_small@64", "regnety_002@64", "resnet18d@64", "vit_tiny_patch16_224@64", "deit3_small_patch16_224@64",
    "swin_tiny_patch4_window7_224@64", "maxvit_rmlp_pico_rw_256@64", "fastvit_t8@64", "eva02_tiny_patch14_224@56",
    "vit_small_patch14_dinov2@56", "vit_small_patch16_dinov3@64", "mobilevit_xxs@64", "edgenext_xx_small@64",
    "ghostnet_100@64", "levit_128s@64", "repvit_m0_9@64",
)  # fmt: skip
HEAD = (
    "| backbone | params M | GMAC | own px | mean, std | tried at px | GMAC there | trains | resumed = undisturbed | evaluate = report "
    "| ONNX, largest difference |\n" + "|---" * 11 + "|"
)


class _Ended(Exception):
    pass


def _end(_: EpochReport) -> NoReturn:
    raise _Ended


def row(name: str, size: int, root: Path, work: Path) -> str:
    """Return the table's row of one backbone."""
    spec, there = spec_of(name), counted(name.removeprefix(PREFIX), size)
    out = work / name.replace("/", "_")

    def config(folder: str, resume: bool = False) -> TrainConfig:
        return make_config(
            {
                "root": str(root), "out_dir": str(out / folder), "results_csv": None, "backbone": name, "weights": "none",
                "image_size": size, "epochs": 2, "batch_size": 16, "limit_train": 64, "limit_val": 90, "lr": 1e-3,
                "device": "cpu", "num_workers": 1, "resume": resume,
            }
        )  # fmt: skip

    whole = fit(config("whole"))
    with contextlib.suppress(_Ended):
        fit(config("halves"), on_epoch=_end)
    again = fit(config("halves", resume=True))
    first, second = (torch.load(out / folder / "best.pt", weights_only=True) for folder in ("whole", "halves"))
    equal = [e.train_loss for e in whole.history] == [e.train_loss for e in again.history] and all(
        torch.equal(value, second["model"][key]) for key, value in first["model"].items()
    )
    data = ["--root", str(root), "--num_workers", "1", "--limit_val", "90"]
    best = out / "whole" / "best.pt"
    said = _told(evaluate.main, ["--checkpoint", str(best), "--device", "cpu", "--json", *data])
    scored = json.loads(said)["test_metrics"] == whole.test_metrics
    told = _told(export.main, ["--model", str(best), "--out", str(out / "onnx"), "--to", "onnx", *data])
    proof = next(
        (line.rpartition(" ")[2] for line in told.splitlines() if line.startswith("model.onnx:")), told.strip()[:200]
    )
    mean, std = spec.normalization
    return (
        f"| `{name}` | {spec.num_params / 1e6:.1f} | {spec.gmac:.2f} | {spec.image_size} | {mean[0]:.3g}, {std[0]:.3g} | {size} "
        f"| {there.gmac:.3f} | yes | {_word(equal)} | {_word(scored)} | {proof} |"
    )


def _told(main: Callable[[Sequence[str]], int], words: list[str]) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        main(words)
    return out.getvalue()


def _word(holds: bool) -> str:
    return "yes" if holds else "**no**"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, a row as soon as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME@PX", help="backbones and their input [one of each family]")
    parser.add_argument("--work", type=Path, required=True, help="an empty folder")
    arguments = parser.parse_args(argv)
    names = arguments.names or [PREFIX + name for name in FAMILIES]
    root = demo_root(arguments.work / "cache")
    print(HEAD)
    for one in names:
        name, _, size = one.partition("@")
        try:
            told = row(name, int(size), root, arguments.work)
        except (FairfaceError, RuntimeError) as error:
            told = f"| `{name}` | fails at {size} px: {type(error).__name__} {str(error).splitlines()[0][:200]} |"
        print(told, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
