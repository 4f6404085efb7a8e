"""The YAML reader: what it reads, where it says things stand, and that nothing makes it run code or crash."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fairface_core.errors import ConfigError, shown
from sweep.space.yaml_nodes import MAX_BYTES, MAX_DEPTH, Document, core_scalar, parse_yaml, read_yaml

# Tests share the machine with others.
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
# YAML 1.2.2, chapter 10.3.2, and the words that YAML 1.1 reads as something else.
SCALARS: list[tuple[str, Any]] = [
    ("", None), ("~", None), ("null", None), ("Null", None), ("NULL", None), ("nULL", "nULL"),
    ("true", True), ("True", True), ("TRUE", True), ("false", False), ("tRUE", "tRUE"),
    ("yes", "yes"), ("no", "no"), ("on", "on"), ("off", "off"), ("y", "y"),
    ("0", 0), ("-0", 0), ("+12", 12), ("010", 10), ("0o17", 15), ("0x1F", 31), ("0b1", "0b1"), ("1_000", "1_000"),
    ("3e-4", 3e-4), ("3.0e-4", 3e-4), ("1E5", 1e5), (".5", 0.5), ("5.", 5.0), ("-1.5e+3", -1500.0), ("1e", "1e"),
    (".", "."), ("1:30", "1:30"), ("2026-11-24", "2026-11-24"), ("0-2", "0-2"), ("=", "="), ("<<", "<<"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "value"), SCALARS, ids=lambda value: repr(value))
def test_a_plain_scalar_is_read_by_the_core_schema(text: str, value: Any) -> None:
    read = core_scalar(text)
    assert (type(read), read) == (type(value), value)
    node = parse_yaml(f"key: {text}\n", "s.yaml").value
    assert (type(node["key"]), node["key"]) == (type(value), value)


@pytest.mark.parametrize("text", [".inf", "-.INF", "+.Inf", ".nan", ".NaN", "1e999", "9223372036854775808", "1" * 4000])
def test_a_number_that_no_field_can_hold_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"accepted: finite numbers|accepted: up to 64 bits"):
        core_scalar(text)


def test_quotes_and_block_styles_make_text() -> None:
    root = parse_yaml("a: '1'\nb: \"true\"\nc: |\n  null\n", "s.yaml")
    assert root.value == {"a": "1", "b": "true", "c": "null\n"}


def test_a_surrogate_pair_is_one_character_and_half_of_one_is_refused() -> None:
    assert parse_yaml('{"\\ud83d\\ude00": "\\ud83d\\ude00"}', "s.yaml").value == {"\U0001f600": "\U0001f600"}
    with pytest.raises(
        ConfigError, match=r"^s.yaml:1: '\\ud83d' holds a control character or half of a surrogate pair"
    ):
        parse_yaml('a: "\\ud83d"', "s.yaml")


def test_every_node_knows_its_line() -> None:
    text = "# header\nspace:\n  lr:\n    grid:\n      - 1e-4\n      - 3e-4\nfixed: {epochs: 3,\n  seed: 1}\n"
    root = parse_yaml(text, "s.yaml")
    assert root.places == {
        (): "s.yaml", ("space",): "s.yaml:2", ("space", "lr"): "s.yaml:3", ("space", "lr", "grid"): "s.yaml:4",
        ("space", "lr", "grid", 0): "s.yaml:5", ("space", "lr", "grid", 1): "s.yaml:6",
        ("fixed",): "s.yaml:7", ("fixed", "epochs"): "s.yaml:7", ("fixed", "seed"): "s.yaml:8",
    }  # fmt: skip
    assert root.where(("space", "lr", "uniform", 0)) == "s.yaml:3", "what is absent is blamed on what should hold it"


def test_a_value_of_an_option_may_be_anything_and_has_no_line() -> None:
    assert parse_yaml("[1e-4, 3e-4]", "--set x", is_file=False).value == [1e-4, 3e-4]
    assert parse_yaml("", "--set x", is_file=False) == Document(None, {(): "--set x"})
    with pytest.raises(ConfigError, match=r"^--set x: alias '\*a' is not accepted; write the value out where used$"):
        parse_yaml("*a", "--set x", is_file=False)


def test_all_problems_of_one_text_are_told_together() -> None:
    with pytest.raises(ConfigError) as refused:
        parse_yaml("a: &x 1\nb: *x\na: !!python/name:os.system ''\nc: .nan\n", "s.yaml")
    assert [problem.partition(": ")[0] for problem in refused.value.problems] == [
        "s.yaml:1", "s.yaml:2", "s.yaml:3", "s.yaml:3", "s.yaml:4",
    ]  # fmt: skip


def test_an_endless_list_of_problems_is_cut() -> None:
    with pytest.raises(ConfigError) as refused:
        parse_yaml("a: [" + "*b, " * 1000 + "]", "s.yaml")
    assert len(refused.value.problems) == 21
    assert refused.value.problems[-1] == "s.yaml: more problems may follow"


def test_the_deepest_nesting_that_is_read() -> None:
    levels = MAX_DEPTH - 1  # the root is one
    node = parse_yaml(f"a: {'[' * levels}{']' * levels}", "s.yaml").value["a"]
    for _ in range(levels - 1):
        (node,) = node
    assert node == []


@pytest.mark.parametrize(
    "unit",
    [
        "[",
        "{",
        "- ",
        "? ",
        "&a ",
        "*a ",
        "'",
        '"',
        "a: ",
        "[[],",
        "{a: ",
        "? k\n",
        "- - a\n",
        "%a b\n",
        "a\n b\n",
        "1,",
    ],
    ids=repr,
)
def test_no_text_of_the_largest_size_takes_long(unit: str) -> None:
    started = time.process_time()
    with pytest.raises(ConfigError):
        parse_yaml((unit * MAX_BYTES)[:MAX_BYTES], "s.yaml")
    assert time.process_time() - started < 10, "measured: 1.6 s at most"


def test_the_largest_file_is_read_and_one_byte_more_is_not(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_bytes(b"a: 1 #".ljust(MAX_BYTES, b"x"))
    assert read_yaml(path)[0].value == {"a": 1}
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(ConfigError, match="larger than 256 KiB"):
        read_yaml(path)


def test_the_text_is_returned_as_it_stands(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_bytes("# ä comment\r\na: 1\r\n".encode())
    assert read_yaml(tmp_path / "s.yaml")[1] == "# ä comment\r\na: 1\r\n"


def test_shown_values_are_one_short_line() -> None:
    assert [shown(v) for v in (None, True, 3e-4, "a", "a\nb")] == ["null", "true", "0.0003", "'a'", "'a\\nb'"]
    assert len(shown("x" * 1000)) == 82


PLAIN = st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.floats(allow_nan=False, allow_infinity=False)
WORDS = st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=20)
DOCUMENTS = st.dictionaries(
    WORDS,
    st.recursive(
        PLAIN | WORDS, lambda c: st.lists(c, max_size=4) | st.dictionaries(WORDS, c, max_size=4), max_leaves=12
    ),
    max_size=5,
)


@UNHURRIED
@given(DOCUMENTS)
def test_json_is_read_as_json_reads_it(document: dict[str, Any]) -> None:
    # Non-characters such as U+FFFE may stand in YAML as escapes only, which is what ensure_ascii writes.
    assert parse_yaml(json.dumps(document), "s.yaml").value == json.loads(json.dumps(document))


@UNHURRIED
@given(DOCUMENTS)
def test_what_pyyaml_writes_is_read_back(document: dict[str, Any]) -> None:
    def ambiguous(value: Any) -> bool:
        """Tell whether a text is a number in YAML 1.2 and a text in 1.1, or the other way round, such as 1e5."""
        if isinstance(value, dict):
            return any(map(ambiguous, [*value, *value.values()]))
        if isinstance(value, list):
            return any(map(ambiguous, value))
        try:
            return isinstance(value, str) and core_scalar(value) != value
        except ValueError:
            return True

    if ambiguous(document):
        return
    assert parse_yaml(yaml.safe_dump(document), "s.yaml").value == document


YAML_LIKE = st.lists(
    st.sampled_from(
        [
            *"[]{}:,-?&*!|>'\"%@`#=~\t\n\r \\0a\0\x7f\x85\u2028\ufeff\ud800",
            *("\n  ", ": ", "- ", "<<: ", "!!", "---\n", "...\n", "a: 1\n", "1e-4", "0x", ".inf"),
            *("\\U00110000", "\\ud83d", "\\x", "%YAML 1.", "%TAG ! x\n", "!!python/name:os.system "),
        ]
    ),
    max_size=60,
).map("".join)


@settings(UNHURRIED, max_examples=400)
@given(YAML_LIKE | st.text(max_size=200))
def test_any_text_is_read_or_refused_line_by_line(text: str) -> None:
    try:
        root = parse_yaml(text, "s.yaml")
    except ConfigError as refused:
        assert refused.problems
        for problem in refused.problems:
            assert problem.startswith("s.yaml")
            assert problem.isprintable(), "one line, and nothing that a terminal obeys"
    else:
        assert isinstance(root.value, dict)


@settings(UNHURRIED, max_examples=200)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, payload: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(payload)
    try:
        root, text = read_yaml(path)
    except ConfigError as refused:
        assert all(problem.startswith(str(path)) for problem in refused.problems)
    else:
        assert isinstance(root.value, dict)
        assert text.encode() in payload


def test_reading_runs_no_code_and_opens_no_file(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    opened: list[object] = []
    watching, here = True, threading.get_ident()

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if (
            watching
            and threading.get_ident() == here
            and event in ("open", "os.system", "subprocess.Popen", "exec", "import")
        ):
            opened.append((event, arguments))

    attacks = [
        f"!!python/object/apply:os.system ['touch {canary}']",
        f"!!python/object/new:subprocess.Popen [[touch, {canary}]]",
        "!!python/module:antigravity ''",
        f"!!python/object/apply:builtins.open ['{canary}', w]",
        "!!binary aGk=",
        "!include /etc/passwd",
    ]
    sys.addaudithook(hook)  # cannot be removed; `watching` ends it
    for attack in attacks:
        with pytest.raises(ConfigError):
            parse_yaml(f"space: {attack}\n", "s.yaml")
    watching = False
    assert opened == []
    assert not canary.exists()
