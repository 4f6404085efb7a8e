"""How many wrong labels the suspects are, and how many wrong labels they find: 3 % of labels are flipped on purpose.

    python -m benchmarks.suspect_labels --root ../shared/data/fairface_sample            # two linear stand-ins
    python -m benchmarks.suspect_labels --root DIR --run runs/NAME                       # the trials of a finished sweep

In each draw 3 % of the age labels of validation and test, and apart from these 3 % of the gender labels, become another
label at random (ages: any other group). Then the rule of `sweep.results.beside.suspects` is asked. The trials are those that
the true labels chose: a flip moves neither their weights nor their epoch. Labels that were wrong before count as right
here, so precision is understated.

Identical images with conflicting labels are looked up too: at least one of their labels is wrong, unflipped.

The stand-ins, for a machine that cannot train: logistic regression on histograms of oriented gradients, and on small gray
pixels, fitted to the training images.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.measure import machine
from fairface_core.config.train_config import default_cache_dir, make_config
from fairface_core.dataset.duplicates import file_digests
from fairface_core.dataset.manifest import Manifest, load_manifest
from fairface_core.dataset.rows import Rows
from fairface_core.files.folder import open_folder
from fairface_core.images.decode import image_from_bytes, read_bytes
from fairface_core.trial.stored import Stored
from sweep.results.beside.candidates import Candidate, read_candidates
from sweep.results.beside.suspects import find_suspects
from sweep.results.leaderboard import build_board
from sweep.run_folder.records import read_run

SHARE = 0.03
FIRST = 50
_SIDE = 64


def main(argv: Sequence[str] | None = None) -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="data folder")
    parser.add_argument("--run", help="a finished run folder; without it two stand-ins are fitted")
    parser.add_argument("--draws", type=int, default=20)
    arguments = parser.parse_args(argv)
    manifest = load_manifest(make_config({"root": arguments.root}))
    print(machine())
    candidates = _of_run(arguments.run) if arguments.run else stand_ins(manifest)
    for one in candidates:
        scores = [
            f"{split} {task} {np.mean(stored.prob(task).argmax(1) == stored.truth(task)):.3f}"
            for split, stored in (("val", one.val), ("test", one.test))
            for task in ("age", "gender")
        ]
        print(f"{one.record.group}: accuracy {', '.join(scores)}")
    rows = [flipped(candidates, np.random.default_rng(seed)) for seed in range(arguments.draws)]
    print(f"n = {arguments.draws} draws, mean (least to most)")
    for name in rows[0]:
        values = np.array([row[name] for row in rows], dtype=float)
        print(f"{name:44s} {values.mean():7.3f} ({values.min():.3f} to {values.max():.3f})")
    conflicts(candidates, manifest)


def flipped(candidates: Sequence[Candidate], rng: np.random.Generator) -> dict[str, float]:
    """Flip labels, ask the rule, and count.

    Returns:
        Per task and for both: suspects, precision among the first 50 and among all, and recall of the flips.
    """
    first = candidates[0]
    truth = {task: np.concatenate([first.val.truth(task), first.test.truth(task)]) for task in ("age", "gender")}
    labels, wrong = dict(truth), {}
    for task, classes in (("age", 9), ("gender", 2)):
        at = rng.choice(len(truth[task]), round(SHARE * len(truth[task])), replace=False)
        labels[task] = truth[task].copy()
        labels[task][at] = (truth[task][at] + rng.integers(1, classes, len(at))) % classes
        wrong[task] = at
    names = [*zip(first.val.csv, first.val.line, strict=True), *zip(first.test.csv, first.test.line, strict=True)]
    flips = {(task, *names[i]) for task, at in wrong.items() for i in at}
    cut = len(first.val.age)
    changed = [
        replace(
            one,
            val=replace(one.val, age=labels["age"][:cut], gender=labels["gender"][:cut]),
            test=replace(one.test, age=labels["age"][cut:], gender=labels["gender"][cut:]),
        )
        for one in candidates
    ]
    found = [(one.task, one.image.csv, one.image.line) for one in find_suspects(changed)]
    figures: dict[str, float] = {}
    for name, tasks in (("age", ("age",)), ("gender", ("gender",)), ("both", ("age", "gender"))):
        hits = [one in flips for one in found if one[0] in tasks]
        num_flips = sum(len(wrong[task]) for task in tasks)
        figures |= {
            f"{name}: suspects": len(hits),
            f"{name}: precision among the first {FIRST}": float(np.mean(hits[:FIRST])) if hits else 0.0,
            f"{name}: precision among all": float(np.mean(hits)) if hits else 0.0,
            f"{name}: recall among all": sum(hits) / num_flips,
        }
    return figures


def conflicts(candidates: Sequence[Candidate], manifest: Manifest) -> None:
    """Print what the suspects, labels untouched, say of identical images with conflicting labels."""
    parts = {"train": manifest.train, "val": manifest.val, "test": manifest.test}
    paths = sorted({str(path) for rows in parts.values() for path in rows.path})
    digests = dict(zip(paths, file_digests(paths, cache_dir=default_cache_dir(), num_workers=2), strict=True))
    groups: dict[bytes, list[tuple[str, int, int, int]]] = defaultdict(list)
    for rows in parts.values():
        for i, path in enumerate(rows.path.tolist()):
            groups[digests[path]].append((rows.csv_name, int(rows.line[i]), int(rows.age[i]), int(rows.gender[i])))
    suspects = {(one.image.csv, one.image.line, one.task) for one in find_suspects(candidates)}
    scored = {
        (csv, int(line))
        for s in (candidates[0].val, candidates[0].test)
        for csv, line in zip(s.csv, s.line, strict=True)
    }
    alike = [members for members in groups.values() if len(members) > 1]
    print(f"groups of identical images: {len(alike)}")
    for task, at in (("age", 2), ("gender", 3)):
        differing = [members for members in alike if len({member[at] for member in members}) > 1]
        judged = [members for members in differing if any(member[:2] in scored for member in members)]
        named = [m for m in judged if any((*member[:2], task) in suspects for member in m)]
        print(
            f"with conflicting {task}: {len(differing)}, of which {len(judged)} have a member in validation or test, of "
            f"which {len(named)} have a suspect label: {judged}"
        )


def _of_run(folder: str) -> tuple[Candidate, ...]:
    return read_candidates(build_board(read_run(open_folder(folder))))


def stand_ins(manifest: Manifest) -> tuple[Candidate, ...]:
    """Fit the two linear models on the training images and let them answer for validation and test."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    parts = {"train": manifest.train, "val": manifest.val, "test": manifest.test}
    gray = {name: _gray(rows) for name, rows in parts.items()}
    features = {
        "oriented gradients": {name: _gradients(pixels) for name, pixels in gray.items()},
        "gray pixels": {
            name: pixels.reshape(len(pixels), 16, 4, 16, 4).mean(axis=(2, 4)).reshape(len(pixels), -1)
            for name, pixels in gray.items()
        },
    }
    found = []
    for group, values in features.items():
        prob: dict[tuple[str, str], np.ndarray] = {}
        for task in ("age", "gender"):
            model = make_pipeline(StandardScaler(), LogisticRegression(C=1e-3, max_iter=200))
            model.fit(values["train"], getattr(manifest.train, task))
            for split in ("val", "test"):
                prob[split, task] = model.predict_proba(values[split]).astype(np.float32)
        val, test = (_stored(parts[split], prob[split, "age"], prob[split, "gender"]) for split in ("val", "test"))
        record: Any = SimpleNamespace(group=group, trial_id=group)
        found.append(Candidate(record, val, test))
    return tuple(found)


def _stored(rows: Rows, age: np.ndarray, gender: np.ndarray) -> Stored:
    csv = [rows.csv_name] * len(rows)
    return Stored([str(f) for f in rows.file], csv, rows.line, age, gender, rows.age, rows.gender, None, b"")


def _gray(rows: Rows) -> np.ndarray:
    """Return float32 [N, 64, 64], 0..1."""
    pixels = np.empty((len(rows), _SIDE, _SIDE), np.float32)
    for i, path in enumerate(rows.path.tolist()):
        image = image_from_bytes(read_bytes(path), path)[0].convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX)
        pixels[i] = np.asarray(image, np.float32) / 255
    return pixels


def _gradients(pixels: np.ndarray, cell: int = 8, bins: int = 9) -> np.ndarray:
    """Return histograms of oriented gradients [N, 7 * 7 * 4 * bins], blocks of 2 x 2 cells of unit length."""
    dy, dx = np.gradient(pixels, axis=(1, 2))
    strength, angle = np.hypot(dx, dy), np.arctan2(dy, dx) % np.pi
    n, side = len(pixels), _SIDE // cell
    place = np.minimum((angle / np.pi * bins).astype(np.int64), bins - 1)
    cells = np.stack(
        [np.where(place == k, strength, 0).reshape(n, side, cell, side, cell).sum(axis=(2, 4)) for k in range(bins)],
        axis=-1,
    )
    blocks = np.concatenate([cells[:, a : side - 1 + a, b : side - 1 + b] for a in (0, 1) for b in (0, 1)], axis=-1)
    blocks /= np.linalg.norm(blocks, axis=-1, keepdims=True) + 1e-3
    return blocks.reshape(n, -1).astype(np.float32)


if __name__ == "__main__":
    main()
