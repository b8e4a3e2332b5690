"""Counting dots."""

import numpy as np

from mergeloom.data.rendered.canvas import (
    Points,
    Rng,
    ellipse,
    finish,
    hsv,
    paint,
    plain,
    polygon_mask,
)
from mergeloom.data.rendered.digits import NUMBERS
from mergeloom.data.rendered.registry import renderer


def scatter(count: int, rng: Rng, jitter: float) -> Points:
    """Places [count, 2] in pixels near different crossings of a grid of 3x3, 9 pixels apart."""
    crossings = rng.permutation(9)[:count]
    grid = 7 + 9.0 * np.stack([crossings % 3, crossings // 3], axis=1)
    return grid + rng.uniform(-jitter, jitter, (count, 2))


@renderer("dots", NUMBERS[1:7])
def dots(classname: str, rng: Rng) -> np.ndarray:
    """One to six bright dots of equal size, apart from one another, on a dark ground."""
    places = scatter(NUMBERS.index(classname), rng, jitter=1.2)
    mask = polygon_mask(*(ellipse(place, 2.8, corners=16) for place in places))
    ground = plain(hsv(rng.random(), rng.uniform(0, 0.7), rng.uniform(0.05, 0.15)))
    colour = hsv(rng.random(), rng.uniform(0, 0.3), rng.uniform(0.95, 1))
    return finish(paint(ground, mask, colour), rng, noise=0.02)
