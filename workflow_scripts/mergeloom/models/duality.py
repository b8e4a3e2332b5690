"""Modular duality: what a linear map's steepest direction is, in units of its own.

The model is the composition of its linear maps ("atoms") in the order in which the input passes
through them; residual connections, norms and attention are not modelled. A map W [dout, din] whose
share of the model's mass is c has as the dual of a gradient or task vector G

    D = c √(dout/din) polar(G),

a convolution with a kernel of k × k pixels, which is a map for every pixel,

    D[:, :, i, j] = c/k² √(dout/din) polar(G[:, :, i, j]).

dout and din are the dimensions of the tensor as it is stored, also of open_clip's `visual.proj`
[width, features], which stands to the right of what it is multiplied with.

Masses are `uniform`, or `linear` from the first map to the last: 0.01 + 0.49 l/N with l = 0 … N − 2
and l = N for the last of N maps, which public code counts so. They are those of a public study that
builds on the theory of arXiv 2410.21265. Deviation: a matrix that lacks full rank has a partial
isometry as its polar factor, with no directions of its own making.
"""

import math

from torch import Tensor

from mergeloom.linalg.spectral import polar
from mergeloom.models.naming import Place

MASSES = ("uniform", "linear")


def dual_scale(place: Place, masses: str, positional: bool = True) -> float | None:
    """The factor of the polar factor: share of the mass, and units. None for what is no map.

    positional : whether embeddings before the first block are maps.
    """
    maps = [key for key in place.atoms if positional or key not in place.embeddings]
    if place.key not in maps:
        return None
    numbers = [*range(len(maps) - 1), len(maps)]
    mass = [1.0 if masses == "uniform" else 0.01 + 0.49 * n / len(maps) for n in numbers]
    rows, columns, *kernel = place.shape
    unit = math.sqrt(rows / columns) / math.prod(kernel)
    return mass[maps.index(place.key)] / sum(mass) * unit


def polar_of_map(tensor: Tensor) -> Tensor:
    """Polar factor of a matrix [m, n], or of a convolution [m, n, k, k] for each of its pixels."""
    if tensor.ndim == 2:
        return polar(tensor)
    kernels = tensor.flatten(2).permute(2, 0, 1).contiguous()
    return polar(kernels).permute(1, 2, 0).reshape(tensor.shape)
