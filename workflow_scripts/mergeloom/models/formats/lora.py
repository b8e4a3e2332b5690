"""LoRA adapters of PEFT on transformers' models, as changes of low rank.

LoRA: arXiv 2106.09685; rank-stabilised scaling: arXiv 2312.03732.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mergeloom.errors import MergeloomError
from mergeloom.models.formats.parts import LowRank

_PAIR = re.compile(r"(?P<layer>.+)\.lora_(?P<side>[AB])(?:\.\w+)?\.weight")
_KEPT = re.compile(r"\.modules_to_save(\.\w+)?(?=\.)")
# Initialisations that take a part out of the base's weights, so that the adapter fits these only.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq")
_VARIANTS = ("use_dora", "lora_bias", "layer_replication", "megatron_config", "use_qalora")


@dataclass(frozen=True)
class Adapter:
    """Changes of low rank by the layer's name in transformers, and tensors that replace others.

    Names are those of the model, of CLIP's image tower without `vision_model.`.
    """

    changes: dict[str, LowRank]
    replaced: dict[str, Tensor]


def read_adapter(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> Adapter:
    """Read an adapter's tensors under its adapter_config.json.

    `fan_in_fan_out` does not count: CLIP's and T5's layers are torch.nn.Linear, on which PEFT
    ignores it.

    Raises
    ------
    MergeloomError
        For another type of adapter (names it), and for tensors that LoRA on linear layers does not
        have.
    """
    kind = config.get("peft_type")
    if kind != "LORA":
        raise MergeloomError(f"is an adapter of the type {kind}; only LORA can be folded.")
    used = [name for name in _VARIANTS if config.get(name)]
    start = str(config.get("init_lora_weights", ""))
    if start.startswith(_CHANGES_BASE):
        used.append(f"init_lora_weights={start}")
    if used or any("lora_magnitude_vector" in key for key in tensors):
        name = "DoRA (use_dora)" if "use_dora" in used or not used else used[0]
        raise MergeloomError(
            f"its adapter uses {name}, which is not plain LoRA. Fold it with PEFT "
            "(merge_and_unload), and convert the model that comes out."
        )
    changes: dict[str, dict[str, Tensor]] = {}
    replaced: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        pair = _PAIR.fullmatch(key)
        if pair:
            changes.setdefault(_inner(pair["layer"]), {})[pair["side"]] = tensor
        elif "lora_" in key:
            raise MergeloomError(f"has {key}, which is not of LoRA on a linear layer.")
        else:
            replaced[_inner(_KEPT.sub("", key))] = tensor
    return Adapter({k: _change(k, pair, config) for k, pair in changes.items()}, replaced)


def _inner(key: str) -> str:
    return key.removeprefix("base_model.model.").removeprefix("vision_model.")


def _change(layer: str, pair: Mapping[str, Tensor], config: Mapping[str, Any]) -> LowRank:
    if set(pair) != {"A", "B"}:
        raise MergeloomError(f"has only lora_{next(iter(pair))} of {layer}. It is not complete.")
    rank = _of_pattern(config.get("rank_pattern"), layer, config.get("r", 8))
    alpha = _of_pattern(config.get("alpha_pattern"), layer, config.get("lora_alpha", 8))
    if len(pair["A"]) != rank or pair["B"].shape[1] != rank:
        raise MergeloomError(
            f"the adapter of {layer} has the shapes {list(pair['A'].shape)} and "
            f"{list(pair['B'].shape)}, but its config the rank {rank}."
        )
    return LowRank(
        pair["A"], pair["B"], alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    )


def _of_pattern(pattern: Mapping[str, Any] | None, layer: str, default: float) -> Any:
    """A key of a pattern is a layer's name or the end of one, or a regular expression of it."""
    for key, value in (pattern or {}).items():
        if re.fullmatch(rf"(.*\.)?({_inner(key.removeprefix('^'))})", layer):
            return value
    return default
