"""House numbers: a digit between its neighbours, on a wall."""

import numpy as np

from mergeloom.data.rendered.canvas import (
    Rng,
    clouds,
    finish,
    glyph_mask,
    hsv,
    paint,
    stroke_mask,
)
from mergeloom.data.rendered.digits import NUMBERS
from mergeloom.data.rendered.registry import renderer

FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif-Bold", "DejaVuSansMono-Bold")


@renderer("house_numbers", NUMBERS)
def house_numbers(classname: str, rng: Rng) -> np.ndarray:
    """A coloured digit in the middle; other digits cut off beside it, lines and stains behind."""
    wall = hsv(rng.random(), rng.uniform(0, 0.7), rng.uniform(0.15, 0.45))
    colour = hsv(rng.random(), rng.uniform(0, 0.4), rng.uniform(0.75, 1))
    image = wall + 0.25 * (clouds(rng, 3, 3) - 0.5)
    for _ in range(rng.integers(1, 4)):
        line = stroke_mask(rng.uniform(0, 32, (2, 2)), rng.uniform(0.5, 1.5))
        image = paint(image, line, np.clip(wall + rng.uniform(-0.25, 0.25), 0, 1))
    font = FONTS[rng.integers(len(FONTS))]
    height, angle = rng.uniform(19, 22), rng.uniform(-5, 5)
    x, y = rng.uniform(15.3, 16.7, 2)
    spacing = 0.85 * height
    for place in (-1, 0, 1):
        digit = NUMBERS.index(classname) if place == 0 else int(rng.integers(10))
        if place == 0 or rng.random() < 0.6:
            tilt = -np.tan(np.deg2rad(angle)) * place * spacing
            mask = glyph_mask(str(digit), font, height, (x + place * spacing, y + tilt), angle)
            image = paint(image, mask, colour)
    return finish(image, rng, noise=0.03)
