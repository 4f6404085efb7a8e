"""The wings and who may import whom, the file sizes and the names of docs/architecture.md, as tests."""

from __future__ import annotations

import ast
import graphlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fairface_core.config.train_config import TrainConfig, tunable_fields

PROJECT = Path(__file__).resolve().parents[1]
CORE = sorted((PROJECT / "fairface_core").rglob("*.py"))
SWEEP = sorted((PROJECT / "sweep").rglob("*.py"))
# Each package from left to right: nothing imports what stands to the right of it, or beside it in its own group. What
# is no wing is a door: a command, or the package itself.
WINGS = {
    "fairface_core": "errors labels | console timm_models | backbones | config | machine files | scoring demo | images model"
    " | dataset | trial | training | prediction | exporting | doors",
    "sweep": "wording space policy cluster | plan | run_folder | driving results | page console | trackers | launch | doors",
}
DOORS = {
    "fairface_core": {"__init__", "data", "evaluate", "export", "predict", "train"},
    "sweep": {"__init__", "report", "run"},
}
# What the order alone does not say.
ALLOWED: set[tuple[str, str]] = set()
FORBIDDEN = {("sweep.page", "sweep.driving")}  # a report needs no Ray
MAY_IMPORT_RAY = {
    "sweep/cluster/connect.py",
    "sweep/driving/actor.py",
    "sweep/driving/driver.py",
    "sweep/driving/race_scheduler.py",
    "sweep/policy/asha.py",
}
MOST_LINES = 350
MOST_FILES = 14
# The sweep averages over one field, groups by one and reads the budget from one; another has the name of an argument of Optuna's.
KNOWN_TO_THE_SWEEP = {"seed", "backbone", "sampler"}


def imports_of(path: Path) -> set[tuple[str, str]]:
    """Module and name of every import of a file, those within functions included; `import x` names nothing of `x`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {(alias.name, "") for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {(node.module, alias.name) for alias in node.names}
    return found


def sources(project: Path) -> dict[str, Path]:
    """Module name -> file, of both packages; `sweep.page` is its `__init__.py`."""
    return {
        ".".join(path.relative_to(project).with_suffix("").parts).removesuffix(".__init__"): path
        for package in WINGS
        for path in sorted((project / package).rglob("*.py"))
    }


def module_graph(project: Path) -> dict[str, set[str]]:
    """Module -> the modules of ours that it imports."""
    files = sources(project)
    return {
        name: {
            f"{module}.{part}" if f"{module}.{part}" in files else module
            for module, part in imports_of(path)
            if module in files
        }
        for name, path in files.items()
    }


def wing_of(module: str) -> str:
    """`fairface_core.images` of `fairface_core.images.cache`; `sweep.doors` of `sweep.run`, and of `sweep` itself."""
    package, _, rest = module.partition(".")
    first = rest.partition(".")[0] or "__init__"
    return f"{package}.doors" if first in DOORS[package] else f"{package}.{first}"


def broken_rules(project: Path) -> list[str]:
    place = {
        f"{package}.{wing}": (package, number)
        for package, row in WINGS.items()
        for number, group in enumerate(row.split("|"))
        for wing in group.split()
    }
    graph = module_graph(project)
    broken = [f"{name} belongs to no wing" for name in graph if wing_of(name) not in place]
    for name, imported in graph.items():
        for other in imported:
            here, there = wing_of(name), wing_of(other)
            if here == there or (here, there) in ALLOWED or not {here, there} <= place.keys():
                continue
            (package, number), (from_package, from_number) = place[here], place[there]
            if package == from_package:
                kept = from_number < number and (here, there) not in FORBIDDEN
            else:
                kept = package == "sweep"
            if not kept:
                broken.append(f"{name} imports {other}")
    return broken


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
        for package in WINGS
        for path in (project / package).rglob("*.py")
        if "ray" in tops({module for module, _ in imports_of(path)})
    }


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Both packages, to be changed."""
    for package in WINGS:
        shutil.copytree(PROJECT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def tops(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def name_of(path: Path) -> str:
    return path.relative_to(PROJECT).as_posix()


@pytest.mark.parametrize("path", CORE, ids=name_of)
def test_the_core_imports_neither_ray_nor_the_sweep(path: Path) -> None:
    assert not tops({module for module, _ in imports_of(path)}) & {"ray", "sweep"}


def test_only_five_files_import_ray() -> None:
    assert importers_of_ray(PROJECT) == MAY_IMPORT_RAY


def test_only_one_file_knows_timm() -> None:
    """Also by name: elsewhere it is a prefix of some backbones' names, and the extra that brings it."""
    users = {name_of(path) for path in CORE + SWEEP if "timm" in tops({module for module, _ in imports_of(path)})}
    assert users == {"fairface_core/timm_models.py"}


def test_an_import_of_ray_deep_in_a_wing_is_found(copy: Path) -> None:
    deep = copy / "sweep/page/room/table.py"
    deep.parent.mkdir()
    deep.write_text("def late():\n    import ray.tune\n")
    assert importers_of_ray(copy) == {*MAY_IMPORT_RAY, "sweep/page/room/table.py"}


def test_nothing_is_imported_from_the_right() -> None:
    assert broken_rules(PROJECT) == []


@pytest.mark.parametrize(
    ("path", "line", "broken"),
    [
        ("fairface_core/files/new.py", "import sweep.wording", "fairface_core.files.new imports sweep.wording"),
        ("fairface_core/console.py", "import fairface_core.errors\nfrom fairface_core import fit",
         "fairface_core.console imports fairface_core"),
        ("fairface_core/images/new.py", "from fairface_core.dataset import split",
         "fairface_core.images.new imports fairface_core.dataset.split"),
        ("fairface_core/scoring/room/new.py", "def late():\n    from fairface_core.demo.folder import demo_root",
         "fairface_core.scoring.room.new imports fairface_core.demo.folder"),
        ("sweep/driving/new.py", "from sweep.results import stats", "sweep.driving.new imports sweep.results.stats"),
        ("sweep/results/new.py", "import sweep.driving.ledger", "sweep.results.new imports sweep.driving.ledger"),
        ("sweep/page/new.py", "from sweep.driving.ledger import Ledger", "sweep.page.new imports sweep.driving.ledger"),
        ("sweep/policy/new.py", "from sweep.run import main", "sweep.policy.new imports sweep.run"),
        ("sweep/attic/new.py", "", "sweep.attic.new belongs to no wing"),
    ],
)  # fmt: skip
def test_an_import_from_the_right_is_found(copy: Path, path: str, line: str, broken: str) -> None:
    file = copy / path
    file.parent.mkdir(exist_ok=True)
    file.write_text(line)
    assert broken_rules(copy) == [broken]


def test_no_module_leads_back_to_itself() -> None:
    graphlib.TopologicalSorter(module_graph(PROJECT)).prepare()


def test_a_circle_of_late_imports_is_found(copy: Path) -> None:
    (copy / "sweep/plan/here.py").write_text("import sweep.plan.there")
    (copy / "sweep/plan/there.py").write_text("def late():\n    from sweep.plan.here import name")
    with pytest.raises(graphlib.CycleError):
        graphlib.TopologicalSorter(module_graph(copy)).prepare()


@pytest.mark.parametrize("package", ["fairface_core", "sweep"])
def test_another_program_has_another_digest_however_deep_it_differs(copy: Path, package: str) -> None:
    code = "from fairface_core.machine.provenance import code_digest; print(code_digest())"
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
    loaded = loaded_modules(
        code + "import fairface_core.train, fairface_core.evaluate, fairface_core.predict, fairface_core.data"
    )
    assert not tops(loaded) & {"ray", "sweep"}
    assert "fairface_core.training.fit" in loaded


def test_importing_the_core_is_light() -> None:
    loaded = tops(loaded_modules("import fairface_core"))
    assert not loaded & {"torch", "torchvision", "pandas", "sklearn", "numpy", "pyarrow"}


def test_the_report_needs_neither_ray_nor_torch() -> None:
    loaded = tops(loaded_modules("import sweep.report"))
    assert not loaded & {"ray", "torch", "torchvision"}


def test_a_driver_trains_nothing_and_loads_no_torch() -> None:
    """Also in the checks before the first trial: 2 s, and half of its memory."""
    loaded = tops(loaded_modules("import sweep.launch.session, sweep.driving.driver, fairface_core.training.checks"))
    assert "ray" in loaded
    assert not loaded & {"torch", "torchvision"}


@pytest.mark.parametrize("path", CORE + SWEEP, ids=name_of)
def test_no_file_is_two_files(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("folder", sorted({path.parent for path in CORE + SWEEP}), ids=name_of)
def test_no_folder_is_a_drawer(folder: Path) -> None:
    assert sum(path.is_file() for path in folder.iterdir()) <= MOST_FILES


@pytest.mark.parametrize("folder", sorted({path.parent for path in CORE + SWEEP}), ids=name_of)
def test_a_wing_says_in_one_sentence_what_belongs_there(folder: Path) -> None:
    tree = ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    assert folder.name in WINGS or len(tree.body) == 1


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
        assert set(field.json_schema_extra) == {"tunable", "identity", "data", "added"}, name


def test_adding_a_backbone_is_one_entry() -> None:
    from fairface_core.backbones import BACKBONES

    others = [p for p in CORE + SWEEP if name_of(p) != "fairface_core/backbones.py"]
    for name in BACKBONES:
        users = [name_of(p) for p in others if name in p.read_text(encoding="utf-8")]
        # train_config.py holds the original script's default; comments may name a backbone whose figure they quote.
        assert set(users) <= {
            "fairface_core/config/train_config.py", "fairface_core/machine/device.py", "sweep/plan/expand.py", "sweep/space/load.py",
        }, (name, users)  # fmt: skip
