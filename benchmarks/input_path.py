"""The input path against the original's: images per second of one core, and building the cache.

    python -m benchmarks.input_path                       # the real sample where it is, else drawn faces

Four comparisons, each with its peer in the same rounds, on one torch thread:

- gather: rows of the cache at 224 px into (on CUDA: pinned) memory, against the original's work for an image: decode,
  Resize, RandomResizedCrop, flip, ColorJitter, ToTensor, Normalize;
- augment: gather, draw and augment on the CPU at 64, 224 and 384 px, against the same;
- build: the cache, with the start of its processes, writes and fsync, against as many processes that only
  do `Image.open(path).convert("RGB")`, and `resize` where the cache holds another size than the files (64 px; the
  resize costs as much as the decode: `ratio_to_decode` leaves it out of the peer). With --work on a disk that is
  slower than the decoding, the figure is the disk's; name a folder in memory to leave it out;
- build memory: the largest decoding process when four times as many images are built.

`ratio` is wall time against wall time. Where other programs use the cores `cpu_ratio` is the one to read.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.inputs import data_root
from benchmarks.measure import (
    Row,
    Sample,
    interleave,
    not_measured,
    parser,
    rate_row,
    ratio_row,
    say,
    show,
    summary,
    timed,
)
from benchmarks.original import FaceDataset, train_transform
from fairface_core.images.cache import ImageCache, cache_size_px, open_cache
from fairface_core.images.worker import bytes_per_image
from fairface_core.training.augment import augment, draw_params
from fairface_core.training.batches import gather

GATHER_GOAL, AUGMENT_GOAL, BUILD_GOAL, MEMORY_GOAL = 100.0, 1.5, 0.6, 1.1
SIZES_PX = (64, 224, 384)
# Images of one timing: long enough for the clock, short enough to fit between two turns of a busy scheduler.
_PER_TIMING = {64: 128, 224: 32, 384: 16}
_GATHERED = 256
_MIB = bytes(2**20)
_PROJECT = Path(__file__).resolve().parents[1]


class OneCore:
    """What a core does for one image, ours and the original's, on the same files."""

    def __init__(self, paths: Sequence[str], work: Path, image_size: int) -> None:
        size_px = cache_size_px(image_size)
        self.paths, self.image_size = list(paths), image_size
        self.cache: ImageCache = open_cache(paths, size_px, cache_dir=work / "cache", num_workers=2)
        zeros = [0] * len(paths)
        self.original = FaceDataset(self.paths, zeros, zeros, train_transform(image_size))
        self.count = _PER_TIMING.get(image_size, 16)
        self.random = np.random.default_rng(0)
        self.generator = torch.Generator().manual_seed(0)
        shape = (_GATHERED, size_px, size_px, 3)
        self.host = torch.empty(shape, dtype=torch.uint8, pin_memory=torch.cuda.is_available())

    def gather(self) -> Sample:
        """Copy random rows out of the mapped cache."""
        rows = self.random.integers(0, len(self.paths), _GATHERED)

        def work() -> float:
            gather(self.cache.images, rows, self.host.numpy())
            return float(len(rows))

        return timed(work)

    def augment(self) -> Sample:
        """Gather, draw and augment a batch on the CPU."""
        rows = self.random.integers(0, len(self.paths), self.count)

        def work() -> float:
            batch = self.host[: len(rows)]
            gather(self.cache.images, rows, batch.numpy())
            params = draw_params(len(rows), self.image_size, self.generator)
            return float(len(augment(batch.permute(0, 3, 1, 2), params, self.image_size)))

        return timed(work)

    def peer(self) -> Sample:
        """Decode and transform as many images as the original does, one by one."""
        rows = self.random.integers(0, len(self.paths), self.count)

        def work() -> float:
            return float(sum(len(self.original[row][0]) == 3 for row in rows))

        return timed(work)


def core_rows(paths: Sequence[str], work: Path, sizes: Sequence[int], rounds: int) -> list[Row]:
    """Compare gathering (at 224 px) and augmentation (at each size) with the original's chain."""
    rows = []
    for size in sizes:
        say(f"input_path: {size} px")
        core = OneCore(paths, work, size)
        arms: dict[str, Callable[[], Sample]] = {"augment": core.augment, "peer": core.peer}
        if size == 224:
            arms["gather"] = core.gather
        taken = interleave(arms, rounds=rounds)
        if size == 224:
            rows.append(rate_row("input_path.gather@224", taken["gather"], taken["peer"], goal=GATHER_GOAL))
        name = f"input_path.augment@{size}.cpu"
        rows.append(rate_row(name, taken["augment"], taken["peer"], goal=AUGMENT_GOAL, images_per_timing=core.count))
    return rows


_DECODE = """
import json, sys, time
from PIL import Image
paths, size_px = json.loads(sys.stdin.readline())
print("ready", flush=True)
sys.stdin.readline()
used = time.process_time()
for path in paths:
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    if size_px:
        image.resize((size_px, size_px), Image.Resampling.BILINEAR)
print(time.process_time() - used, flush=True)
"""


def pillow(paths: Sequence[str], num_processes: int, size_px: int | None = None) -> Sample:
    """Time processes that decode a share of the images each, from when all of them have started.

    Args:
        paths: The images.
        num_processes: How many at once.
        size_px: Resize to this too.
    """
    with contextlib.ExitStack() as stack:
        crowd = []
        for number in range(num_processes):
            process = subprocess.Popen(
                [sys.executable, "-c", _DECODE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            stack.enter_context(process)
            crowd.append((process.stdin, process.stdout))
            print(json.dumps([paths[number::num_processes], size_px]), file=process.stdin, flush=True)
        for _, answers in crowd:
            assert answers is not None and answers.readline() == "ready\n"
        began = time.perf_counter()
        for requests, _ in crowd:
            print("go", file=requests, flush=True)
        cpu_s = sum(float(answers.readline()) for _, answers in crowd if answers is not None)
        return Sample(len(paths), time.perf_counter() - began, cpu_s)


def _touch(path: Path, num_bytes: int) -> None:
    """Write so many bytes and delete them: a virtual machine's host takes free memory back and is slow to give it."""
    with path.open("wb") as file:
        for _ in range(num_bytes // 2**20):
            file.write(_MIB)
    path.unlink()


def build_row(paths: Sequence[str], work: Path, size_px: int, *, num_processes: int, rounds: int) -> Row:
    """Compare building a cache with Pillow's decoding (and resizing, if it has to) alone, in as many processes."""
    say(f"input_path: build at {size_px} px")
    folder = work / "build"

    def build() -> Sample:
        shutil.rmtree(folder, ignore_errors=True)
        _touch(work / "touched", len(paths) * bytes_per_image(size_px))

        def run() -> float:
            return float(len(open_cache(paths, size_px, cache_dir=folder, num_workers=num_processes).images))

        return timed(run)

    arms = {"build": build, "decode": lambda: pillow(paths, num_processes)}
    if size_px != _stored_px(paths):
        arms["resize"] = lambda: pillow(paths, num_processes, size_px)
    taken = interleave(arms, rounds=rounds)
    to_decode = [own.rate / peer.rate for own, peer in zip(taken["build"], taken["decode"], strict=True)]
    return rate_row(
        f"input_path.build@{size_px}",
        taken["build"],
        taken.get("resize", taken["decode"]),
        goal=BUILD_GOAL,
        ratio_to_decode=summary(to_decode)[0],
        images=len(paths),
        processes=num_processes,
    )


def _stored_px(paths: Sequence[str]) -> int:
    with Image.open(paths[0]) as image:
        return image.width


_BUILD = """
import json, resource, sys
from pathlib import Path
from fairface_core.images.cache import open_cache
paths = json.loads(Path(sys.argv[1]).read_text())
open_cache(paths, 224, cache_dir=Path(sys.argv[2]), num_workers=2)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def memory_row(paths: Sequence[str], work: Path) -> Row:
    """Compare the largest decoding process of a large build with that of one a quarter its size."""
    say("input_path: memory of the build")
    peaks = []
    for number, part in enumerate((paths[: len(paths) // 4], paths)):
        listed = work / f"paths-{number}.json"
        listed.write_text(json.dumps(list(part)))
        command = [sys.executable, "-c", _BUILD, str(listed), str(work / f"memory-{number}")]
        out = subprocess.run(command, cwd=_PROJECT, check=True, stdout=subprocess.PIPE, text=True).stdout
        peaks.append(int(out) / 1024)
        shutil.rmtree(work / f"memory-{number}")
    facts = {"peak_mib": peaks[1], "peak_mib_quarter": peaks[0], "images": len(paths)}
    return ratio_row("input_path.build_memory", [peaks[1] / peaks[0]], goal=MEMORY_GOAL, sense="<=", **facts)


def device_row(paths: Sequence[str], work: Path, rounds: int) -> Row:
    """Compare augmentation on the GPU with one core's."""
    name = "input_path.augment@224.cuda"
    if not torch.cuda.is_available():
        return not_measured(name, "no GPU")
    core = OneCore(paths, work, 224)
    images = torch.from_numpy(core.cache.images[:128].copy()).permute(0, 3, 1, 2).cuda()

    def on_device() -> Sample:
        def run() -> float:
            for _ in range(20):
                augment(images, draw_params(len(images), 224, core.generator), 224)
            torch.cuda.synchronize()
            return 20.0 * len(images)

        return timed(run)

    taken = interleave({"cuda": on_device, "cpu": core.augment}, rounds=rounds)
    return rate_row(name, taken["cuda"], taken["cpu"], batch=len(images))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    made = parser(__doc__, "input_path")
    made.add_argument("--root", help="data folder; `demo` draws faces [the real sample where it is, else demo]")
    made.add_argument("--work", help="folder for caches [a temporary one]; its disk takes part in `build`")
    made.add_argument("--sizes", type=int, nargs="+", default=list(SIZES_PX), help="input sizes, pixels")
    made.add_argument("--images", type=int, default=12_000, help="images of a build, at most")
    made.add_argument("--rounds", type=int, default=31, help="timings of each arm")
    made.add_argument("--build-rounds", type=int, default=5, help="builds of each size")
    made.add_argument("--build-only", action="store_true", help="time the build alone")
    made.add_argument("--build-processes", type=int, default=2, help="processes that decode")
    flags = made.parse_args(argv)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="fairface-input-") as temporary:
        work = Path(flags.work) if flags.work else Path(temporary)
        root = data_root(flags.root, work, num_train=2048)
        paths = [str(path) for path in sorted(root.glob("*/*.jpg"))][: flags.images]
        rows = [] if flags.build_only else core_rows(paths[:1024], work, flags.sizes, flags.rounds)
        for size_px in (224, 64):
            rows.append(build_row(paths, work, size_px, num_processes=flags.build_processes, rounds=flags.build_rounds))
        rows.append(memory_row(paths, work))
        if not flags.build_only:
            rows.append(device_row(paths[:1024], work, flags.rounds))
    show(rows, as_json=flags.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
