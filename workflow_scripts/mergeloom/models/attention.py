"""torch's multi-head self-attention, taken apart: it calls no module for its linear maps."""

from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention


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
