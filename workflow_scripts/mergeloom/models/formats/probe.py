"""Features of a small seeded batch, to tell whether two models are the same.

An activation leaves no trace in the weights: a tower built with GELU takes weights trained with
QuickGELU without an error. What it makes of an image tells.
"""

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mergeloom.errors import MergeloomError
from mergeloom.models.family import Family

PROBE = "probe"  # field of a base's header
EQUAL = 1e-5  # two computations of the same model in float32
ALIKE = 1e-3  # the same, on another machine or device


def probe_images(size: int, count: int = 2) -> Tensor:
    """Standard normal noise from a fixed seed, float32 [count, 3, size, size]."""
    return torch.randn((count, 3, size, size), generator=torch.Generator().manual_seed(0))


def tower_features(
    family: Family, architecture: Mapping[str, Any], weights: Mapping[str, Tensor], images: Tensor
) -> Tensor:
    """Image features [n, d] of the tower with these weights, in float32."""
    wide = {key: weights[key].to(torch.float32) for key in weights}
    tower = family.build_tower(architecture, wide).eval()
    with torch.no_grad():
        features: Tensor = tower(images)
    return features


def distance(one: Tensor, other: Tensor) -> float:
    """Norm of the difference, relative to the norm of `other`."""
    return float((one - other).norm() / other.norm())


def probe_record(features: Tensor) -> dict[str, str]:
    """The field of a header that holds eight features of the first image."""
    return {PROBE: json.dumps([float(f"{value:.6g}") for value in features[0, :8].tolist()])}


def agrees(metadata: Mapping[str, str], features: Tensor) -> bool | None:
    """Whether features are those that a base's header holds; None if it holds none."""
    if PROBE not in metadata:
        return None
    return distance(features[0, :8], torch.tensor(json.loads(metadata[PROBE]))) < ALIKE


def check_equal(converted: Tensor, source: Tensor, what: str) -> None:
    """Compare features of the converted and of the source model.

    Raises
    ------
    MergeloomError
        If they differ by more than 1e-5 of their norm.
    """
    gap = distance(converted, source)
    if not gap <= EQUAL:  # NaN is no agreement either
        raise MergeloomError(
            f"{what}: the converted model gives other image features than the source model: they "
            f"differ by {gap:.1e} of their norm, at most {EQUAL:g} is rounding. Nothing was "
            "written. The model has parts that this conversion does not know."
        )
