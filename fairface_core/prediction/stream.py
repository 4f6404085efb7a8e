"""Any number of pictures through one or several models, in bounded memory: three batches are on their way at a time.

Threads decode, and no processes: what a thread does with Python's lock held is little beside a model's pass, and a
process would have to send its pixels over. On a CPU two batches pass at once, each on every core: where a decoding
thread has taken the core of one, the other goes on (alone, its threads spin until all have come: benchmarks/results). Not
fewer threads for each: that changes bits.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from fairface_core.errors import CheckpointError
from fairface_core.images.decode import ImageError, square_from_bytes
from fairface_core.images.places import ahead, read_place
from fairface_core.labels import AGE_GROUPS, GENDERS
from fairface_core.prediction.models import Member
from fairface_core.prediction.sources import Face, Picture
from fairface_core.scoring.metrics import Logits, mean_probabilities, probabilities
from fairface_core.training.augment import prepare_eval

# Batches on their way: two in the model, or one, and those that are decoded meanwhile.
_AT_ONCE = 3
# Pictures that a thread is asked for at a time: some milliseconds of work.
_SPAN = 16


@dataclass(frozen=True)
class Answers:
    """What is said of B pictures, aligned.

    Attributes:
        file: What each is called.
        error: Why there is no answer; empty where there is one.
        age_prob: float32 [B, 9]; NaN where there is no answer.
        gender_prob: float32 [B, 2]; the same.
        age: int64 [B], the likeliest age group, 0..8; -1 where there is no answer.
        gender: int64 [B], 0..1; -1.
        face: What each answer is about; None for the whole picture.
    """

    file: list[str]
    error: list[str]
    age_prob: np.ndarray
    gender_prob: np.ndarray
    age: np.ndarray
    gender: np.ndarray
    face: list[Face | None]


@dataclass
class _Batch:
    pictures: Sequence[Picture]
    pixels: dict[int, np.ndarray]
    spans: list[Future[list[str]]]


def stream_answers(
    members: Sequence[Member],
    pictures: Iterable[Picture],
    *,
    batch_size: int,
    num_threads: int,
    device: torch.device,
) -> Generator[Answers, None, None]:
    """Yield answers in the order of the pictures.

    Args:
        members: The models; several answer with the mean of their probabilities.
        pictures: Any number of them; they are asked for as they are needed.
        batch_size: Pictures at a time.
        num_threads: Threads that decode.
        device: Where the models are.

    Raises:
        CheckpointError: If a model's outputs are not finite.
    """
    sizes = sorted({member.decoded_px for member in members})
    with ExitStack() as stack:
        passes, pool = ThreadPoolExecutor(2 if device.type == "cpu" else 1), ThreadPoolExecutor(num_threads)
        # The second one first: a pass may wait for its pictures.
        for one in (passes, pool):
            stack.callback(one.shutdown, cancel_futures=True)
        begun = (_begin(pool, part, sizes) for part in _parts(pictures, batch_size))
        yield from ahead(passes, lambda batch: _answer(members, batch, device), begun, _AT_ONCE)


def _parts(pictures: Iterable[Picture], size: int) -> Iterator[list[Picture]]:
    them = iter(pictures)
    while part := list(itertools.islice(them, size)):
        yield part


def _begin(pool: ThreadPoolExecutor, pictures: Sequence[Picture], sizes: Sequence[int]) -> _Batch:
    pixels = {size: np.empty((len(pictures), size, size, 3), np.uint8) for size in sizes}
    starts = range(0, len(pictures), _SPAN)
    return _Batch(
        pictures, pixels, [pool.submit(_decode, pictures[start : start + _SPAN], pixels, start) for start in starts]
    )


def _decode(pictures: Sequence[Picture], pixels: dict[int, np.ndarray], start: int) -> list[str]:
    """Decode consecutive pictures into their places; return why each one could not be, or nothing."""
    errors = []
    for row, picture in enumerate(pictures, start):
        error = picture.error
        if picture.face is not None:
            chip = Image.fromarray(picture.face.pixels)
            for size_px, images in pixels.items():
                images[row] = np.asarray(chip.resize((size_px, size_px), Image.Resampling.BILINEAR))
            errors.append("")
            continue
        try:
            raw = b"" if error else picture.raw if picture.raw is not None else read_place(picture.path)
            for size_px, images in pixels.items():
                if not error:
                    images[row] = np.asarray(square_from_bytes(raw, picture.path, size_px))
        except ImageError as refused:
            error = refused.reason
        errors.append(error)
    return errors


def _answer(members: Sequence[Member], batch: _Batch, device: torch.device) -> Answers:
    errors = [error for span in batch.spans for error in span.result()]
    good = np.flatnonzero([not error for error in errors])
    images = {size: pixels if len(good) == len(errors) else pixels[good] for size, pixels in batch.pixels.items()}
    num = len(errors)
    age_prob = np.full((num, len(AGE_GROUPS)), np.nan, np.float32)
    gender_prob = np.full((num, len(GENDERS)), np.nan, np.float32)
    age, gender = np.full(num, -1), np.full(num, -1)
    if len(good):
        logits = [_logits(member, images[member.decoded_px], device) for member in members]
        age_prob[good], age[good] = _joined([one.age for one in logits])
        gender_prob[good], gender[good] = _joined([one.gender for one in logits])
    return Answers(
        [_text(picture.file) for picture in batch.pictures], errors, age_prob, gender_prob, age, gender,
        [picture.face for picture in batch.pictures],
    )  # fmt: skip


def _logits(member: Member, images: np.ndarray, device: torch.device) -> Logits:
    pixels = torch.from_numpy(images).to(device).permute(0, 3, 1, 2)
    amp_dtype = member.amp_dtype
    with torch.inference_mode(), torch.autocast(device.type, dtype=amp_dtype, enabled=amp_dtype is not None):
        prepared = prepare_eval(pixels, member.image_size, member.memory_format)
        age, gender = member.network(prepared)
        logits = Logits(age.float().cpu().numpy(), gender.float().cpu().numpy())
    if not logits.finite:
        raise CheckpointError(
            f"{member.where}: its weights give outputs that are not finite; it is damaged, or training had diverged"
        )
    return logits


def _joined(logits: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities and answers; of one model the answers of its logits, which no rounding has made equal."""
    if len(logits) == 1:
        return probabilities(logits[0]), logits[0].argmax(axis=1)
    mean = mean_probabilities([probabilities(one) for one in logits])
    return mean, mean.argmax(axis=1)


def _text(name: str) -> str:
    """Return a file name that every format can hold: Linux allows names that are no text."""
    return name.encode("utf-8", "backslashreplace").decode()
