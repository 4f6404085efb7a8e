"""Seconds that `fairface_core.predict` takes for a folder of images, against the same model on constant batches.

    python -m benchmarks.predicting --root ../shared/data/fairface_sample --models resnet18@64 mobilenet_v3_small@224

Three arms in turn, on the same images, the same weights (random: the time does not depend on them) and batch size:

- stream: from the list of files to the finished CSV, in this process;
- command: the whole command in a process of its own, start and imports included;
- constant: the model alone, as often (or `--constant_images` times), on one batch that is ready in memory.

Each is begun once with one batch before it is timed.
"""

from __future__ import annotations

import argparse
import functools
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from benchmarks.measure import Row, Sample, interleave, parser, ratio_row, show, summary, timed
from fairface_core.machine.resources import local_cpus
from fairface_core.model.network import AgeGenderModel
from fairface_core.prediction.models import Member, load_member
from fairface_core.prediction.sources import Picture
from fairface_core.prediction.stream import stream_answers
from fairface_core.prediction.writers import Layout, open_writer
from fairface_core.training.augment import prepare_eval

GOAL = 1.15
_BATCH = 128


def measure(
    spec: str, files: Sequence[str], work: Path, *, rounds: int, names: Sequence[str], num_constant: int
) -> list[Row]:
    """Time the arms.

    Args:
        spec: `backbone@pixels`.
        files: The images.
        work: An empty folder.
        rounds: How often each.
        names: `stream`, `command`: what to set against the constant batches.
        num_constant: Images of the constant batches.
    """
    backbone, _, pixels = spec.partition("@")
    checkpoint = work / f"{spec}.pt"
    cfg = {"backbone": backbone, "image_size": int(pixels), "batch_size": _BATCH}
    torch.save({"model": AgeGenderModel(backbone, int(pixels), 0.2).state_dict(), "cfg": cfg, "epoch": 1}, checkpoint)
    member = load_member(checkpoint, torch.device("cpu"))

    def arms(files: Sequence[str], num_constant: int) -> dict[str, Callable[[], Sample]]:
        made = {
            "stream": lambda: _stream(member, files, work / "stream.csv"),
            "command": lambda: _command(checkpoint, files, work),
            "constant": lambda: _constant(member, num_constant),
        }
        return {name: functools.partial(timed, made[name]) for name in (*names, "constant")}

    interleave(arms(files[:_BATCH], _BATCH), rounds=1, warm_up=0)
    taken = interleave(arms(files, num_constant), rounds=rounds, warm_up=0)
    return [
        ratio_row(
            f"predicting.{spec}.{name}/constant",
            [peer.rate / ours.rate for ours, peer in zip(taken[name], taken["constant"], strict=True)],
            goal=GOAL, sense="<=", num_images=len(files), images_per_s=_rate(taken[name]),
            constant_images_per_s=_rate(taken["constant"]),
            cpu_ratio=summary([peer.cpu_rate / ours.cpu_rate for ours, peer in zip(taken[name], taken["constant"], strict=True)])[0],
        )
        for name in names
    ]  # fmt: skip


def _command(checkpoint: Path, files: Sequence[str], work: Path) -> float:
    listing = work / "files.csv"
    listing.write_text("file\n" + "".join(f"{file}\n" for file in files))
    command = [sys.executable, "-m", "fairface_core.predict", str(listing), "--root", "/", "--model", str(checkpoint),
               "--device", "cpu", "--out", str(work / "command.csv")]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    return len(files)


def _rate(samples: Sequence[Sample]) -> float:
    return sorted(sample.rate for sample in samples)[len(samples) // 2]


def _stream(member: Member, files: Sequence[str], out: Path) -> float:
    answers = stream_answers(
        [member], (Picture(file, file) for file in files),
        batch_size=member.batch_size, num_threads=local_cpus(), device=torch.device("cpu"),
    )  # fmt: skip
    with open_writer(out, "csv", Layout(), sys.stdout) as writer:
        for part in answers:
            writer.write(part)
    return len(files)


def _constant(member: Member, num_images: int) -> float:
    side = member.decoded_px
    pixels = torch.randint(0, 256, (member.batch_size, side, side, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    images = prepare_eval(pixels, member.image_size, member.memory_format)
    amp_dtype = member.amp_dtype
    with torch.inference_mode(), torch.autocast("cpu", dtype=amp_dtype, enabled=amp_dtype is not None):
        for start in range(0, num_images, member.batch_size):
            member.network(images[: num_images - start])
    return num_images


def main(argv: Sequence[str] | None = None) -> int:
    """Print the ratios of each model."""
    made = parser(__doc__, "predicting")
    made.add_argument("--root", required=True, type=Path, help="folder of images")
    made.add_argument("--models", nargs="+", default=["resnet18@64"], metavar="BACKBONE@PIXELS")
    made.add_argument("--num_images", type=int, default=10_000)
    made.add_argument("--constant_images", type=int, help="images of the constant batches [as many]")
    made.add_argument("--arms", nargs="+", choices=("stream", "command"), default=["stream", "command"])
    made.add_argument("--rounds", type=int, default=3)
    arguments: argparse.Namespace = made.parse_args(argv)
    files = sorted(str(path.absolute()) for path in arguments.root.rglob("*.jpg"))[: arguments.num_images]
    with tempfile.TemporaryDirectory() as work:
        rows = [
            row
            for spec in arguments.models
            for row in measure(
                spec, files, Path(work), rounds=arguments.rounds, names=arguments.arms,
                num_constant=arguments.constant_images or len(files),
            )
        ]  # fmt: skip
    show(rows, as_json=arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
