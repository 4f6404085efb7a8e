"""`data pack`: the hub's layout, whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from fairface_core.data import main
from fairface_core.dataset.manifest import load_manifest
from fairface_core.dataset.prepare import prepare_data
from fairface_core.dataset.sources import pack
from fairface_core.errors import StorageError
from tests.fairface_core.mirrors import HUB_RACES, archives
from tests.fairface_core.small_data import DataRoot


def test_the_layout_is_the_hubs(data_root: DataRoot, capsys: pytest.CaptureFixture[str]) -> None:
    out = data_root.path.parent / "faces.parquet"
    assert main(["pack", "--root", str(data_root.path), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}: train 36, val 90 rows; use it as --root\n"
    assert sorted(path.name for path in out.iterdir()) == [
        "train-00000-of-00001.parquet", "validation-00000-of-00001.parquet",
    ]  # fmt: skip
    schema = pq.read_schema(out / "train-00000-of-00001.parquet")
    assert schema.names == ["image", "age", "gender", "race", "service_test"]
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == {"_type": "Image"}
    assert features["gender"] == {"names": ["Male", "Female"], "_type": "ClassLabel"}
    assert features["race"]["names"] == [race for race in HUB_RACES if race in ("East Asian", "White")]
    assert main(["check", "--root", str(out), "--cache_dir", str(out.parent)]) == 0
    assert "train: 36 rows, Parquet" in capsys.readouterr().out
    assert load_manifest(data_root.config(root=str(out))).digest == load_manifest(data_root.config()).digest


def test_repaired_labels_are_kept_as_repaired(data_root: DataRoot) -> None:
    data_root.set_cell(3, 1, "9-Mar")
    data_root.set_cell(4, 2, "f")
    data_root.set_cell(5, 3, "")
    data_root.set_cell(6, 4, "")
    clean = load_manifest(data_root.config())
    out = data_root.path.parent / "faces.parquet"
    pack.pack_data(data_root.config(), out)
    packed = load_manifest(data_root.config(root=str(out)))
    assert packed.digest == clean.digest
    assert packed.counts["repaired"] == {}
    for mine, theirs in ((clean.val, packed.val), (clean.test, packed.test)):
        assert mine.race.tolist() == theirs.race.tolist()
        assert mine.service_test.tolist() == theirs.service_test.tolist()


def test_csvs_without_race(data_root: DataRoot) -> None:
    for path in (data_root.train_csv, data_root.val_csv):
        path.write_text("\n".join(",".join(line.split(",")[:3]) for line in path.read_text().splitlines()))
    out = data_root.path.parent / "faces.parquet"
    pack.pack_data(data_root.config(), out)
    packed = load_manifest(data_root.config(root=str(out)))
    assert packed.test.race is None
    assert packed.test.service_test is None
    assert packed.digest == load_manifest(data_root.config()).digest


def test_shards_and_row_groups(data_root: DataRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "_GROUP_ROWS", 10)
    monkeypatch.setattr(pack, "_SHARD_BYTES", 8000)
    out = data_root.path.parent / "faces.parquet"
    pack.pack_data(data_root.config(), out)
    shards = sorted(path.name for path in out.glob("validation-*"))
    assert len(shards) > 2
    assert shards[-1] == f"validation-{len(shards) - 1:05d}-of-{len(shards):05d}.parquet"
    assert load_manifest(data_root.config(root=str(out))).digest == load_manifest(data_root.config()).digest


def test_an_archive_packs_as_the_folder_does(data_root: DataRoot, tmp_path: Path) -> None:
    zipped = archives(data_root.path, tmp_path / "zipped")
    for root, out in ((data_root.path, "one"), (zipped, "other")):
        pack.pack_data(data_root.config(root=str(root)), tmp_path / out)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "other" / path.name).read_bytes()


def test_images_that_are_not_there(data_root: DataRoot, capsys: pytest.CaptureFixture[str]) -> None:
    (data_root.path / "train/9.jpg").unlink()
    out = data_root.path.parent / "faces.parquet"
    flags = ["pack", "--root", str(data_root.path), "--out", str(out)]
    assert main(flags) == 2
    assert "line 10: file 'train/9.jpg' is in none" in capsys.readouterr().err
    assert not out.exists()
    assert main([*flags, "--on_bad_image", "skip", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == {"train": 35, "val": 90}
    prepare_data(data_root.config(root=str(out), image_size=32))


def test_nothing_is_overwritten_and_nothing_half_is_left(
    data_root: DataRoot, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = data_root.path.parent / "faces.parquet"
    out.mkdir()
    (out / "mine").touch()
    assert main(["pack", "--root", str(data_root.path), "--out", str(out)]) == 2
    assert (
        capsys.readouterr().err
        == f"error: {out} exists and is not an empty folder; name another, nothing was changed\n"
    )
    before = sorted(data_root.path.parent.iterdir())

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pack._Writer, "write", full)
    with pytest.raises(StorageError, match=r"cannot be written \(No space left on device\); free some space"):
        pack.pack_data(data_root.config(), data_root.path.parent / "other")
    assert sorted(data_root.path.parent.iterdir()) == before
