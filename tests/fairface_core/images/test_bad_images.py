"""Odd and broken images: accepted with the right pixels, or refused by name, by check, cache and decoder alike."""

from __future__ import annotations

import io
import json
import os
import re
import struct
import time
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fairface_core.data import main
from fairface_core.dataset.check import check_data
from fairface_core.images.cache import open_cache
from fairface_core.images.decode import FORMATS, MAX_PIXELS, ImageError
from tests.fairface_core.small_data import DataRoot, decoded_file

ACCEPTED = ", ".join(FORMATS)
SIZE = 64


def photo(mode: str = "RGB", side: int = SIZE) -> Image.Image:
    """Smooth colors with some noise, so that a JPEG of it has several kilobytes."""
    y, x = np.mgrid[:side, :side] * (255 // max(1, side - 1))
    noise = np.random.default_rng(5).integers(0, 60, (side, side))
    return Image.fromarray(np.stack([x, y, (x + y) // 2 + noise], axis=-1).clip(0, 255).astype(np.uint8)).convert(mode)


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


JPEG = encoded(photo(), "JPEG", quality=92)
PNG = encoded(photo(), "PNG")


def with_alpha() -> Image.Image:
    image = photo().convert("RGBA")
    image.putalpha(Image.fromarray(np.full((SIZE, SIZE), 128, np.uint8)))
    return image


def rotated(form: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(photo(), form, exif=exif)


def animated(form: str) -> bytes:
    return encoded(
        photo("P" if form == "GIF" else "RGB"), form, save_all=True, append_images=[Image.new("RGB", (SIZE, SIZE))]
    )


def png_of_size(width: int, height: int, depth: int = 8, color: int = 2, data: bytes = b"") -> bytes:
    """A PNG that claims a size, whatever it holds."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


@dataclass(frozen=True)
class Accepted:
    """Decoded to exactly what `Image.open(...).convert("RGB")` gives; `mode` and `size` as `data check` says."""

    mode: str
    size: str = f"{SIZE} x {SIZE}"
    fact: str = ""


@dataclass(frozen=True)
class Refused:
    """Refused; the reason holds this text."""

    reason: str


UNKNOWN = "not an image of a known format"
DEEP = "more than 8 bits a channel"


def gray_of(kind: Any) -> Image.Image:
    return Image.fromarray(np.arange(SIZE * SIZE, dtype=kind).reshape(SIZE, SIZE))


CASES: dict[str, tuple[bytes, Accepted | Refused]] = {
    "jpeg": (JPEG, Accepted("JPEG RGB")),
    "progressive_jpeg": (encoded(photo(), "JPEG", progressive=True), Accepted("JPEG RGB")),
    "png_named_jpg": (PNG, Accepted("PNG RGB")),
    "webp": (encoded(photo(), "WEBP"), Accepted("WEBP RGB")),
    "bmp": (encoded(photo(), "BMP"), Accepted("BMP RGB")),
    "tiff": (encoded(photo(), "TIFF"), Accepted("TIFF RGB")),
    "gray_jpeg": (encoded(photo("L"), "JPEG"), Accepted("JPEG L")),
    "gray_stored_as_rgb": (encoded(photo("L").convert("RGB"), "PNG"), Accepted("PNG RGB", fact="gray_stored_as_rgb")),
    "gray_alpha": (encoded(photo("LA"), "PNG"), Accepted("PNG LA")),
    "black_and_white": (encoded(photo("1"), "PNG"), Accepted("PNG 1")),
    "palette": (encoded(photo("P"), "PNG"), Accepted("PNG P")),
    "palette_with_transparency": (encoded(photo("P"), "PNG", transparency=3), Accepted("PNG P")),
    "rgb_alpha": (encoded(with_alpha(), "PNG"), Accepted("PNG RGBA")),
    "cmyk_jpeg": (encoded(photo("CMYK"), "JPEG"), Accepted("JPEG CMYK")),
    **{
        f"exif_rotated_{form}": (rotated(form), Accepted(f"{form} RGB", fact="exif_rotated"))
        for form in ("JPEG", "PNG", "WEBP")
    },
    "exif_rotated_TIFF": (rotated("TIFF"), Accepted("TIFF RGB")),  # Pillow itself turns these upright
    "broken_exif": (JPEG[:2] + b"\xff\xe1\x00\x10Exif\0\0II*\0\xff\xff\xff\xff" + JPEG[2:], Accepted("JPEG RGB")),
    "animated_gif": (animated("GIF"), Accepted("GIF P", fact="animated")),
    "animated_webp": (animated("WEBP"), Accepted("WEBP RGB", fact="animated")),
    "one_pixel": (encoded(photo(side=1), "PNG"), Accepted("PNG RGB", "1 x 1")),
    "one_line": (encoded(photo().resize((300, 1)), "PNG"), Accepted("PNG RGB", "300 x 1")),
    "bytes_after_the_end": (JPEG + b"<?php system('id') ?>" * 50, Accepted("JPEG RGB")),
    "empty": (b"", Refused("empty file")),
    "text": (b"this is no image\n", Refused(f"{UNKNOWN} (begins with 'this is no image'); accepted: {ACCEPTED}")),
    "html": (b"<!DOCTYPE html><html>404", Refused(f"{UNKNOWN} (begins with '<!DOCTYPE html><'); accepted: {ACCEPTED}")),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', Refused(UNKNOWN)),
    "git_lfs_pointer": (b"version https://git-lfs.github.com/spec/v1\n", Refused(f"{UNKNOWN} (begins with 'version ")),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n", Refused(UNKNOWN)),
    "zeros": (bytes(5000), Refused(UNKNOWN)),
    "only_the_jpeg_mark": (JPEG[:3], Refused("")),
    "16_bit_gray": (encoded(gray_of(np.uint16), "PNG"), Refused(f"{DEEP} (mode I;16); convert it to 8-bit")),
    "32_bit_gray": (encoded(gray_of(np.int32), "TIFF"), Refused(f"{DEEP} (mode I)")),
    "float_gray": (encoded(gray_of(np.float32), "TIFF"), Refused(f"{DEEP} (mode F)")),
    "bomb_50000": (png_of_size(50_000, 50_000), Refused(f"too many pixels; accepted up to {MAX_PIXELS:,} pixels")),
    "bomb_in_one_dimension": (png_of_size(2**31 - 1, 1), Refused("pixels; accepted up to")),
    "no_pixels": (png_of_size(0, 0), Refused("")),
    "less_data_than_claimed": (png_of_size(64, 64, data=bytes(100)), Refused("it is truncated or damaged")),
    "damaged_png": (PNG[:2000] + bytes(50) + PNG[2050:], Refused("cannot be decoded")),
    **{f"jpeg_cut_at_{share}_percent": (JPEG[: len(JPEG) * share // 100], Refused("")) for share in range(5, 100, 5)},
    **{f"png_cut_at_{share}_percent": (PNG[: len(PNG) * share // 100], Refused("")) for share in range(20, 100, 20)},
}  # fmt: skip


def put(root: DataRoot, content: bytes) -> Path:
    """Put the case in the place of val/5.jpg, which stands on line 6."""
    path = root.path / "val/5.jpg"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", CASES)
def test_the_check_accepts_or_refuses_by_name(data_root: DataRoot, name: str) -> None:
    content, expected = CASES[name]
    put(data_root, content)
    summary = check_data(data_root.config())
    assert summary.images is not None
    if isinstance(expected, Refused):
        (problem,) = summary.problems
        assert problem.startswith("fairface_label_val.csv line 6: 'val/5.jpg': ")
        assert expected.reason in problem
        assert problem.endswith("; replace the file, remove the row, or use --on_bad_image skip")
        assert summary.images.unreadable == 1
        assert summary.images.checked == 126
        skipped = check_data(data_root.config(on_bad_image="skip"))
        assert skipped.problems == ()
        assert skipped.images == summary.images
    else:
        assert summary.problems == ()
        assert summary.images.modes[expected.mode] == (126 if expected.mode == "JPEG RGB" else 1)
        assert summary.images.sizes[expected.size] >= 1
        facts = {fact: getattr(summary.images, fact) for fact in ("gray_stored_as_rgb", "exif_rotated", "animated")}
        assert {fact for fact, count in facts.items() if count} == ({expected.fact} if expected.fact else set())


@pytest.mark.parametrize("name", CASES)
def test_the_decoder_and_the_cache_agree_with_the_check(data_root: DataRoot, name: str) -> None:
    content, expected = CASES[name]
    path = str(put(data_root, content))
    good = str(data_root.path / "val/1.jpg")
    cache_dir = data_root.path.parent / "cache"
    if isinstance(expected, Accepted):
        image = decoded_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # broken EXIF
            with Image.open(path) as original:
                original.info.pop("transparency", None)
                np.testing.assert_array_equal(np.asarray(image), np.asarray(original.convert("RGB")))
        cache = open_cache([path, good], 8, cache_dir=cache_dir, num_workers=1)
        assert cache.bad == ()
        resized = image.resize((8, 8), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(cache.images[cache.rows(np.array([path]))[0]], np.asarray(resized))
    else:
        with pytest.raises(ImageError) as caught:
            decoded_file(path)
        assert expected.reason in caught.value.reason
        assert caught.value.path == path
        cache = open_cache([path, good], 8, cache_dir=cache_dir, num_workers=1)
        assert cache.rows(np.array([path])).tolist() == [-1]
        assert [bad.path for bad in cache.bad] == [path]


def test_every_bad_image_is_named_in_one_pass(data_root: DataRoot, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(1, 31):
        (data_root.path / f"val/{number}.jpg").write_bytes(JPEG[: number * 40])
    flags = ["check", "--root", str(data_root.path), "--cache_dir", str(data_root.path.parent), "--num_workers", "2"]
    assert main(flags) == 2
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert lines[0].startswith("error: fairface_label_val.csv line 2: 'val/1.jpg': cannot be decoded (")
    assert len(lines) < 10
    assert (
        sum(int(found[1]) if (found := re.search(r"for (\d+) more", line)) else 0 for line in lines) + len(lines) == 30
    )
    assert "126 checked, 30 unreadable" in out
    assert main([*flags, "--on_bad_image", "skip", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"]["unreadable"] == 30


def folder(path: Path) -> None:
    path.mkdir()


def fifo(path: Path) -> None:
    os.mkfifo(path)


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def nothing(path: Path) -> None:
    assert not path.exists()


def num_open_files() -> int:
    handles = Path("/proc/self/fd")
    return len(list(handles.iterdir())) if handles.is_dir() else 0


@pytest.mark.parametrize(
    ("make", "in_check", "in_decoder"),
    [
        (folder, "is a folder, not a regular file", "a folder, not a file"),
        (fifo, "is a FIFO, a socket or a device, not a regular file", "a FIFO, socket or device, not a file"),
        (loop, "is a link that leads round in a circle", "a loop of symbolic links"),
        (nothing, "is in none of the searched folders", "no such file"),
    ],
)
def test_what_is_no_file_is_refused_and_never_waited_for(
    data_root: DataRoot, make: Callable[[Path], None], in_check: str, in_decoder: str
) -> None:
    path = data_root.path / "val/5.jpg"
    path.unlink()
    make(path)
    (problem,) = check_data(data_root.config()).problems
    assert problem.startswith("fairface_label_val.csv line 6: file 'val/5.jpg' ")
    assert in_check in problem
    assert check_data(data_root.config(on_bad_image="skip")).csvs["val"]["missing"].popitem()[1] == 1
    open_files = num_open_files()
    for _ in range(3):
        with pytest.raises(ImageError, match=in_decoder):
            decoded_file(str(path))
    assert num_open_files() == open_files


def test_a_large_image_is_decoded_alone_and_reported(data_root: DataRoot) -> None:
    put(data_root, encoded(Image.new("L", (2500, 2500), 90), "PNG"))
    images = check_data(data_root.config()).images
    assert images is not None
    assert images.sizes["2500 x 2500"] == 1
    assert images.unreadable == 0


def test_the_frames_of_an_animation_are_not_counted(data_root: DataRoot) -> None:
    """A GIF of a few MB can hold a million; walking through them would take minutes."""
    still = encoded(Image.new("P", (1, 1)), "GIF")
    head = still[: 13 + 3 * (2 << (still[10] & 7))]
    put(data_root, head + still[len(head) : -1] * 400_000 + b";")
    began = time.process_time()
    images = check_data(data_root.config(num_workers=1)).images
    assert images is not None
    assert (images.animated, images.unreadable) == (1, 0)
    assert time.process_time() - began < 2
