"""TensorBoard's files, read back by tensorboardX's own messages and checksums."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from sweep.launch.tensorboard import EVENTS_FILE, Curves

EPOCHS = [
    {
        "epoch": epoch, "lr": 1e-3 / epoch, "train_loss": 2.0, "val_age_f1m": 0.25, "mean_f1": 0.1 * epoch,
        "train_s": 3.5, "pid": 77, "time_total_s": 8.5, "done": False,
    }
    for epoch in (1, 2, 200)
]  # fmt: skip


@pytest.mark.filterwarnings("ignore")  # tensorboardX imports half of torch
def read(path: Path) -> list[tuple[int, dict[str, float]]]:
    """Return (step, tag -> value) of each event after the first, with every checksum checked."""
    from tensorboardX.crc32c import crc32c
    from tensorboardX.proto.event_pb2 import Event

    def masked(data: bytes) -> int:
        crc = crc32c(data) & 0xFFFFFFFF
        return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF

    raw, events = path.read_bytes(), []
    while raw:
        header, (length,) = raw[:8], struct.unpack("<Q", raw[:8])
        message = raw[12 : 12 + length]
        assert struct.unpack("<I", raw[8:12])[0] == masked(header)
        assert struct.unpack("<I", raw[12 + length : 16 + length])[0] == masked(message)
        events.append(Event.FromString(message))
        raw = raw[16 + length :]
    assert events[0].file_version == "brain.Event:2"
    assert all(event.wall_time > 1.7e9 for event in events)
    return [(event.step, {value.tag: value.simple_value for value in event.summary.value}) for event in events[1:]]


@pytest.mark.filterwarnings("ignore")
def test_every_figure_of_every_epoch_is_there_and_nothing_of_rays(tmp_path: Path) -> None:
    curves = Curves()
    curves.begin("t", tmp_path / "t", EPOCHS[:1])
    for epoch in EPOCHS[1:]:
        curves.add("t", epoch)
    events = read(tmp_path / "t" / EVENTS_FILE)  # while it is open: TensorBoard reads a running sweep
    curves.close()
    assert [step for step, _ in events] == [1, 2, 200]
    values = events[2][1]
    expected = {
        "lr": 1e-3 / 200, "train/loss": 2.0, "val/age_f1m": 0.25, "mean_f1": 20.0, "speed/train_s": 3.5,
    }  # fmt: skip
    assert values == pytest.approx(expected, rel=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_a_retry_replaces_the_file(tmp_path: Path) -> None:
    curves = Curves()
    curves.begin("t", tmp_path, EPOCHS[:2])
    curves.begin("t", tmp_path, EPOCHS[:1])
    curves.add("t", EPOCHS[1])
    curves.end("t")
    assert [step for step, _ in read(tmp_path / EVENTS_FILE)] == [1, 2]
    assert [path.name for path in tmp_path.iterdir()] == [EVENTS_FILE]


def test_what_is_not_a_number_is_left_out_and_unknown_trials_are_ignored(tmp_path: Path) -> None:
    curves = Curves()
    curves.add("nobody", EPOCHS[0])
    curves.begin("t", tmp_path, [])
    size = (tmp_path / EVENTS_FILE).stat().st_size
    curves.add("t", {"epoch": 1, "mean_f1": float("nan"), "note": "text"})
    curves.close()
    assert 0 < (tmp_path / EVENTS_FILE).stat().st_size - size < 40


@pytest.mark.filterwarnings("ignore")
def test_a_full_disk_ends_a_curve_and_nothing_else(tmp_path: Path) -> None:
    """The file size limit is the full disk of one process: the second epoch does not fit any more."""
    import resource
    import signal

    curves = Curves()
    curves.begin("t", tmp_path / "t", EPOCHS[:1])
    size = (tmp_path / "t" / EVENTS_FILE).stat().st_size
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, limits[1]))
    try:
        curves.add("t", EPOCHS[1])
        curves.add("t", EPOCHS[2])
        curves.begin("u", tmp_path / "t" / EVENTS_FILE, [])
        curves.add("u", EPOCHS[0])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    curves.add("t", EPOCHS[2])
    assert (tmp_path / "t" / EVENTS_FILE).stat().st_size == size + 20, "nothing follows half a record"
    # The next leg draws it whole.
    curves.begin("t", tmp_path / "t", EPOCHS)
    curves.close()
    assert [step for step, _ in read(tmp_path / "t" / EVENTS_FILE)] == [1, 2, 200]
