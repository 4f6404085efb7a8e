"""The fuzz program's own inputs run through its checks; `python tests/fuzz/fuzz_inputs.py` makes many more."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from targets import TARGETS, Finding, csv_target, seeds, yaml_target


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


def test_the_checks_of_the_fuzzer_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweep.spec.DATA_FIELDS", ("a\nb",))
    with pytest.raises(Finding, match="a problem is not one printable line"):
        yaml_target(tmp_path)(b'space: {"a\\nb": {grid: [1]}}')


def test_an_image_outside_of_the_root_would_be_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one_input = csv_target(tmp_path)
    (tmp_path / "out.jpg").touch()
    (tmp_path / "faces" / "4.jpg").symlink_to(tmp_path / "out.jpg")
    payload = b"sfile,age,gender\n4.jpg,0-2,Male\n"
    assert one_input(payload) != "accepted"
    monkeypatch.setattr("fairface_core.paths.ImageFinder.holds", lambda *_: True)
    with pytest.raises(Finding, match="an image lies outside of the root"):
        one_input(payload)
