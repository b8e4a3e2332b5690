"""torch's multi-head self-attention, taken apart: it calls no module for its linear maps."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention

from mergeloom.errors import MergeloomError


def heads_output(attention: nn.MultiheadAttention, inputs: Tensor) -> Tensor:
    """What the heads of self-attention put out side by side, [n, positions, d], before `out_proj`.

    Parameters
    ----------
    inputs : Tensor [n, positions, d].
    """
    return attend(attention, linear(inputs, attention.in_proj_weight, attention.in_proj_bias))


def attend(attention: nn.MultiheadAttention, packed: Tensor) -> Tensor:
    """The same, given query, key and value of all heads side by side, [n, positions, 3d]."""
    query, key, value = (
        part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
        for part in packed.chunk(3, dim=-1)
    )
    return scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


def check_fused(name: str, module: nn.MultiheadAttention, known: str) -> None:
    """Raise MergeloomError for an attention that this cannot take apart.

    known : what needs it apart, as of errors: "… are known".
    """
    if not module.batch_first or module.in_proj_weight is None or module.bias_k is not None:
        raise MergeloomError(
            f"{name}: is an attention with bias_k, without a fused in_proj_weight, or without "
            f"batch_first; {known} of none of these"
        )


def check_call(
    name: str,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    need_weights: bool,
    others: Mapping[str, Any],
    known: str,
) -> None:
    """Raise MergeloomError for a call of an attention that is no plain self-attention."""
    masked = any(others.get(mask) is not None for mask in ("key_padding_mask", "attn_mask"))
    if key is not query or value is not query or need_weights or masked:
        raise MergeloomError(
            f"{name}: is called with a mask, for its weights, or with keys of other inputs; "
            f"{known} of plain self-attention"
        )
