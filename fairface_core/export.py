"""`python -m fairface_core.export`: a trained model as a folder for other programs, proved on the test images."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fairface_core.config.flags import add_flags
from fairface_core.config.train_config import data_fields
from fairface_core.console import Parser, progress_bar, run_door
from fairface_core.errors import CheckpointError, ConfigError, one_line

_FLAGS = (*data_fields(), "num_workers")
_FORMATS = ("safetensors", "pt2", "onnx")


def make_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = Parser(prog="python -m fairface_core.export", description=__doc__)
    parser.add_argument(
        "--model", required=True, type=Path, metavar="PATH",
        help="a best.pt, a trial folder, or a run folder (the leaderboard's winner)",
    )  # fmt: skip
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="the folder to make")
    parser.add_argument(
        "--to", action="append", choices=_FORMATS, help="a format; may be repeated [all: safetensors, pt2, onnx]"
    )
    parser.add_argument(
        "--input", choices=("uint8", "float"), default="uint8",
        help="what the graphs take: uint8 [B, S, S, 3], or float32 [B, 3, S, S] in 0..1 [uint8]",
    )  # fmt: skip
    parser.add_argument("--half", action="store_true", help="also ONNX with float16 weights")
    parser.add_argument("--int8", action="store_true", help="also ONNX in 8 bits, its ranges from validation images")
    parser.add_argument(
        "--max-loss", type=float, default=0.01, metavar="X", help="most mean_f1 that --half and --int8 may cost [0.01]"
    )
    add_flags(parser, only=_FLAGS)
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Export and prove; return 0, or 1 where a file did not answer as the model does."""
    return run_door(make_parser(), _export, argv)


def _export(arguments: argparse.Namespace) -> int:
    import torch

    from fairface_core.dataset.prepare import prepare_data
    from fairface_core.evaluate import checkpoint_config
    from fairface_core.exporting.folder import Wish, check_wish, export
    from fairface_core.prediction.models import checkpoint_of, load_member
    from fairface_core.trial.checkpoint import load_checkpoint

    formats = [name for name in _FORMATS if not arguments.to or name in arguments.to]
    wish = Wish(arguments.out, formats, arguments.input, arguments.half, arguments.int8, arguments.max_loss)
    check_wish(wish)
    checkpoint = checkpoint_of(arguments.model)
    flags = {key: value for key, value in vars(arguments).items() if key in _FLAGS}
    try:
        config = checkpoint_config(load_checkpoint(checkpoint).cfg, flags, where=one_line(str(checkpoint)))
    except ConfigError as error:
        raise CheckpointError(error.problems) from error
    if not config.root:
        raise ConfigError("root: an export is proved on the test images; use --root DIR")
    member = load_member(checkpoint, torch.device("cpu"))
    with progress_bar("decoding images") as progress:
        data = prepare_data(config, progress=progress)
    print(
        f"{member.told}, {member.where}: proved on {len(data.test):,} test images, protocol {config.protocol}",
        flush=True,
    )
    folder = export(member, config, data, wish, tell=lambda line: print(line, flush=True))
    print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
