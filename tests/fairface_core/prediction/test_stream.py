"""The pass over pictures: asked for as they are needed, and ended when nobody listens any more."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fairface_core.prediction.models import load_member
from fairface_core.prediction.sources import Picture
from fairface_core.prediction.stream import stream_answers


def test_an_endless_list_is_answered_as_it_comes(trial: Path, demo_root: Path) -> None:
    files = sorted(map(str, (demo_root / "val").iterdir()))
    asked = []
    before = set(threading.enumerate())

    def pictures() -> Iterator[Picture]:
        for file in itertools.cycle(files):
            asked.append(file)
            yield Picture(file, file)

    member = load_member(trial, torch.device("cpu"))
    answers = stream_answers([member], pictures(), batch_size=20, num_threads=2, device=torch.device("cpu"))
    for number in range(1, 6):
        assert len(next(answers).file) == 20
        assert len(asked) <= 20 * (number + 2), "at most two batches run ahead"
    answers.close()
    assert set(threading.enumerate()) <= before


def test_what_a_source_raises_ends_it(trial: Path, demo_root: Path) -> None:
    picture = str(next((demo_root / "val").iterdir()))
    before = set(threading.enumerate())

    def pictures() -> Iterator[Picture]:
        yield from [Picture(picture, picture)] * 40
        raise OSError("the disk is gone")

    member = load_member(trial, torch.device("cpu"))
    with pytest.raises(OSError, match="the disk is gone"):
        list(stream_answers([member], pictures(), batch_size=8, num_threads=2, device=torch.device("cpu")))
    assert set(threading.enumerate()) <= before
