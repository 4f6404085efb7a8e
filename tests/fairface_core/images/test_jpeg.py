"""Plain JPEGs decoded in place: Pillow's pixels, Pillow's refusals, and which files take that way."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from fairface_core.images import jpeg
from fairface_core.images.decode import ImageError, LargeImage, decode_image, decode_into
from fairface_core.images.worker import place


def picture(size: int = 48) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


PLAIN: dict[str, Callable[[], bytes]] = {
    **{f"subsampling {kind}": (lambda kind=kind: encoded(picture(), subsampling=kind)) for kind in (0, 1, 2)},
    **{f"quality {q}": (lambda q=q: encoded(picture(), quality=q)) for q in (1, 50, 100)},
    "progressive": lambda: encoded(picture(), progressive=True),
    "optimized": lambda: encoded(picture(), optimize=True),
    "gray": lambda: encoded(picture().convert("L")),
    "restarts": lambda: encoded(picture(), restart_marker_blocks=2),
    "something behind": lambda: encoded(picture()) + b"\xff\xd8 what?",
    "another size": lambda: encoded(picture(30)),
    "not square": lambda: encoded(picture().crop((0, 0, 48, 31))),
    "one pixel": lambda: encoded(picture().crop((0, 0, 1, 1))),
}
EXIF = Image.Exif()
EXIF[0x0112] = 6
FOR_PILLOW: dict[str, Callable[[], bytes]] = {
    "cmyk": lambda: encoded(picture().convert("CMYK")),
    "stored as rgb": lambda: encoded(picture(), keep_rgb=True),
    "exif": lambda: encoded(picture(), exif=EXIF),
    "icc profile": lambda: encoded(picture(), icc_profile=b"p" * 200),
    "comment": lambda: encoded(picture(), comment=b"hello"),
}


def outcome(path: Path, size_px: int, work: Callable[[str, int], np.ndarray]) -> bytes | str:
    """The pixels, or the words of the refusal."""
    try:
        return work(str(path), size_px).tobytes()
    except ImageError as error:
        return error.reason


def by_pillow(path: str, size_px: int) -> np.ndarray:
    image = decode_image(path)
    same = image.size == (size_px, size_px)
    return np.asarray(image if same else image.resize((size_px, size_px), Image.Resampling.BILINEAR))


def in_place(path: str, size_px: int) -> np.ndarray:
    pixels = place(size_px)[0]
    pixels[:] = 77
    decode_into(path, size_px, pixels)
    return pixels


@pytest.mark.parametrize("name", PLAIN | FOR_PILLOW)
@pytest.mark.parametrize("size_px", [48, 20, 64])
def test_the_pixels_are_pillows(name: str, size_px: int, tmp_path: Path) -> None:
    path = tmp_path / "image.jpg"
    path.write_bytes((PLAIN | FOR_PILLOW)[name]())
    assert outcome(path, size_px, in_place) == outcome(path, size_px, by_pillow)


@pytest.mark.parametrize("name", PLAIN)
def test_plain_files_are_decoded_in_place(name: str) -> None:
    raw = PLAIN[name]()
    size = jpeg.plain_size(raw)
    with Image.open(io.BytesIO(raw)) as image:
        assert size == image.size
    out = np.full((size[1], size[0], 3), 77, np.uint8)
    assert jpeg.decode(raw, size, out) is not None
    assert np.array_equal(out, np.asarray(Image.open(io.BytesIO(raw)).convert("RGB")))


@pytest.mark.parametrize("name", FOR_PILLOW)
def test_what_is_not_plain_is_left_to_pillow(name: str) -> None:
    assert jpeg.plain_size(FOR_PILLOW[name]()) is None


@pytest.mark.parametrize(
    "raw", [b"", b"\xff", b"\xff\xd8", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n" + bytes(50), bytes(99)]
)
def test_what_is_no_jpeg_is_left_to_pillow(raw: bytes) -> None:
    assert jpeg.plain_size(raw) is None


@pytest.mark.parametrize("name", ["subsampling 2", "progressive", "gray", "restarts"])
def test_damaged_files_are_refused_or_decoded_as_pillow_does(name: str, tmp_path: Path) -> None:
    """Bytes changed anywhere, taken out, put in, and files cut short: the same pixels or the same words."""
    whole = PLAIN[name]()
    generator = random.Random(name)
    path = tmp_path / "image.jpg"
    decoded = 0
    for number in range(300):
        raw = bytearray(whole)
        for _ in range(generator.choice((1, 1, 1, 3))):
            at = generator.randrange(len(raw))
            match generator.randrange(5):
                case 0 | 1:
                    raw[at] = generator.randrange(256)
                case 2:
                    del raw[at : at + generator.choice((1, 2, 30))]
                case 3:
                    raw[at:at] = generator.choice((b"\0", b"\xff", b"\xff\xfe\0\4hi", raw[2:20]))
                case 4 if number % 3 == 0:
                    del raw[at:]
            if not raw:
                raw = bytearray(whole)
        path.write_bytes(raw)
        size = jpeg.plain_size(bytes(raw))
        if size and size[0] * size[1] > 10**6:
            continue  # a changed size: nothing new, and a second of work
        expected = outcome(path, 48, by_pillow)
        assert outcome(path, 48, in_place) == expected, f"input {number}"
        decoded += bool(size) and jpeg.decode(bytes(raw), size) is not None
    assert 10 < decoded < 290


def test_a_large_one_is_decoded_alone(tmp_path: Path) -> None:
    path = tmp_path / "image.jpg"
    path.write_bytes(encoded(Image.new("RGB", (2100, 2100), "red")))
    with pytest.raises(LargeImage):
        decode_into(str(path), 48, place(48)[0], allow_large=False)
    assert np.array_equal(in_place(str(path), 48), by_pillow(str(path), 48))


def test_a_decoder_that_rounds_differently_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    probe = jpeg._agrees_with_pillow.__wrapped__
    assert probe()
    decode = simplejpeg.decode_jpeg
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *args, **options: decode(*args, **options) ^ 1)
    assert not probe()
    monkeypatch.setattr(jpeg, "_agrees_with_pillow", lambda: False)
    assert jpeg.decode(encoded(picture()), (48, 48)) is None


@pytest.mark.parametrize("size_px", [8, 64, 224, 384])
def test_memory_to_decode_into_lies_where_stores_stay_in_the_cache(size_px: int) -> None:
    pixels = place(size_px)
    assert pixels.shape[1:] == (size_px, size_px, 3)
    assert pixels.flags.c_contiguous and pixels.flags.writeable
    assert pixels.__array_interface__["data"][0] % 32 == 16


@pytest.mark.real_data
def test_real_faces_are_decoded_in_place_with_pillows_pixels(real_data: Path) -> None:
    paths = sorted((real_data / "fairface_sample").glob("*/*.jpg"))[::5]
    assert len(paths) == 2100
    out = place(224)[0]
    for path in paths:
        raw = path.read_bytes()
        assert jpeg.plain_size(raw) == (224, 224)
        assert jpeg.decode(raw, (224, 224), out) is not None
        with Image.open(path) as image:
            assert np.array_equal(out, np.asarray(image.convert("RGB"))), path
