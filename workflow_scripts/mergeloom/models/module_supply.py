"""torch's modules with parameters that are supplied as they run (`mergeloom.models.supply`)."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from mergeloom.errors import MergeloomError
from mergeloom.models.attention import attend
from mergeloom.models.supply import Keys, Supplier


def supply_modules(tower: nn.Module, keys: Keys, supplier: Supplier) -> None:
    """Put in place of the forward pass of every module of a known type one that asks a supplier.

    Raises
    ------
    MergeloomError
        For a module that is set up in a way that is not known here; names it.
    """
    for name, module in tower.named_modules():
        make = next((make for kind, make in _MAKE.items() if isinstance(module, kind)), None)
        if make:
            found = {n: keys[p.data_ptr()] for n, p in module.named_parameters()}
            replace_forward(module, make(name, module, found, supplier))


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
    padding = module.padding
    if module.groups != 1 or isinstance(padding, str) or module.padding_mode != "zeros":
        raise MergeloomError(
            f"{name}: is a convolution of {module.groups} groups with padding {padding!r} of "
            f"{module.padding_mode}; merging by input knows one group, and zeros whose number is "
            "given"
        )

    def forward(images: Tensor) -> Tensor:
        patches = functional.unfold(
            images, module.kernel_size, module.dilation, padding, module.stride
        ).transpose(1, 2)
        outputs = _with_bias(supplier.linear(keys["weight"], patches), keys, supplier)
        height, width = (
            (size + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
            for size, pad, dilation, kernel, stride in zip(
                images.shape[2:], padding, module.dilation, module.kernel_size, module.stride,
                strict=True,
            )
        )  # fmt: skip
        return outputs.transpose(1, 2).unflatten(2, (height, width))

    return forward


def _embedding(
    name: str, module: nn.Embedding, keys: dict[str, str], supplier: Supplier
) -> Forward:
    return lambda indices: supplier.looked_up(keys["weight"], indices)


def _attention(
    name: str, module: nn.MultiheadAttention, keys: dict[str, str], supplier: Supplier
) -> Forward:
    if not module.batch_first or module.in_proj_weight is None or module.bias_k is not None:
        raise MergeloomError(
            f"{name}: is an attention with bias_k, without a fused in_proj_weight, or without "
            "batch_first; merging by input knows none of these"
        )

    def forward(
        query: Tensor, key: Tensor, value: Tensor, need_weights: bool = True, **others: Any
    ) -> tuple[Tensor, None]:
        masked = any(others.get(mask) is not None for mask in ("key_padding_mask", "attn_mask"))
        if key is not query or value is not query or need_weights or masked:
            raise MergeloomError(
                f"{name}: is called with a mask, for its weights, or with keys of other inputs; "
                "merging by input knows plain self-attention"
            )
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
