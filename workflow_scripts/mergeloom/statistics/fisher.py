"""The diagonal of the Fisher information of a fine-tuned model."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mergeloom.data.decoded import Images, normalise
from mergeloom.io.tensors import check_finite
from mergeloom.models.family import Family
from mergeloom.statistics.gradients import cotangents_of_fisher, example_gradients

log = logging.getLogger(__name__)


def diagonal_fisher(
    family: Family,
    tower: nn.Module,
    head: Tensor,
    images: Images,
    preprocessing: Mapping[str, Any],
    device: str,
    batch_size: int,
    name: str | Path,
) -> dict[str, Tensor]:
    """Return 1/n Σ_x Σ_y p(y|x) (∂ log p(y|x) / ∂θ)² of every parameter of a tower.

    The expectation is over the model's own predictions, as in arXiv 2111.09832 and its code, and no
    label is read. Public code for CLIP (FusionBench) squares the sum over labels and over a batch
    instead, which adds the products of different labels and examples.

    Parameters
    ----------
    tower : on the device, in evaluation mode.
    head : Tensor [classes, d], float32, on the device.
    images : n examples.
    batch_size : of the forward pass.
    name : of the model, for errors.

    Returns
    -------
    Key in files to Tensor [*shape], float32, on the CPU.

    Raises
    ------
    MergeloomError
        If a gradient is not finite (names the model and the parameter).
    """
    pixels = normalise(images.images.to(device), preprocessing["mean"], preprocessing["std"])
    parameters = {key: tensor.detach() for key, tensor in tower.named_parameters()}

    def logits(weights: Mapping[str, Tensor], batch: Tensor) -> Tensor:
        return family.logits(
            lambda inputs: functional_call(tower, dict(weights), (inputs,)), head, batch
        )

    with torch.no_grad():
        predicted = torch.cat([logits(parameters, part) for part in pixels.split(batch_size)])
    rows, cotangents = cotangents_of_fisher(predicted)
    log.info("%d gradients for %d examples of %d classes", len(rows), *predicted.shape)
    sums = {key: torch.zeros_like(tensor) for key, tensor in parameters.items()}
    for run in example_gradients(logits, parameters, pixels, rows, cotangents):
        for key, gradient in run.items():
            sums[key] += gradient.square_().sum(dim=0)
    # A tower's own tensors have other names in files, and the same memory.
    keys = {tensor.data_ptr(): key for key, tensor in family.tower_weights(tower).items()}
    fisher = {
        keys[tensor.data_ptr()]: (sums[inner] / len(images)).cpu()
        for inner, tensor in parameters.items()
    }
    for key, tensor in fisher.items():
        check_finite(tensor, name, key)
    return fisher
