"""Land seen from above."""

import numpy as np

from mergeloom.data.rendered.canvas import (
    Rng,
    clouds,
    ellipse,
    finish,
    paint,
    plain,
    polygon_mask,
    rotate,
    stroke_mask,
)
from mergeloom.data.rendered.registry import renderer
from mergeloom.data.rendered.textures import pattern

LAND = (
    "forest",
    "annual crops",
    "pasture",
    "river",
    "highway",
    "residential buildings",
    "industrial buildings",
    "lake",
    "orchard",
    "desert",
)

GREENS, BROWNS = np.array([0.25, 0.38, 0.18]), np.array([0.50, 0.42, 0.28])
WATER, ASPHALT = np.array([0.10, 0.22, 0.34]), np.array([0.48, 0.48, 0.50])
SAND, ROOF, CONCRETE = np.array([0.82, 0.68, 0.48]), np.array([0.58, 0.32, 0.25]), np.full(3, 0.72)


def _tinted(rng: Rng, colour: np.ndarray, amount: float = 0.06) -> np.ndarray:
    return np.clip(colour + rng.uniform(-amount, amount, 3), 0, 1)


def _fields(rng: Rng, colours: list[np.ndarray], angle: float, furrows: float) -> np.ndarray:
    """A patchwork of parcels, ploughed where ``furrows`` > 0."""
    image = plain(_tinted(rng, colours[0]))
    for _ in range(5):
        corners = rotate(
            np.array([[-9, -5], [9, -5], [9, 5], [-9, 5]]) * rng.uniform(0.7, 1.4), angle
        )
        parcel = polygon_mask(corners + rng.uniform(0, 32, 2))
        image = paint(image, parcel, _tinted(rng, colours[rng.integers(len(colours))], 0.12))
    if furrows:
        rows = pattern("striped", rng, rng.uniform(7, 11), angle + 90)
        image = image + furrows * (rows[:, :, None] - 0.5)
    return image


def _course(rng: Rng, bend: float) -> np.ndarray:
    """Points [n, 2] of a line across the image that swings by ``bend`` pixels."""
    along = np.linspace(-24, 24, 24)
    across = bend * np.sin(along / rng.uniform(4, 6) + rng.uniform(0, 6))
    return rotate(np.stack([along, across], 1), rng.uniform(0, 180)) + rng.uniform(11, 21, 2)


def _buildings(rng: Rng, pitch: float, size: float, chance: float) -> np.ndarray:
    """Mask [32, 32] of roofs on a turned grid, ``pitch`` pixels apart."""
    angle = rng.uniform(0, 90)
    steps = np.arange(-24, 25, pitch)
    corner = rotate(np.array([[-1, -0.7], [1, -0.7], [1, 0.7], [-1, 0.7]]) * size, angle)
    houses = []
    for x in steps:
        for y in steps:
            if rng.random() < chance:
                spot = rotate(np.array([[x, y]]), angle)[0] + 16 + rng.uniform(-0.6, 0.6, 2)
                houses.append(corner * rng.uniform(0.75, 1.2) + spot)
    return polygon_mask(*houses) if houses else np.zeros((32, 32), np.float32)


def terrain(land: str, rng: Rng) -> np.ndarray:
    """Image [32, 32, 3] of a kind of land in natural colours."""
    angle = rng.uniform(0, 180)
    if land == "forest":
        crowns = clouds(rng, 13) * clouds(rng, 4)
        return plain(_tinted(rng, GREENS * 0.55, 0.03)) + 0.35 * (crowns - 0.25) * GREENS
    if land == "annual crops":
        return _fields(rng, [BROWNS, GREENS * 1.3, SAND * 0.9], angle, furrows=0.10)
    if land == "pasture":
        meadow = plain(_tinted(rng, GREENS * 1.35, 0.05)) + 0.10 * (clouds(rng, 2) - 0.5)
        hedge = stroke_mask(_course(rng, 0.5), 1)
        return paint(meadow, hedge, GREENS * 0.6)
    if land == "river":
        banks = _fields(rng, [GREENS, GREENS * 1.3, BROWNS], angle, furrows=0)
        return paint(
            banks,
            stroke_mask(_course(rng, rng.uniform(3, 5)), rng.uniform(4, 7)),
            _tinted(rng, WATER),
        )
    if land == "highway":
        sides = _fields(rng, [GREENS, GREENS * 1.3, BROWNS], angle, furrows=0)
        course = _course(rng, rng.uniform(0, 1.5))
        road = paint(sides, stroke_mask(course, 5), _tinted(rng, ASPHALT))
        return paint(road, stroke_mask(course, 1), np.full(3, 0.85))
    if land == "residential buildings":
        ground = plain(_tinted(rng, 0.5 * (ASPHALT + GREENS))) + 0.15 * (clouds(rng, 10) - 0.5)
        return paint(ground, _buildings(rng, 5.5, 1.9, 0.85), _tinted(rng, ROOF, 0.08))
    if land == "industrial buildings":
        ground = plain(_tinted(rng, ASPHALT * 0.8)) + 0.08 * (clouds(rng, 4) - 0.5)
        return paint(ground, _buildings(rng, 14, 5, 0.8), _tinted(rng, CONCRETE * 1.15, 0.1))
    if land == "lake":
        water = plain(_tinted(rng, WATER, 0.05)) + 0.05 * (clouds(rng, 3) - 0.5)
        shore = ellipse(
            16 + rotate(np.array([[22.0, 0]]), rng.uniform(0, 360))[0], rng.uniform(8, 13)
        )
        return paint(water, polygon_mask(shore), _tinted(rng, GREENS))
    if land == "orchard":
        trees = pattern("dotted", rng, rng.uniform(5, 7), angle)
        return paint(plain(_tinted(rng, BROWNS * 1.1)), trees, _tinted(rng, GREENS * 0.7, 0.04))
    if land == "desert":
        crests = pattern("wavy", rng, rng.uniform(2, 4), angle)
        dunes = 0.5 * clouds(rng, 4) + 0.5 * crests[:, :, None]
        return plain(_tinted(rng, SAND)) + 0.15 * (dunes - 0.5)
    raise KeyError(land)


@renderer("land", LAND)
def land(classname: str, rng: Rng) -> np.ndarray:
    """A square kilometre or so, under a thin haze."""
    image, haze = terrain(classname, rng), rng.uniform(0, 0.15)
    return finish(image * (1 - haze) + haze * 0.9, rng, noise=0.02)
