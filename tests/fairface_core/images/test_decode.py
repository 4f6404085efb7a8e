"""Which image files are accepted, as what, and how the others are refused."""

from __future__ import annotations

import io
import os
import pickle
import struct
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fairface_core.images import decode as images
from fairface_core.images.decode import ImageError, LargeImage
from tests.fairface_core.small_data import decoded_file


def photo(width: int = 40, height: int = 30) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header promises a size and whose pixels are few bytes: a decompression bomb."""

    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", zlib.compress(b"\0" * 99)) + part(b"IEND", b"")


ROTATED = Image.Exif()
ROTATED[0x0112] = 6
BLUE = Image.new("RGB", (40, 30), "blue")

ACCEPTED: dict[str, Callable[[], bytes]] = {
    "jpeg": lambda: encoded(photo(), "JPEG"),
    "progressive jpeg": lambda: encoded(photo(), "JPEG", progressive=True),
    "gray jpeg": lambda: encoded(photo().convert("L"), "JPEG"),
    "cmyk jpeg": lambda: encoded(photo().convert("CMYK"), "JPEG"),
    "jpeg with something behind": lambda: encoded(photo(), "JPEG") + b"\0" * 100,
    "rotated by exif": lambda: encoded(photo(), "JPEG", exif=ROTATED),
    "png": lambda: encoded(photo(), "PNG"),
    "alpha png": lambda: encoded(photo().convert("RGBA"), "PNG"),
    "gray alpha png": lambda: encoded(photo().convert("LA"), "PNG"),
    "palette png": lambda: encoded(photo().quantize(16), "PNG"),
    "palette png with a transparent color": lambda: encoded(photo().quantize(16), "PNG", transparency=3),
    "palette png with an alpha table": lambda: encoded(photo().quantize(16), "PNG", transparency=bytes(range(16))),
    "two-tone png": lambda: encoded(photo().convert("1"), "PNG"),
    "gif": lambda: encoded(photo().quantize(16), "GIF"),
    "animated gif": lambda: encoded(photo(), "GIF", save_all=True, append_images=[BLUE]),
    "animated webp": lambda: encoded(photo(), "WEBP", save_all=True, append_images=[BLUE], lossless=True),
    "bmp": lambda: encoded(photo(), "BMP"),
    "webp": lambda: encoded(photo(), "WEBP"),
    "tiff": lambda: encoded(photo(), "TIFF"),
    "ppm": lambda: encoded(photo(), "PPM"),
    "1 x 1": lambda: encoded(photo(1, 1), "JPEG"),
    "a line": lambda: encoded(photo(3000, 1), "PNG"),
}


@pytest.mark.parametrize("name", ACCEPTED)
@pytest.mark.filterwarnings("ignore:Palette images with Transparency:UserWarning")
def test_accepted_files_have_the_pixels_of_the_original_script(name: str, tmp_path: Path) -> None:
    path = tmp_path / "image.jpg"
    path.write_bytes(ACCEPTED[name]())
    with Image.open(path) as opened:
        expected = opened.convert("RGB")
    got = decoded_file(str(path))
    assert got.mode == "RGB"
    assert np.array_equal(np.asarray(got), np.asarray(expected))


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted_files_warn_of_nothing(name: str, tmp_path: Path) -> None:
    path = tmp_path / "image.jpg"
    path.write_bytes(ACCEPTED[name]())
    assert decoded_file(str(path)).size[0] >= 1  # warnings are errors here


def test_facts_say_what_was_stored() -> None:
    def facts(name: str) -> images.ImageFacts:
        return images.image_from_bytes(ACCEPTED[name](), name)[1]

    assert facts("jpeg") == images.ImageFacts("JPEG", "RGB", 40, 30, False, 1)
    assert facts("rotated by exif").orientation == 6
    assert facts("cmyk jpeg").mode == "CMYK"
    assert facts("animated gif").animated
    assert not facts("jpeg").animated
    assert facts("palette png").mode == "P"
    assert facts("webp").format == "WEBP"


def gray16(kind: str) -> bytes:
    return encoded(Image.fromarray(np.full((4, 4), 40_000, np.uint16)), kind)


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "empty file"),
    "text": (lambda: b"hello there", "not an image of a known format (begins with 'hello there')"),
    "html": (lambda: b"<!DOCTYPE html><html>404</html>", "begins with '<!DOCTYPE html>"),
    "zeros": (lambda: bytes(5000), "not an image of a known format"),
    "16-bit gray png": (lambda: gray16("PNG"), "more than 8 bits a channel"),
    "16-bit gray tiff": (lambda: gray16("TIFF"), "more than 8 bits a channel"),
    "float tiff": (lambda: encoded(Image.new("F", (4, 4)), "TIFF"), "more than 8 bits a channel"),
    "50,000 x 50,000": (lambda: png_of_size(50_000, 50_000), "too many pixels; accepted up to 67,108,864 pixels"),
    "10,000 x 10,000": (lambda: png_of_size(10_000, 10_000), "10000 x 10000 pixels; accepted up to 67,108,864"),
    "postscript": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image of a known format"),
    "pixels cut off": (lambda: png_of_size(100, 100), "it is truncated or damaged"),
    "jpeg header alone": (lambda: encoded(photo(), "JPEG")[:20], "begins with"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_files_are_named_with_the_reason(name: str, tmp_path: Path) -> None:
    make, reason = REFUSED[name]
    path = tmp_path / "image.jpg"
    path.write_bytes(make())
    with pytest.raises(ImageError) as caught:
        decoded_file(str(path))
    assert reason in caught.value.reason
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("percent", range(5, 100, 5))
def test_files_cut_short_are_refused(kind: str, percent: int, tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (60, 60, 3), dtype=np.uint8))
    raw = encoded(noise, kind)
    path = tmp_path / "image.jpg"
    path.write_bytes(raw[: len(raw) * percent // 100])
    with pytest.raises(ImageError):
        decoded_file(str(path))


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    folder = tmp_path / "folder.jpg"
    folder.mkdir()
    fifo = tmp_path / "fifo.jpg"
    os.mkfifo(fifo)
    loop = tmp_path / "loop.jpg"
    loop.symlink_to(loop)
    for path, reason in (
        (folder, "a folder"),
        (fifo, "a FIFO"),
        (loop, "a loop of symbolic links"),
        (tmp_path / "absent.jpg", "no such file"),
        (folder / "x" / "absent.jpg", "no such file"),
        (Path(f"{tmp_path}/nul\0.jpg"), "NUL"),
        (tmp_path / ("long" * 100), "name too long"),
    ):
        with pytest.raises(ImageError) as caught:
            decoded_file(str(path))
        assert reason.lower() in caught.value.reason.lower()


def test_a_file_that_is_too_big_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "image.jpg"
    with path.open("wb") as file:
        file.truncate(images.MAX_FILE_BYTES + 1)
    with pytest.raises(ImageError, match="256 MiB; accepted up to 256 MiB"):
        decoded_file(str(path))


def test_large_images_can_be_left_out(tmp_path: Path) -> None:
    path = tmp_path / "image.jpg"
    path.write_bytes(encoded(Image.new("RGB", (2100, 2100), "red"), "JPEG"))
    with pytest.raises(LargeImage):
        decoded_file(str(path), allow_large=False)
    assert decoded_file(str(path)).size == (2100, 2100)


def test_threads_may_decode_at_once(tmp_path: Path) -> None:
    paths = []
    for name, make in ACCEPTED.items():
        path = tmp_path / name
        path.write_bytes(make())
        paths.append(path)
    expected = [np.asarray(decoded_file(str(path))) for path in paths]
    wrong: list[Path] = []

    def work() -> None:
        for _ in range(10):
            for path, pixels in zip(paths, expected, strict=True):
                if not np.array_equal(np.asarray(decoded_file(str(path))), pixels):
                    wrong.append(path)

    crowd = [threading.Thread(target=work) for _ in range(4)]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join()
    assert wrong == []


def test_an_error_crosses_a_process_border_whole() -> None:
    error = pickle.loads(pickle.dumps(ImageError("a.jpg", "empty file")))
    assert (error.path, error.reason, error.problems) == ("a.jpg", "empty file", ("a.jpg: empty file",))
