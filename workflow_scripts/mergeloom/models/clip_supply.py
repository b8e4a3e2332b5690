"""What open_clip's vision transformer needs to be supplied with parameters as it runs."""

from typing import Any

import torch
from torch import Tensor, nn

from mergeloom.errors import MergeloomError
from mergeloom.models.supply import Keys, Supplier, supplied


@supplied("clip")
class ClipSupply:
    """Class and positional embeddings, the projection; the perceptrons of the blocks."""

    def supply(self, tower: Any, keys: Keys, supplier: Supplier) -> set[str]:
        """The embeddings are summands of what the norm before the blocks is fed: one of its first
        position, the other of all. What is projected is pooled before or behind the last norm.
        """
        if tower.attn_pool is not None or tower.proj is None:
            raise MergeloomError(
                "the tower has attentional pooling or no projection; merging by input is known of "
                "open_clip's plain vision transformer"
            )
        first, all_positions = tower.class_embedding, tower.positional_embedding
        first_key, positions_key, projection_key = (
            keys[p.data_ptr()] for p in (first, all_positions, tower.proj)
        )
        pooled: list[Tensor] = []

        def embedded(module: object, arguments: tuple[Tensor, ...]) -> tuple[Tensor]:
            [inputs] = arguments  # with the tower's own embeddings in it
            inputs = inputs + (supplier.entries(positions_key, inputs) - all_positions)
            change = supplier.entries(first_key, inputs[:, 0]) - first
            start = inputs[:, :1] + change[:, None]
            return (torch.cat([start, inputs[:, 1:]], dim=1),)

        def normed(module: object, arguments: object, outputs: Tensor) -> None:
            pooled[:] = [outputs if tower.final_ln_after_pool else tower._global_pool(outputs)[0]]

        def projected(module: object, arguments: object, outputs: Tensor) -> Tensor:
            return supplier.linear(projection_key, pooled.pop(), transposed=True)

        tower.ln_pre.register_forward_pre_hook(embedded)
        tower.ln_post.register_forward_hook(normed)
        tower.register_forward_hook(projected)
        return {first_key, positions_key, projection_key}

    def perceptrons(self, tower: Any) -> list[nn.Module]:
        """`mlp` of every residual attention block."""
        return [block.mlp for block in tower.transformer.resblocks]
