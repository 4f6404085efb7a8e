"""What is fuzzed: the readers, what they may do with an input, words to build inputs of, and inputs to begin with."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[2]
INSTRUMENTED = {
    "space": ["sweep", "fairface_core.config.train_config"],
    "yaml": ["yaml", "sweep", "fairface_core.config.train_config"],
    "csv": [
        f"fairface_core.dataset.{name}"
        for name in ("table", "rows", "spelling", "spreadsheet_dates", "image_finder", "manifest")
    ],
}
TOKENS: dict[str, list[str]] = {
    "space": ["\0"],  # its inputs are choices, not text
    "yaml": [
        "name", "data", "space", "per_backbone", "fixed", "num_samples", "sample_seed", "scheduler", "resources",
        "failures", "root", "demo", "num_train", "grid", "choice", "uniform", "loguniform", "randint", "backbone", "lr",
        "seed", "epochs", "batch_size", "weights", "image_size", "resnet50", "vit_b_16", "kind", "asha", "fifo",
        "group_by", "grace_epochs", "reduction_factor", "explore_seeds", "all", "confirm", "cpu", "gpu", "auto",
        "max_concurrent", "max_retries", "stall_timeout", "15m", "image_root", "limit_train", "protocol", "official",
        "3e-4", "-1", ".inf", ".nan", "0x1F", "null", "true", "!!python/object/apply:os.system", "!!str ", "!!int ",
        "&a ", "*a", "<<: ", "---\n", "...\n", "%YAML 1.2\n", "%TAG ! tag:x,2000:\n", "? ", "- ", ": ", "[", "]", "{",
        "}", ",", "|\n", ">\n", "'", '"', "\\ud83d", "\\U0001F600", "\\x00", "# ", "\t", "\r\n", "\n  ", "\n    ",
    ],
    "csv": [
        "file", "age", "gender", "race", "service_test", "image_path", "train/1.jpg", "val/2.jpg", "3.jpg", "../", "/",
        "~", "file://", "..\\", "0-2", "3-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "more than 70",
        "70+", ">=70", "9-Mar", "Mar-09", "19-Oct", "10-Dec-19", "2026-03-09", "Male", "Female", "m", "F", "White",
        "True", ",", ";", "\t", "|", "\n", "\r\n", "\r", '"', '""', "sep=;\n", "\ufeff", " ", "\u00a0", "\0", "é",
    ],
}  # fmt: skip


class Finding(Exception):
    """An input that a reader accepted or refused in a way that it must not."""


# What a reader may do with an input.


def check_lines(problems: tuple[str, ...]) -> None:
    for problem in problems:
        if not problem.isprintable() or len(problem) > 20_000:
            raise Finding("a problem is not one printable line")


def yaml_target(folder: Path) -> Callable[[bytes], str]:
    import yaml

    from fairface_core.config.train_config import make_config
    from fairface_core.errors import ConfigError
    from sweep.plan.expand import make_plan
    from sweep.plan.plan import Plan, space_difference
    from sweep.space.load import load_space
    from sweep.space.yaml_nodes import parse_yaml

    path = folder / "space.yaml"

    def shape(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(key): shape(child) for key, child in value.items()}
        return [shape(child) for child in value] if isinstance(value, list) else None

    def agrees_with_pyyaml(text: str) -> None:
        """PyYAML's own composer and ours see the same keys and lists in every text that ours accepts."""
        if "\\" not in text and shape(parse_yaml(text, "s").value) != shape(yaml.load(text, yaml.BaseLoader)):
            raise Finding("PyYAML reads another structure")

    def one_input(payload: bytes) -> str:
        path.write_bytes(payload)
        try:
            with contextlib.suppress(ConfigError):
                agrees_with_pyyaml(payload.decode("utf-8", "ignore").removeprefix("\ufeff"))
            spec = load_space(path)
            plan = make_plan(spec, limit=200, auto_gpu=0)
        except ConfigError as refused:
            check_lines(refused.problems)
            return re.sub(r"\d+|'.*?'|\".*?\"", "_", refused.problems[0].partition("space.yaml")[2])[:60]
        if not 1 <= len(plan.trials) <= 200 or Plan.from_json(json.loads(json.dumps(plan.to_json()))) != plan:
            raise Finding("the plan does not survive its file")
        if load_space(path).digest() != spec.digest() or space_difference(plan, plan):
            raise Finding("the same space differs from itself")
        for trial in plan.trials[:3]:
            make_config(trial.config)
        check_lines(plan.notes)
        return "accepted"

    return one_input


# What an edit puts in the place of a value.
VALUES: list[Any] = [
    None, True, False, -1, 0, 1, 2, 17, 64, 10**6, 2**32, 2**63 - 1, 0.0, 1e-4, 0.5, 1.0, 1e300, "", "3e-4", "demo",
    "all", "auto", "off", "15m", "fifo", "none", "official", "skip", "resnet18", "vit_b_16", "../x", "a\nb", "\u202e",
    [], {}, [[]], [1e-5, 1e-3], [16, 64], [1, 2, 3], ["resnet18", "vit_b_16"], {"grid": [1, 2]}, {"choice": ["none"]},
    {"grid": []}, {"uniform": [0, 0.5]}, {"loguniform": [1e-5, 1e-3]}, {"randint": [16, 64]}, {"lr": {"grid": [1e-3]}},
]  # fmt: skip


def edited_space(payload: bytes, bases: list[Any]) -> Any:
    """Return one of the project's spaces after edits that four bytes each decide: where (three bytes) and what."""
    document = copy.deepcopy(bases[payload[0] % len(bases)]) if payload else {}
    words = TOKENS["yaml"][:47]
    for i in range(1, min(len(payload), 60) - 3, 4):
        first, second, third, what = payload[i : i + 4]
        parent, key, node = None, None, document
        value = copy.deepcopy(VALUES[what % len(VALUES)])
        for step in (first, second, third):
            if not isinstance(node, dict | list) or not node or step >= 0xF0:
                break
            parent = node
            key = sorted(node)[step % len(node)] if isinstance(node, dict) else step % len(node)
            node = node[key]
        if what < 0x20 and isinstance(parent, dict):
            del parent[key]
        elif what < 0x80 and isinstance(node, dict):
            node[words[third % len(words)]] = value
        elif what < 0xA0 and isinstance(node, list):
            node.append(value)
        elif parent is not None:
            parent[key] = value
    return document


def space_target(folder: Path) -> Callable[[bytes], str]:
    from sweep.space.yaml_nodes import read_yaml

    bases = [read_yaml(path)[0].value for path in sorted((PROJECT / "search_spaces").glob("*.yaml"))]
    one_space = yaml_target(folder)
    return lambda payload: one_space(json.dumps(edited_space(payload, bases)).encode())


def csv_target(folder: Path) -> Callable[[bytes], str]:
    from fairface_core.config.train_config import make_config
    from fairface_core.dataset.manifest import load_manifest
    from fairface_core.errors import DataError
    from fairface_core.labels import AGE_GROUPS, GENDERS

    root = folder / "faces"
    for split in ("train", "val"):
        (root / split).mkdir(parents=True)
        for number in range(1, 61):
            (root / split / f"{number}.jpg").touch()
    cells = [(age, gender) for age in AGE_GROUPS for gender in GENDERS] * 3
    val = [f"val/{number}.jpg,{age},{gender}" for number, (age, gender) in enumerate(cells, 1)]
    (root / "fairface_label_val.csv").write_text("\n".join(["file,age,gender", *val]))
    path = root / "fairface_label_train.csv"
    inside = f"{root.resolve()}/"

    def digest(payload: bytes, protocol: str) -> str:
        path.write_bytes(payload)
        config = make_config({"root": str(root), "protocol": protocol, "on_bad_image": "skip"})
        manifest = load_manifest(config)
        for rows in (manifest.train, manifest.val, manifest.test):
            if not len(rows) or not ((rows.age >= 0) & (rows.age < 9) & (rows.gender >= 0) & (rows.gender < 2)).all():
                raise Finding("a part is empty or holds a label out of range")
            if not all(str(image).startswith(inside) and os.path.isfile(image) for image in rows.path):  # noqa: PTH113
                raise Finding("an image lies outside of the root")
        train = manifest.train
        if protocol == "seed" and (train.line[1:] <= train.line[:-1]).any():
            raise Finding("lines are not in the order of the file")
        return manifest.digest

    def one_input(payload: bytes) -> str:
        protocol = "official" if payload[:1] == b"o" else "seed"
        payload = payload[1:]
        try:
            first = digest(payload, protocol)
        except DataError as refused:
            check_lines(refused.problems)
            return re.sub(r"\d+|'.*?'|\".*?\"", "_", refused.problems[0])[:60]
        marked = payload.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff"))
        with contextlib.suppress(UnicodeDecodeError):
            payload.decode("utf-8")
            if not marked and digest(b"\xef\xbb\xbf" + payload, protocol) != first:
                raise Finding("a byte order mark changes the digest")
        return "accepted"

    return one_input


TARGETS = {"yaml": yaml_target, "space": space_target, "csv": csv_target}


def seeds(target: str) -> list[bytes]:
    if target == "space":
        return [bytes([base]) for base in range(5)] + [bytes([0, 3, 1, 0, what]) for what in range(0, 256, 16)]
    if target == "yaml":
        spaces = [path.read_bytes() for path in sorted((PROJECT / "search_spaces").glob("*.yaml"))]
        corpus = (PROJECT / "tests" / "sweep" / "space" / "bad_spaces.txt").read_text(encoding="utf-8")
        cases = [block.partition("\n")[2].partition("\n=> ")[0] for block in corpus.split("\n## ")[1:]]
        return [*spaces, *(case.encode() for case in cases if not case.startswith("--set"))]
    rows = ["train/1.jpg,0-2,Male", "train/2.jpg,3-9,Female", "train/3.jpg,more than 70,Male", "4.jpg,10-19,Female"]
    clean = "\n".join(["file,age,gender", *rows])
    many = "\n".join(
        ["file,age,gender,race,service_test", *(f"train/{n}.jpg,3-9,Male,White,True" for n in range(1, 60))]
    )
    damaged = "file;age;gender\r\n1.jpg;9-Mar;m\r\n2.jpg;19-Oct;F\r\n3.jpg;70+;FEMALE\r\n"
    quoted = 'image_path,Age Group,gender\n"train/1.jpg","20-29","Male"\n"5.jpg",30-39,Male\n'
    texts = [clean, many, damaged, quoted, clean.replace(",", "\t"), f"sep=,\n{clean}", clean.replace("\n", "\n\n"), ""]
    return [b"s" + text.encode() for text in texts] + [b"o" + many.encode(), b"s" + many.encode("utf-16")]
