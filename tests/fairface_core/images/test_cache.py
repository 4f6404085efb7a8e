"""The cache: right pixels, one builder, whole or absent, stale never, damage found, memory shared."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image
from torchvision import transforms

from fairface_core.errors import CacheError, DataError
from fairface_core.images import build as cache_build
from fairface_core.images import cache as cache_module
from fairface_core.images.cache import BadImage, ImageCache, cache_size_px, open_cache

PROJECT = Path(__file__).resolve().parents[3]
# Enough that processes decode.
MANY = 2 * cache_build._IMAGES_PER_PROCESS + 10


def draw(path: Path, seed: int, width: int = 24, height: int = 20, mode: str = "RGB") -> str:
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC).convert(mode)
    image.save(path, "JPEG")
    return str(path)


@pytest.fixture
def photos(tmp_path: Path) -> list[str]:
    folder = tmp_path / "photos"
    folder.mkdir()
    modes = ["RGB", "L", "CMYK"]
    return [draw(folder / f"{i}.jpg", i, 20 + 5 * i, 30 - i, modes[i % 3]) for i in range(12)]


@pytest.fixture
def many(tmp_path: Path) -> list[str]:
    """Enough files for several processes; nine different pictures."""
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(MANY):
        if i < 9:
            draw(folder / f"{i}.jpg", i)
        else:
            (folder / f"{i}.jpg").hardlink_to(folder / f"{i % 9}.jpg")
    return [str(folder / f"{i}.jpg") for i in range(MANY)]


def opened(paths: list[str], tmp_path: Path, size_px: int = 16, **options: object) -> ImageCache:
    options = {"num_workers": 2, **options}
    return open_cache(paths, size_px, cache_dir=tmp_path / "cache", **options)  # type: ignore[arg-type]


def caches(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache").iterdir() if path.is_dir())


def run(code: str, *arguments: str, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], cwd=PROJECT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,  # type: ignore[call-overload]
    )  # fmt: skip


# --- content --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size_px", [16, 20, 64])
def test_pixels_equal_the_originals_decode_and_resize(photos: list[str], tmp_path: Path, size_px: int) -> None:
    cache = opened(photos, tmp_path, size_px)
    resize = transforms.Resize((size_px, size_px))
    assert cache.images.shape == (12, size_px, size_px, 3)
    assert cache.images.dtype == np.uint8
    for path, row in zip(photos, cache.rows(photos), strict=True):
        expected = np.asarray(resize(Image.open(path).convert("RGB")))
        assert np.array_equal(cache.images[row], expected)


def test_several_processes_give_what_one_gives(many: list[str], tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    several = opened(many, tmp_path / "several", num_workers=2, progress=lambda *at: seen.append(at))
    one = opened(many, tmp_path / "one", num_workers=1)
    assert np.array_equal(several.images, one.images)
    assert len(np.unique(several.images[several.rows(many[:9])], axis=0)) == 9
    done = [at for at, _ in seen]
    assert done == sorted(done)
    assert seen[-1] == (MANY, MANY)


def test_images_cannot_be_written(photos: list[str], tmp_path: Path) -> None:
    cache = opened(photos, tmp_path)
    with pytest.raises(ValueError, match="read-only"):
        cache.images[0] = 0


def test_rows_follow_the_paths_asked_for(photos: list[str], tmp_path: Path) -> None:
    cache = opened([photos[3], photos[1], photos[3]], tmp_path)
    assert len(cache.images) == 2
    rows = cache.rows(np.array([photos[1], photos[3], "elsewhere.jpg", photos[1]]))
    assert rows.dtype == np.int64
    assert rows.tolist() == [0, 1, -1, 0]


def test_the_order_of_the_paths_makes_no_other_cache(photos: list[str], tmp_path: Path) -> None:
    first = opened(photos, tmp_path)
    second = opened(photos[::-1] + photos, tmp_path)
    assert second.directory == first.directory
    assert len(caches(tmp_path)) == 1


def test_a_cache_that_is_there_is_not_built_again(photos: list[str], tmp_path: Path) -> None:
    opened(photos, tmp_path)

    def unexpected(done: int, total: int) -> None:
        raise AssertionError("built again")

    assert len(opened(photos, tmp_path, progress=unexpected).images) == 12


def test_sizes() -> None:
    assert [cache_size_px(size) for size in (32, 64, 224, 384)] == [32, 64, 224, 224]


def test_no_images_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images"):
        opened([], tmp_path)


# --- bad images -----------------------------------------------------------------------------------------------


def spoil(photos: list[str]) -> None:
    Path(photos[2]).write_bytes(b"")
    Path(photos[5]).unlink()
    Path(photos[7]).write_bytes(Path(photos[7]).read_bytes()[:200])


def test_bad_images_are_named_and_have_no_row(photos: list[str], tmp_path: Path) -> None:
    spoil(photos)
    cache = opened(photos, tmp_path)
    assert BadImage(photos[2], "empty file") in cache.bad
    assert sorted(bad.path for bad in cache.bad) == sorted([photos[2], photos[5], photos[7]])
    assert all(any(said in bad.reason for said in ("empty file", "no such file", "truncated")) for bad in cache.bad)
    rows = cache.rows(photos)
    assert np.flatnonzero(rows < 0).tolist() == [2, 5, 7]
    assert cache.images[rows[3]].any()


def test_bad_images_are_found_by_processes_too(many: list[str], tmp_path: Path) -> None:
    for i in (100, 700):
        Path(many[i]).unlink()
        Path(many[i]).write_bytes(b"no image")
    cache = opened(many, tmp_path)
    assert sorted(bad.path for bad in cache.bad) == sorted([many[100], many[700]])


def test_large_images_come_last_and_right(many: list[str], tmp_path: Path) -> None:
    for i in (3, 600):
        Path(many[i]).unlink()
        draw(Path(many[i]), 99, 2200, 2000)
    cache = opened(many, tmp_path)
    expected = np.asarray(transforms.Resize((16, 16))(Image.open(many[3]).convert("RGB")))
    for i in (3, 600):
        assert np.array_equal(cache.images[cache.rows([many[i]])[0]], expected)


# --- staleness ------------------------------------------------------------------------------------------------


def test_a_changed_image_is_decoded_again(photos: list[str], tmp_path: Path) -> None:
    before = opened(photos, tmp_path)
    row = before.rows([photos[4]])[0]
    old = before.images[row].copy()
    draw(Path(photos[4]), 1234)
    after = opened(photos, tmp_path)
    assert after.directory != before.directory
    assert not np.array_equal(after.images[row], old)
    # Whoever has the old one open goes on with it.
    assert np.array_equal(before.images[row], old)


def test_a_changed_time_or_size_alone_is_a_change(photos: list[str], tmp_path: Path) -> None:
    first = opened(photos, tmp_path).directory
    os.utime(photos[0], ns=(1, 1))
    second = opened(photos, tmp_path).directory
    with Path(photos[0]).open("ab") as file:
        file.write(b"\0")
    os.utime(photos[0], ns=(1, 1))
    assert len({first, second, opened(photos, tmp_path).directory}) == 3


def test_another_version_or_size_has_another_cache(
    photos: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {opened(photos, tmp_path).directory, opened(photos, tmp_path, 24).directory}
    monkeypatch.setattr("PIL.__version__", "0.0.1")
    names.add(opened(photos, tmp_path).directory)
    monkeypatch.setattr(cache_module, "SCHEMA_VERSION", 999)
    monkeypatch.setattr(cache_build, "SCHEMA_VERSION", 999)
    names.add(opened(photos, tmp_path).directory)
    assert len(names) == 4


# --- damage ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *((name, how) for name in (cache_build.IMAGES, cache_build.META) for how in ("cut", "long", "empty", "absent")),
        (cache_build.META, "noise"),
    ],
)
def test_a_damaged_cache_is_never_taken_for_a_whole_one(
    photos: list[str], tmp_path: Path, name: str, damage: str
) -> None:
    cache = opened(photos, tmp_path)
    path = cache.directory / name
    raw = path.read_bytes()
    if damage == "absent":
        path.unlink()
    else:
        path.write_bytes(
            {"cut": raw[:-7], "long": raw + b"\0", "empty": b"", "noise": bytes(b ^ 0x55 for b in raw)}[damage]
        )
    with pytest.raises(CacheError, match=r"damaged.*delete this folder"):
        opened(photos, tmp_path)


def test_a_foreign_meta_file_is_refused(photos: list[str], tmp_path: Path) -> None:
    cache = opened(photos, tmp_path)
    path = cache.directory / cache_build.META
    meta = json.loads(path.read_text())
    for changes in ({"num_images": 3}, {"num_images": "12"}, {"size_px": 8}, {"bad": 7}, {"schema_version": 0}):
        path.write_text(json.dumps({**meta, **changes}))
        with pytest.raises(CacheError):
            opened(photos, tmp_path)
    path.write_text("[1, 2]")
    with pytest.raises(CacheError):
        opened(photos, tmp_path)


# --- building under fire --------------------------------------------------------------------------------------

OPEN = """
import hashlib, json, os, signal, sys, time
from pathlib import Path
from fairface_core.images.cache import open_cache
paths = json.loads(Path(sys.argv[1]).read_text())
built = []
def progress(done, total):
    built.append(done)
    if len(sys.argv) > 3 and done > total // 2:
        if sys.argv[3] == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        print("half", flush=True)
        time.sleep(600)
cache = open_cache(paths, 16, cache_dir=Path(sys.argv[2]), num_workers=2, progress=progress)
print(json.dumps([hashlib.sha256(cache.images.tobytes()).hexdigest(), len(built)]))
"""


@pytest.mark.parametrize("few", [True, False])
def test_a_builder_killed_half_way_leaves_nothing_that_is_read(
    photos: list[str], many: list[str], tmp_path: Path, few: bool
) -> None:
    paths = photos if few else many
    listed = tmp_path / "paths.json"
    listed.write_text(json.dumps(paths))
    cache_dir = tmp_path / "cache"
    killed = run(OPEN, str(listed), str(cache_dir), "kill")
    killed.communicate(timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert [name.startswith(cache_build.BUILDING) for name in caches(tmp_path)] == [True]
    cache = opened(paths, tmp_path)
    assert caches(tmp_path) == [cache.directory.name]
    assert np.array_equal(cache.images, opened(paths, tmp_path / "clean").images)


def test_the_processes_of_a_killed_builder_end(many: list[str], tmp_path: Path) -> None:
    listed = tmp_path / "paths.json"
    listed.write_text(json.dumps(many))
    builder = run(OPEN, str(listed), str(tmp_path / "cache"), "wait")
    assert builder.stdout is not None
    assert builder.stdout.readline() == "half\n"
    helpers = psutil.Process(builder.pid).children()
    assert len(helpers) == 2
    builder.kill()
    builder.communicate(timeout=60)
    assert psutil.wait_procs(helpers, timeout=30)[1] == []


def test_leftovers_of_other_caches_go_too_but_not_those_of_the_living(photos: list[str], tmp_path: Path) -> None:
    listed = tmp_path / "paths.json"
    listed.write_text(json.dumps(photos[:8]))
    builder = run(OPEN, str(listed), str(tmp_path / "cache"), "wait")
    assert builder.stdout is not None
    assert builder.stdout.readline() == "half\n"
    dead = tmp_path / "cache" / f"{cache_build.BUILDING}0123"
    dead.mkdir()
    opened(photos, tmp_path)
    building = [name for name in caches(tmp_path) if name.startswith(cache_build.BUILDING)]
    assert not dead.exists()
    assert len(building) == 1
    builder.kill()
    builder.communicate(timeout=60)


def test_of_eight_builders_at_once_one_builds_and_all_read_the_same(many: list[str], tmp_path: Path) -> None:
    listed = tmp_path / "paths.json"
    listed.write_text(json.dumps(many))
    crowd = [run(OPEN, str(listed), str(tmp_path / "cache")) for _ in range(8)]
    answers = []
    for process in crowd:
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
        answers.append(json.loads(out))
    reference = hashlib.sha256(opened(many, tmp_path / "clean").images.tobytes()).hexdigest()
    assert {digest for digest, _ in answers} == {reference}
    assert sorted(calls > 0 for _, calls in answers) == [False] * 7 + [True]
    assert len(caches(tmp_path)) == 1


def test_a_decoding_process_that_dies_is_an_error_with_a_name(many: list[str], tmp_path: Path) -> None:
    others = psutil.Process().children()  # multiprocessing's own, which later tests need

    def kill_helpers(done: int, total: int) -> None:
        for child in set(psutil.Process().children()).difference(others):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()

    with pytest.raises(CacheError, match="ended with code -9"):
        opened(many, tmp_path, progress=kill_helpers)
    assert caches(tmp_path) == []
    assert len(opened(many, tmp_path).images) == MANY


def test_an_interrupt_ends_the_processes_and_cleans_up(many: list[str], tmp_path: Path) -> None:
    others = psutil.Process().children()

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        opened(many, tmp_path, progress=interrupt)
    assert caches(tmp_path) == []
    assert set(psutil.Process().children()) <= set(others)


@pytest.mark.parametrize("few", [True, False])
def test_a_refused_write_is_named_and_leaves_nothing(
    photos: list[str], many: list[str], tmp_path: Path, few: bool
) -> None:
    listed = tmp_path / "paths.json"
    listed.write_text(json.dumps(photos if few else many))
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
    refused = run(limit + OPEN, str(listed), str(tmp_path / "cache"))
    _, err = refused.communicate(timeout=120)
    assert refused.returncode == 1
    assert "CacheError: cannot write the image cache" in err
    assert "File too large" in err
    assert caches(tmp_path) == []


def test_a_disk_that_is_too_small_is_known_before_decoding(photos: list[str], tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=r"does not fit: .* take .* GiB; .* has .* free; free some space, name"):
        opened(photos, tmp_path, 10**7)
    assert caches(tmp_path) == []


def test_a_cache_folder_that_is_a_file_is_named(photos: list[str], tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("not a folder")
    with pytest.raises(CacheError, match="FAIRFACE_CACHE_DIR"):
        opened(photos, tmp_path)


# --- cost -----------------------------------------------------------------------------------------------------

SHARE = """
import json, sys
from pathlib import Path
from fairface_core.images.cache import open_cache
paths = json.loads(Path(sys.argv[1]).read_text())
cache = open_cache(paths, 64, cache_dir=Path(sys.argv[2]), num_workers=1)
print(int(cache.images.sum()), flush=True)
sys.stdin.readline()
"""


def mapped_kib(pid: int, field: str) -> int:
    """Sum of a field of /proc/PID/smaps over the mapping of the images."""
    total, inside = 0, False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if "-" in line.split(" ")[0]:
            inside = line.endswith(cache_build.IMAGES)
        elif inside and line.startswith(f"{field}:"):
            total += int(line.split()[1])
    return total


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux's /proc")
def test_processes_share_the_memory_of_the_images(photos: list[str], tmp_path: Path) -> None:
    cache = opened(photos, tmp_path, 64)
    size_kib = cache.images.nbytes // 1024
    listed = tmp_path / "paths.json"
    listed.write_text(json.dumps(photos))
    readers = [run(SHARE, str(listed), str(tmp_path / "cache"), stdin=subprocess.PIPE) for _ in range(3)]
    sums = [process.stdout.readline() for process in readers if process.stdout]
    assert sums == [f"{cache.images.sum()}\n"] * 3
    for process in readers:
        assert mapped_kib(process.pid, "Rss") >= size_kib * 0.95
    # This process has read them all too: four share one copy.
    proportional = sum(mapped_kib(pid, "Pss") for pid in [os.getpid(), *(p.pid for p in readers)])
    assert proportional == pytest.approx(size_kib, rel=0.1)
    for process in readers:
        process.communicate("\n", timeout=60)


def test_decoding_processes_start_light() -> None:
    code = "import fairface_core.images.worker, sys; print('\\n'.join(sys.modules))"
    loaded = set(run(code).communicate(timeout=60)[0].split())
    assert "PIL.Image" in loaded
    assert not loaded & {"torch", "numpy", "pandas", "subprocess", "concurrent.futures"}


def test_opening_the_cache_of_all_of_fairface_is_quick(tmp_path: Path) -> None:
    """97,698 paths are named, looked up and mapped; no image is there, so all are stat'ed and none decoded."""
    paths = [f"/nowhere/train/{i}.jpg" for i in range(97_698)]
    start = time.perf_counter()
    name = cache_module.cache_name(sorted(paths), 224)
    assert name.startswith("224px-")
    assert time.perf_counter() - start < 10
