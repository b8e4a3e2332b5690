"""Products with matrices that are mixed for each group of rows: W_g = W + Σ_k λ_gk T_k.

What mixes outputs, y = W x + Σ_k λ_k (T_k x), takes K + 1 products. Here the weights are mixed, a
few rows of W_g at a time for all groups, so that they stay in the cache, and each is used at once:
of m rows of inputs per group that is m + K + 1 multiplications per entry of W instead of
m (K + 1), and every T_k is read from memory once for all groups. The backward pass likewise; no
W_g, nor its gradient, is ever held whole.
"""

from typing import Any

import torch
from torch import Tensor

# Entries of all W_g that are mixed at a time. On a processor 4 MiB of float32, for its caches: on
# two cores with 1 MiB each, between 2**19 and 2**21 the time did not change by a tenth. Elsewhere
# 256 MiB, so that few kernels do much.
TILE, TILE_OF_DEVICES = 2**20, 2**26


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
            for span, weights in _tiles(base, stack, coefficients, inputs.dtype):
                outputs[:, :, span] = torch.bmm(inputs, weights.transpose(1, 2))
            return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, None, Tensor | None]:
        [gradient] = gradients
        inputs, base, stack, coefficients = ctx.saved_tensors
        wants_inputs, _, _, wants_coefficients = ctx.needs_input_grad
        of_inputs = torch.zeros_like(inputs) if wants_inputs else None
        of_coefficients = torch.zeros_like(coefficients) if wants_coefficients else None
        with torch.autocast(inputs.device.type, enabled=False):
            for span, weights in _tiles(base, stack, coefficients, inputs.dtype):
                part = gradient[:, :, span]
                if of_inputs is not None:
                    of_inputs.baddbmm_(part, weights)
                if of_coefficients is not None:
                    of_weights = torch.bmm(part.transpose(1, 2), inputs).flatten(1)
                    of_stack = stack[:, span].flatten(1)
                    of_coefficients.addmm_(of_weights.to(of_stack.dtype), of_stack.T)
        return of_inputs, None, None, of_coefficients


def _tiles(base: Tensor, stack: Tensor, coefficients: Tensor, dtype: torch.dtype) -> Any:
    """Spans of rows of the matrices, and the mixed weights [g, rows, i] of each, rounded."""
    groups, width = len(coefficients), base.shape[1]
    tile = TILE if base.device.type == "cpu" else TILE_OF_DEVICES
    step = max(1, tile // (groups * width))
    for start in range(0, len(base), step):
        span = slice(start, min(start + step, len(base)))
        part = base[span]
        weights = torch.addmm(part.reshape(1, -1), coefficients, stack[:, span].flatten(1))
        yield span, weights.view(groups, *part.shape).to(dtype)
