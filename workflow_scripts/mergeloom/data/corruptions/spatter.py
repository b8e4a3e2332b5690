"""Drops on the lens."""

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps
from scipy import ndimage

from mergeloom.data.corruptions.registry import REFERENCE_SIZE, corruption


class Splash(NamedTuple):
    """A layer of liquid: normal noise, smoothed; what is above the threshold is a drop."""

    mean: float
    deviation: float
    blur: float  # of the noise
    threshold: float
    strength: float  # opacity of water; blur of mud
    mud: bool


SPLASHES = (
    Splash(0.65, 0.3, 4, 0.69, 0.6, False),
    Splash(0.65, 0.3, 3, 0.68, 0.6, False),
    Splash(0.65, 0.3, 2, 0.68, 0.5, False),
    Splash(0.65, 0.3, 1, 0.65, 1.5, True),
    Splash(0.67, 0.4, 1, 0.65, 1.5, True),
)
WATER, MUD = (np.array(rgb, np.float32) / 255 for rgb in ((175, 238, 238), (63, 42, 20)))
DEPTH = 20  # pixels from its edge at which a drop of water is evenly thick
RELIEF = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
THIN = 0.8  # mud below this opacity is left out


@corruption("spatter")
def spatter(image: np.ndarray, severity: int, random: np.random.Generator) -> np.ndarray:
    """Water (severities 1 to 3) or mud (4 and 5) on the image.

    The layer is made at 224 pixels and scaled to the image, since how much a threshold leaves of
    smoothed noise depends on the resolution. ImageNet-C finds the edges of drops with OpenCV's
    Canny filter and measures distances by a chamfer mask; here the edges are the drops' own
    borders, and the distances Euclidean.
    """
    splash = SPLASHES[severity - 1]
    noise = random.normal(splash.mean, splash.deviation, (REFERENCE_SIZE, REFERENCE_SIZE))
    liquid = ndimage.gaussian_filter(noise, splash.blur)
    opacity = _mud(liquid, splash) if splash.mud else _water(liquid, splash)
    scaled = Image.fromarray(opacity.astype(np.float32)).resize(
        image.shape[1::-1], Image.Resampling.BOX
    )
    layer = np.asarray(scaled)[..., None]
    if splash.mud:
        return image * (1 - layer) + MUD * layer
    return image + WATER * layer


def _mud(liquid: np.ndarray, splash: Splash) -> np.ndarray:
    mask = ndimage.gaussian_filter((liquid > splash.threshold).astype(float), splash.strength)
    mask[mask < THIN] = 0
    return mask


def _water(liquid: np.ndarray, splash: Splash) -> np.ndarray:
    drops = liquid >= splash.threshold
    edges = drops & ~ndimage.binary_erosion(drops)
    # Light falls on a drop from one side, as on a relief of the distance to its edge.
    distance = np.minimum(ndimage.distance_transform_edt(~edges), DEPTH)
    smooth = ndimage.uniform_filter(distance, 3).astype(np.uint8)
    even = np.asarray(ImageOps.equalize(Image.fromarray(smooth)), float)
    relief = np.clip(ndimage.correlate(even, RELIEF, mode="mirror"), 0, 255)
    lit = np.where(drops, liquid, 0) * ndimage.uniform_filter(relief, 3)
    return splash.strength * lit / max(lit.max(), 1e-6)
