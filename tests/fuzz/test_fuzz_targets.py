"""The fuzz program's own inputs run through its checks; `python -m tests.fuzz.fuzz_inputs` makes many more."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS, Finding, check_lines, csv_target, seeds


@pytest.mark.parametrize("target", TARGETS)
def test_the_seeds_of_the_fuzzer_and_their_neighbors_pass(tmp_path: Path, target: str) -> None:
    one_input = TARGETS[target](tmp_path)
    inputs = seeds(target)
    generator = random.Random(0)
    for _ in range(50):
        changed = bytearray(generator.choice(inputs) or b"s")
        changed[generator.randrange(len(changed))] = generator.randrange(256)
        inputs.append(bytes(changed))
    outcomes = [one_input(payload) for payload in inputs]
    assert 3 <= outcomes.count("accepted") < len(outcomes)


def test_a_problem_of_two_lines_would_be_found() -> None:
    check_lines(("one line", "another"))
    with pytest.raises(Finding, match="a problem is not one printable line"):
        check_lines(("one line\nand another",))


def test_an_image_outside_of_the_root_would_be_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one_input = csv_target(tmp_path)
    (tmp_path / "out.jpg").touch()
    (tmp_path / "faces" / "4.jpg").symlink_to(tmp_path / "out.jpg")
    # The root's owner made the link; a name that goes through `..` may not use it.
    payload = b"sfile,age,gender\ntrain/../4.jpg,0-2,Male\n"
    assert one_input(payload) != "accepted"
    monkeypatch.setattr("fairface_core.dataset.image_finder.ImageFinder.holds", lambda *_: True)
    with pytest.raises(Finding, match="an image lies outside of the root"):
        one_input(payload)


@pytest.mark.parametrize("age", [f"Mar-{'9' * 20}", "1" * 5000, f"9 mar {'9' * 4400}"], ids=len)
def test_what_the_fuzzer_found_in_the_csv_reader_stays_mended(tmp_path: Path, age: str) -> None:
    # datetime.date(10**20, 3, 1) raised OverflowError, int("9" * 4400) ValueError (found by atheris).
    outcome = csv_target(tmp_path)(f"sfile,age,gender\n1.jpg,{age},Male\n".encode())
    assert outcome.startswith("fairface_label_train.csv line _: age _")


@pytest.mark.parametrize("text", ['{"\\ud83d\\ude00": {}}', 'name: "\\ud83d\\ude00"'])
def test_a_surrogate_pair_is_a_character_also_in_a_space(tmp_path: Path, text: str) -> None:
    assert "surrogate" not in TARGETS["yaml"](tmp_path)(text.encode())
