"""What is recorded of a run follows from what the packages import."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

from fairface_core.machine.provenance import PACKAGES, versions

PROJECT = Path(__file__).resolve().parents[3]
# Where a module's name is not that of its distribution, or the distribution comes with another, in the version that fits it.
DISTRIBUTION = {
    "PIL": "pillow", "imagehash": "ImageHash", "sklearn": "scikit-learn", "yaml": "PyYAML",
    "annotated_types": "pydantic", "typing_extensions": "pydantic", "triton": "torch",
    "dlib": "dlib-bin", "mlflow": "mlflow-skinny",
}  # fmt: skip
# They show, check, lock or serialize; no number of a result passes through them.
MOVES_NO_NUMBER = {"ImageHash", "PyYAML", "filelock", "jinja2", "markupsafe", "plotly", "psutil", "pydantic", "rich"}

# An extra that numbers pass through, where a backbone is one of its own.
TRAINS = {"timm"}


def imported_distributions() -> set[str]:
    tops = set()
    for package in ("fairface_core", "sweep"):
        for path in (PROJECT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    tops |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module:
                    tops.add(node.module.partition(".")[0])
    ours = {"fairface_core", "sweep"}
    return {DISTRIBUTION.get(top, top) for top in tops - ours - sys.stdlib_module_names}


def runtime_dependencies() -> set[str]:
    text = (PROJECT / "pyproject.toml").read_text(encoding="utf-8")
    (block,) = re.findall(r"^dependencies = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    return set(re.findall(r'^ *"([A-Za-z0-9_-]+)', block, re.MULTILINE))


def extras() -> set[str]:
    """Distributions that a command may need and a training run never does."""
    text = (PROJECT / "pyproject.toml").read_text(encoding="utf-8")
    (block,) = re.findall(r"^\[project.optional-dependencies\]\n(.*?)^\[", text, re.MULTILINE | re.DOTALL)
    blocks = re.findall(r"^(\w+) = \[(.*?)\][ #\w`/;.-]*$", block, re.MULTILINE | re.DOTALL)
    assert {"hub", "export", "timm", "wandb"} <= {name for name, _ in blocks}
    needed = " ".join(text for name, text in blocks if name not in ("test", "dev"))
    return set(re.findall(r'"([A-Za-z0-9_-]+)', needed)) - TRAINS


def test_whatever_a_number_passes_through_is_recorded() -> None:
    """A resume after an upgrade of any of them says so: it compares these versions."""
    assert set(PACKAGES) == imported_distributions() - MOVES_NO_NUMBER - extras()
    assert versions().keys() | TRAINS == set(PACKAGES)


def test_a_dependency_is_what_a_package_imports() -> None:
    assert runtime_dependencies() == imported_distributions() - extras() - TRAINS
