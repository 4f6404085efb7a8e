"""Images that lie in archives and Parquet files: read in bounded memory, decoded as files are."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fairface_core.errors import CacheError
from fairface_core.images import places
from fairface_core.images.cache import ImageCache, cache_size_px, open_cache
from fairface_core.images.decode import ImageError, bytes_of
from fairface_core.images.places import batches, in_parquet, in_zip, sort_key
from fairface_core.images.prune import list_caches

NUM = 1100  # enough that two processes decode


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The same images as files, in an archive and in a Parquet file: form -> places, by number."""
    folder = tmp_path_factory.mktemp("forms")
    (folder / "f").mkdir()
    rng = np.random.default_rng(3)
    names = [f"f/{number}.jpg" for number in range(NUM)]
    for name in names:
        Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(folder / name, quality=90)
    (folder / names[17]).write_bytes(b"no image")
    with zipfile.ZipFile(folder / "all.zip", "w") as archive:
        for name in reversed(names):
            archive.write(folder / name, name)
    cells = [{"bytes": (folder / name).read_bytes(), "path": name} for name in names]
    pq.write_table(pa.table({"image": cells}), folder / "all.parquet", row_group_size=300)
    return {
        "files": [str(folder / name) for name in names],
        "zip": [in_zip(str(folder / "all.zip"), name) for name in names],
        "parquet": [in_parquet(str(folder / "all.parquet"), row, name) for row, name in enumerate(names)],
    }


def opened(chosen: list[str], folder: Path, **changes: int) -> ImageCache:
    return open_cache(chosen, 16, cache_dir=folder, num_workers=changes.get("num_workers", 2))


@pytest.mark.parametrize("num_workers", [1, 2])
@pytest.mark.parametrize("form", ["zip", "parquet"])
def test_the_cache_has_the_bytes_of_the_files(
    forms: dict[str, list[str]], tmp_path: Path, form: str, num_workers: int
) -> None:
    files = opened(forms["files"], tmp_path / "files")
    other = opened(forms[form], tmp_path / form, num_workers=num_workers)
    assert (other.directory / "images.bin").read_bytes() == (files.directory / "images.bin").read_bytes()
    assert other.rows(forms[form]).tolist() == files.rows(forms["files"]).tolist()
    assert [bad.path for bad in other.bad] == [forms[form][17]]


@pytest.mark.parametrize("form", ["zip", "parquet"])
def test_any_choice_of_images_is_read(forms: dict[str, list[str]], form: str) -> None:
    wanted = [5, 1099, 299, 300, 6, 640]
    found = {place: raw for batch in batches([forms[form][n] for n in wanted], 4) for place, raw in batch}
    assert {place: bytes_of(place, raw) for place, raw in found.items()} == {
        forms[form][n]: Path(forms["files"][n]).read_bytes() for n in wanted
    }
    absent = {"zip": forms["zip"][0] + ".png", "parquet": in_parquet(forms["parquet"][0].partition("//")[0], NUM, "x")}
    ((place, raw),) = next(batches([absent[form]], 4))
    with pytest.raises(ImageError, match="has no such"):
        bytes_of(place, raw)


def test_files_and_members_may_be_mixed(forms: dict[str, list[str]]) -> None:
    mixed = [forms["files"][1], forms["zip"][2], forms["parquet"][3]]
    found = [place for batch in batches(mixed, 10) for place, _ in batch]
    assert sorted(found) == sorted(mixed)


def test_a_container_that_is_gone_refuses_each_of_its_images(forms: dict[str, list[str]], tmp_path: Path) -> None:
    gone = [in_zip(str(tmp_path / "gone.zip"), "a"), in_parquet(str(tmp_path / "gone.parquet"), 0, "")]
    for place, raw in (item for batch in batches(gone, 10) for item in batch):
        with pytest.raises(ImageError, match="cannot be read"):
            bytes_of(place, raw)


def test_names_order_the_images_whatever_holds_them(forms: dict[str, list[str]]) -> None:
    orders = [np.argsort(np.argsort([sort_key(place)[0] for place in forms[form]])).tolist() for form in forms]
    assert orders[0] == orders[1] == orders[2]
    assert sorted(["/a/b.jpg", "/a//b.jpg", "//a/b.jpg"], key=sort_key) == sorted(
        ["/a/b.jpg", "/a//b.jpg", "//a/b.jpg"]
    )


def test_few_bytes_wait(forms: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "_MAX_WAITING_BYTES", 2000)
    assert max(len(batch) for batch in batches(forms["parquet"], 64)) < 8


def test_a_cache_of_a_changed_container_is_pruned(forms: dict[str, list[str]], tmp_path: Path) -> None:
    folder = tmp_path / "copy.parquet"
    folder.write_bytes(Path(forms["parquet"][0].partition("//")[0]).read_bytes())
    mine = [in_parquet(str(folder), row, "") for row in range(16)]
    before = opened(mine, tmp_path / "cache")
    assert [cache.usable for cache in list_caches(tmp_path / "cache")] == [True]
    folder.write_bytes(folder.read_bytes() + b"")
    after = opened(mine, tmp_path / "cache")
    assert after.directory != before.directory
    assert sorted(cache.usable for cache in list_caches(tmp_path / "cache")) == [False, True]


PEAK = """
import hashlib, resource, sys
import pyarrow.parquet
from fairface_core.images.places import batches, in_parquet, in_zip
make = in_parquet if sys.argv[1].endswith(".parquet") else lambda file, row, name: in_zip(file, str(row))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
seen = hashlib.sha256()
for batch in batches([make(sys.argv[1], row, "") for row in range(1500)], 64):
    for _, raw in batch:
        seen.update(raw)
print(seen.hexdigest(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("name", ["large.parquet", "large.zip"])
def test_a_row_group_of_300_mb_is_read_in_bounded_memory(tmp_path: Path, name: str) -> None:
    rng, seen = np.random.default_rng(0), hashlib.sha256()
    images = [rng.bytes(200_000) for _ in range(1500)]
    if name.endswith(".parquet"):
        pq.write_table(pa.table({"image": images}), tmp_path / name, row_group_size=2**20)
        assert pq.ParquetFile(tmp_path / name).num_row_groups == 1
    else:
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for number, raw in enumerate(images):
                archive.writestr(str(number), raw)
    for raw in images:
        seen.update(raw)
    run = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path / name)], capture_output=True, text=True, check=True, timeout=120
    )
    digest, kib = run.stdout.split()
    assert digest == seen.hexdigest()
    assert int(kib) < 120 * 1024


def test_the_side_is_chosen_and_the_size_told_before(
    forms: dict[str, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [cache_size_px(384), cache_size_px(64), cache_size_px(384, 448), cache_size_px(64, 448)] == [
        224,
        64,
        448,
        448,
    ]
    open_cache(forms["zip"][:120], 448, cache_dir=tmp_path, num_workers=1)
    assert capsys.readouterr().err.startswith(
        f"building the image cache: 120 images at 448 px take 68.9 MiB; {tmp_path} has "
    )
    meta = json.loads(next(tmp_path.glob("448px-*/meta.json")).read_text())
    assert meta["size_px"] == 448
    with pytest.raises(CacheError, match=r"1,100 images at 4000000 px take .* GiB; .* has .* free; .* with --cache_px"):
        open_cache(forms["parquet"], 4_000_000, cache_dir=tmp_path, num_workers=1)
