"""torch's modules with parameters that are supplied as they run (`mergeloom.models.supply`)."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from mergeloom.errors import MergeloomError
from mergeloom.models.attention import attend, check_call, check_fused
from mergeloom.models.convolution import patches_of
from mergeloom.models.supply import Keys, Supplier

KNOWN = "merging by input is known"


def supply_modules(tower: nn.Module, keys: Keys, supplier: Supplier) -> set[str]:
    """Put in place of the forward pass of every module of a known type one that asks a supplier.

    Returns
    -------
    Keys of the parameters that are asked for.

    Raises
    ------
    MergeloomError
        For a module that is set up in a way that is not known here; names it.
    """
    asked: set[str] = set()
    for name, module in tower.named_modules():
        make = next((make for kind, make in _MAKE.items() if isinstance(module, kind)), None)
        if make:
            found = {n: keys[p.data_ptr()] for n, p in module.named_parameters()}
            replace_forward(module, make(name, module, found, supplier))
            # Those of modules within it, as of an attention's `out_proj`, are asked for by these.
            asked |= {keys[p.data_ptr()] for p in module.parameters(recurse=False)}
    return asked


def replace_forward(module: nn.Module, forward: Callable[..., Any]) -> None:
    """Give one module another forward pass than its class has."""
    module.forward = forward


Forward = Callable[..., Any]


def _with_bias(outputs: Tensor, keys: dict[str, str], supplier: Supplier) -> Tensor:
    return outputs + supplier.entries(keys["bias"], outputs) if "bias" in keys else outputs


def _linear(name: str, module: nn.Linear, keys: dict[str, str], supplier: Supplier) -> Forward:
    return lambda inputs: _with_bias(supplier.linear(keys["weight"], inputs), keys, supplier)


def _layer_norm(
    name: str, module: nn.LayerNorm, keys: dict[str, str], supplier: Supplier
) -> Forward:
    def forward(inputs: Tensor) -> Tensor:
        outputs = functional.layer_norm(inputs, module.normalized_shape, eps=module.eps)
        if "weight" in keys:
            outputs = outputs * supplier.entries(keys["weight"], outputs)
        return _with_bias(outputs, keys, supplier)

    return forward


def _convolution(name: str, module: nn.Conv2d, keys: dict[str, str], supplier: Supplier) -> Forward:
    """A linear map of the patches [n, positions, channels · kernel] that the kernel sees."""
    patches, grid = patches_of(name, module, KNOWN)

    def forward(images: Tensor) -> Tensor:
        outputs = _with_bias(supplier.linear(keys["weight"], patches(images)), keys, supplier)
        return outputs.transpose(1, 2).unflatten(2, grid(images))

    return forward


def _embedding(
    name: str, module: nn.Embedding, keys: dict[str, str], supplier: Supplier
) -> Forward:
    if module.max_norm is not None or module.scale_grad_by_freq:
        raise MergeloomError(
            f"{name}: is an embedding with max_norm or scale_grad_by_freq; {KNOWN} of one without"
        )
    return lambda indices: supplier.looked_up(keys["weight"], indices)


def _attention(
    name: str, module: nn.MultiheadAttention, keys: dict[str, str], supplier: Supplier
) -> Forward:
    check_fused(name, module, KNOWN)

    def forward(
        query: Tensor, key: Tensor, value: Tensor, need_weights: bool = True, **others: Any
    ) -> tuple[Tensor, None]:
        check_call(name, query, key, value, need_weights, others, KNOWN)
        packed = supplier.linear(keys["in_proj_weight"], query)
        if "in_proj_bias" in keys:
            packed = packed + supplier.entries(keys["in_proj_bias"], packed)
        return module.out_proj(attend(module, packed)), None

    return forward


_MAKE: dict[type[nn.Module], Callable[[str, Any, dict[str, str], Supplier], Forward]] = {
    nn.MultiheadAttention: _attention,
    nn.Linear: _linear,
    nn.LayerNorm: _layer_norm,
    nn.Conv2d: _convolution,
    nn.Embedding: _embedding,
}
