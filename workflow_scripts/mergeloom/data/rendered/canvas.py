"""What renderers share: masks of glyphs and polygons, backgrounds, colours.

Masks and images are float32 in [0, 1], [32, 32] and [32, 32, 3]. Masks are drawn at three times
the size and averaged down, which is the anti-aliasing.
"""

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIZE = 32
OVERSAMPLING = 3
WIDE = SIZE * OVERSAMPLING

Rng = np.random.Generator
Points = np.ndarray  # [n, 2], x to the right and y down
Point = Sequence[float] | np.ndarray


@functools.cache
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    # matplotlib is imported for the place of its fonts only, and takes 0.1 s.
    from matplotlib import get_data_path

    return ImageFont.truetype(str(Path(get_data_path(), "fonts", "ttf", f"{name}.ttf")), size)


def _down(wide: Image.Image) -> np.ndarray:
    return np.asarray(wide.reduce(OVERSAMPLING), np.float32) / 255


def glyph_mask(
    text: str, font: str, height: float, centre: Point, angle: float, shear: float = 0.0
) -> np.ndarray:
    """Mask [32, 32] of ``text``; ``height`` in pixels of a capital, ``centre`` (x, y) in pixels,
    ``angle`` in degrees counter-clockwise, ``shear`` as x per y."""
    wide = Image.new("L", (WIDE, WIDE))
    # 0.72: height of a capital in ems in the fonts used. Sizes are rounded so that few are loaded.
    size = max(6, round(height * OVERSAMPLING / 0.72 / 2) * 2)
    ImageDraw.Draw(wide).text((WIDE / 2, WIDE / 2), text, 255, _font(font, size), anchor="mm")
    radians = np.deg2rad(angle)
    cos, sin = float(np.cos(radians)), float(np.sin(radians))
    x, y = centre[0] * OVERSAMPLING, centre[1] * OVERSAMPLING
    a, b, d, e = cos + shear * sin, -sin + shear * cos, sin, cos
    half = WIDE / 2
    matrix = (a, b, half - a * x - b * y, d, e, half - d * x - e * y)
    return _down(
        wide.transform(wide.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    )


def polygon_mask(*polygons: Points, holes: Iterable[Points] = ()) -> np.ndarray:
    """Mask [32, 32] of filled polygons, corners in pixels, minus ``holes``."""
    wide = Image.new("L", (WIDE, WIDE))
    draw = ImageDraw.Draw(wide)
    for points in polygons:
        draw.polygon((points * OVERSAMPLING).ravel().tolist(), fill=255)
    for points in holes:
        draw.polygon((points * OVERSAMPLING).ravel().tolist(), fill=0)
    return _down(wide)


def stroke_mask(points: Points, width: float) -> np.ndarray:
    """Mask [32, 32] of a line of ``width`` pixels along ``points``."""
    wide = Image.new("L", (WIDE, WIDE))
    ImageDraw.Draw(wide).line(
        (points * OVERSAMPLING).ravel().tolist(),
        fill=255,
        width=max(1, round(width * OVERSAMPLING)),
        joint="curve",
    )
    return _down(wide)


def ellipse(centre: Point, radius: float, aspect: float = 1.0, corners: int = 36) -> Points:
    """Corners [corners, 2] of an ellipse (or regular polygon), the first one at the top."""
    angles = 2 * np.pi * np.arange(corners) / corners
    x, y = np.sin(angles), -np.cos(angles)
    return np.stack([centre[0] + radius * aspect * x, centre[1] + radius * y], axis=1)


def rotate(points: Points, angle: float) -> Points:
    """Rotate about the origin by ``angle`` degrees."""
    radians = np.deg2rad(angle)
    cos, sin = np.cos(radians), np.sin(radians)
    return points @ np.array([[cos, sin], [-sin, cos]])


def paint(image: np.ndarray, mask: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """Lay ``colour`` [3] or [32, 32, 3] over ``image`` where ``mask`` is 1."""
    return image + mask[:, :, None] * (colour - image)


def hsv(hue: float, saturation: float, value: float) -> np.ndarray:
    """Colour [3] from hue (in turns), saturation and value."""
    ramp = np.abs((hue * 6 + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1
    return value * (1 - saturation + saturation * np.clip(ramp, 0, 1))


def plain(colour: np.ndarray) -> np.ndarray:
    """An image [32, 32, 3] of one colour."""
    return np.broadcast_to(colour, (SIZE, SIZE, 3)).astype(np.float32)


def clouds(rng: Rng, cells: int, channels: int = 1) -> np.ndarray:
    """Smooth noise in [0, 1], [32, 32, channels], with ``cells`` bumps across the image."""
    grid = rng.random((cells + 2, cells + 2, channels)) * 255
    layers = [
        Image.fromarray(grid[:, :, c].astype(np.uint8)).resize(
            (SIZE, SIZE), Image.Resampling.BICUBIC
        )
        for c in range(channels)
    ]
    return np.stack([np.asarray(layer, np.float32) for layer in layers], axis=2) / 255


def contrasting_colours(rng: Rng, least: float) -> tuple[np.ndarray, np.ndarray]:
    """A dark and a light colour, muted, whose luminances differ by at least ``least``."""
    weights = np.array([0.3, 0.59, 0.11])
    while True:
        dark, light = ((c + c.mean()) / 2 for c in rng.random((2, 3)))
        if weights @ (light - dark) >= least:
            return dark, light


def finish(image: np.ndarray, rng: Rng, noise: float = 0.0) -> np.ndarray:
    """To uint8 [32, 32, 3], after adding pixel noise of this standard deviation."""
    if noise:
        image = image + noise * rng.standard_normal(image.shape, dtype=np.float32)
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
