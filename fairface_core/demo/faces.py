"""Draws one cartoon face with Pillow whose age group and gender a small network can learn.

Age shows in the shape of the head, the size of the eyes, the color and the line of the hair, and the wrinkles;
gender in the length of the hair, the lips and the beard. The cues are cartoons, chosen to be learnable and not
always there; skin, background, pose and light say nothing about any label.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from fairface_core.labels import AGE_GROUPS

# Years drawn for each age group; the oldest has no upper bound in the data set.
_YEARS = ((0, 2), (3, 9), (10, 19), (20, 29), (30, 39), (40, 49), (50, 59), (60, 69), (70, 85))
assert len(_YEARS) == len(AGE_GROUPS)
_OVERSAMPLING = 2  # drawn at twice the size and reduced: Pillow's shapes have hard edges
_CUE_SHOWS = 0.93  # how often the hair, and the lips, go with the gender
_NOISE_SD = 5.0  # of 255

Color = tuple[int, int, int]


def draw_face(age: int, gender: int, size_px: int, rng: np.random.Generator) -> Image.Image:
    """Draw one face.

    Args:
        age: Age group, 0..8.
        gender: 0 male, 1 female.
        size_px: Side of the square image, pixels.
        rng: Everything about the face that the labels leave open is drawn from it.

    Returns:
        RGB image, `size_px` x `size_px`.
    """
    years = rng.uniform(_YEARS[age][0], _YEARS[age][1] + 1)
    canvas = _Canvas(size_px * _OVERSAMPLING, rng)
    _Face(canvas, years, gender, rng).draw()
    light = rng.uniform(0.8, 1.15)
    pixels = np.asarray(canvas.image.reduce(_OVERSAMPLING), dtype=np.float32) * light
    pixels += rng.normal(0, _NOISE_SD, pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


class _Canvas:
    """A picture whose coordinates run from -1 to 1, shifted and scaled a little as cropped photographs are."""

    def __init__(self, side_px: int, rng: np.random.Generator) -> None:
        background: Color = tuple(int(c) for c in rng.integers(30, 226, 3))  # type: ignore[assignment]
        self.image = Image.new("RGB", (side_px, side_px), background)
        self._draw = ImageDraw.Draw(self.image)
        self._half = side_px / 2
        self._scale = rng.uniform(0.88, 1.05) * side_px / 2
        self._shift = rng.uniform(-0.08, 0.08, 2)

    def _at(self, x: float, y: float) -> tuple[float, float]:
        return self._half + (x + self._shift[0]) * self._scale, self._half + (y + self._shift[1]) * self._scale

    def oval(self, x: float, y: float, width: float, height: float, color: Color) -> None:
        self._draw.ellipse((*self._at(x - width, y - height), *self._at(x + width, y + height)), fill=color)

    def box(self, left: float, top: float, right: float, bottom: float, color: Color) -> None:
        self._draw.rectangle((*self._at(left, top), *self._at(right, bottom)), fill=color)

    def line(self, x0: float, y0: float, x1: float, y1: float, color: Color, width: float) -> None:
        thick = max(1, round(width * self._scale))
        self._draw.line((*self._at(x0, y0), *self._at(x1, y1)), fill=color, width=thick)


class _Face:
    """The proportions of one face, and the order in which it is painted."""

    def __init__(self, canvas: _Canvas, years: float, gender: int, rng: np.random.Generator) -> None:
        self.canvas, self.years, self.female, self.rng = canvas, years, gender == 1, rng
        tone = rng.uniform(0.35, 1.0)
        self.skin = _color(225 * tone, 185 * tone, 155 * tone)
        self.shadow = _color(155 * tone, 115 * tone, 95 * tone)
        gray = float(np.clip((years - 38) / 32, 0, 1))
        dark = rng.uniform(20, 110) * np.array([1.0, 0.75, 0.5])
        self.hair = _color(*(dark * (1 - gray) + 225 * gray))
        grown = float(np.clip(years / 22, 0, 1))
        self.width = 0.62 - 0.08 * grown + rng.normal(0, 0.015)
        self.height = 0.62 + 0.14 * grown + rng.normal(0, 0.015)
        self.eye = 0.15 - 0.075 * grown
        self.eye_y = 0.12 - 0.2 * grown
        self.long_hair = self.female == bool(rng.random() < _CUE_SHOWS)
        self.red_lips = self.female == bool(rng.random() < _CUE_SHOWS)
        self.hair_line = -self.height + 0.16 + (0.0 if self.female else 0.16 * float(np.clip((years - 35) / 35, 0, 1)))

    def draw(self) -> None:
        canvas, width, height = self.canvas, self.width, self.height
        if self.years >= 1.5:
            canvas.oval(0, -0.12, width + 0.1, height + 0.06, self.hair)
        if self.long_hair:
            canvas.box(-width - 0.1, -0.12, width + 0.1, 0.75, self.hair)
        canvas.box(-0.2, 0.4, 0.2, 1.2, self.shadow)
        canvas.oval(0, 0.04, width, height, self.skin)
        if self.years >= 1.5:
            canvas.oval(0, self.hair_line - 0.1, width * 0.85, 0.17, self.hair)
        if not self.female and self.years > 17 and self.rng.random() < 0.6:
            canvas.oval(0, height - 0.14, width * 0.6, 0.22, self.hair)
        self._eyes()
        self._mouth()
        self._wrinkles()

    def _eyes(self) -> None:
        for side in (-1, 1):
            x = side * self.width * 0.45
            self.canvas.oval(x, self.eye_y, self.eye, self.eye * 0.75, (245, 245, 245))
            self.canvas.oval(x, self.eye_y, self.eye * 0.5, self.eye * 0.55, (40, 30, 30))
            brow = self.eye_y - self.eye - 0.06
            self.canvas.line(x - 0.12, brow, x + 0.12, brow, self.hair, 0.03 if self.female else 0.055)

    def _mouth(self) -> None:
        y = self.eye_y + 0.42
        self.canvas.line(0, self.eye_y + 0.08, 0, y - 0.14, self.shadow, 0.04)
        lips = (200, 40, 60) if self.red_lips else self.shadow
        self.canvas.oval(0, y, 0.17, 0.055 if self.red_lips else 0.035, lips)

    def _wrinkles(self) -> None:
        depth = float(np.clip((self.years - 28) / 45, 0, 1))
        for row in range(round(4 * depth)):
            y = self.hair_line + 0.16 + 0.06 * row
            self.canvas.line(-0.26, y, 0.26, y, self.shadow, 0.022)
        for side in (-1, 1):
            if depth > 0.2:
                self.canvas.line(
                    side * 0.2, self.eye_y + 0.24, side * 0.27, self.eye_y + 0.46, self.shadow, 0.03 * depth + 0.01
                )
            if depth > 0.5:
                x = side * self.width * 0.45
                self.canvas.line(x - 0.1, self.eye_y + 0.14, x + 0.1, self.eye_y + 0.14, self.shadow, 0.03)


def _color(red: float, green: float, blue: float) -> Color:
    return round(min(red, 255)), round(min(green, 255)), round(min(blue, 255))
