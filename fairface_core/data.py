"""`python -m fairface_core.data get | check | pack | prune`: fetch, look at and pack a data set; prune its caches."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fairface_core.config.flags import add_flags, config_from_flags
from fairface_core.config.train_config import data_fields, default_cache_dir
from fairface_core.console import Parser, print_json, progress_bar, run_door
from fairface_core.errors import one_line

if TYPE_CHECKING:
    from rich.text import Text

    from fairface_core.dataset.check import DataSummary, ImageSummary

# What decides which rows there are; the splits are packed as they are.
_PACKED_FLAGS = ("root", "train_csv", "val_csv", "img_col", "margin", "image_root", "on_bad_image")
REPOSITORY = "HuggingFaceM4/FairFace"


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the commands."""
    parser = Parser(prog="python -m fairface_core.data", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="get | check | pack | prune")
    check = commands.add_parser(
        "check", help="one pass over labels and images",
        description="Read both label CSVs and open every image; print what is there and what is wrong.",
    )  # fmt: skip
    # Images are opened as they are, whatever a run keeps of them.
    add_flags(check, only=(*(key for key in data_fields() if key != "cache_px"), "num_workers"))
    check.add_argument("--labels_only", action="store_true", help="do not open the images")
    check.add_argument(
        "--pairs_csv", type=Path, metavar="FILE", help="write the pairs of images that are nearly the same"
    )
    get = commands.add_parser(
        "get", help="download FairFace from the Hugging Face hub",
        description="Download one margin of FairFace as Parquet. Goes on where it stopped, compares sizes and hashes, "
        "and overwrites nothing.",
    )  # fmt: skip
    get.add_argument("--from", dest="source", choices=("hub",), default="hub", help="where from [hub]")
    get.add_argument("--margin", choices=("0.25", "1.25"), default="0.25", help="margin around the face [0.25]")
    get.add_argument("--out", type=Path, required=True, help="folder to put it in", metavar="DIR")
    get.add_argument("--repo", default=REPOSITORY, help=f"data set on the hub [{REPOSITORY}]", metavar="NAME")
    get.add_argument("--revision", default="main", help="branch, tag or commit there [main]", metavar="NAME")
    pack = commands.add_parser(
        "pack", help="write a data set as Parquet",
        description="Write images and labels as Parquet files in the hub's layout, labels as they were repaired.",
    )  # fmt: skip
    add_flags(pack, only=_PACKED_FLAGS)
    pack.add_argument("--out", type=Path, required=True, help="folder to make, such as faces.parquet", metavar="DIR")
    prune = commands.add_parser(
        "prune", help="delete caches that no run can use any more",
        description="Delete the caches of decoded images whose images changed, moved or are gone, or that are damaged.",
    )  # fmt: skip
    add_flags(prune, only=("cache_dir",))
    prune.add_argument(
        "--all", action="store_true", help="delete the usable ones too; the next run builds its own again"
    )
    prune.add_argument("--dry_run", action="store_true", help="only list them")
    for command in (get, check, pack, prune):
        command.add_argument("--json", action="store_true", help="print JSON for machines")
        command.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return 0, or 2 where something is wrong with the data."""
    commands = {"get": _get, "check": _check, "pack": _pack, "prune": _prune}
    return run_door(make_parser(), lambda flags: commands[flags.command](flags), argv)


def _get(flags: argparse.Namespace) -> int:
    from fairface_core.dataset.sources.hub import get_from_hub

    fetched = get_from_hub(flags.out, repository=flags.repo, margin=flags.margin, revision=flags.revision)
    if flags.json:
        print_json({"schema_version": 1, **fetched})
        return 0
    print(
        f"{flags.out}: {flags.repo} at {fetched['commit']}, margin {flags.margin}: files {len(fetched['files'])}, "
        f"{fetched['bytes'] / 2**20:,.1f} MiB, sizes and hashes compared; FairFace is published under CC BY 4.0"
    )
    print(f"next: python -m fairface_core.data check --root {flags.out}")
    return 0


def _pack(flags: argparse.Namespace) -> int:
    from fairface_core.dataset.sources.pack import pack_data

    with progress_bar("packing images") as progress:
        rows = pack_data(config_from_flags(flags), flags.out, progress=progress)
    if flags.json:
        print_json({"schema_version": 1, "out": str(flags.out), "rows": rows})
    else:
        print(f"{flags.out}: train {rows['train']:,}, val {rows['val']:,} rows; use it as --root")
    return 0


def _check(flags: argparse.Namespace) -> int:
    # Imported late: a wrong flag is told at once.
    from fairface_core.dataset.check import check_data

    config = config_from_flags(flags)
    with progress_bar("checking images") as progress:
        summary = check_data(config, images=not flags.labels_only, pairs_csv=flags.pairs_csv, progress=progress)
    if flags.json:
        print_json(summary.to_json())
    else:
        _print_summary(summary)
    for problem in summary.problems:
        print(f"error: {problem}", file=sys.stderr)
    return 2 if summary.problems else 0


def _print_summary(summary: DataSummary) -> None:
    from rich.console import Console
    from rich.table import Table

    from fairface_core.labels import AGE_GROUPS, GENDERS

    console = Console(highlight=False)
    names = (f"{csv} {gender}" for csv in summary.classes for gender in GENDERS)
    classes = Table("", *names, title=_text(summary.root))
    rows = [(label, [summary.classes[csv][age] for csv in summary.classes]) for age, label in enumerate(AGE_GROUPS)]
    races = sorted({race for counts in summary.races.values() for race in counts})
    race_rows = [
        (race or "(race not given)", [summary.races[csv].get(race, [0, 0]) for csv in summary.races]) for race in races
    ]
    totals = ("all", [[sum(row[g] for row in summary.classes[csv]) for g in range(2)] for csv in summary.classes])
    for section in (rows, race_rows, [totals]):
        for label, counts in section:
            classes.add_row(_text(label), *(f"{count:,}" for pair in counts for count in pair))
        classes.add_section()
    for column in classes.columns[1:]:
        column.justify = "right"
    console.print(classes)
    facts = Table.grid(padding=(0, 2))
    for name, value in _facts(summary):
        facts.add_row(name, _text(value))
    console.print(facts)
    for note in summary.notes:
        console.print(_text(f"note: {note}"), soft_wrap=True)


def _text(text: str) -> Text:
    """Return text from a data set as it stands, no markup for rich and no command for the terminal."""
    from rich.text import Text

    return Text(one_line(text))


def _facts(summary: DataSummary) -> list[tuple[str, str]]:
    facts = []
    for name, csv in summary.csvs.items():
        delimiter = f", delimiter {csv['delimiter']!r}" if csv["delimiter"] else ""
        facts.append((f"{name} labels", f"{csv['file']}: {csv['rows']:,} rows, {csv['encoding']}{delimiter}"))
        facts.append(("  repaired", _counts(csv["repaired"]) or "nothing"))
        facts += [
            ("  left out", f"{csv[key]:,} {key.replace('_', ' ')}")
            for key in ("repeated_rows", "blank_rows")
            if csv[key]
        ]
        facts.append(("  no image", _counts(csv["missing"]) or "none skipped"))
    if summary.counts:
        parts = ", ".join(f"{part} {count:,}" for part, count in summary.counts["rows"].items())
        facts.append(
            ("split", f"{parts} (protocol {summary.counts['protocol']}, split_seed {summary.counts['split_seed']})")
        )
        facts.append(("digest", summary.counts["digest"]))
    return facts + (_image_facts(summary.images) if summary.images else [])


def _image_facts(images: ImageSummary) -> list[tuple[str, str]]:
    return [
        ("images", f"{images.checked:,} checked, {images.unreadable:,} unreadable"),
        ("  sizes", _counts(images.sizes)),
        ("  formats", _counts(images.modes)),
        ("  gray as RGB", f"{images.gray_stored_as_rgb:,} ({images.gray_stored_as_rgb / max(images.checked, 1):.1%})"),
        ("  EXIF rotated", f"{images.exif_rotated:,} (not applied)"),
        ("  animated", f"{images.animated:,} (first frame)"),
        (
            "identical",
            f"{images.identical_groups:,} groups, {images.identical_rows:,} rows; groups within train: "
            f"{images.identical_within_train:,}, within val: {images.identical_within_val:,}, "
            f"across: {images.identical_across:,}",
        ),
        (
            "  in conflict",
            f"groups with different ages: {images.identical_with_other_age:,}, "
            f"with different genders: {images.identical_with_other_gender:,}",
        ),
        (
            "nearly the same",
            f"{images.near.pairs:,} pairs; within train: {images.near.within_train:,}, within val: "
            f"{images.near.within_val:,}, across: {images.near.across:,}; with different ages: "
            f"{images.near.with_other_age:,}, genders: {images.near.with_other_gender:,}",
        ),
        *((f"  pair {number}", pair) for number, pair in enumerate(images.near.examples, 1)),
        *((f"  group {number}", "; ".join(group)) for number, group in enumerate(images.examples, 1)),
    ]


def _counts(counts: dict[str, int], most: int = 8) -> str:
    shown = [f"{kind}: {count:,}" for kind, count in list(counts.items())[:most]]
    return ", ".join([*shown, f"and {len(counts) - most} more kinds"] if len(counts) > most else shown)


def _prune(flags: argparse.Namespace) -> int:
    from fairface_core.images.prune import list_caches, remove_cache

    cache_dir = _cache_dir(flags)
    caches = list_caches(cache_dir)
    chosen = [cache for cache in caches if flags.all or not cache.usable]
    if not flags.dry_run:
        for cache in chosen:
            remove_cache(cache.directory)
    if flags.json:
        facts = [
            {"name": c.directory.name, "bytes": c.num_bytes, "state": c.state, "chosen": c in chosen} for c in caches
        ]
        values = {"schema_version": 1, "cache_dir": str(cache_dir), "deleted": not flags.dry_run, "caches": facts}
        print_json(values)
        return 0
    word = "would be deleted" if flags.dry_run else "deleted"
    for cache in caches:
        fate = word if cache in chosen else "kept"
        print(f"{cache.directory.name}: {cache.num_bytes / 2**20:,.1f} MiB, {fate}: {cache.state}")
    freed = sum(cache.num_bytes for cache in chosen)
    print(f"{cache_dir}: caches {len(caches)}, {word} {len(chosen)}, {freed / 2**20:,.1f} MiB")
    return 0


def _cache_dir(flags: argparse.Namespace) -> Path:
    named = getattr(flags, "cache_dir", None)
    return Path(named).expanduser().absolute() if named else default_cache_dir()


if __name__ == "__main__":
    sys.exit(main())
