"""`python -m fairface_core.predict`: age group and gender of any pictures, by a model that was trained here."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fairface_core.config.flags import add_flags
from fairface_core.config.train_config import make_config
from fairface_core.console import Parser, print_json, progress_bar, run_door
from fairface_core.errors import ConfigError, DataError

if TYPE_CHECKING:
    from fairface_core.prediction.models import Member
    from fairface_core.prediction.sources import Picture, Source


def make_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = Parser(prog="python -m fairface_core.predict", description=__doc__)
    parser.add_argument(
        "inputs", nargs="+", metavar="INPUT",
        help="a folder, a glob in quotes, a zip archive, a Parquet file with images, a CSV with an image column, a picture, or "
        "- for a list of paths on stdin",
    )  # fmt: skip
    parser.add_argument(
        "--model", action="append", required=True, type=Path, metavar="PATH",
        help="a best.pt, a trial folder, or a run folder (the leaderboard's winner); several: their average",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="answers: .csv, .parquet or .jsonl [CSV on standard output]"
    )
    parser.add_argument(
        "--json", action="store_true", help="JSON lines on standard output; with --out one object that sums up"
    )
    parser.add_argument(
        "--set", type=float, metavar="LEVEL", dest="level",
        help="add prediction sets that hold the truth with this share, 0.50 to 0.99, such as 0.9",
    )  # fmt: skip
    parser.add_argument(
        "--faces", choices=("biggest", "all"),
        help="look for faces first, and cut them out as FairFace's were: one for each picture, or every one; needs the "
        "extra [faces]",
    )  # fmt: skip
    parser.add_argument(
        "--margin", type=float, metavar="X",
        help="margin around a face, a share of it, with --faces [that of the training, 0.25 if it named none]",
    )  # fmt: skip
    add_flags(parser, only=("root", "img_col", "batch_size", "device"))
    parser.add_argument("--num_workers", type=int, metavar="N", help="threads that decode [as many as processors]")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Answer for every picture; return 0, or 1 where no picture could be read."""
    return run_door(make_parser(), _predict, argv)


def _predict(arguments: argparse.Namespace) -> int:
    from fairface_core.prediction.faces import check_available, with_faces
    from fairface_core.prediction.sources import STDIN, open_sources
    from fairface_core.prediction.writers import Layout, format_of, open_writer

    flags = {key: value for key, value in vars(arguments).items() if key in ("root", "img_col", "batch_size", "device")}
    config = make_config(flags, where="command line")
    if arguments.num_workers is not None and arguments.num_workers < 1:
        raise ConfigError(f"--num_workers {arguments.num_workers}: at least one thread must decode")
    if arguments.margin is not None and not (arguments.faces and 0 <= arguments.margin <= 5):
        raise ConfigError(
            f"--margin {arguments.margin:g}: needs --faces, and accepted are 0 to 5, such as 0.25 or 1.25"
        )
    if arguments.faces:
        check_available()
    if arguments.inputs.count(STDIN) > 1:
        raise ConfigError(f"{STDIN} is given twice; standard input can be read once")
    kind = format_of(arguments.out) if arguments.out else "jsonl" if arguments.json else "csv"
    root = Path(config.root).expanduser() if config.root else None
    sources = open_sources(arguments.inputs, stdin=sys.stdin, root=root, img_col=config.img_col)
    _keep_inputs(arguments.out, sources)

    # Imported late: a wrong flag or path is told in milliseconds, not after torch has loaded.
    from fairface_core.machine.device import choose_device
    from fairface_core.machine.resources import local_cpus
    from fairface_core.prediction.models import batch_size_of, load_member
    from fairface_core.prediction.stream import stream_answers

    device = choose_device(config.device)
    members = [load_member(path, device) for path in arguments.model]
    least = None
    if arguments.level is not None:
        from fairface_core.prediction.sets import least_probabilities_of

        least = least_probabilities_of(members, arguments.level)
    _tell(members, arguments.level)
    total = _total(sources)
    if total == 0:
        raise DataError(
            f"{', '.join(arguments.inputs)}: no image is there (.jpg, .png, .webp and the like; name archives and "
            "Parquet files themselves)"
        )
    num_done = num_bad = 0
    pictures, num_workers = _pictures(sources), arguments.num_workers or local_cpus()
    if arguments.faces:
        margin = _margin(members) if arguments.margin is None else arguments.margin
        pictures = with_faces(pictures, which=arguments.faces, margin=margin, num_processes=num_workers)
        total = total if arguments.faces == "biggest" else None
    answers = stream_answers(
        members, pictures, device=device, num_threads=num_workers,
        batch_size=config.batch_size if "batch_size" in flags else batch_size_of(members),
    )  # fmt: skip
    layout = Layout(least, faces=bool(arguments.faces))
    with progress_bar("predicting") as progress, open_writer(arguments.out, kind, layout, sys.stdout) as writer:
        for part in answers:
            writer.write(part)
            num_done += len(part.file)
            num_bad += sum(map(bool, part.error))
            progress(num_done, total)
        if num_done == 0:
            raise DataError("standard input named no picture; give a path a line")
    if arguments.out is not None and arguments.json:
        print_json({
            "schema_version": 1,
            "out": str(arguments.out),
            "pictures": num_done,
            "unreadable": num_bad,
            "models": [{"where": str(member.where), "told": member.told} for member in members],
            "level": arguments.level,
        })  # fmt: skip
    if num_bad:
        what = "rows have no answer" if arguments.faces else "pictures could not be read"
        print(f"{num_bad:,} of {num_done:,} {what}; column error says why", file=sys.stderr)
    return 1 if num_bad == num_done else 0


def _keep_inputs(out: Path | None, sources: Sequence[Source]) -> None:
    """Refuse an output that is an input."""
    if out is not None and out.exists() and any(out.samefile(path) for source in sources for path in source.files):
        raise ConfigError(f"--out {out}: it is an input of the same command; name another file")


def _margin(members: Sequence[Member]) -> float:
    margins = {member.margin for member in members}
    if len(margins) > 1:
        raise ConfigError(
            f"the models were trained with margins {', '.join(f'{one:g}' for one in sorted(margins))}; choose by --margin"
        )
    return margins.pop()


def _tell(members: Sequence[Member], level: float | None) -> None:
    for member in members:
        print(f"model: {member.told}, {member.where}", file=sys.stderr)
    if level is not None:
        print(
            f"sets: hold the truth for {level:.0%} of images like those of validation, all groups together; "
            "a group may have less",
            file=sys.stderr,
        )


def _total(sources: Sequence[Source]) -> int | None:
    counts = [source.count() for source in sources]
    return None if None in counts else sum(count for count in counts if count is not None)


def _pictures(sources: Sequence[Source]) -> Iterator[Picture]:
    for source in sources:
        yield from source.pictures()


if __name__ == "__main__":
    sys.exit(main())
