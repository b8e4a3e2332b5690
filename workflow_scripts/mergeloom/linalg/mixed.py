"""Products with matrices that are mixed for each group of rows: W_g = W + Σ_k λ_gk T_k.

What mixes outputs, y = W x + Σ_k λ_k (T_k x), takes K + 1 products. Here the weights are mixed, a
few rows of W_g at a time for a few groups, so that they stay in the cache, and each is used at
once: of m rows of inputs per group that is m + K + 1 multiplications per entry of W instead of
m (K + 1), and every T_k is read from memory once for all groups. The backward pass likewise; no
W_g, nor its gradient, is ever held whole.
"""

from typing import Any

import torch
from torch import Tensor

# Entries of all W_g that are mixed at a time, and groups. On a processor 2 MiB of float32, for its
# caches, of groups so few that the rows of each are enough for an efficient product: with all 256
# groups at a time, matrices of 384 × 1536 took twice as long. Elsewhere 256 MiB of any number of
# groups, so that few kernels do much.
TILE, GROUPS, TILE_OF_DEVICES = 2**19, 8, 2**26


def mixed_product(inputs: Tensor, base: Tensor, stack: Tensor, coefficients: Tensor) -> Tensor:
    """Multiply each group's rows with the group's own matrix, differentiably in both.

    Parameters
    ----------
    inputs : Tensor [g, m, i].
    base : Tensor [o, i], W.
    stack : Tensor [K, o, i], contiguous, T.
    coefficients : Tensor [g, K], λ.

    Returns
    -------
    Tensor [g, m, o], inputs times W_gᵀ, in the dtype of `inputs`, or autocast's.

    Under autocast weights are mixed in their own dtype, and rounded when inputs are multiplied.
    """
    kind = inputs.device.type
    if torch.is_autocast_enabled(kind) and inputs.dtype == torch.float32:
        inputs = inputs.to(torch.get_autocast_dtype(kind))
    found: Tensor = _MixedProduct.apply(inputs, base, stack, coefficients)
    return found


class _MixedProduct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, base: Tensor, stack: Tensor, coefficients: Tensor
    ) -> Tensor:
        ctx.save_for_backward(inputs, base, stack, coefficients)
        groups, rows, _ = inputs.shape
        with torch.autocast(inputs.device.type, enabled=False):
            if rows == 1 and groups > 1:
                # Mixing weights for a single row costs what mixing outputs does, and more memory.
                flat = inputs[:, 0].to(base.dtype)
                parts = (flat @ stack.flatten(0, 1).T).unflatten(1, stack.shape[:2])
                mixed = (flat @ base.T)[:, None] + torch.bmm(coefficients[:, None], parts)
                return mixed.to(inputs.dtype)
            outputs = inputs.new_empty(groups, rows, len(base))
            for span, some, weights in _tiles(base, stack, coefficients, inputs.dtype):
                outputs[some, :, span] = torch.bmm(inputs[some], weights.transpose(1, 2))
            return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, None, Tensor | None]:
        [gradient] = gradients
        inputs, base, stack, coefficients = ctx.saved_tensors
        wants_inputs, _, _, wants_coefficients = ctx.needs_input_grad
        of_inputs = torch.zeros_like(inputs) if wants_inputs else None
        of_coefficients = torch.zeros_like(coefficients) if wants_coefficients else None
        with torch.autocast(inputs.device.type, enabled=False):
            for span, some, weights in _tiles(base, stack, coefficients, inputs.dtype):
                part = gradient[some, :, span]
                if of_inputs is not None:
                    of_inputs[some].baddbmm_(part, weights)
                if of_coefficients is not None:
                    of_weights = torch.bmm(part.transpose(1, 2), inputs[some]).flatten(1)
                    of_stack = stack[:, span].flatten(1)
                    of_coefficients[some].addmm_(of_weights.to(of_stack.dtype), of_stack.T)
        return of_inputs, None, None, of_coefficients


def _tiles(base: Tensor, stack: Tensor, coefficients: Tensor, dtype: torch.dtype) -> Any:
    """Spans of rows of the matrices, spans of groups, and their mixed weights, rounded.

    The last are [groups of the span, rows of the span, i].
    """
    groups, width = len(coefficients), base.shape[1]
    on_processor = base.device.type == "cpu"
    together = min(groups, GROUPS) if on_processor else groups
    step = max(1, (TILE if on_processor else TILE_OF_DEVICES) // (together * width))
    for start in range(0, len(base), step):
        span = slice(start, min(start + step, len(base)))
        part = base[span]
        line, tasks = part.reshape(1, -1), stack[:, span].flatten(1)
        for first in range(0, groups, together):
            some = slice(first, first + together)
            weights = torch.addmm(line, coefficients[some], tasks)
            yield span, some, weights.view(-1, *part.shape).to(dtype)
