"""LoRA adapters on transformers' CLIP, folded into the weights of open_clip that they adapt."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mergeloom.errors import MergeloomError
from mergeloom.models.clip import TOWER
from mergeloom.models.formats.lora import Adapter
from mergeloom.models.formats.names import (
    PROJECTION,
    TRANSFORMERS_PROJECTION,
    open_clip_place,
)
from mergeloom.models.formats.parts import LowRank, Part


def fold(adapter: Adapter, base: Mapping[str, Tensor]) -> dict[str, list[Part]]:
    """W + scale · B A for every layer of the adapter, the base's weights for the rest.

    Returns
    -------
    The parts of every `visual.*` tensor; of a fused in_proj those of q, k and v.

    Raises
    ------
    MergeloomError
        For a layer that the base does not have, or has in another shape.
    """
    parts = {key: _rows(key, tensor) for key, tensor in base.items() if key.startswith(TOWER)}
    for layer, change in adapter.changes.items():
        _put(parts, layer + ".weight", lambda part, c=change: Part(part.weight, c), _size(change))
    for name, tensor in adapter.replaced.items():
        if name == TRANSFORMERS_PROJECTION:
            tensor = tensor.T
        new = tensor.contiguous()
        _put(parts, name, lambda part, t=new: Part(t), tuple(new.shape))
    return parts


def _size(change: LowRank) -> tuple[int, ...]:
    return len(change.b), change.a.shape[1]


def _rows(key: str, tensor: Tensor) -> list[Part]:
    fused = ".in_proj_" in key
    return [Part(rows) for rows in tensor.chunk(3)] if fused else [Part(tensor)]


def _put(parts: dict[str, list[Part]], name: str, new: Any, shape: tuple[int, ...]) -> None:
    place = (PROJECTION, 0) if name == TRANSFORMERS_PROJECTION else open_clip_place(name)
    if place is None or place[0] not in parts:
        raise MergeloomError(f"adapts {name}, which the base's image tower does not have.")
    key, third = place
    seen = tuple(parts[key][third].weight.shape)
    if seen != shape:
        raise MergeloomError(
            f"adapts {name} of shape {list(shape)}, but the base has {list(seen)}: it is an "
            "adapter of another encoder."
        )
    parts[key][third] = new(parts[key][third])
