"""Weights of a model out of its base and a task vector, parameter by parameter."""

from collections.abc import Iterator

import torch
from torch import Tensor

from mergeloom.io.tensors import TensorFile


def merged_weights(
    base: TensorFile, delta: TensorFile, alpha: float
) -> Iterator[tuple[str, Tensor]]:
    """Give the weights θ_0 + alpha · Δ of the parameters that Δ has, one by one.

    Parameters
    ----------
    base : θ_0.
    delta : Δ, a merged task vector, float32.

    Yields
    ------
    Name and Tensor [*shape] of each parameter, in the base's dtype, computed in float32.
    """
    for key in delta:
        weights = base.read(key)
        if not delta.is_zero(key):
            dtype = weights.dtype
            weights = weights.to(torch.float32).add_(delta.read(key), alpha=alpha).to(dtype)
        yield key, weights
