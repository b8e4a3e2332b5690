"""Plane shapes."""

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
    rotate,
)
from mergeloom.data.rendered.registry import renderer

SHAPES = (
    "circle",
    "triangle",
    "square",
    "pentagon",
    "star",
    "cross",
    "heart",
    "crescent",
    "ring",
    "arrow",
    "semicircle",
    "rectangle",
)


def outline(shape: str) -> Points:
    """Corners [n, 2] of a shape that fits the unit circle; of a ring, its outer edge."""
    origin = (0.0, 0.0)
    if shape in ("circle", "ring"):
        return ellipse(origin, 1.0)
    if shape in ("triangle", "pentagon", "hexagon", "octagon"):
        corners = {"triangle": 3, "pentagon": 5, "hexagon": 6, "octagon": 8}[shape]
        return ellipse(origin, 1.0, corners=corners)
    if shape == "square":
        return rotate(ellipse(origin, 1.0, corners=4), 45)
    if shape == "rectangle":
        return np.array([[-1, -0.4], [1, -0.4], [1, 0.4], [-1, 0.4]])
    if shape == "star":
        points = ellipse(origin, 1.0, corners=10)
        points[1::2] *= 0.42
        return points
    if shape == "cross":
        quarter = np.array([[-0.3, -0.3], [-0.3, -1], [0.3, -1]])
        return np.concatenate([rotate(quarter, 90 * turn) for turn in range(4)])
    if shape == "heart":
        t = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        x = 16 * np.sin(t) ** 3
        y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
        return np.stack([x, -y - 2], axis=1) / 16
    if shape == "crescent":
        angle = np.deg2rad(np.linspace(-125, 125, 24))
        outer = np.stack([-np.cos(angle), np.sin(angle)], axis=1)
        inner = np.stack([-0.25 - 0.45 * np.cos(angle), 0.82 * np.sin(angle)], axis=1)
        tip = outer[[0, -1]]
        inner[[0, -1]] = tip
        return np.concatenate([outer, inner[::-1]])
    if shape == "arrow":
        half = np.array([[0, -1], [0.7, -0.2], [0.25, -0.2], [0.25, 1]])
        return np.concatenate([half, (half * [-1, 1])[::-1]])
    if shape == "semicircle":
        angle = np.linspace(0, np.pi, 20)
        return np.stack([np.cos(angle), 0.5 - np.sin(angle)], axis=1)
    raise KeyError(shape)


@renderer("shapes", SHAPES)
def shapes(classname: str, rng: Rng) -> np.ndarray:
    """A filled shape of one bright colour on a dark ground, turned by up to 12°."""
    points = rotate(outline(classname), rng.uniform(-12, 12)) * rng.uniform(11, 14)
    centre = rng.uniform(15, 17, 2)
    holes = [points * 0.55 + centre] if classname == "ring" else []
    mask = polygon_mask(points + centre, holes=holes)
    ground = plain(hsv(rng.random(), rng.uniform(0, 0.6), rng.uniform(0, 0.35)))
    colour = hsv(rng.random(), rng.uniform(0.3, 1), rng.uniform(0.7, 1))
    return finish(paint(ground, mask, colour), rng, noise=0.02)
