"""Draws the built-in synthetic faces: a folder in FairFace's exact layout, so that the whole real path runs.

`python -m fairface_core.demo --out DIR` writes `train/1.jpg ...`, `val/1.jpg ...` and both label CSVs. The faces are
cartoons (`faces.py`) and the figures that models reach on them mean nothing beyond "the pipeline works".
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fairface_core.console import Parser, run_door
from fairface_core.demo.folder import IMAGE_PX, NUM_TRAIN, NUM_VAL, SEED, draw_faces


def main(argv: Sequence[str] | None = None) -> int:
    """Draw a data folder and say where it is; return the exit code."""
    return run_door(make_parser(), _draw, argv)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = Parser(prog="python -m fairface_core.demo", description=__doc__)
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder to make; must not hold anything")
    parser.add_argument("--num_train", type=int, default=NUM_TRAIN, help="training images [%(default)s]")
    parser.add_argument("--num_val", type=int, default=NUM_VAL, help="images of the val CSV [%(default)s]")
    parser.add_argument("--image_px", type=int, default=IMAGE_PX, help="side of the images, pixels [%(default)s]")
    parser.add_argument("--seed", type=int, default=SEED, help="seed of the drawing [%(default)s]")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser


def _draw(flags: argparse.Namespace) -> int:
    out = flags.out.expanduser().absolute()
    sizes = {name: getattr(flags, name) for name in ("num_train", "num_val", "image_px", "seed")}
    draw_faces(out, **sizes)
    print(f"{flags.num_train:,} train and {flags.num_val:,} val faces of {flags.image_px} px in {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
