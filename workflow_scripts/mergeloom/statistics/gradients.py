"""Gradients of single examples, many at a time."""

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor
from torch.func import grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

_BYTES = 2**28  # of the gradients that are held at a time, unless one takes more
_EXAMPLES = 256  # whose intermediate values are held at a time


def example_gradients(
    function: Callable[[Mapping[str, Tensor], Tensor], Tensor],
    parameters: Mapping[str, Tensor],
    inputs: Tensor,
    rows: Tensor,
    cotangents: Tensor,
) -> Iterator[dict[str, Tensor]]:
    """Give Jᵢᵀ vᵢ, the gradients of ⟨vᵢ, function(parameters, xᵢ)⟩, of r examples, run by run.

    Parameters
    ----------
    function : of the parameters and a batch [n, ...], gives [n, k]; each row of the result depends
        on its own row of the batch alone.
    parameters : name to Tensor [*shape].
    inputs : Tensor [n, ...].
    rows : Tensor [r], int64 – which input xᵢ is; one may be there many times.
    cotangents : Tensor [r, k] – the vᵢ.

    Yields
    ------
    Name to Tensor [c, *shape], for c examples in order. Who gets them may overwrite them.
    """
    size = sum(tensor.nbytes for tensor in parameters.values())
    step = max(1, min(_BYTES // max(size, 1), _EXAMPLES))

    def product(weights: Mapping[str, Tensor], example: Tensor, cotangent: Tensor) -> Tensor:
        return function(weights, example.unsqueeze(0))[0] @ cotangent

    gradients = vmap(grad(product), in_dims=(None, 0, 0))
    for start in range(0, len(rows), step):
        run = slice(start, start + step)
        # The fused kernels of attention have no rule for a further batch dimension.
        with sdpa_kernel(SDPBackend.MATH):
            yield gradients(dict(parameters), inputs[rows[run]], cotangents[run])


def cotangents_of_fisher(logits: Tensor, negligible: float = 1e-3) -> tuple[Tensor, Tensor]:
    """Return what to pull back to logits for the Fisher information of n examples.

    With p = softmax(z), the Fisher information with respect to the logits of one example is
    Σ_y p_y (e_y − p)(e_y − p)ᵀ: with √p_y (e_y − p) as cotangents, the squared gradients of all
    labels sum up to the expectation over the model's own predictions, exactly.

    Most labels of most examples are next to impossible, and contribute next to nothing: the least
    ones are left out, together at most the share `negligible` of the trace over all examples.

    Parameters
    ----------
    logits : Tensor [n, classes], floating point.

    Returns
    -------
    rows int64 [r], cotangents [r, classes], of r ≤ n · classes pairs of example and label, ordered
    by example.
    """
    p = logits.softmax(dim=1)
    classes = p.shape[1]
    # p_y ‖e_y − p‖² = p_y (1 − 2 p_y + Σ p²), without the cancellation where p_y is close to 1.
    others = p.square().sum(1, keepdim=True) - p.square()
    rest = (p.sum(1, keepdim=True) - p).clamp_min(0)
    weight = (p * (rest.square() + others.clamp_min(0))).double().flatten()
    # On the CPU, where sums and the order of equal weights are the same on every run.
    least = weight.cpu().sort(stable=True)
    kept = least.indices[least.values.cumsum(0) > negligible * least.values.sum()]
    kept = kept.sort().values.to(p.device)
    rows, labels = kept // classes, kept % classes
    vectors = -p[rows]
    vectors[torch.arange(len(rows), device=p.device), labels] = rest[rows, labels]
    return rows, vectors * p[rows, labels].sqrt().unsqueeze(1)
