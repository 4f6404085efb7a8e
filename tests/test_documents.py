"""What the documents say of the code, held against it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.test_architecture import PROJECT, WINGS

DOCS = PROJECT / "docs"
SOURCES = [
    path for folder in ("fairface_core", "sweep", "benchmarks", "tests") for path in (PROJECT / folder).rglob("*.py")
]


def test_every_environment_variable_of_ours_is_in_the_table_and_the_code() -> None:
    # A whole string: constants may begin alike.
    named = {name for path in SOURCES for name in re.findall(r'"(FAIRFACE_[A-Z_]+)"', path.read_text(encoding="utf-8"))}
    table = re.findall(r"^\| `(FAIRFACE_[A-Z_]+)`", (DOCS / "environment.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(named) >= 4
    assert sorted(named) == sorted(table)


def test_the_map_names_every_wing_and_file_that_is_there() -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    for row in WINGS.values():
        for wing in row.replace("|", " ").split():
            assert re.search(rf"`{wing}/?`|\| {wing} \|", text), wing
    paths = re.findall(r"`((?:fairface_core|sweep|tests|benchmarks)/[\w/]+\.\w+)`", text)
    assert len(paths) > 10
    assert [path for path in paths if not (PROJECT / path).is_file()] == []


def test_what_comments_cite_is_on_the_page() -> None:
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    titles = set(re.findall(r"^## (.+)$", page, re.MULTILINE))
    cited = {
        " ".join(title.split())
        for path in SOURCES
        if path != Path(__file__)
        for title in re.findall(
            r"docs/architecture\.md, \"?(The contract[\w\s]+script|Facts\s+about\s+\w+)", path.read_text()
        )
    }
    assert len(cited) >= 2
    assert cited <= titles


def test_the_tests_that_hold_a_kind_of_machine_are_there() -> None:
    named = re.findall(r"`(test_\w+)`", (DOCS / "hosts.md").read_text(encoding="utf-8"))
    defined = {
        name for path in (PROJECT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    }  # fmt: skip
    assert len(named) > 40
    assert [name for name in named if name not in defined] == []


def test_links_between_documents_lead_somewhere() -> None:
    documents = [*PROJECT.glob("*.md"), *DOCS.glob("*.md")]
    for document in documents:
        links = re.findall(r"\]\(((?!https?:)[^)#\s]+)", document.read_text(encoding="utf-8"))
        assert [link for link in links if not (document.parent / link).exists()] == [], document.name


def test_the_licence_is_the_one_that_is_claimed() -> None:
    text = (PROJECT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text and "Version 2.0, January 2004" in text and len(text) > 11_000
    assert 'license = "Apache-2.0"' in (PROJECT / "pyproject.toml").read_text(encoding="utf-8")


def test_type_information_is_in_the_wheel(tmp_path: Path) -> None:
    assert all((PROJECT / package / "py.typed").is_file() for package in WINGS)
    data = (PROJECT / "pyproject.toml").read_text(encoding="utf-8").partition("[tool.setuptools.package-data]")[2]
    for package in WINGS:
        assert re.search(rf'^{package} = \[.*"py\.typed"', data.partition("\n[")[0], re.MULTILINE), package


def test_nothing_cites_what_no_reader_has() -> None:
    files = subprocess.run(["git", "ls-files"], cwd=PROJECT, capture_output=True, text=True, check=False).stdout.split()
    texts = [PROJECT / name for name in files if name.endswith((".py", ".md", ".yaml", ".toml", ".txt", ".j2", "run"))]
    found = [
        f"{path.relative_to(PROJECT)}: {match}"
        for path in texts
        if path.is_file() and path != Path(__file__)
        for match in re.findall(r"\b(?:DESIGN|[Ii]ssue) #?\d+", path.read_text(encoding="utf-8"))
    ]
    assert found == []
