"""The import rules, the file sizes and the names of DESIGN 1, as tests."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fairface_core.config import TrainConfig, tunable_fields

PROJECT = Path(__file__).resolve().parents[1]
CORE = sorted((PROJECT / "fairface_core").rglob("*.py"))
SWEEP = sorted((PROJECT / "sweep").rglob("*.py"))
MAY_IMPORT_RAY = {"sweep/cluster.py", "sweep/driver.py", "sweep/scheduler.py", "sweep/trial_actor.py"}
# The sweep averages over one field, groups by one and reads the budget from one.
KNOWN_TO_THE_SWEEP = {"seed", "backbone"}


def imported_modules(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def python(code: str, project: Path = PROJECT) -> str:
    """What a fresh Python prints that imports the packages of `project`."""
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=True, cwd=project, env={**os.environ, "PYTHONPATH": str(project)},
    )  # fmt: skip
    return run.stdout


def loaded_modules(code: str) -> set[str]:
    return set(python(f"{code}\nimport sys\nprint('\\n'.join(sys.modules))").split())


def importers_of_ray(project: Path) -> set[str]:
    return {
        path.relative_to(project).as_posix()
        for package in ("fairface_core", "sweep")
        for path in (project / package).rglob("*.py")
        if "ray" in tops(imported_modules(path))
    }


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Both packages, to be changed."""
    for package in ("fairface_core", "sweep"):
        shutil.copytree(PROJECT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def tops(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def name_of(path: Path) -> str:
    return path.relative_to(PROJECT).as_posix()


@pytest.mark.parametrize("path", CORE, ids=name_of)
def test_the_core_imports_neither_ray_nor_the_sweep(path: Path) -> None:
    assert not tops(imported_modules(path)) & {"ray", "sweep"}


def test_only_four_files_import_ray() -> None:
    assert importers_of_ray(PROJECT) == MAY_IMPORT_RAY


def test_an_import_of_ray_deep_in_a_wing_is_found(copy: Path) -> None:
    deep = copy / "sweep/wing/room/table.py"
    deep.parent.mkdir(parents=True)
    deep.write_text("def late():\n    import ray.tune\n")
    assert importers_of_ray(copy) == {*MAY_IMPORT_RAY, "sweep/wing/room/table.py"}


@pytest.mark.parametrize("package", ["fairface_core", "sweep"])
def test_another_program_has_another_digest_however_deep_it_differs(copy: Path, package: str) -> None:
    code = "from fairface_core.provenance import code_digest; print(code_digest())"
    deep = copy / package / "wing/room/table.py"
    deep.parent.mkdir(parents=True)
    digests = [python(code, copy)]
    for text in ("a = 1\n", "a = 2\n"):
        deep.write_text(text)
        digests.append(python(code, copy))
    assert len(set(digests)) == 3
    assert python(code, copy) == digests[-1]


def test_using_the_whole_core_loads_no_ray() -> None:
    code = "import fairface_core\nfor name in fairface_core.__all__: getattr(fairface_core, name)\n"
    loaded = loaded_modules(code + "import fairface_core.train, fairface_core.evaluate, fairface_core.data")
    assert not tops(loaded) & {"ray", "sweep"}
    assert "fairface_core.trainer" in loaded


def test_importing_the_core_is_light() -> None:
    loaded = tops(loaded_modules("import fairface_core"))
    assert not loaded & {"torch", "torchvision", "pandas", "sklearn", "numpy", "pyarrow"}


def test_the_report_needs_neither_ray_nor_torch() -> None:
    loaded = tops(loaded_modules("import sweep.report"))
    assert not loaded & {"ray", "torch", "torchvision"}


def test_a_driver_trains_nothing_and_loads_no_torch() -> None:
    """Also in the checks before the first trial: 2 s, and half of its memory."""
    loaded = tops(loaded_modules("import sweep.launch, sweep.driver, fairface_core.preparation"))
    assert "ray" in loaded
    assert not loaded & {"torch", "torchvision"}


@pytest.mark.parametrize("path", CORE + SWEEP, ids=name_of)
def test_no_file_is_two_files(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 350


@pytest.mark.parametrize("path", CORE + SWEEP, ids=name_of)
def test_no_file_is_a_drawer_of_odds_and_ends(path: Path) -> None:
    assert path.stem not in {"utils", "util", "helpers", "common", "misc"}


@pytest.mark.parametrize("path", SWEEP, ids=name_of)
def test_the_sweep_knows_no_hyperparameter_by_name(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    named = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            named.add(node.value)
        elif isinstance(node, ast.Attribute):
            named.add(node.attr)
        elif isinstance(node, ast.keyword) and node.arg:
            named.add(node.arg)
    assert not named & (tunable_fields() - KNOWN_TO_THE_SWEEP)


def test_every_config_field_is_described() -> None:
    for name, field in TrainConfig.model_fields.items():
        assert field.description, name
        assert set(field.json_schema_extra) == {"tunable", "identity"}, name


def test_adding_a_backbone_is_one_entry() -> None:
    from fairface_core.backbones import BACKBONES

    others = [p for p in CORE + SWEEP if p.name != "backbones.py"]
    for name in BACKBONES:
        users = [p.name for p in others if name in p.read_text(encoding="utf-8")]
        # config.py holds the original script's default; comments may name a backbone whose figure they quote.
        assert set(users) <= {"config.py", "device.py", "plan.py", "spec.py"}, (name, users)
