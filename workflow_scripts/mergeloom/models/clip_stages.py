"""open_clip's vision transformer as stages: embedding, residual attention blocks, projection.

Attention multiplies with `in_proj_weight` and `out_proj.weight` and calls no module for either. The
former is fed what the attention module is; the latter what the heads put out, which is computed a
second time here.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn

from mergeloom.errors import MergeloomError
from mergeloom.models.attention import heads_output
from mergeloom.models.clip import TOWER
from mergeloom.models.stages import LinearMap, See, Stage, stages


@stages("clip")
def cut(tower: nn.Module) -> Sequence[Stage]:
    """Cut an image tower into stages: one after the other they are the tower.

    The patch convolution is no linear map here. Of the fused `in_proj_weight` [3d, d], query, key
    and value are fed the same.

    Raises
    ------
    MergeloomError
        For another tower than open_clip's plain vision transformer.
    """
    # Here, because merging files imports this module and does not need open_clip.
    from open_clip.transformer import ResidualAttentionBlock, VisionTransformer

    if not isinstance(tower, VisionTransformer):
        raise _unknown(f"a {type(tower).__name__}")
    inner = tower.transformer.resblocks
    if odd := [block for block in inner if not isinstance(block, ResidualAttentionBlock)]:
        raise _unknown(f"a vision transformer of {type(odd[0]).__name__}s")
    if tower.attn_pool is not None or tower.proj is None or not tower.transformer.batch_first:
        raise _unknown("a vision transformer with attentional pooling or without projection")

    def embed(inputs: Tensor, see: See | None = None) -> Tensor:
        embedded: Tensor = tower._embeds(inputs)
        return embedded

    def project(inputs: Tensor, see: See | None = None) -> Tensor:
        pooled: Tensor = tower._pool(inputs)[0]
        if see:
            see(LinearMap(f"{TOWER}proj", 0), pooled)
        return pooled @ tower.proj

    names = (f"{TOWER}transformer.resblocks.{index}." for index in range(len(inner)))
    return [embed, *map(_Attention, inner, names), project]


class _Attention:
    """A residual attention block."""

    def __init__(self, block: Any, prefix: str) -> None:
        self._block, self._prefix = block, prefix

    def __call__(self, inputs: Tensor, see: See | None = None) -> Tensor:
        with self._watched(see) if see else nullcontext():
            output: Tensor = self._block(inputs)
        return output

    @contextmanager
    def _watched(self, see: See) -> Iterator[None]:
        def attend(attention: Any, arguments: tuple[Tensor, ...], output: object) -> None:
            inputs = arguments[0]
            see(LinearMap(f"{self._prefix}attn.in_proj_weight", 1), inputs)
            see(
                LinearMap(f"{self._prefix}attn.out_proj.weight", 1), heads_output(attention, inputs)
            )

        def multiply(name: str) -> Callable[[object, tuple[Tensor, ...]], None]:
            found = LinearMap(f"{self._prefix}mlp.{name}.weight", 1)
            return lambda module, arguments: see(found, arguments[0])

        mlp = self._block.mlp
        handles = [
            self._block.attn.register_forward_hook(attend),
            mlp.c_fc.register_forward_pre_hook(multiply("c_fc")),
            mlp.c_proj.register_forward_pre_hook(multiply("c_proj")),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _unknown(tower: str) -> MergeloomError:
    return MergeloomError(
        f"the tower is {tower}; what its linear maps are fed is only known of open_clip's plain "
        "vision transformer (no attentional pooling, no custom blocks). Take a merger that needs "
        "no Gram matrices."
    )
