"""Gram matrices of what the linear maps of a model are fed."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mergeloom.data.decoded import Images, normalise
from mergeloom.models.stages import LinearMap, Stage


class GramSums:
    """Sums XᵀX of the inputs of linear maps, [n, in], as they come.

    Products and sums are in float32: their rounding, 1e-6 relative to the largest entries, is the
    same on both sides of the equation that RegMean solves. Call it with a map and its inputs.
    """

    def __init__(self) -> None:
        self._sums: dict[LinearMap, Tensor] = {}
        self._counts: dict[LinearMap, int] = {}

    def __call__(self, linear: LinearMap, inputs: Tensor) -> None:
        """Add inputs [..., in]."""
        rows = inputs.reshape(-1, inputs.shape[-1])
        if linear not in self._sums:
            self._sums[linear] = rows.new_zeros(rows.shape[1], rows.shape[1])
        self._sums[linear].addmm_(rows.T, rows)
        self._counts[linear] = self._counts.get(linear, 0) + len(rows)

    def means(self) -> dict[LinearMap, Tensor]:
        """Return XᵀX / n of every map [in, in], float32, on the CPU; n counts positions."""
        return {key: (total / self._counts[key]).cpu() for key, total in self._sums.items()}


@torch.inference_mode()
def collect_grams(
    stages: Sequence[Stage],
    images: Images,
    preprocessing: Mapping[str, Any],
    device: str,
    batch_size: int,
) -> dict[LinearMap, Tensor]:
    """Return the Gram matrices of what all linear maps of a model are fed, in one forward pass.

    Parameters
    ----------
    stages : of the model, on the device.

    Returns
    -------
    Map to Tensor [in, in], float32, on the CPU.
    """
    sums = GramSums()
    for part in images.images.split(batch_size):
        inputs = normalise(part.to(device), preprocessing["mean"], preprocessing["std"])
        for stage in stages:
            inputs = stage(inputs, sums)
    return sums.means()
