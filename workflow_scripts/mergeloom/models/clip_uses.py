"""The bare parameters of open_clip's vision transformer: class, positions, projection."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from mergeloom.models.uses import Handle, Uses, uses


@uses("clip")
def watch(tower: Any, told: Uses) -> Iterable[Handle]:
    """Tell of the class and positional embeddings and of the projection of an image tower.

    The embeddings are summands of what the norm before the blocks is fed: one of its first
    position, the other of all. What is projected is pooled before or behind the last norm.
    """
    pooled: list[Tensor] = []

    def embedded(module: object, arguments: tuple[Tensor, ...]) -> None:
        told.added(tower.positional_embedding, arguments[0])
        told.added(tower.class_embedding, arguments[0], lambda outputs: outputs[:, 0])

    def normed(module: object, arguments: object, outputs: Tensor) -> None:
        pooled[:] = [outputs if tower.final_ln_after_pool else tower._global_pool(outputs)[0]]

    def projected(module: object, arguments: object, outputs: Tensor) -> None:
        told.linear(tower.proj, pooled.pop(), outputs)

    yield tower.ln_pre.register_forward_pre_hook(embedded)
    if tower.proj is not None and tower.attn_pool is None:
        yield tower.ln_post.register_forward_hook(normed)
        yield tower.register_forward_hook(projected)
