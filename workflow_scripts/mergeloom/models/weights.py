"""Weights of a model: out of a file, and out of a base and a task vector."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from mergeloom.errors import MergeloomError
from mergeloom.io.tensors import TensorFile, check_finite
from mergeloom.models.family import Family

PER_TASK = "per_task"  # field of a merged task vector's header: tensors are [T, *shape], T models


def merged_weights(
    base: TensorFile, delta: TensorFile, alpha: float, task: int | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Give the weights θ_0 + alpha · Δ of the parameters that Δ has, one by one.

    Parameters
    ----------
    base : θ_0.
    delta : Δ, a merged task vector, float32.
    task : which of the T models, where Δ holds one per task.

    Yields
    ------
    Name and Tensor [*shape] of each parameter, in the base's dtype, computed in float32.
    """
    for key in delta:
        weights = base.read(key)
        if not delta.is_zero(key):
            dtype = weights.dtype
            if task is None:
                step = delta.read(key)
            else:
                size = weights.numel()
                step = delta.read_run(key, task * size, torch.empty(size)).view(weights.shape)
            weights = weights.to(torch.float32).add_(step, alpha=alpha).to(dtype)
        yield key, weights


def read_tower(family: Family, architecture: Mapping[str, Any], file: TensorFile) -> Any:
    """Build the part that is fine-tuned with a file's weights, in float32 whatever the file's
    dtype.

    Raises
    ------
    MergeloomError
        If the file's tensors are not the architecture's, or one is not finite (names file and key).
    """
    weights = {}
    for key in file:
        if family.kind(key, file.shape(key)) != "frozen":
            weights[key] = file.read(key).to(torch.float32)
            check_finite(weights[key], file.path, key)
    try:
        return family.build_tower(architecture, weights)
    except MergeloomError as error:
        raise MergeloomError(f"{file.path}: {error}") from None
