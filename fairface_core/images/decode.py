"""Decides which image files are accepted, and turns them into RGB pixels: the only file that opens an image.

It needs no torch, so that the processes that decode start at once.
"""

from __future__ import annotations

import errno
import io
import os
import threading
import warnings
from dataclasses import dataclass, replace

from PIL import ExifTags, Image

from fairface_core.errors import DataError
from fairface_core.files.regular import open_regular

# Pixels of the largest image that is decoded, 8192 x 8192: Pillow needs 4 bytes for each.
MAX_PIXELS = 2**26
MAX_FILE_BYTES = 2**28
# What cameras and the web produce. Pillow knows forty more kinds; some of them start other programs.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM", "WEBP", "TIFF")
# The others may hold several frames. So may MPO, a JPEG of cameras, but only views of the same picture.
_SINGLE_FRAME = ("JPEG", "MPO", "BMP", "PPM")
# More than 8 bits a channel: Pillow clips these to white instead of scaling them.
_DEEP_MODES = ("I", "F")
# Above this an image is decoded alone, so that memory does not grow with the number of threads.
_LARGE_PIXELS = 2**22
_large_image = threading.Lock()
# `warnings.catch_warnings` changes the whole process: threads take turns.
_header = threading.Lock()


class ImageError(DataError):
    """An image file that cannot be accepted.

    Attributes:
        path: The file.
        reason: What is wrong with it, without the path.
    """

    def __init__(self, path: str, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"{path}: {reason}")

    def __reduce__(self) -> tuple[type[ImageError], tuple[str, str]]:  # type: ignore[override]
        """Keep both parts when the error crosses a process border."""
        return type(self), (self.path, self.reason)


# The bytes of an image, why they cannot be had, or None where it has a file of its own.
Raw = bytes | ImageError | None


class LargeImage(ImageError):
    """An image that may be fine, but takes so much memory that it must be decoded alone."""


@dataclass(frozen=True)
class ImageFacts:
    """What a file says of itself before it is converted.

    Attributes:
        format: Pillow's name of the file format, such as `JPEG`.
        mode: Pillow's name of the stored pixels, such as `RGB`, `L`, `P`, `CMYK`.
        width: Pixels.
        height: Pixels.
        animated: Whether the file holds several frames; the first one is the image.
        orientation: EXIF orientation, 1 to 8; 1 is upright. It is counted and not applied: the original script
            trained on the pixels as stored.
    """

    format: str
    mode: str
    width: int
    height: int
    animated: bool
    orientation: int = 1


def square_from_bytes(raw: bytes, path: str, size_px: int, *, allow_large: bool = True) -> Image.Image:
    """Decode one image file to a square of RGB; the pixels and the refusals are those of `image_from_bytes`.

    Args:
        raw: The file's bytes.
        path: What to call it.
        size_px: Its side, pixels. Another size is brought to it as torchvision's `Resize((size_px, size_px))` does for a
            PIL image: bilinear, with antialiasing.
        allow_large: Whether to decode images above 4 million pixels; they take turns.

    Raises:
        LargeImage: If it is large and `allow_large` is False.
        ImageError: Naming the path and the reason.
    """
    image = image_from_bytes(raw, path, allow_large=allow_large)[0]
    return image if image.size == (size_px, size_px) else image.resize((size_px, size_px), Image.Resampling.BILINEAR)


def image_from_bytes(raw: bytes, path: str, *, allow_large: bool = True) -> tuple[Image.Image, ImageFacts]:
    """Decode the content of an image file exactly as `PIL.Image.open(path).convert("RGB")` does, if it is accepted.

    Refused by name: what is truncated, no image or of a format outside `FORMATS`, more than `MAX_PIXELS`, and gray of
    more than 8 bits. Of an animation the first frame is taken. EXIF rotation is not applied, as in the original script.

    Args:
        raw: The file's bytes.
        path: What to call it.
        allow_large: Whether to decode images above 4 million pixels; they take turns.

    Returns:
        The image in mode RGB at its own size, and what the file said of itself.

    Raises:
        LargeImage: If it is large and `allow_large` is False.
        ImageError: Naming the path and the reason.
    """
    try:
        image = _open(raw)
        facts = _check(path, image)
        if facts.width * facts.height <= _LARGE_PIXELS:
            decoded = _to_rgb(image)
        elif not allow_large:
            raise LargeImage(path, "needs to be decoded alone")
        else:
            with _large_image:
                decoded = _to_rgb(image)
        # Only now: asking a PNG for its EXIF decodes it, and a failure there would make the next `load` "succeed".
        orientation = _orientation(image)
        return decoded, facts if orientation == 1 else replace(facts, orientation=orientation)
    except ImageError:
        raise
    except Exception as error:
        # Not narrower: Pillow's decoders raise nearly every kind for a damaged file.
        raise ImageError(path, _reason(raw, error)) from error


def bytes_of(place: str, raw: Raw) -> bytes:
    """Return the bytes of an image, read now where it is a file.

    Raises:
        ImageError: Naming the place and the reason.
    """
    if isinstance(raw, ImageError):
        raise raw
    return read_bytes(place) if raw is None else raw


def read_bytes(path: str) -> bytes:
    """Return the bytes of a regular file; never waits on a FIFO or a device, follows no loop of links.

    Raises:
        ImageError: Naming the path and the reason.
    """
    if "\0" in path:
        raise ImageError(path, "a path cannot hold a NUL character")
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_FILE_BYTES:
                raise ImageError(path, f"{size / 2**20:.0f} MiB; accepted up to {MAX_FILE_BYTES // 2**20} MiB")
            raw = file.read(size + 1)
    except OSError as error:
        reasons = {
            errno.ENOENT: "no such file",
            errno.ELOOP: "a loop of symbolic links",
            errno.EISDIR: "a folder, not a file",
            errno.EINVAL: "a FIFO, socket or device, not a file",
            errno.ENXIO: "a FIFO, socket or device, not a file",
            errno.EACCES: "permission denied",
        }
        raise ImageError(path, reasons.get(error.errno or 0, error.strerror or str(error))) from error
    if not raw:
        raise ImageError(path, "empty file")
    return raw


def _open(raw: bytes) -> Image.Image:
    with _header, warnings.catch_warnings():
        # Doubtful EXIF and large images warn; what is too large is refused by `_check`.
        warnings.simplefilter("ignore")
        return Image.open(io.BytesIO(raw), formats=FORMATS)


def _check(path: str, image: Image.Image) -> ImageFacts:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(path, f"{width} x {height} pixels; accepted up to {MAX_PIXELS:,} pixels")
    if image.mode.startswith(_DEEP_MODES):
        raise ImageError(path, f"more than 8 bits a channel (mode {image.mode}); convert it to 8-bit RGB or gray")
    return ImageFacts(
        format=image.format or "?",
        mode=image.mode,
        width=width,
        height=height,
        # Not `n_frames`: a GIF of 100 MB can hold millions, which are counted one by one.
        animated=image.format not in _SINGLE_FRAME and bool(getattr(image, "is_animated", False)),
    )


def _orientation(image: Image.Image) -> int:
    if "exif" not in image.info and image.format in ("JPEG", "BMP", "PPM", "GIF"):
        return 1
    with _header, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            value = image.getexif().get(ExifTags.Base.Orientation, 1)
        except Exception:  # noqa: BLE001 - broken EXIF says nothing of the pixels, which are checked by decoding
            return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        # `convert` would copy: 0.2 ms of the 0.5 ms that an image of 224 px takes.
        image.load()
        return image
    # A palette with an alpha table: Pillow warns that RGBA would keep more, and converts the same pixels without.
    image.info.pop("transparency", None)
    return image.convert("RGB")


def _reason(raw: bytes, error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        start = raw[:16].lstrip().decode("ascii", "replace").split("\n")[0]
        shown = "".join(c if c.isprintable() else "." for c in start)
        return f"not an image of a known format (begins with {shown!r}); accepted: {', '.join(FORMATS)}"
    if isinstance(error, Image.DecompressionBombError):
        return f"too many pixels; accepted up to {MAX_PIXELS:,} pixels"
    text = (str(error).splitlines() or [""])[0][:200]
    return f"cannot be decoded ({text or type(error).__name__}); it is truncated or damaged"
