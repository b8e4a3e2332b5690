"""Traffic signs as a camera in a car sees them."""

import numpy as np

from mergeloom.data.rendered.canvas import (
    Rng,
    clouds,
    finish,
    glyph_mask,
    hsv,
    paint,
    polygon_mask,
    rotate,
    stroke_mask,
)
from mergeloom.data.rendered.registry import renderer
from mergeloom.data.rendered.shapes import outline

SIGNS = (
    "stop",
    "no entry",
    "give way",
    "priority road",
    "speed limit 30",
    "speed limit 50",
    "speed limit 80",
    "turn left",
    "turn right",
    "straight ahead",
    "danger",
    "parking",
    "no parking",
    "no vehicles",
    "end of restrictions",
    "hospital",
)

RED, BLUE = np.array([0.80, 0.08, 0.10]), np.array([0.05, 0.28, 0.70])
WHITE, BLACK, YELLOW = np.full(3, 0.95), np.full(3, 0.08), np.array([0.98, 0.78, 0.08])
FONT = "DejaVuSans-Bold"


def _bar(length: float, width: float) -> np.ndarray:
    return np.array([[-length, -width], [length, -width], [length, width], [-length, width]])


def _layers(sign: str) -> list[tuple[np.ndarray | str, float, np.ndarray]]:
    """Layers of a sign, bottom first: (corners, scale, colour), or a text for the corners."""
    disc, triangle, square = outline("circle"), outline("triangle"), outline("square") * 1.2
    if sign == "stop":
        octagon = rotate(outline("octagon"), 22.5)
        return [(octagon, 1.0, WHITE), (octagon, 0.9, RED), ("STOP", 0.3, WHITE)]
    if sign == "no entry":
        return [(disc, 1.0, RED), (_bar(0.65, 0.17), 1.0, WHITE)]
    if sign == "give way":
        return [(-triangle, 1.15, RED), (-triangle, 0.65, WHITE)]
    if sign == "danger":
        return [(triangle, 1.15, RED), (triangle, 0.75, WHITE), ("!", 0.6, BLACK)]
    if sign == "priority road":
        diamond = rotate(outline("square"), 45)
        return [(diamond, 1.1, WHITE), (diamond, 0.8, YELLOW)]
    if sign.startswith("speed limit"):
        return [(disc, 1.0, RED), (disc, 0.78, WHITE), (sign.split()[-1], 0.72, BLACK)]
    if sign in ("turn left", "turn right", "straight ahead"):
        angle = {"turn left": -90, "turn right": 90, "straight ahead": 0}[sign]
        return [(disc, 1.0, BLUE), (rotate(outline("arrow"), angle), 0.72, WHITE)]
    if sign == "parking":
        return [(square, 1.0, BLUE), ("P", 1.2, WHITE)]
    if sign == "hospital":
        return [(square, 1.0, BLUE), ("H", 1.2, WHITE)]
    if sign == "no parking":
        return [(disc, 1.0, RED), (disc, 0.78, BLUE), (rotate(_bar(0.85, 0.11), 45), 1.0, RED)]
    if sign == "no vehicles":
        return [(disc, 1.0, RED), (disc, 0.75, WHITE)]
    if sign == "end of restrictions":
        stripes = [
            (rotate(np.add(_bar(0.9, 0.07), (0, dy)), -45), 1.0, BLACK) for dy in (-0.24, 0, 0.24)
        ]
        return [(disc, 1.0, BLACK), (disc, 0.94, WHITE), *stripes]
    raise KeyError(sign)


def face(
    image: np.ndarray, sign: str, centre: np.ndarray, radius: float, angle: float, narrowed: float
) -> np.ndarray:
    """Lay a sign over an image [32, 32, 3], turned by ``angle`` degrees and its width reduced."""
    for form, scale, colour in _layers(sign):
        if isinstance(form, str):
            mask = glyph_mask(form, FONT, radius * scale, centre, -angle)
        else:
            corners = rotate(form * radius * scale, angle) * [narrowed, 1]
            mask = polygon_mask(corners + centre)
        image = paint(image, mask, colour)
    return image


@renderer("signs", SIGNS)
def signs(classname: str, rng: Rng) -> np.ndarray:
    """A sign on its post before sky, trees or houses; turned, narrowed, in any light."""
    image = hsv(rng.uniform(0.2, 0.65), rng.uniform(0.1, 0.5), rng.uniform(0.3, 0.9)) + 0.5 * (
        clouds(rng, int(rng.integers(2, 7)), 3) - 0.5
    )
    centre = rng.uniform(15, 17, 2)
    post = np.array([centre, [centre[0], 32]])
    image = paint(image, stroke_mask(post, 2), np.full(3, 0.45))
    narrowed = rng.uniform(0.85, 1)
    image = face(image, classname, centre, rng.uniform(12, 14.5), rng.uniform(-6, 6), narrowed)
    return finish(image * rng.uniform(0.45, 1.1), rng, noise=0.03)
