"""Printed capital letters on paper."""

import string

import numpy as np

from mergeloom.data.rendered.canvas import Rng, finish, glyph_mask, hsv, paint, plain
from mergeloom.data.rendered.registry import renderer

FONTS = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSansMono",
    "DejaVuSansMono-Bold",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSerif-Italic",
)


@renderer("letters", string.ascii_uppercase)
def letters(classname: str, rng: Rng) -> np.ndarray:
    """A dark letter in one of eight faces on light paper, a little turned and shifted."""
    mask = glyph_mask(
        classname,
        FONTS[rng.integers(len(FONTS))],
        height=rng.uniform(18, 22),
        centre=rng.uniform(15, 17, 2),
        angle=rng.uniform(-7, 7),
    )
    paper = plain(hsv(rng.random(), rng.uniform(0, 0.15), rng.uniform(0.85, 1)))
    ink = hsv(rng.random(), rng.uniform(0, 0.8), rng.uniform(0, 0.4))
    return finish(paint(paper, mask, ink), rng, noise=0.02)
