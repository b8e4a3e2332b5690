"""Textures: repeating patterns of two colours."""

import numpy as np

from mergeloom.data.rendered.canvas import Rng, clouds, contrasting_colours, finish
from mergeloom.data.rendered.registry import renderer

TEXTURES = (
    "striped",
    "chequered",
    "dotted",
    "zigzagged",
    "gridded",
    "bricked",
    "cracked",
    "marbled",
    "woven",
    "spiralled",
    "speckled",
    "wavy",
)

FINE = 64  # fields are computed at twice the size and averaged down


def _edge(distance: np.ndarray, width: float = 0.12) -> np.ndarray:
    """A soft step from 0 to 1 at distance 0."""
    return np.clip(distance / width + 0.5, 0, 1)


def _wave(x: np.ndarray) -> np.ndarray:
    """Triangle wave of period 1 between 0 and 1."""
    return 2 * np.abs(x % 1 - 0.5)


def pattern(texture: str, rng: Rng, cells: float, angle: float) -> np.ndarray:
    """Field [32, 32] in [0, 1] of a texture with about ``cells`` periods across the image,
    turned by ``angle`` degrees."""
    axis = (np.arange(FINE, dtype=np.float32) + 0.5) / FINE - 0.5
    cos, sin = np.float32(np.cos(np.deg2rad(angle))), np.float32(np.sin(np.deg2rad(angle)))
    u = cells * (cos * axis[None, :] + sin * axis[:, None]) + np.float32(rng.random())
    v = cells * (cos * axis[:, None] - sin * axis[None, :]) + np.float32(rng.random())
    if texture == "striped":
        field = _edge(_wave(u) - 0.5)
    elif texture == "chequered":
        field = _edge((_wave(u) - 0.5) * (_wave(v) - 0.5), 0.04)
    elif texture == "dotted":
        field = _edge(0.32 - np.hypot(u % 1 - 0.5, v % 1 - 0.5))
    elif texture == "zigzagged":
        field = _edge(_wave(v + 0.7 * _wave(u)) - 0.5)
    elif texture == "wavy":
        field = _edge(_wave(v + 0.35 * np.sin(2 * np.pi * u * 0.6)) - 0.5)
    elif texture == "gridded":
        field = _edge(0.78 - np.maximum(_wave(u), _wave(v)))
    elif texture == "bricked":
        row = np.floor(v * 1.2)
        field = _edge(
            np.maximum(_wave(v * 1.2), 1 - (1 - _wave(0.6 * u + 0.5 * (row % 2))) * 2) - 0.72
        )
    elif texture == "woven":
        over = (np.floor(u) + np.floor(v)) % 2
        field = np.where(over == 1, 1 - _wave(v), 0.45 * (1 - _wave(u)))
    elif texture == "spiralled":
        x, y = u - u.mean(), v - v.mean()
        field = _edge(_wave(np.hypot(x, y) * 0.9 + np.arctan2(y, x) / (2 * np.pi)) - 0.5)
    elif texture == "cracked":
        seeds = rng.uniform(-0.6, 0.6, (int(2.2 * cells), 2, 1, 1)).astype(np.float32)
        distances = np.hypot(axis[None, None, :] - seeds[:, 0], axis[None, :, None] - seeds[:, 1])
        nearest = np.partition(distances, 1, axis=0)
        field = _edge((nearest[1] - nearest[0]) - 0.03, 0.03)
    elif texture == "marbled":
        warp = np.kron(clouds(rng, 3)[:, :, 0], np.ones((2, 2), np.float32))
        field = 1 - np.abs(np.sin(np.pi * (0.5 * u + 2.5 * warp)))
    elif texture == "speckled":
        grain = rng.random((FINE // 2, FINE // 2), dtype=np.float32)
        field = np.kron((grain > 0.82).astype(np.float32), np.ones((2, 2), np.float32))
    else:
        raise KeyError(texture)
    return field.reshape(FINE // 2, 2, FINE // 2, 2).mean(axis=(1, 3), dtype=np.float32)


@renderer("textures", TEXTURES)
def textures(classname: str, rng: Rng) -> np.ndarray:
    """A texture of any direction, period and pair of colours, unevenly lit."""
    field = pattern(classname, rng, cells=rng.uniform(3.8, 4.6), angle=rng.uniform(-12, 12))
    first, second = contrasting_colours(rng, 0.3)
    image = first + field[:, :, None] * (second - first)
    light = 0.8 + 0.4 * clouds(rng, 1)
    return finish(image * light, rng, noise=0.03)
