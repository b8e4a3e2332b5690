"""What torch's modules do with their parameters."""

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from mergeloom.errors import MergeloomError
from mergeloom.models.attention import attend, check_call, check_fused
from mergeloom.models.convolution import patches_of
from mergeloom.models.uses import Handle, Uses

KNOWN = "gradients of single examples are known"


def watch_modules(model: nn.Module, told: Uses) -> Iterable[Handle]:
    """Have every module of a known type tell of its parameters in every forward pass.

    Yields
    ------
    Handles; when all are removed, the model is as it was.

    Raises
    ------
    MergeloomError
        For a module that is set up, or later called, in a way that is not known here; names it.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            yield _Attention(name, module, told)
            continue
        for kind, tell in _TELL.items():
            if isinstance(module, kind):
                yield module.register_forward_hook(tell(name, module, told))


Hook = Callable[[Any, tuple[Tensor, ...], Tensor], None]


def _linear(name: str, module: nn.Linear, told: Uses) -> Hook:
    def tell(_: object, arguments: tuple[Tensor, ...], outputs: Tensor) -> None:
        told.linear(module.weight, arguments[0], outputs)
        if module.bias is not None:
            told.added(module.bias, outputs)

    return tell


def _layer_norm(name: str, module: nn.LayerNorm, told: Uses) -> Hook:
    def standardise(inputs: Tensor) -> Tensor:
        return functional.layer_norm(inputs, module.normalized_shape, eps=module.eps)

    def tell(_: object, arguments: tuple[Tensor, ...], outputs: Tensor) -> None:
        if module.weight is not None:
            told.scaled(module.weight, arguments[0], outputs, standardise)
        if module.bias is not None:
            told.added(module.bias, outputs)

    return tell


def _convolution(name: str, module: nn.Conv2d, told: Uses) -> Hook:
    """A linear map of the patches [n, positions, channels · kernel] that the kernel sees."""
    patches, _ = patches_of(name, module, KNOWN)

    def positions(outputs: Tensor) -> Tensor:
        return outputs.flatten(2).transpose(1, 2)

    def tell(_: object, arguments: tuple[Tensor, ...], outputs: Tensor) -> None:
        told.linear(module.weight, arguments[0], outputs, patches, positions)
        if module.bias is not None:
            told.added(module.bias, outputs, positions)

    return tell


def _embedding(name: str, module: nn.Embedding, told: Uses) -> Hook:
    if module.padding_idx is not None or module.scale_grad_by_freq or module.max_norm is not None:
        raise MergeloomError(
            f"{name}: is an embedding with padding_idx, scale_grad_by_freq or max_norm; gradients "
            "of single examples are known of one without"
        )
    return lambda _, arguments, outputs: told.looked_up(module.weight, arguments[0], outputs)


_TELL: dict[type[nn.Module], Callable[[str, Any, Uses], Hook]] = {
    nn.Linear: _linear,
    nn.LayerNorm: _layer_norm,
    nn.Conv2d: _convolution,
    nn.Embedding: _embedding,
}


class _Attention:
    """Puts in place of an attention's forward pass one whose linear maps can be seen."""

    def __init__(self, name: str, module: nn.MultiheadAttention, told: Uses) -> None:
        check_fused(name, module, KNOWN)
        self._module = module

        def forward(
            query: Tensor, key: Tensor, value: Tensor, need_weights: bool = True, **others: Any
        ) -> tuple[Tensor, None]:
            check_call(name, query, key, value, need_weights, others, KNOWN)
            packed = functional.linear(query, module.in_proj_weight, module.in_proj_bias)
            told.linear(module.in_proj_weight, query, packed)
            if module.in_proj_bias is not None:
                told.added(module.in_proj_bias, packed)
            return module.out_proj(attend(module, packed)), None

        module.forward = forward  # type: ignore[method-assign,assignment]

    def remove(self) -> None:
        """Give the module its own forward pass again."""
        del self._module.forward
