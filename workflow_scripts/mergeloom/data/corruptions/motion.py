"""Blur of a camera that moves."""

import numpy as np

from mergeloom.data.corruptions.registry import REFERENCE_SIZE, corruption

# Radius and deviation of the kernel in pixels of an image of 224.
KERNELS = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))
STEEPEST = 45  # degrees from the horizontal


@corruption("motion_blur")
def motion_blur(image: np.ndarray, severity: int, random: np.random.Generator) -> np.ndarray:
    """A blur along one direction, which is drawn for each image.

    As ImageMagick does it, which ImageNet-C uses: a kernel of 2·radius + 1 values, one half of a
    normal curve, at the nearest pixels of a line from the pixel on; the border is continued.
    """
    scale = len(image) / REFERENCE_SIZE
    radius, deviation = (length * scale for length in KERNELS[severity - 1])
    angle = np.deg2rad(random.uniform(-STEEPEST, STEEPEST))
    steps = np.arange(2 * int(np.ceil(radius)) + 1)
    kernel = np.exp(-(steps**2) / (2 * deviation**2))
    kernel /= kernel.sum()
    reach = len(steps)
    continued = np.pad(image, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    blurred = np.zeros_like(image)
    for step, weight in zip(steps, kernel.astype(np.float32), strict=True):
        down, right = (reach + int(np.ceil(step * f(angle) - 0.5)) for f in (np.sin, np.cos))
        blurred += weight * continued[down : down + len(image), right : right + len(image)]
    return blurred
