"""The atlas: captioned pictures on which the base encoder is pretrained.

It is broader than the embedded tasks and shares no image with them: other type faces, colours,
grounds, scales and signs, and many things that no task asks for.
"""

import string
from collections.abc import Callable
from functools import partial

import numpy as np

from mergeloom.data.rendered.canvas import (
    Rng,
    clouds,
    contrasting_colours,
    ellipse,
    finish,
    glyph_mask,
    hsv,
    paint,
    plain,
    polygon_mask,
    rotate,
)
from mergeloom.data.rendered.digits import NUMBERS
from mergeloom.data.rendered.dots import scatter
from mergeloom.data.rendered.land import LAND, terrain
from mergeloom.data.rendered.registry import renderer
from mergeloom.data.rendered.shapes import SHAPES, outline
from mergeloom.data.rendered.signs import SIGNS, face
from mergeloom.data.rendered.textures import TEXTURES, pattern

FACES = (
    "STIXGeneral",
    "STIXGeneralBol",
    "STIXGeneralItalic",
    "cmr10",
    "cmb10",
    "cmss10",
    "cmtt10",
)
HUES = {"red": 0.0, "yellow": 0.16, "green": 0.34, "blue": 0.62, "purple": 0.79}
PICTOGRAMS = {
    "an umbrella": "\u2602",
    "a snowman": "\u2603",
    "a sun": "\u2600",
    "a cloud": "\u2601",
    "a telephone": "\u260e",
    "a skull": "\u2620",
    "a yin and yang": "\u262f",
    "a smiling face": "\u263a",
    "a chess king": "\u265a",
    "a chess queen": "\u265b",
    "a chess rook": "\u265c",
    "a chess bishop": "\u265d",
    "a chess knight": "\u265e",
    "a chess pawn": "\u265f",
    "a spade": "\u2660",
    "a club": "\u2663",
    "a musical note": "\u266a",
    "an anchor": "\u2693",
    "crossed swords": "\u2694",
    "a pair of scales": "\u2696",
    "a flash of lightning": "\u26a1",
    "a pair of scissors": "\u2702",
    "an aeroplane": "\u2708",
    "an envelope": "\u2709",
    "a pencil": "\u270e",
    "a tick mark": "\u2714",
    "a snowflake": "\u2744",
    "a flower": "\u273f",
    "a question mark": "?",
    "an ampersand": "&",
    "a percent sign": "%",
    "an equals sign": "=",
    "an at sign": "@",
    "a hash sign": "#",
    "a section sign": "\u00a7",
    "an infinity sign": "\u221e",
    "a pound sign": "\u00a3",
    "an omega": "\u03a9",
    "a phi": "\u03a6",
    "a psi": "\u03a8",
}

Picture = Callable[[Rng], np.ndarray]


def _ground(rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    """A background image, plain or blotched, and a colour to draw on it with."""
    ink, ground = contrasting_colours(rng, 0.4)
    return ground + rng.uniform(0, 0.3) * (clouds(rng, int(rng.integers(1, 6)), 3) - 0.5), ink


def _glyph(text: str, fonts: tuple[str, ...], rng: Rng) -> np.ndarray:
    image, ink = _ground(rng)
    font = fonts[rng.integers(len(fonts))]
    height, angle = rng.uniform(16, 22), rng.uniform(-8, 8)
    return paint(image, glyph_mask(text, font, height, rng.uniform(14.5, 17.5, 2), angle), ink)


def _shape(shape: str, hue: float, rng: Rng) -> np.ndarray:
    light = plain(hsv(rng.random(), rng.uniform(0, 0.3), rng.uniform(0.7, 1)))
    points = rotate(outline(shape), rng.uniform(-15, 15)) * rng.uniform(9, 14)
    centre = rng.uniform(14.5, 17.5, 2)
    holes = [points * rng.uniform(0.4, 0.75) + centre] if shape == "ring" else []
    colour = hsv(hue + rng.uniform(-0.03, 0.03), rng.uniform(0.7, 1), rng.uniform(0.4, 0.8))
    return paint(light, polygon_mask(points + centre, holes=holes), colour)


def _texture(texture: str, rng: Rng) -> np.ndarray:
    cells = rng.choice([rng.uniform(2.8, 3.8), rng.uniform(4.6, 6)])
    field = pattern(texture, rng, cells, rng.uniform(-20, 20))
    image, ink = _ground(rng)
    return paint(image, field, ink)


def _land(land: str, rng: Rng) -> np.ndarray:
    """In false colours: the channels exchanged, as of an infrared camera."""
    return np.clip(terrain(land, rng)[:, :, rng.permutation(3)], 0, 1) ** rng.uniform(0.6, 1.2)


def _sign(sign: str, rng: Rng) -> np.ndarray:
    """As printed in a leaflet: upright, in faded colours, on a plain page."""
    image = plain(np.full(3, rng.uniform(0.7, 1)))
    image = face(image, sign, rng.uniform(14.5, 17.5, 2), rng.uniform(10, 14), 0.0, 1.0)
    faded = rng.uniform(0, 0.8)
    return faded * image.mean(axis=2, keepdims=True) + (1 - faded) * image


def _count(count: int, rng: Rng) -> np.ndarray:
    image, ink = _ground(rng)
    corners = (3, 4, 5)[rng.integers(3)]
    places = scatter(count, rng, jitter=1.4)
    radius = rng.uniform(2.8, 3.4)
    return paint(image, polygon_mask(*(ellipse(p, radius, corners=corners) for p in places)), ink)


def _pictures() -> dict[str, Picture]:
    pictures: dict[str, Picture] = {}
    for letter in string.ascii_uppercase:
        pictures[f"the letter {letter}"] = partial(_glyph, letter, FACES)
    for value, number in enumerate(NUMBERS):
        pictures[f"the number {number}"] = partial(_glyph, str(value), FACES)
    for name, sign in PICTOGRAMS.items():
        pictures[name] = partial(_glyph, sign, ("DejaVuSans",))
    for shape in (*SHAPES, "hexagon", "octagon"):
        for colour, hue in HUES.items():
            pictures[f"a {colour} {shape}"] = partial(_shape, shape, hue)
    for texture in TEXTURES:
        pictures[f"a {texture} texture"] = partial(_texture, texture)
    for land in LAND:
        pictures[f"{land} seen from above"] = partial(_land, land)
    for sign in SIGNS:
        pictures[f"a {sign} traffic sign"] = partial(_sign, sign)
    for count, number in enumerate(NUMBERS[1:9], start=1):
        noun = "polygon" if count == 1 else "polygons"
        pictures[f"{number} {noun}"] = partial(_count, count)
    return pictures


PICTURES = _pictures()


@renderer("atlas", tuple(PICTURES))
def atlas(classname: str, rng: Rng) -> np.ndarray:
    """A picture of what the class name says."""
    return finish(PICTURES[classname](rng), rng, noise=0.02)
