"""Noise of single pixels."""

import numpy as np

from mergeloom.data.corruptions.registry import corruption

DEVIATIONS = (0.08, 0.12, 0.18, 0.26, 0.38)
SHARES = (0.03, 0.06, 0.09, 0.17, 0.27)


@corruption("gaussian_noise")
def gaussian_noise(image: np.ndarray, severity: int, random: np.random.Generator) -> np.ndarray:
    """Normal noise on every value."""
    noise = random.standard_normal(image.shape, dtype=np.float32)
    return image + DEVIATIONS[severity - 1] * noise


@corruption("impulse_noise")
def impulse_noise(image: np.ndarray, severity: int, random: np.random.Generator) -> np.ndarray:
    """Salt and pepper: a share of all values becomes 0 or 1, either as likely."""
    struck = random.random(image.shape, dtype=np.float32) < SHARES[severity - 1]
    salt = random.random(image.shape, dtype=np.float32) < 0.5
    return np.where(struck, salt, image)
